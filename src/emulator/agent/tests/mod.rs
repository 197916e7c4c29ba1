//! The core driven by hand, with messages of `crate::wire`. Every step is told as lines of text:
//!
//! ```text
//! state Connected    0 HandshakeRequest {...}    ack 1    2 Output hello    3 Output [SYN 3][PSH 3 hello][FIN 3]
//! dial 1 localhost:80    write 1 hello    close 1    ended "text"
//! ```

mod back_pressure;
mod basic;
mod captures;
mod handshake;
mod mux;
mod random;
mod reliability;
mod sealed;
mod shell;

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::wire::{
    Acknowledge, AgentSessionState, FlagKind, Flags, Header, Message, MessageId, MessageKind, PayloadKind,
    SequenceNumber, from_json,
    smux::{Command, FrameHeader, HEADER_LEN, StreamId},
};

/// Any point in time: only differences matter.
#[expect(clippy::disallowed_methods, reason = "tests need one origin; nothing measures it")]
pub(super) fn start() -> Instant {
    Instant::now()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Properties of a `LocalPortForwarding` session, as in the recorded traffic.
fn forwarding() -> Value {
    json!({"localPortNumber": "0", "portNumber": "9000", "type": "LocalPortForwarding"})
}

/// Properties of an SSH session.
fn ssh() -> Value {
    json!({"portNumber": "22"})
}

fn options(properties: Value, behaviour: Behaviour) -> AgentOptions {
    AgentOptions {
        version: "3.3.1142.0".to_owned(),
        session_id: "lab-0effd47c3e7e46d79".to_owned(),
        target: "i-0123456789abcdef0".to_owned(),
        session_type: SessionType::Port,
        properties,
        behaviour,
        seed: 7,
        epoch_ms: 1_700_000_000_000,
    }
}

/// An agent, a clock, and a client that is not there.
struct Rig {
    agent: AgentCore,
    origin: Instant,
    now: Instant,
    /// Number of the client's next message.
    sequence: i64,
    /// What the agent transmitted, as bytes.
    transmitted: Vec<Bytes>,
    /// The deadline of the last drain.
    deadline: Option<Instant>,
}

impl Rig {
    fn new(options: AgentOptions) -> Self {
        let origin = start();
        let agent = AgentCore::new(options, origin);
        Self { agent, origin, now: origin, sequence: 0, transmitted: Vec::new(), deadline: None }
    }

    /// A session after its handshake, everything acknowledged.
    fn open(properties: Value, behaviour: Behaviour) -> Self {
        let mut rig = Self::new(options(properties, behaviour));
        rig.shake_hands("1.2.764.0");
        rig
    }

    fn shake_hands(&mut self, client_version: &str) -> Vec<String> {
        let mut lines = self.input(AgentInput::Connected);
        lines.extend(self.ack(0));
        lines.extend(self.respond(client_version, 1));
        lines.extend(self.ack(1));
        lines
    }

    /// An input at the current time, and all that follows from it.
    fn input(&mut self, input: AgentInput) -> Vec<String> {
        self.agent.handle(self.now, input);
        self.drain()
    }

    fn drain(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.agent.poll_output(self.now) {
                AgentOutput::Timeout(deadline) => {
                    assert!(deadline.is_none_or(|deadline| deadline > self.now), "a deadline that is not later: spin");
                    self.deadline = deadline;
                    return lines;
                }
                AgentOutput::Transmit(message) => {
                    lines.push(tell_message(&message));
                    self.transmitted.push(message);
                }
                AgentOutput::Dial(id, host, port) => lines.push(format!("dial {} {host}:{port}", id.0)),
                AgentOutput::Write(id, data) => lines.push(format!("write {} {}", id.0, tell_bytes(&data))),
                AgentOutput::Close(id) => lines.push(format!("close {}", id.0)),
                AgentOutput::Start(id, Program { command, streams }) => {
                    lines.push(format!("start {} {streams:?} {}", id.0, command.as_deref().unwrap_or("shell")));
                }
                AgentOutput::Resize(id, size) => lines.push(format!("resize {} {}x{}", id.0, size.cols, size.rows)),
                AgentOutput::Signal(id, signal) => lines.push(format!("signal {} {signal:?}", id.0)),
                AgentOutput::Decrypt(request) => {
                    let context: Vec<_> =
                        request.context.iter().map(|(name, value)| format!("{name}={value}")).collect();
                    lines.push(format!("decrypt {} {}", request.key_id, context.join(" ")));
                }
                AgentOutput::Ended(text) => lines.push(format!("ended {text:?}")),
            }
        }
    }

    /// Lets time pass, deadline by deadline. Each line starts with the milliseconds since the start.
    fn wait(&mut self, time: Duration) -> Vec<String> {
        let until = self.now + time;
        let mut lines = Vec::new();
        while let Some(deadline) = self.deadline.filter(|deadline| *deadline <= until) {
            self.now = deadline;
            let at = self.elapsed_ms();
            lines.extend(self.input(AgentInput::Timeout).iter().map(|line| format!("{at}: {line}")));
        }
        self.now = until;
        assert_eq!(self.input(AgentInput::Timeout), [""; 0], "something was due without a deadline");
        lines
    }

    fn elapsed_ms(&self) -> u128 {
        (self.now - self.origin).as_millis()
    }

    /// The client's next message.
    fn send(&mut self, kind: PayloadKind, payload: &[u8]) -> Vec<String> {
        self.sequence += 1;
        self.send_as(self.sequence - 1, kind, payload)
    }

    fn send_as(&mut self, sequence: i64, kind: PayloadKind, payload: &[u8]) -> Vec<String> {
        self.input(AgentInput::Binary(input_message(sequence, kind, payload)))
    }

    fn data(&mut self, payload: &[u8]) -> Vec<String> {
        self.send(PayloadKind::Output, payload)
    }

    fn frames(&mut self, frames: &[(FrameHeader, &[u8])]) -> Vec<String> {
        let payload: Vec<u8> = frames.iter().flat_map(|(header, data)| [&header.encode(), *data].concat()).collect();
        self.data(&payload)
    }

    fn flag(&mut self, flag: FlagKind) -> Vec<String> {
        self.send(PayloadKind::Flag, &flag.encode())
    }

    fn respond(&mut self, client_version: &str, status: u8) -> Vec<String> {
        let body = json!({
            "ClientVersion": client_version,
            "ProcessedClientActions":
                [{"ActionType": "SessionType", "ActionStatus": status, "ActionResult": null, "Error": "cannot"}],
            "Errors": null,
        });
        self.send(PayloadKind::HandshakeResponse, body.to_string().as_bytes())
    }

    fn ack(&mut self, sequence: i64) -> Vec<String> {
        let mut body = bytes::BytesMut::new();
        Acknowledge::encode_into(&mut body, "output_stream_data", MessageId::default(), SequenceNumber(sequence));
        self.input(AgentInput::Binary(message(MessageKind::Acknowledge, 0, PayloadKind::Undefined, &body)))
    }

    /// A message of the gateway without stream data.
    fn gateway(&mut self, kind: MessageKind) -> Vec<String> {
        self.input(AgentInput::Binary(message(kind, 0, PayloadKind::Undefined, b"{}")))
    }

    fn dialled(&mut self, id: u64) -> Vec<String> {
        self.input(AgentInput::Dialled(ConnectionId(id)))
    }

    fn refused(&mut self, id: u64) -> Vec<String> {
        self.input(AgentInput::DialFailed(ConnectionId(id), "connection refused".to_owned()))
    }

    fn received(&mut self, id: u64, data: &[u8]) -> Vec<String> {
        self.input(AgentInput::Received(ConnectionId(id), Bytes::copy_from_slice(data)))
    }

    fn eof(&mut self, id: u64) -> Vec<String> {
        self.input(AgentInput::Eof(ConnectionId(id)))
    }

    fn written(&mut self, id: u64, len: usize) -> Vec<String> {
        self.input(AgentInput::Written(ConnectionId(id), len))
    }

    fn last(&self) -> Message {
        Message::decode(self.transmitted.last().expect("something was transmitted").clone()).expect("a message")
    }
}

