//! A scripted peer: gateway and agent in one hand, driving `proto::Session` message by message on a virtual clock.
//!
//! What the client sends is told as lines of text, so that a test shows the conversation:
//!
//! ```text
//! open    ping    ack 4    0 HandshakeResponse    1 Output [NOP]    2 Output [SYN 3][PSH 3 hello][FIN 3]
//! again 2 Output [SYN 3][PSH 3 hello][FIN 3]    5 Flag TerminateSession
//! ```
//!
//! It is not the emulated agent: it knows no rules and breaks any that a test wants broken.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ssmfwd::{
    proto::{
        Config, Event, Inbound, Input, Mode, Output, ProcessBudget, Read, Session, StreamError, StreamId, Token,
        Transmit, limits,
    },
    wire::{
        Acknowledge, FlagKind, Flags, Header, Message, MessageId, MessageKind, PayloadKind, SequenceNumber,
        smux::{FrameHeader, HEADER_LEN},
    },
};

/// An agent of the present.
pub(crate) const NEW: &str = "3.3.987.0";
/// The newest agent that carries one connection at a time.
pub(crate) const BASIC: &str = "3.0.196.0";
/// The end of the smux keepalive: the newest agent that expects it.
pub(crate) const KEEPALIVE: &str = "3.1.1511.0";

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What goes out on a websocket.
#[derive(Debug)]
pub(crate) enum Sent {
    Text(String),
    Frame(Bytes),
    Ping,
}

/// One end of the conversation and its clock.
pub(crate) struct Peer {
    pub(crate) session: Session,
    pub(crate) now: Instant,
    pub(crate) deadline: Option<Instant>,
    /// Whether the websocket takes what the client sends.
    pub(crate) writable: bool,
    /// Number of the agent's next stream data.
    pub(crate) next: i64,
    mode: Mode,
    lines: Vec<String>,
    /// The same as it was sent.
    sent_as_is: Vec<Sent>,
    events: Vec<Event>,
    /// New stream data: kind and payload.
    sent: Vec<(PayloadKind, Bytes)>,
    unacknowledged: Vec<i64>,
}

