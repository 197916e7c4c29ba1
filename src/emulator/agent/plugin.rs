//! What serves a session at the agent, whatever its type: the plugin for ports or the one for shells.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;

use super::{AgentOutput, ConnectionId};
use crate::wire::{PayloadKind, Size};

/// What happened inside a plugin and concerns the session around it.
#[derive(Default)]
pub(super) struct Actions {
    /// What the shell is to do.
    pub(super) outputs: VecDeque<AgentOutput>,
    /// ConnectToPortError flags to send, past the pump.
    pub(super) connect_errors: u32,
    /// The session is to end with this text.
    pub(super) end: Option<String>,
    /// The worker is dead and cannot even end the session.
    pub(super) crashed: bool,
}

/// What becomes of a message that is handed to a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Processed: to be acknowledged.
    Done,
    /// Not processed: not to be acknowledged, and expected again.
    Refused,
    /// Still being written. The websocket reader waits for it, see [`Plugin::write_state`].
    Blocked,
}

/// How far the write is that the websocket reader waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteState {
    /// All bytes were taken.
    Done,
    /// Not yet.
    Blocked,
    /// It failed: the message counts as not processed.
    Failed,
}

/// The part of a session that moves bytes between the channel and what is on the node: destinations, or a program.
pub(super) trait Plugin: Send {
    /// Whether client messages are processed yet. Until then they are refused.
    fn ready(&self) -> bool;
    /// Data of the client.
    fn data(&mut self, payload: Bytes, actions: &mut Actions) -> Verdict;
    /// Asked for while a verdict of [`Verdict::Blocked`] stands.
    fn write_state(&self) -> WriteState;
    /// The client's terminal has this size. Without a terminal of its own a plugin takes no notice.
    fn size(&mut self, _: Size, _: &mut Actions) {}
    /// Whether flags of the client mean anything.
    fn obeys_flags(&self) -> bool {
        true
    }
    /// The client's DisconnectToPort flag.
    fn disconnect(&mut self, _: &mut Actions) {}

    /// A destination was dialled.
    fn dialled(&mut self, _: ConnectionId, _: &mut Actions) {}
    /// A destination could not be dialled.
    fn dial_failed(&mut self, _: ConnectionId, _error: &str, _: &mut Actions) {}
    /// A program runs.
    fn started(&mut self, _: Instant, _: ConnectionId, _: &mut Actions) {}
    /// A program could not be started.
    fn start_failed(&mut self, _: Instant, _: ConnectionId, _error: &str, _: &mut Actions) {}
    /// Data from there.
    fn received(&mut self, id: ConnectionId, data: Bytes, actions: &mut Actions);
    /// Error output from there, where it comes by itself.
    fn received_error(&mut self, _: ConnectionId, _: Bytes, _: &mut Actions) {}
    /// No more data will come from there.
    fn eof(&mut self, id: ConnectionId, actions: &mut Actions);
    /// A program is over, with this status.
    fn exited(&mut self, _: ConnectionId, _status: i32, _: &mut Actions) {}
    /// So many bytes of what was written were taken.
    fn written(&mut self, id: ConnectionId, len: usize, actions: &mut Actions);
    /// Whether it is to be read.
    fn wants_data(&self, id: ConnectionId) -> bool;

    /// Whether there is something for the client.
    fn has_output(&self) -> bool;
    /// Takes one payload for the client, read at most `max` bytes at a time. Empty if all that was there is held back.
    fn take_output(&mut self, max: usize) -> (PayloadKind, Bytes);
    /// What was taken has been sent.
    fn output_sent(&mut self, actions: &mut Actions);
    /// Whether the pump sleeps after each payload.
    fn paced(&self) -> bool {
        true
    }

    /// When [`advance`](Self::advance) has something to do.
    fn deadline(&self) -> Option<Instant> {
        None
    }
    /// Lets time pass.
    fn advance(&mut self, _: Instant, _: &mut Actions) {}
    /// Closes everything; nobody is told.
    fn close(&mut self, actions: &mut Actions);
    /// Streams, connections or programs that are not over.
    fn open_streams(&self) -> usize;
}