const NOTHING: [&str; 0] = [];

fn syn(stream: u32) -> (FrameHeader, &'static [u8]) {
    (FrameHeader::syn(StreamId(stream)), b"")
}

fn fin(stream: u32) -> (FrameHeader, &'static [u8]) {
    (FrameHeader::fin(StreamId(stream)), b"")
}

fn psh(stream: u32, data: &[u8]) -> (FrameHeader, &[u8]) {
    (FrameHeader::psh(StreamId(stream), u16::try_from(data.len()).expect("fits a frame")), data)
}

fn message(kind: MessageKind, sequence: i64, payload_kind: PayloadKind, payload: &[u8]) -> Bytes {
    let header = Header {
        kind,
        schema_version: 1,
        created_ms: 1_700_000_000_000,
        sequence: SequenceNumber(sequence),
        flags: Flags::NONE,
        id: MessageId::from_random(sequence.unsigned_abs().into()),
        payload_kind,
    };
    let payload = Bytes::copy_from_slice(payload);
    Message { header, digest: [0; 32], declared_len: 0, payload }.encode()
}

fn input_message(sequence: i64, kind: PayloadKind, payload: &[u8]) -> Bytes {
    message(MessageKind::InputStreamData, sequence, kind, payload)
}

fn tell_message(frame: &Bytes) -> String {
    let message = Message::decode(frame.clone()).expect("the agent sends readable messages");
    message.check_digest().expect("the agent's digests are right");
    let Header { kind, sequence, payload_kind, .. } = message.header;
    match kind {
        MessageKind::Acknowledge => format!("ack {}", Acknowledge::decode(&message.payload).expect("a body").sequence),
        MessageKind::AgentSessionState => {
            format!(
                "state {}",
                from_json::<AgentSessionState>("state", &message.payload).expect("a body").session_state
            )
        }
        _ if payload_kind == PayloadKind::Flag => {
            format!("{sequence} {:?}", FlagKind::decode(&message.payload).expect("a flag"))
        }
        _ => format!("{sequence} {payload_kind:?} {}", tell_bytes(&message.payload)),
    }
}

/// Whole smux frames as such, short text as text, and anything else by its length.
fn tell_bytes(bytes: &[u8]) -> String {
    tell_frames(bytes).unwrap_or_else(|| tell_text(bytes))
}

fn tell_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= 300 => text.to_owned(),
        _ => format!("({} bytes)", bytes.len()),
    }
}

fn tell_frames(mut bytes: &[u8]) -> Option<String> {
    let mut told = String::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
        let header = FrameHeader::decode(*header).ok()?;
        let (data, rest) = rest.split_at_checked(header.data_len())?;
        told += &match header.command {
            Command::Syn => format!("[SYN {}]", header.stream),
            Command::Fin => format!("[FIN {}]", header.stream),
            Command::Nop => "[NOP]".to_owned(),
            Command::Psh => format!("[PSH {} {}]", header.stream, tell_text(data)),
        };
        bytes = rest;
    }
    bytes.is_empty().then_some(told).filter(|told| !told.is_empty())
}
