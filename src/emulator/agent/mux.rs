//! Many connections at a time, as smux streams over the byte stream of the session's payloads
//! (`proto-notes/smux.md`, `proto-notes/agent.md#mux`).
//!
//! ```text
//! payloads ─▶ local socket (212 kB) ─▶ frames ─▶ streams (4 MiB together) ─▶ destinations
//! payloads ◀─ pump ◀────────── local socket (212 kB) ◀────────────────────── destinations
//! ```
//!
//! One chain for all streams: a destination that does not read empties the shared tokens, then frames are not read
//! any more for anyone, then the local socket fills, and then the websocket reader itself is blocked.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use bytes::Bytes;

use super::{
    AgentOptions, AgentOutput, ConnectionId,
    byte_queue::ByteQueue,
    destination::Destination,
    frames::{Frame, FrameReader},
    keepalive::{Beat, Keepalive},
    plugin::{Actions, Plugin, Verdict, WriteState},
};
use crate::wire::{
    ClientFeatures, PayloadKind,
    smux::{FrameHeader, StreamId},
};

/// Largest data of a frame the agent sends.
const MAX_FRAME: usize = 32_768;
/// Bytes handed to the shell for one destination and not yet taken by its socket, beyond which no more are handed out.
/// One frame may go past it.
const WRITE_WINDOW: usize = 64 << 10;

/// One stream the client opened and neither end has ended.
#[derive(Default)]
struct Stream {
    connection: Option<ConnectionId>,
    /// Dialled, and the dial succeeded.
    open: bool,
    /// Data of the client for the destination.
    inbox: ByteQueue,
    /// Bytes handed to the shell and not yet taken by the destination.
    unwritten: usize,
    /// The client ended the stream; its data is still delivered.
    ended: bool,
}

impl Stream {
    /// Tokens that this stream holds.
    fn held(&self) -> usize {
        self.inbox.len() + self.unwritten
    }
}

/// The port of a mux session.
pub(super) struct Mux {
    destination: Destination,
    serial_dial: bool,
    local_socket: usize,
    accept_backlog: usize,
    frames: FrameReader,
    /// A SYN that found the backlog full. Nothing behind it is read.
    stalled_syn: Option<StreamId>,
    /// Bytes that may be received before reading stops. One frame can take it below zero.
    tokens: i64,
    streams: BTreeMap<StreamId, Stream>,
    connections: BTreeMap<ConnectionId, StreamId>,
    /// Streams that wait to be dialled, oldest first.
    backlog: VecDeque<StreamId>,
    dialling: usize,
    /// Frames for the client.
    pump: ByteQueue,
    keepalive: Option<Keepalive>,
}

impl Mux {
    pub(super) fn new(options: &AgentOptions, destination: Destination, client: ClientFeatures, now: Instant) -> Self {
        let behaviour = &options.behaviour;
        Self {
            destination,
            serial_dial: behaviour.serial_dial,
            local_socket: behaviour.local_socket,
            accept_backlog: behaviour.accept_backlog.max(1),
            frames: FrameReader::default(),
            stalled_syn: None,
            tokens: i64::try_from(behaviour.receive_bucket).unwrap_or(i64::MAX),
            streams: BTreeMap::new(),
            connections: BTreeMap::new(),
            backlog: VecDeque::new(),
            dialling: 0,
            pump: ByteQueue::default(),
            keepalive: Keepalive::of(&options.version, client, now),
        }
    }

    /// Reads frames as far as tokens and backlog allow.
    fn read_frames(&mut self, actions: &mut Actions) {
        loop {
            if let Some(id) = self.stalled_syn {
                if self.backlog.len() >= self.accept_backlog {
                    return;
                }
                self.stalled_syn = None;
                self.backlog.push_back(id);
                self.accept(actions);
            }
            if self.tokens <= 0 {
                return;
            }
            match self.frames.next() {
                None => return,
                Some(Frame::Nop) => {}
                Some(Frame::Syn(id)) => {
                    // A SYN for a live stream is ignored.
                    if let std::collections::btree_map::Entry::Vacant(vacant) = self.streams.entry(id) {
                        vacant.insert(Stream::default());
                        self.stalled_syn = Some(id);
                    }
                }
                Some(Frame::Psh(id, data)) => {
                    if let Some(stream) = self.streams.get_mut(&id) {
                        self.tokens -= signed(data.len());
                        stream.inbox.push(data);
                        self.deliver(id, actions);
                    }
                }
                Some(Frame::Fin(id)) => {
                    if let Some(stream) = self.streams.get_mut(&id) {
                        stream.ended = true;
                        self.deliver(id, actions);
                    }
                }
            }
        }
    }

    /// The accept loop: dials what waits, one at a time if serial.
    fn accept(&mut self, actions: &mut Actions) {
        while !self.serial_dial || self.dialling == 0 {
            let Some(id) = self.backlog.pop_front() else { return };
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let connection = self.destination.dial(&mut actions.outputs);
            stream.connection = Some(connection);
            self.connections.insert(connection, id);
            self.dialling += 1;
        }
    }