impl Peer {
    /// A session whose first websocket has just opened.
    pub(crate) fn connected() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Self::config();
        // Whoever is after probes and tokens says so.
        config.max_payload = limits::PAYLOAD;
        config.max_message_rate = 0;
        change(&mut config);
        let mut peer = Self::unconnected(config);
        peer.connect();
        peer
    }

    /// The defaults.
    pub(crate) fn config() -> Config {
        Config::new(uuid::Uuid::from_u128(1), 1, 1_700_000_000_000)
    }

    /// A session that waits for its first websocket.
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    pub(crate) fn unconnected(config: Config) -> Self {
        let now = Instant::now();
        Self {
            session: Session::new(config, now),
            now,
            deadline: None,
            writable: true,
            next: 0,
            mode: Mode::Mux,
            lines: Vec::new(),
            sent_as_is: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
            unacknowledged: Vec::new(),
        }
    }

    /// A session that is ready, with this agent and a document for port forwarding.
    pub(crate) fn ready(agent: &str) -> Self {
        let mut peer = Self::connected();
        peer.shake_hands(agent, r#"{"type":"LocalPortForwarding"}"#);
        peer
    }

    /// A session that is ready, for a document that is a raw pipe.
    pub(crate) fn raw() -> Self {
        let mut peer = Self::connected();
        peer.shake_hands(NEW, r#"{"portNumber":"22"}"#);
        peer
    }

    /// The whole handshake, up to the shield's acknowledgement. Forgets what was said.
    pub(crate) fn shake_hands(&mut self, agent: &str, properties: &str) {
        self.say(PayloadKind::HandshakeRequest, request(agent, properties));
        self.acknowledge(0);
        self.say(PayloadKind::HandshakeComplete, r#"{"HandshakeTimeToComplete":1,"CustomerMessage":""}"#);
        self.acknowledge(1);
        let events = self.events();
        assert!(matches!(&events[..], [Event::Ready { mode, .. }] if *mode == self.mode), "{events:?}");
        self.lines();
        self.sent.clear();
    }

    // --- what happens to the client --------------------------------------------------------------------------

    pub(crate) fn connect(&mut self) {
        self.input(Input::Connected(Token::new("token")));
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.session.handle(self.now, input);
        self.drain();
    }

    /// A frame, as it is.
    pub(crate) fn frame(&mut self, frame: impl Into<Bytes>) {
        self.input(Input::Message(Inbound::from(frame.into())));
    }

    /// The agent's next stream data.
    pub(crate) fn say(&mut self, kind: PayloadKind, payload: impl AsRef<[u8]>) {
        self.next += 1;
        self.say_at(self.next - 1, kind, payload);
    }

    /// Stream data with any number.
    pub(crate) fn say_at(&mut self, number: i64, kind: PayloadKind, payload: impl AsRef<[u8]>) {
        self.frame(message(MessageKind::OutputStreamData, kind, number, payload.as_ref()));
    }

    /// The agent's next stream data, of kind Output.
    pub(crate) fn output(&mut self, payload: impl AsRef<[u8]>) {
        self.say(PayloadKind::Output, payload);
    }

    pub(crate) fn refuse(&mut self) {
        self.say(PayloadKind::Flag, FlagKind::ConnectToPortError.encode());
    }

    pub(crate) fn publication(&mut self, kind: MessageKind) {
        self.frame(message(kind, PayloadKind::Undefined, 0, b""));
    }

    pub(crate) fn channel_closed(&mut self, body: &str) {
        self.frame(message(MessageKind::ChannelClosed, PayloadKind::Undefined, 0, body.as_bytes()));
    }

    pub(crate) fn acknowledge(&mut self, number: i64) {
        self.unacknowledged.retain(|other| *other != number);
        self.frame(acknowledgement(number));
    }

    /// Acknowledges everything, until the client has nothing more to send. Returns how many messages that were.
    pub(crate) fn acknowledge_all(&mut self) -> usize {
        let mut count = 0;
        while let Some(number) = self.unacknowledged.first().copied() {
            self.acknowledge(number);
            count += 1;
        }
        count
    }

    /// Time passes, and every deadline in it is kept.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for steps in 0.. {
            assert!(steps < 100_000, "the deadlines do not end");
            let Some(at) = self.deadline.filter(|at| *at <= end) else { break };
            self.now = at;
            self.input(Input::Timeout);
        }
        self.now = end;
        self.input(Input::Timeout);
    }

    // --- what the application does ---------------------------------------------------------------------------

    pub(crate) fn open(&mut self) -> StreamId {
        self.session.open_stream().expect("the session is ready")
    }

    /// Writes all of it.
    pub(crate) fn write(&mut self, stream: StreamId, data: impl AsRef<[u8]>) {
        let data = data.as_ref();
        assert_eq!(self.session.write(stream, data), Ok(data.len()));
    }

    pub(crate) fn finish(&mut self, stream: StreamId) {
        self.session.finish(stream);
        self.drain();
    }

    pub(crate) fn release(&mut self, stream: StreamId) {
        self.session.release(stream);
        self.drain();
    }

    /// Everything that can be read now, and why there is no more.
    pub(crate) fn read(&mut self, stream: StreamId) -> (Vec<u8>, Result<Read, StreamError>) {
        let mut all = Vec::new();
        loop {
            let mut buffer = [0; 8192];
            match self.session.read(stream, &mut &mut buffer[..]) {
                Ok(Read::Data(count)) => all.extend_from_slice(&buffer[..count]),
                other => {
                    self.drain();
                    return (all, other);
                }
            }
        }
    }

    // --- what the client did ---------------------------------------------------------------------------------

    /// What the client has sent since the last call.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// The same without acknowledgements and pings.
    pub(crate) fn data_lines(&mut self) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| !line.starts_with("ack ") && line != "ping");
        lines
    }

    /// What the client has sent since the last call, byte for byte.
    pub(crate) fn sent_as_is(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent_as_is)
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Payloads of the new stream data since the last call.
    pub(crate) fn payloads(&mut self) -> Vec<Bytes> {
        self.new_messages().into_iter().map(|(_, payload)| payload).collect()
    }

    /// New stream data since the last call: kinds and payloads.
    pub(crate) fn new_messages(&mut self) -> Vec<(PayloadKind, Bytes)> {
        std::mem::take(&mut self.sent)
    }

    /// Drains the client as its shell does after every mutation, and checks what must always hold.
    pub(crate) fn drain(&mut self) {
        loop {
            let output =
                if self.writable { self.session.poll_output(self.now) } else { self.session.poll_event(self.now) };
            match output {
                Output::Transmit(Transmit::Text(text)) => {
                    self.lines.push("open".to_owned());
                    self.sent_as_is.push(Sent::Text(text.to_string()));
                }
                Output::Transmit(Transmit::Binary(frame)) => {
                    let again = frame.is_retransmission();
                    let frame = frame.into_bytes();
                    self.sent_as_is.push(Sent::Frame(frame.clone()));
                    self.sent(frame, again);
                }
                Output::Ping => {
                    self.lines.push("ping".to_owned());
                    self.sent_as_is.push(Sent::Ping);
                }
                Output::Event(event) => self.events.push(event),
                Output::Timeout(deadline) => {
                    assert!(deadline.is_none_or(|at| at > self.now), "a deadline that has passed");
                    self.deadline = deadline;
                    break;
                }
            }
        }
        let occupancy = self.session.occupancy();
        assert!(occupancy.early_messages <= limits::EARLY_MESSAGES, "{occupancy:?}");
        assert!(occupancy.early_bytes <= limits::EARLY_BYTES, "{occupancy:?}");
        assert!(occupancy.waiting_acknowledgements <= limits::WAITING_ACKNOWLEDGEMENTS, "{occupancy:?}");
        assert!(occupancy.unacked_messages <= limits::IN_FLIGHT_MESSAGES + 3, "{occupancy:?}");
        assert!(occupancy.largest_unsent <= limits::STREAM_UNSENT, "{occupancy:?}");
    }

    fn sent(&mut self, frame: Bytes, again: bool) {
        self.mode = self.session.mode().unwrap_or(self.mode);
        let message = Message::decode(frame).expect("our own message");
        message.check_digest().expect("our own digest");
        if message.header.kind == MessageKind::Acknowledge {
            let body = Acknowledge::decode(&message.payload).expect("our own acknowledgement");
            self.lines.push(format!("ack {}", body.sequence));
            return;
        }
        assert_eq!(message.header.kind, MessageKind::InputStreamData);
        let (number, kind) = (message.header.sequence.0, message.header.payload_kind);
        let content = match kind {
            PayloadKind::Output if self.mode == Mode::Mux => frames(&message.payload),
            PayloadKind::Output => text(&message.payload),
            PayloadKind::Flag => format!("{:?}", FlagKind::decode(&message.payload).expect("our own flag")),
            _ => String::new(),
        };
        let line = format!("{}{number} {kind:?} {content}", if again { "again " } else { "" });
        self.lines.push(line.trim_end().to_owned());
        if !again {
            self.unacknowledged.push(number);
            self.sent.push((kind, message.payload));
        }
    }
}

