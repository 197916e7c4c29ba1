//! One connection at a time, as plain bytes: basic mode, where the next data dials again, and raw mode, where the
//! session ends with its connection (`proto-notes/port-sessions.md#basic-mode`).

use bytes::Bytes;

use super::{
    AgentOptions, AgentOutput, ConnectionId,
    byte_queue::ByteQueue,
    destination::Destination,
    plugin::{Actions, Plugin, Verdict, WriteState},
    port::Mode,
};
use crate::wire::PayloadKind;

/// ```text
/// FirstDial ──▶ Open ──▶ Closed ──data──▶ Redial ──▶ Open ...
///    └─▶ the worker dies    └─ raw: the session ends  └─▶ the session ends
/// ```
enum Link {
    /// Dialling at the start of the session.
    FirstDial(ConnectionId),
    /// Connected.
    Open {
        id: ConnectionId,
        /// Bytes of the client's message that the destination has not taken.
        unwritten: usize,
        /// The destination ended; what it sent before is still to be pumped.
        ended: bool,
    },
    /// No connection; the next data dials.
    Closed,
    /// Dialling for this data, while the websocket reader waits.
    Redial(ConnectionId, Bytes),
}

/// The port of a basic or raw session.
pub(super) struct Basic {
    destination: Destination,
    raw: bool,
    crash_when_refused: bool,
    /// One message of the pump: more is not read from the destination meanwhile.
    chunk: usize,
    link: Link,
    pump: ByteQueue,
}

impl Basic {
    /// Starts to dial at once.
    pub(super) fn new(options: &AgentOptions, mut destination: Destination, mode: Mode, actions: &mut Actions) -> Self {
        let id = destination.dial(&mut actions.outputs);
        Self {
            destination,
            raw: mode == Mode::Raw,
            crash_when_refused: options.behaviour.crash_when_refused,
            chunk: options.behaviour.chunk,
            link: Link::FirstDial(id),
            pump: ByteQueue::default(),
        }
    }

    fn is_open(&self, id: ConnectionId) -> bool {
        matches!(self.link, Link::Open { id: open, .. } if open == id)
    }

    fn write(&mut self, id: ConnectionId, data: Bytes, actions: &mut Actions) {
        self.link = Link::Open { id, unwritten: data.len(), ended: false };
        if !data.is_empty() {
            actions.outputs.push_back(AgentOutput::Write(id, data));
        }
    }

    /// Closes the connection. What it sent and the pump has not taken is lost.
    fn hang_up(&mut self, actions: &mut Actions) {
        let link = std::mem::replace(&mut self.link, Link::Closed);
        if let Link::FirstDial(id) | Link::Redial(id, _) | Link::Open { id, .. } = link {
            actions.outputs.push_back(AgentOutput::Close(id));
        }
        self.pump.clear();
    }

    /// The destination ended and all it sent has been pumped. Nobody tells a basic client.
    fn finish_if_ended(&mut self, actions: &mut Actions) {
        if self.pump.is_empty() && matches!(self.link, Link::Open { ended: true, .. }) {
            self.hang_up(actions);
            if self.raw {
                actions.end = Some(String::new());
            }
        }
    }
}

impl Plugin for Basic {
    fn ready(&self) -> bool {
        !matches!(self.link, Link::FirstDial(_))
    }

    fn data(&mut self, payload: Bytes, actions: &mut Actions) -> Verdict {
        match &mut self.link {
            Link::FirstDial(_) | Link::Redial(..) => return Verdict::Refused,
            Link::Open { id, unwritten, .. } => {
                *unwritten += payload.len();
                actions.outputs.push_back(AgentOutput::Write(*id, payload));
            }
            // The session is ending.
            Link::Closed if self.raw => return Verdict::Done,
            Link::Closed => self.link = Link::Redial(self.destination.dial(&mut actions.outputs), payload),
        }
        Verdict::Blocked
    }

    fn write_state(&self) -> WriteState {
        match self.link {
            Link::Open { unwritten: 0, .. } => WriteState::Done,
            Link::Open { .. } | Link::Redial(..) => WriteState::Blocked,
            Link::FirstDial(_) | Link::Closed => WriteState::Failed,
        }
    }

    fn disconnect(&mut self, actions: &mut Actions) {
        self.hang_up(actions);
        if self.raw {
            actions.end = Some(String::new());
        }
    }

    fn dialled(&mut self, id: ConnectionId, actions: &mut Actions) {
        match std::mem::replace(&mut self.link, Link::Closed) {
            Link::FirstDial(dialling) if dialling == id => self.write(id, Bytes::new(), actions),
            Link::Redial(dialling, payload) if dialling == id => self.write(id, payload, actions),
            other => self.link = other,
        }
    }

    fn dial_failed(&mut self, id: ConnectionId, error: &str, actions: &mut Actions) {
        let text = || Some(format!("Unable to connect to specified port: {error}"));
        match self.link {
            Link::FirstDial(dialling) if dialling == id && self.crash_when_refused => actions.crashed = true,
            Link::FirstDial(dialling) | Link::Redial(dialling, _) if dialling == id => actions.end = text(),
            _ => return,
        }
        self.link = Link::Closed;
    }

    fn received(&mut self, id: ConnectionId, data: Bytes, _: &mut Actions) {
        if self.is_open(id) {
            self.pump.push(data);
        }
    }

    fn eof(&mut self, id: ConnectionId, actions: &mut Actions) {
        if let Link::Open { id: open, ended, .. } = &mut self.link
            && *open == id
        {
            *ended = true;
            self.finish_if_ended(actions);
        }
    }

    fn written(&mut self, id: ConnectionId, len: usize, _: &mut Actions) {
        if let Link::Open { id: open, unwritten, .. } = &mut self.link
            && *open == id
        {
            *unwritten = unwritten.saturating_sub(len);
        }
    }

    fn wants_data(&self, id: ConnectionId) -> bool {
        let reading = matches!(self.link, Link::Open { id: open, ended: false, .. } if open == id);
        reading && self.pump.len() < self.chunk
    }

    fn has_output(&self) -> bool {
        !self.pump.is_empty()
    }

    fn take_output(&mut self, max: usize) -> (PayloadKind, Bytes) {
        (PayloadKind::Output, self.pump.take(max))
    }

    fn output_sent(&mut self, actions: &mut Actions) {
        self.finish_if_ended(actions);
    }

    fn close(&mut self, actions: &mut Actions) {
        self.hang_up(actions);
    }

    fn open_streams(&self) -> usize {
        usize::from(!matches!(self.link, Link::Closed))
    }
}