    /// Hands data to the destination; after the last of it, ends the stream if the client has.
    fn deliver(&mut self, id: StreamId, actions: &mut Actions) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.open) else { return };
        let Some(connection) = stream.connection else { return };
        while stream.unwritten < WRITE_WINDOW
            && let Some(piece) = stream.inbox.take_piece(usize::MAX)
        {
            stream.unwritten += piece.len();
            actions.outputs.push_back(AgentOutput::Write(connection, piece));
        }
        if stream.ended && stream.held() == 0 {
            self.end(id, actions);
        }
    }

    /// Ends a stream, whichever side did it first: both directions, and a FIN behind the data already queued.
    fn end(&mut self, id: StreamId, actions: &mut Actions) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.tokens += signed(stream.held());
        if let Some(connection) = stream.connection {
            self.connections.remove(&connection);
            if stream.open {
                actions.outputs.push_back(AgentOutput::Close(connection));
            }
        }
        self.push_frame(FrameHeader::fin(id));
    }

    fn push_frame(&mut self, header: FrameHeader) {
        self.pump.push(Bytes::copy_from_slice(&header.encode()));
    }

    /// The stream of a connection that has been dialled.
    fn open_stream(&self, id: ConnectionId) -> Option<StreamId> {
        self.connections.get(&id).copied().filter(|id| self.streams.get(id).is_some_and(|stream| stream.open))
    }

    /// The stream of a connection that is being dialled.
    fn dialling_stream(&self, id: ConnectionId) -> Option<StreamId> {
        self.connections.get(&id).copied().filter(|id| self.streams.get(id).is_some_and(|stream| !stream.open))
    }
}

impl Plugin for Mux {
    fn ready(&self) -> bool {
        true
    }

    fn data(&mut self, payload: Bytes, actions: &mut Actions) -> Verdict {
        self.frames.push(payload);
        self.read_frames(actions);
        match self.write_state() {
            WriteState::Done => Verdict::Done,
            WriteState::Blocked | WriteState::Failed => Verdict::Blocked,
        }
    }

    /// The reader's write into the local socket is over when what is left in the socket fits.
    fn write_state(&self) -> WriteState {
        if self.frames.socket_len() <= self.local_socket { WriteState::Done } else { WriteState::Blocked }
    }

    fn dialled(&mut self, id: ConnectionId, actions: &mut Actions) {
        let Some(stream_id) = self.dialling_stream(id) else { return };
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            stream.open = true;
        }
        self.dialling -= 1;
        self.deliver(stream_id, actions);
        self.accept(actions);
        self.read_frames(actions);
    }

    fn dial_failed(&mut self, id: ConnectionId, _: &str, actions: &mut Actions) {
        let Some(stream_id) = self.dialling_stream(id) else { return };
        self.dialling -= 1;
        actions.connect_errors += 1;
        self.end(stream_id, actions);
        self.accept(actions);
        self.read_frames(actions);
    }

    fn received(&mut self, id: ConnectionId, data: Bytes, _: &mut Actions) {
        let Some(stream_id) = self.open_stream(id) else { return };
        let mut rest = data;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(MAX_FRAME));
            let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
            self.push_frame(FrameHeader::psh(stream_id, length));
            self.pump.push(piece);
        }
    }

    fn eof(&mut self, id: ConnectionId, actions: &mut Actions) {
        let Some(stream_id) = self.open_stream(id) else { return };
        self.end(stream_id, actions);
        self.read_frames(actions);
    }

    fn written(&mut self, id: ConnectionId, len: usize, actions: &mut Actions) {
        let Some(stream_id) = self.open_stream(id) else { return };
        let Some(stream) = self.streams.get_mut(&stream_id) else { return };
        let taken = len.min(stream.unwritten);
        stream.unwritten -= taken;
        self.tokens += signed(taken);
        self.deliver(stream_id, actions);
        self.read_frames(actions);
    }

    fn wants_data(&self, id: ConnectionId) -> bool {
        self.pump.len() < self.local_socket && self.open_stream(id).is_some()
    }

    fn has_output(&self) -> bool {
        !self.pump.is_empty()
    }

    fn take_output(&mut self, max: usize) -> (PayloadKind, Bytes) {
        (PayloadKind::Output, self.pump.take(max))
    }

    fn output_sent(&mut self, _: &mut Actions) {}

    fn deadline(&self) -> Option<Instant> {
        self.keepalive.as_ref().map(Keepalive::deadline)
    }

    fn advance(&mut self, now: Instant, actions: &mut Actions) {
        while let Some(beat) = self.keepalive.as_mut().and_then(|keepalive| keepalive.beat(now)) {
            match beat {
                Beat::Nop => self.push_frame(FrameHeader::nop()),
                // A reader that waits for tokens is not silence.
                Beat::Check => {
                    if !self.frames.take_heard() && self.tokens > 0 {
                        actions.end = Some(String::new());
                    }
                }
            }
        }
    }

    fn close(&mut self, actions: &mut Actions) {
        let connections = std::mem::take(&mut self.connections);
        actions.outputs.extend(connections.into_keys().map(AgentOutput::Close));
        self.streams.clear();
        self.backlog.clear();
        self.pump.clear();
    }

    fn open_streams(&self) -> usize {
        self.streams.len()
    }
}

fn signed(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}
