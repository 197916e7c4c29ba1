//! The agent's end of the data channel: sequence numbers, acknowledgements, early messages, retransmission
//! (`proto-notes/reliability.md`). What payloads mean is not known here.

use std::{collections::BTreeMap, collections::VecDeque, time::Instant};

use bytes::{BufMut, Bytes};

use super::{AgentOptions, AgentOutput, outgoing::Outgoing};
use crate::wire::{
    Acknowledge, AgentSessionState, Draft, Flags, Header, Message, MessageId, MessageKind, PayloadKind, SequenceNumber,
    to_json,
};

/// Most messages kept that came before their turn.
pub(super) const EARLY_LIMIT: usize = 100_000;

/// Where a message of the client stands in its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Had its turn before.
    Past,
    /// It is its turn.
    Now,
    /// Its turn will come.
    Early,
}

/// Counters and buffers of one session. They outlive the websocket.
pub(super) struct Channel {
    session_id: String,
    expected: SequenceNumber,
    early: BTreeMap<SequenceNumber, Message>,
    next: SequenceNumber,
    outgoing: Outgoing,
    /// The gateway said that the client is away: nothing new is sent and the resend timer is off.
    pub(super) paused: bool,
    /// Whether there is a websocket.
    pub(super) connected: bool,
    random: fastrand::Rng,
    start: Instant,
    epoch_ms: u64,
}

impl Channel {
    pub(super) fn new(options: &AgentOptions, now: Instant) -> Self {
        Self {
            session_id: options.session_id.clone(),
            expected: SequenceNumber::ZERO,
            early: BTreeMap::new(),
            next: SequenceNumber::ZERO,
            outgoing: Outgoing::new(options.behaviour.store_delay, now),
            paused: false,
            connected: false,
            random: fastrand::Rng::with_seed(options.seed),
            start: now,
            epoch_ms: options.epoch_ms,
        }
    }

    pub(super) fn expected(&self) -> SequenceNumber {
        self.expected
    }

    pub(super) fn next(&self) -> SequenceNumber {
        self.next
    }

    pub(super) fn early(&self) -> usize {
        self.early.len()
    }

    pub(super) fn outgoing(&self) -> &Outgoing {
        &self.outgoing
    }

    pub(super) fn place(&self, sequence: SequenceNumber) -> Place {
        match sequence.cmp(&self.expected) {
            std::cmp::Ordering::Less => Place::Past,
            std::cmp::Ordering::Equal => Place::Now,
            std::cmp::Ordering::Greater => Place::Early,
        }
    }

    /// Keeps a message that came early. False when there is no room: then it must not be acknowledged either.
    pub(super) fn keep_early(&mut self, message: &Message) -> bool {
        let room = self.early.len() < EARLY_LIMIT;
        if room {
            self.early.insert(message.header.sequence, message.clone());
        }
        room
    }

    /// The kept message whose turn it is. It stays kept until [`advance`](Self::advance): a message that was
    /// acknowledged early and is refused at its turn will never be sent again, and the genuine agent stalls on it.
    pub(super) fn kept_for_now(&self) -> Option<Message> {
        self.early.get(&self.expected).cloned()
    }

    /// The message whose turn it was is dealt with.
    pub(super) fn advance(&mut self) {
        self.early.remove(&self.expected);
        self.expected = self.expected.next();
    }

    /// Sends stream data. While paused, or without websocket, it is only stored, as if it had been lost on the way.
    pub(super) fn send(&mut self, now: Instant, kind: PayloadKind, payload: &[u8], out: &mut VecDeque<AgentOutput>) {
        let flags = if self.next == SequenceNumber::ZERO { Flags::SYN } else { Flags::NONE };
        let header = self.header(now, MessageKind::OutputStreamData, self.next, flags, kind);
        let message = sealed(&header, payload);
        self.outgoing.store(now, self.next.0, message.clone());
        self.next = self.next.next();
        if !self.paused {
            self.transmit(message, out);
        }
    }

    /// Tells the gateway that the session is `Connected` or `Terminating`.
    pub(super) fn send_state(&mut self, now: Instant, state: &str, out: &mut VecDeque<AgentOutput>) {
        let body = AgentSessionState {
            schema_version: 1,
            session_state: state.to_owned(),
            session_id: self.session_id.clone(),
        };
        let header = self.control_header(now, MessageKind::AgentSessionState);
        self.transmit(sealed(&header, &to_json(&body)), out);
    }

    /// Acknowledges one message of the client, new or repeated.
    pub(super) fn acknowledge(&mut self, now: Instant, of: &Header, out: &mut VecDeque<AgentOutput>) {
        let header = self.control_header(now, MessageKind::Acknowledge);
        let mut draft = Draft::new(&header, 192);
        Acknowledge::encode_into(draft.payload_mut(), of.kind.as_str(), of.id, of.sequence);
        self.transmit(draft.seal(), out);
    }

    /// The client acknowledged something.
    pub(super) fn acknowledged(&mut self, now: Instant, payload: &Bytes) {
        if let Ok(body) = Acknowledge::decode(payload) {
            self.outgoing.acknowledged(now, body.sequence);
        }
    }

    /// Runs the resend timer up to `now`.
    pub(super) fn tick(&mut self, now: Instant, out: &mut VecDeque<AgentOutput>) {
        let active = self.resend_active();
        if let Some(message) = self.outgoing.tick(now, active) {
            self.transmit(message, out);
        }
    }

    /// When the resend timer will have something to send.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.outgoing.deadline().filter(|_| self.resend_active())
    }

    fn resend_active(&self) -> bool {
        self.connected && !self.paused
    }

    fn transmit(&self, message: Bytes, out: &mut VecDeque<AgentOutput>) {
        if self.connected {
            out.push_back(AgentOutput::Transmit(message));
        }
    }

    fn control_header(&mut self, now: Instant, kind: MessageKind) -> Header {
        self.header(now, kind, SequenceNumber::ZERO, Flags::SYN_FIN, PayloadKind::Undefined)
    }

    fn header(
        &mut self,
        now: Instant,
        kind: MessageKind,
        sequence: SequenceNumber,
        flags: Flags,
        payload_kind: PayloadKind,
    ) -> Header {
        let elapsed_ms = u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX);
        Header {
            kind,
            schema_version: 1,
            // Receivers take a zero for a damaged message.
            created_ms: self.epoch_ms.saturating_add(elapsed_ms).max(1),
            sequence,
            flags,
            id: MessageId::from_random(self.random.u128(..)),
            payload_kind,
        }
    }
}

fn sealed(header: &Header, payload: &[u8]) -> Bytes {
    let mut draft = Draft::new(header, payload.len());
    draft.payload_mut().put_slice(payload);
    draft.seal()
}
