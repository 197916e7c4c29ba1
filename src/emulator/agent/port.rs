//! What a port session of the agent is, whichever way it carries connections, and how the way is chosen
//! (`proto-notes/port-sessions.md#modes`).

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;

use super::{AgentOptions, AgentOutput, ConnectionId, basic::Basic, destination::Destination, mux::Mux};
use crate::wire::{AgentFeatures, ClientFeatures};

/// How a session carries connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Many at a time, as smux streams.
    Mux,
    /// One after the other, as plain bytes.
    Basic,
    /// One, as plain bytes; the session ends with it.
    Raw,
}

impl Mode {
    /// What agent and client make of each other's versions and of the document's properties.
    pub(super) fn choose(options: &AgentOptions, client: ClientFeatures) -> Self {
        let forwarding = options.properties.get("type").and_then(serde_json::Value::as_str);
        if forwarding != Some("LocalPortForwarding") {
            Self::Raw
        } else if client.smux && AgentFeatures::of(&options.version).smux {
            Self::Mux
        } else {
            Self::Basic
        }
    }
}

/// What happened inside a port and concerns the session around it.
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

/// What becomes of a message that is handed to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Processed: to be acknowledged.
    Done,
    /// Not processed: not to be acknowledged, and expected again.
    Refused,
    /// Still being written. The websocket reader waits for it, see [`Port::write_state`].
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

/// The part of a session that moves bytes between the channel and destinations.
pub(super) trait Port: Send {
    /// Whether client messages are processed yet. Until then they are refused.
    fn ready(&self) -> bool;
    /// Data of the client.
    fn data(&mut self, payload: Bytes, actions: &mut Actions) -> Verdict;
    /// Asked for while a verdict of [`Verdict::Blocked`] stands.
    fn write_state(&self) -> WriteState;
    /// The client's DisconnectToPort flag.
    fn disconnect(&mut self, actions: &mut Actions);

    /// See [`AgentInput::Dialled`](super::AgentInput::Dialled).
    fn dialled(&mut self, id: ConnectionId, actions: &mut Actions);
    /// See [`AgentInput::DialFailed`](super::AgentInput::DialFailed).
    fn dial_failed(&mut self, id: ConnectionId, error: &str, actions: &mut Actions);
    /// See [`AgentInput::Received`](super::AgentInput::Received).
    fn received(&mut self, id: ConnectionId, data: Bytes, actions: &mut Actions);
    /// See [`AgentInput::Eof`](super::AgentInput::Eof).
    fn eof(&mut self, id: ConnectionId, actions: &mut Actions);
    /// See [`AgentInput::Written`](super::AgentInput::Written).
    fn written(&mut self, id: ConnectionId, len: usize, actions: &mut Actions);
    /// Whether more data of that destination would be read.
    fn wants_data(&self, id: ConnectionId) -> bool;

    /// Whether the pump has something to send.
    fn has_output(&self) -> bool;
    /// What the pump sends next, at most `max` bytes.
    fn take_output(&mut self, max: usize) -> Bytes;
    /// What was taken has been sent.
    fn output_sent(&mut self, actions: &mut Actions);

    /// When [`advance`](Self::advance) has something to do.
    fn deadline(&self) -> Option<Instant>;
    /// Lets time pass.
    fn advance(&mut self, now: Instant, actions: &mut Actions);
    /// Closes all destinations; nobody is told.
    fn close(&mut self, actions: &mut Actions);
    /// Streams, or connections, that are not over.
    fn open_streams(&self) -> usize;
}

/// Starts the port of a session whose handshake is done.
///
/// # Errors
/// The text that ends the session instead.
pub(super) fn open_port(
    options: &AgentOptions,
    mode: Mode,
    client: ClientFeatures,
    now: Instant,
    actions: &mut Actions,
) -> Result<Box<dyn Port>, String> {
    if let Some(text) = &options.behaviour.refusal {
        return Err(text.clone());
    }
    let destination = Destination::from_properties(&options.properties)?;
    if let Some(text) = destination.refusal().filter(|_| options.behaviour.deny_list) {
        return Err(text);
    }
    Ok(match mode {
        Mode::Mux => Box::new(Mux::new(options, destination, client, now)),
        Mode::Basic | Mode::Raw => Box::new(Basic::new(options, destination, mode, actions)),
    })
}
