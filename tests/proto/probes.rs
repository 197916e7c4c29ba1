//! Payload-size discovery against a scripted peer: probes that pass, that kill, that are lost without a word.

use std::time::Duration;

use ssmfwd::{
    proto::{Cause, CloseReason, Config, Event, Initiator, Input, PathState, StreamId, limits},
    wire::{MessageKind, smux::FrameHeader},
};

use crate::peer::{BASIC, NEW, Peer, ms};

const MUX: &str = r#"{"type":"LocalPortForwarding"}"#;

/// What the way does to a message that is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Narrow {
    /// The gateway closes the websocket, or it breaks.
    Kills,
    /// Nothing more is heard of it.
    Swallows,
}

/// An upload through a peer, message by message.
struct Upload {
    peer: Peer,
    path: PathState,
    stream: StreamId,
    /// Number of the next message.
    next: i64,
    /// Sizes of the probes.
    probes: Vec<usize>,
    /// The largest payload of a data message.
    largest: usize,
    kills: u32,
}

fn is_nothing(payload: &[u8]) -> bool {
    payload.starts_with(b"{\"cols\"") || payload.chunks(8).all(|frame| frame == FrameHeader::nop().encode())
}

impl Upload {
    fn new(agent: &str, properties: &str, change: impl FnOnce(&mut Config)) -> Self {
        let path = PathState::default();
        let shared = path.clone();
        let mut peer = Peer::with(|config| {
            config.max_payload = limits::PAYLOAD_MAX;
            config.path = shared;
            change(config);
        });
        peer.shake_hands(agent, properties);
        let stream = peer.open();
        Self { peer, path, stream, next: 2, probes: vec![], largest: 0, kills: 0 }
    }

    /// What has gone out since, with numbers.
    fn sent(&mut self) -> Vec<(i64, usize)> {
        let mut sent = Vec::new();
        for payload in self.peer.payloads() {
            let size = payload.len();
            if is_nothing(&payload) {
                self.probes.push(size);
            } else {
                assert!(size <= self.path.payload().max(limits::PAYLOAD), "{size} of {:?}", self.path);
                self.largest = self.largest.max(size);
            }
            sent.push((self.next, size));
            self.next += 1;
        }
        sent
    }

    /// Goes on until no larger size is tried any more, over a way that takes payloads up to `limit`.
    fn run(&mut self, limit: usize, narrow: Narrow) {
        let mut in_flight: Vec<(i64, usize)> = Vec::new();
        for _ in 0..400 {
            self.peer.session.write(self.stream, &[7; 64 << 10]).expect("open");
            self.peer.drain();
            in_flight.extend(self.sent());
            self.peer.pass(ms(1));
            let large = in_flight.iter().position(|(_, size)| *size > limit);
            let through = in_flight.split_off(large.unwrap_or(in_flight.len()));
            let passed = std::mem::replace(&mut in_flight, through);
            for (number, _) in passed {
                self.peer.acknowledge(number);
                in_flight.extend(self.sent());
            }
            let Some((number, size)) = in_flight.first().copied().filter(|(_, size)| *size > limit) else { continue };
            assert_eq!(self.probes.last(), Some(&size), "only probes are too large");
            match narrow {
                Narrow::Kills => self.kill(),
                Narrow::Swallows => {
                    // What is behind arrives.
                    for (number, _) in in_flight.split_off(1) {
                        self.peer.acknowledge(number);
                    }
                    self.peer.lines();
                    self.peer.pass(self.peer.session.rto() + ms(1));
                }
            }
            self.expect_harmless(number);
            self.peer.acknowledge(number);
            in_flight.remove(0);
            // Whatever else was in flight on the old websocket.
            let rest = std::mem::take(&mut in_flight);
            for (number, _) in rest.into_iter().filter(|_| narrow == Narrow::Kills) {
                self.peer.acknowledge(number);
            }
            in_flight.extend(self.sent());
            self.peer.pass(ms(1100));
        }
        for (number, _) in in_flight {
            self.peer.acknowledge(number);
        }
    }

    /// The websocket is lost and replaced.
    fn kill(&mut self) {
        self.kills += 1;
        self.peer.pass(ms(1));
        self.peer.input(Input::Disconnected);
        self.peer.lines();
        self.peer.connect();
        self.peer.publication(MessageKind::StartPublication);
    }

