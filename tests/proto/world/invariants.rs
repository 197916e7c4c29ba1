//! What must hold after every step, whatever the network does.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ssmfwd::{
    emulator::agent::AgentCore,
    proto::{Session, limits},
    wire::{Message, MessageKind, PayloadKind},
};

use super::Profile;

/// Watches what the client sends and how full it is.
pub(super) struct Observer {
    seed: u64,
    profile: Profile,
    websocket: u32,
    /// Number → when it was last sent, on which websocket, how often on it, and the bytes.
    sent: BTreeMap<i64, Sent>,
    next: i64,
}

struct Sent {
    at: Instant,
    websocket: u32,
    bytes: Bytes,
    shield: bool,
}

impl Observer {
    pub(super) fn new(seed: u64, profile: Profile) -> Self {
        Self { seed, profile, websocket: 0, sent: BTreeMap::new(), next: 0 }
    }

    pub(super) fn websocket(&mut self) {
        self.websocket += 1;
    }

    /// Numbers without gaps, retransmissions byte for byte and not before their time.
    pub(super) fn transmitted(&mut self, now: Instant, bytes: &Bytes, again: bool) {
        let message = Message::decode(bytes.clone()).expect("our own message");
        message.check_digest().expect("our own digest");
        if message.header.kind != MessageKind::InputStreamData {
            assert_eq!(message.header.kind, MessageKind::Acknowledge);
            return;
        }
        assert!(!message.payload.is_empty(), "seed {}: empty stream data", self.seed);
        let number = message.header.sequence.0;
        let is_data = message.header.payload_kind == PayloadKind::Output;
        assert!(!is_data || message.payload.len() <= limits::PAYLOAD, "seed {}", self.seed);
        let (seed, websocket) = (self.seed, self.websocket);
        if !again {
            assert_eq!(number, self.next, "seed {seed}: numbers have no gaps");
            self.next += 1;
            self.sent.insert(number, Sent { at: now, websocket, bytes: bytes.clone(), shield: number == 1 });
            return;
        }
        let sent = self.sent.get_mut(&number).expect("sent before");
        assert_eq!(sent.bytes, bytes, "seed {seed}: a retransmission is the same message");
        if sent.websocket == self.websocket {
            let least = Duration::from_millis(if sent.shield { 30 } else { 200 });
            assert!(now - sent.at >= least, "seed {seed}: {number} again after {:?}", now - sent.at);
        }
        (sent.at, sent.websocket) = (now, websocket);
    }

    /// Every buffer within its bound.
    pub(super) fn check(&self, session: &Session, agent: &AgentCore) {
        let occupancy = session.occupancy();
        let bounds = [
            (occupancy.unacked_messages, limits::IN_FLIGHT_MESSAGES + 4),
            (occupancy.unacked_bytes, limits::IN_FLIGHT_BYTES + 8192),
            (occupancy.early_messages, limits::EARLY_MESSAGES),
            (occupancy.early_bytes, limits::EARLY_BYTES),
            (occupancy.waiting_acknowledgements, limits::WAITING_ACKNOWLEDGEMENTS),
            (occupancy.parked_bytes, limits::PARKED_BYTES),
            (occupancy.largest_unsent, limits::STREAM_UNSENT),
        ];
        for (index, (value, bound)) in bounds.into_iter().enumerate() {
            assert!(value <= bound, "seed {}: bound {index} exceeded: {occupancy:?}", self.seed);
        }
        let rto = session.rto();
        let limits = Duration::from_millis(200)..=Duration::from_secs(10);
        assert!(limits.contains(&rto), "seed {} {:?}: RTO {rto:?}", self.seed, self.profile);
        assert!(agent.early() <= limits::IN_FLIGHT_SPAN, "seed {}: more early messages than a window", self.seed);
    }
}
