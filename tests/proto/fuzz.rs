//! Runs the fuzz bodies of `tests/fuzz` under the ordinary test command, over seeded input: arbitrary bytes, and
//! valid input that was changed.

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use bytes::Bytes;
use fastrand::Rng;
use ssmfwd::wire::smux::{FrameHeader, StreamId};
use ssmfwd::wire::{Message, MessageKind, PayloadKind};

use crate::recording::{Operation, Recording};

/// Inputs for each body and kind of input.
const RUNS: u64 = 3000;

/// Names the input when a body panics, so that it can be run again.
struct Report<'a> {
    body: &'a str,
    seed: u64,
    input: &'a [u8],
}

impl Drop for Report<'_> {
    #[expect(clippy::print_stderr, reason = "a failure must be reproducible")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.input.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("fuzz body {}, seed {}, input {hex}", self.body, self.seed);
        }
    }
}

fn run(body: &str, seed: u64, input: &[u8]) {
    let report = Report { body, seed, input };
    bodies::run(body, input);
    drop(report);
}

fn arbitrary(rng: &mut Rng) -> Vec<u8> {
    let len = rng.usize(..600);
    (0..len).map(|_| rng.u8(..)).collect()
}

/// Changes valid input in a few places.
fn mutate(rng: &mut Rng, mut input: Vec<u8>) -> Vec<u8> {
    for _ in 0..rng.usize(..6) {
        if input.is_empty() {
            break;
        }
        let at = rng.usize(..input.len());
        match rng.u8(..8) {
            0 => input.truncate(at),
            1 => input.insert(at, rng.u8(..)),
            2 => drop(input.remove(at)),
            3 => input[at] ^= 1 << rng.u8(..8),
            4 => input[at] = *rng.choice(b"\0\x01\x7f\x80\xff{}[]\",:0\\<").expect("not empty"),
            5 => {
                let end = rng.usize(at..=input.len().min(at + 64));
                input.extend_from_within(at..end);
            }
            6 => {
                let end = input.len().min(at + 4);
                let edge = rng.choice([0u32, 1, 116, 120, 0x7fff_ffff, u32::MAX]).expect("not empty");
                input[at..end].copy_from_slice(&edge.to_be_bytes()[..end - at]);
            }
            _ => input[at] = rng.u8(..),
        }
    }
    input
}

/// Every different message of the shorter recordings.
fn frames() -> Vec<Bytes> {
    let recordings = Recording::all();
    let short = recordings.iter().filter(|recording| recording.lines.len() < 200);
    let lines = short.flat_map(|recording| &recording.lines);
    let mut frames: Vec<Bytes> =
        lines.filter(|line| line.operation == Operation::Binary).map(|line| line.bytes.clone()).collect();
    frames.sort();
    frames.dedup();
    frames
}

/// The kind of body, and the body: what [`bodies::payloads`] reads.
fn payloads(frames: &[Bytes]) -> Vec<Vec<u8>> {
    let selector = |message: &Message| match (&message.header.kind, message.header.payload_kind) {
        (MessageKind::InputStreamData | MessageKind::OutputStreamData, kind) => kind.to_wire() as u8,
        (MessageKind::Acknowledge, _) => bodies::payloads::ACKNOWLEDGE,
        (MessageKind::ChannelClosed, _) => bodies::payloads::CHANNEL_CLOSED,
        (MessageKind::AgentSessionState, _) => bodies::payloads::AGENT_SESSION_STATE,
        _ => PayloadKind::Undefined.to_wire() as u8,
    };
    let messages = frames.iter().filter_map(|frame| Message::decode(frame.clone()).ok());
    let recorded = messages.map(|message| [&[selector(&message)], &message.payload[..]].concat());
    // Kinds that no port session uses.
    let unseen: [(PayloadKind, &[u8]); 4] = [
        (PayloadKind::Size, br#"{"cols":80,"rows":24}"#),
        (
            PayloadKind::HandshakeRequest,
            br#"{"AgentVersion":"3.3.987.0","RequestedClientActions":[{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"k","Challenge":"AA=="}},{"ActionType":"Other","ActionParameters":[1]}]}"#,
        ),
        (
            PayloadKind::HandshakeResponse,
            br#"{"ClientVersion":"1.2.764.0","ProcessedClientActions":[{"ActionType":"KMSEncryption","ActionStatus":1,"ActionResult":{"KMSCipherTextKey":"AAEC","KMSCipherTextHash":null,"ChallengeAcknowledgement":true},"Error":""}],"Errors":["\u003c"]}"#,
        ),
        (PayloadKind::EncChallengeRequest, br#"{"Challenge":"AAECAwQFBgcICQoL"}"#),
    ];
    let unseen = unseen.into_iter().map(|(kind, text)| [&[kind.to_wire() as u8], text].concat());
    recorded.chain(unseen).collect()
}

/// A size of pieces, and frames of a few streams: what [`bodies::smux`] reads.
fn frame_stream(rng: &mut Rng) -> Vec<u8> {
    let mut out = vec![rng.u8(..)];
    for _ in 0..rng.usize(..20) {
        let stream = StreamId(3 + 2 * rng.u32(..4));
        let header = match rng.u8(..5) {
            0 => FrameHeader::syn(stream),
            1 => FrameHeader::fin(stream),
            2 => FrameHeader::nop(),
            _ => FrameHeader::psh(stream, rng.u16(..100)),
        };
        out.extend_from_slice(&header.encode());
        out.extend((0..header.data_len()).map(|_| rng.u8(..)));
    }
    out
}

#[test]
fn bodies_bear_arbitrary_input() {
    for (body, _) in bodies::BODIES {
        for seed in 0..RUNS {
            run(body, seed, &arbitrary(&mut Rng::with_seed(seed)));
        }
    }
}

#[test]
fn message_bears_changed_messages() {
    let frames = frames();
    assert!(frames.len() > 100, "only {} different messages", frames.len());
    for (seed, frame) in (0..RUNS).zip(frames.iter().cycle()) {
        run("message", seed, &mutate(&mut Rng::with_seed(seed), frame.to_vec()));
    }
}

#[test]
fn payloads_bear_changed_bodies() {
    let payloads = payloads(&frames());
    for (seed, payload) in (0..RUNS).zip(payloads.iter().cycle()) {
        run("payloads", seed, &mutate(&mut Rng::with_seed(seed), payload.clone()));
    }
}

#[test]
fn smux_bears_changed_streams() {
    for seed in 0..RUNS {
        let mut rng = Rng::with_seed(seed);
        let valid = frame_stream(&mut rng);
        run("smux", seed, &valid);
        run("smux", seed, &mutate(&mut rng, valid));
    }
}

#[test]
fn operations_bear_long_sequences() {
    for seed in 0..RUNS / 10 {
        let mut rng = Rng::with_seed(seed);
        let input: Vec<u8> = (0..6000).map(|_| rng.u8(..)).collect();
        run("operations", seed, &input);
    }
}