    fn expect_harmless(&mut self, number: i64) {
        let lines = self.peer.data_lines();
        let harmless = [format!("again {number} Output [NOP]"), format!("again {number} Size")];
        assert!(lines.iter().any(|line| harmless.contains(line)), "{number}: {lines:?}");
    }
}

#[test]
fn payloads_grow_to_the_cap() {
    for (agent, properties) in [(NEW, MUX), (BASIC, MUX), (NEW, r#"{"portNumber":"22"}"#)] {
        let mut upload = Upload::new(agent, properties, |_| {});
        upload.run(usize::MAX, Narrow::Kills);
        assert_eq!(upload.probes, [4096, 16 << 10, 32 << 10], "{agent}");
        assert_eq!((upload.path.payload(), upload.largest), (32 << 10, 32 << 10), "{agent}");
    }
}

#[test]
fn a_smaller_limit_is_found_in_few_losses() {
    for narrow in [Narrow::Kills, Narrow::Swallows] {
        for limit in [1024, 1500, 4095, 4096, 6000, 10_000, 16_384, 20_000, 32_767] {
            for (agent, properties) in [(NEW, MUX), (BASIC, MUX)] {
                let mut upload = Upload::new(agent, properties, |_| {});
                upload.run(limit, narrow);
                let found = upload.path.payload();
                let what = format!("{narrow:?} {limit} {agent}: {found} by {:?}", upload.probes);
                assert!(found <= limit && upload.largest <= found, "{what}");
                assert!(limit - found <= limits::PAYLOAD.max(found / 2), "{what}");
                let failed = upload.probes.iter().filter(|size| **size > limit).count();
                assert!(upload.kills <= 4 && failed <= 4 && upload.probes.len() <= 8, "{what}");
                assert!(upload.peer.session.closed().is_none(), "{what}");
            }
        }
    }
}

#[test]
fn nothing_is_probed_without_a_backlog_or_beyond_1024() {
    let mut peer = Peer::with(|config| config.max_payload = limits::PAYLOAD_MAX);
    peer.shake_hands(NEW, MUX);
    let stream = peer.open();
    for _ in 0..100 {
        peer.write(stream, [7; 900]);
        peer.drain();
        peer.pass(ms(5));
        peer.acknowledge_all();
    }
    assert!(peer.payloads().iter().all(|payload| !is_nothing(payload)));

    let mut upload = Upload::new(NEW, MUX, |config| config.max_payload = limits::PAYLOAD);
    upload.run(usize::MAX, Narrow::Kills);
    assert_eq!((upload.probes.len(), upload.largest), (0, limits::PAYLOAD));
}

/// The first probe of an upload, and its number.
fn probing() -> (Upload, i64) {
    let mut upload = Upload::new(NEW, MUX, |_| {});
    upload.peer.write(upload.stream, [7; 32 << 10]);
    upload.peer.drain();
    let sent = upload.sent();
    let (number, size) = *sent.iter().find(|(_, size)| *size > limits::PAYLOAD).expect("a probe");
    assert_eq!((number, size, &upload.probes[..]), (3, 4096, &[4096][..]), "behind the first message");
    (upload, number)
}

/// The agent has it, nobody here knows, and the agent gets its number once more.
#[test]
fn a_probe_whose_acknowledgement_died_with_the_websocket_goes_out_harmless() {
    let (mut upload, number) = probing();
    upload.kill();
    upload.expect_harmless(number);
    upload.peer.acknowledge_all();
    assert_eq!(upload.path.payload(), limits::PAYLOAD, "it counts as failed");
    assert!(upload.peer.session.closed().is_none());
    // After a while it is tried once more.
    upload.peer.pass(ms(601_000));
    upload.sent();
    upload.peer.write(upload.stream, [7; 32 << 10]);
    upload.peer.drain();
    upload.sent();
    assert_eq!(upload.probes, [4096, 4096]);
    upload.peer.acknowledge_all();
    assert_eq!(upload.path.payload(), 4096);
}

#[test]
fn an_acknowledgement_that_may_be_the_harmless_forms_shows_nothing() {
    let (mut upload, number) = probing();
    upload.peer.acknowledge(2);
    upload.peer.lines();
    // The agent is slow: nothing is acknowledged in time.
    upload.peer.pass(ms(250));
    upload.expect_harmless(number);
    upload.peer.acknowledge(number);
    upload.peer.acknowledge_all();
    assert_eq!(upload.path.payload(), limits::PAYLOAD);
    upload.sent();
    upload.peer.pass(ms(2000));
    upload.peer.write(upload.stream, [7; 32 << 10]);
    upload.peer.drain();
    upload.sent();
    assert_eq!(upload.probes, [4096, 4096], "so it is tried again");
}

/// A session whose first message is larger than what passes.
fn with_a_large_message(path: &PathState) -> (Peer, StreamId) {
    let mut peer = Peer::with(|config| {
        config.max_payload = limits::PAYLOAD_MAX;
        config.path = path.clone();
    });
    peer.shake_hands(NEW, MUX);
    let stream = peer.open();
    peer.write(stream, [7; 32 << 10]);
    peer.drain();
    assert_eq!(peer.payloads().iter().map(|payload| payload.len()).max(), Some(4096));
    (peer, stream)
}

fn lose(peer: &mut Peer, after: Duration) {
    peer.pass(ms(1));
    peer.publication(MessageKind::StartPublication);
    peer.pass(after);
    peer.input(Input::Disconnected);
    if peer.session.closed().is_none() {
        peer.lines();
        peer.pass(limits::RECONNECT_CEILING);
        peer.connect();
    }
}

/// Whether the oldest message has gone out again.
fn sent_again(peer: &mut Peer) -> bool {
    peer.data_lines().iter().any(|line| line.starts_with("again 2 "))
}

#[test]
fn a_message_that_kills_every_websocket_ends_the_session_and_lowers_the_size_for_all() {
    let path = PathState::known(32 << 10);
    let (mut other, other_stream) = with_a_large_message(&path);
    let (mut peer, _) = with_a_large_message(&path);
    lose(&mut peer, ms(10));
    assert!(sent_again(&mut peer), "at once");
    lose(&mut peer, ms(10));
    for _ in 0..2 {
        assert!(!sent_again(&mut peer), "first the websocket has to show that it lasts");
        peer.pass(ms(1));
        peer.publication(MessageKind::StartPublication);
        peer.pass(limits::STEADY - ms(2));
        assert!(!sent_again(&mut peer));
        peer.pass(ms(1));
        assert!(sent_again(&mut peer));
        assert!(peer.session.closed().is_none());
        lose(&mut peer, ms(10));
    }
    let reason = peer.session.closed().cloned().expect("given up");
    assert!(matches!(
        &reason,
        CloseReason { initiator: Initiator::Library, cause: Cause::ConnectionLost(text) } if text.contains("4096 bytes")
    ));
    let closed = Event::Closed { reason, terminate: true };
    assert!(peer.events().contains(&closed));
    assert_eq!(path.payload(), limits::PAYLOAD);
    // A session that is there already obeys at once, and a new one begins small.
    other.payloads();
    other.acknowledge_all();
    other.write(other_stream, [7; 8 << 10]);
    other.drain();
    let sizes: Vec<_> = other.payloads().iter().map(|payload| payload.len()).collect();
    assert!(!sizes.is_empty() && sizes.iter().all(|size| *size <= limits::PAYLOAD), "{sizes:?}");
}

/// However short-lived: those that are lost before the message is on them, or long after it, show nothing.
#[test]
fn a_network_that_keeps_breaking_is_not_taken_for_a_message_that_is_too_large() {
    let path = PathState::known(32 << 10);
    let (mut peer, _) = with_a_large_message(&path);
    for _ in 0..50 {
        lose(&mut peer, ms(100));
        lose(&mut peer, ms(400));
        assert!(peer.session.closed().is_none());
    }
    lose(&mut peer, ms(4000));
    lose(&mut peer, ms(4000));
    assert!(peer.session.closed().is_none());
    // Once it is through, all is forgotten.
    peer.pass(ms(600));
    peer.acknowledge_all();
    assert_eq!((peer.session.occupancy().unacked_messages, path.payload()), (0, 32 << 10));
}

#[test]
fn websockets_that_are_lost_while_something_is_acknowledged_are_no_sign() {
    let path = PathState::known(32 << 10);
    let (mut peer, _) = with_a_large_message(&path);
    for number in 2..9 {
        lose(&mut peer, ms(10));
        lose(&mut peer, ms(10));
        peer.pass(ms(600));
        peer.acknowledge(number);
        assert!(peer.session.closed().is_none(), "{number}");
    }
    assert_eq!(path.payload(), 32 << 10);
}