/// A handshake request for a shell or a command, with other actions before the session type.
pub(crate) fn shell_request(session_type: &str, actions: &str) -> String {
    format!(
        r#"{{"AgentVersion":"{NEW}","RequestedClientActions":[{actions}{{"ActionType":"SessionType",
        "ActionParameters":{{"SessionType":"{session_type}","Properties":null}}}}]}}"#
    )
}

/// A handshake request for a port session.
pub(crate) fn request(agent: &str, properties: &str) -> String {
    format!(
        r#"{{"AgentVersion":"{agent}","RequestedClientActions":[{{"ActionType":"SessionType",
        "ActionParameters":{{"SessionType":"Port","Properties":{properties}}}}}]}}"#
    )
}

/// A message as the agent or the gateway sends it.
pub(crate) fn message(kind: MessageKind, payload_kind: PayloadKind, number: i64, payload: &[u8]) -> Bytes {
    let header = Header {
        kind,
        schema_version: 1,
        created_ms: 1_700_000_000_000,
        sequence: SequenceNumber(number),
        flags: Flags::NONE,
        id: MessageId::from_random(number.unsigned_abs().into()),
        payload_kind,
    };
    Message { header, digest: [0; 32], payload: Bytes::copy_from_slice(payload), declared_len: 0 }.encode()
}

pub(crate) fn acknowledgement(number: i64) -> Bytes {
    let body = format!(
        r#"{{"AcknowledgedMessageType":"input_stream_data","AcknowledgedMessageId":"","AcknowledgedMessageSequenceNumber":{number},"IsSequentialMessage":true}}"#
    );
    message(MessageKind::Acknowledge, PayloadKind::Undefined, 0, body.as_bytes())
}

pub(crate) fn psh(stream: StreamId, data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    let length = u16::try_from(data.len()).expect("one frame");
    [&FrameHeader::psh(stream, length).encode(), data].concat()
}

pub(crate) fn fin(stream: StreamId) -> Vec<u8> {
    FrameHeader::fin(stream).encode().to_vec()
}

/// Frames as text. Panics unless they are whole.
fn frames(mut payload: &[u8]) -> String {
    let mut out = String::new();
    while !payload.is_empty() {
        let (header, rest) = payload.split_first_chunk::<HEADER_LEN>().expect("a whole header");
        let header = FrameHeader::decode(*header).expect("a frame");
        let (data, rest) = rest.split_at_checked(header.data_len()).expect("a whole frame");
        payload = rest;
        out += &match format!("{:?}", header.command).to_uppercase().as_str() {
            "NOP" => "[NOP]".to_owned(),
            "PSH" => format!("[PSH {} {}]", header.stream, text(data)),
            other => format!("[{other} {}]", header.stream),
        };
    }
    out
}

fn text(data: &[u8]) -> String {
    if data.len() > 40 { format!("{} bytes", data.len()) } else { data.escape_ascii().to_string() }
}

/// A session that does not read any more, because it holds all that it may for readers that have stopped.
pub(crate) fn with_readers_stopped(budget: &ProcessBudget) -> Session {
    let mut peer = Peer::with(|config| config.budget = budget.clone());
    peer.shake_hands(NEW, r#"{"type":"LocalPortForwarding"}"#);
    let stream = peer.open();
    while peer.session.wants_messages() {
        peer.output(psh(stream, vec![0; 60_000]));
    }
    peer.session
}
