//! Sequences of operations on the state machine: an application, an agent and a network that do what the input says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ssmfwd::{
    proto::{
        Cause, CloseReason, Config, Event, Inbound, Initiator, Input, Mode, Output, OutputRead, Read, SealedKey,
        Session, SessionKinds, StreamId, Token, Transmit, limits,
    },
    wire::{
        DataKey, EncChallenge, FlagKind, Flags, Header, Message, MessageId, MessageKind, NONCE_LEN, PayloadKey,
        PayloadKind, SequenceNumber, Size, smux::FrameHeader, to_json,
    },
};

/// More than any drain may have to say: a window, all acknowledgements, what is sent again, events.
const OUTPUTS: usize = 20_000;

/// Each byte is an operation, with its arguments behind it. The first two choose the session.
pub(crate) fn operations(data: &[u8]) {
    let mut script = Script(data);
    let mut run = Run::new(script.byte(), script.byte());
    while !script.0.is_empty() {
        run.operation(&mut script);
        run.drain();
    }
    run.session.abort(CloseReason::new(Initiator::Us, Cause::Requested));
    run.drain();
    assert_eq!(run.closed, 1, "every session ends once");
    let occupancy = run.session.occupancy();
    assert_eq!((occupancy.unacked_bytes, occupancy.early_bytes, occupancy.waiting_acknowledgements), (0, 0, 0));
}

/// What is left of the input; zeros behind its end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().map_or((0, self.0), |(byte, rest)| (*byte, rest));
        self.0 = rest;
        byte
    }

    /// Small numbers are as likely as large ones.
    fn number(&mut self) -> usize {
        let byte = usize::from(self.byte());
        (byte & 15) << (byte >> 4)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = self.number().min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes.to_vec()
    }
}

struct Run {
    session: Session,
    now: Instant,
    max_payload: usize,
    online: bool,
    writable: bool,
    ready: bool,
    closed: usize,
    streams: Vec<StreamId>,
    /// Read from each stream.
    read: BTreeMap<StreamId, usize>,
    /// Sent by the agent on each stream.
    sent: BTreeMap<StreamId, usize>,
    /// What they should carry is not known.
    spoiled: BTreeSet<StreamId>,
    /// The agent has sent something that is no frame, so that what follows may be anything.
    tainted: bool,
    next: i64,
    held_back: Vec<Bytes>,
    unacknowledged: Vec<i64>,
    transmitted: i64,
    /// The agent's side of a session with a key.
    seal: Option<Seal>,
}

/// What the agent seals and opens with, and the nonces of both.
struct Seal {
    seals: PayloadKey,
    opens: PayloadKey,
    next: u64,
    seen: BTreeSet<Vec<u8>>,
}

fn data_key() -> DataKey {
    DataKey::new(&[7; 64]).expect("64 bytes")
}

impl Seal {
    fn new() -> Self {
        let key = data_key();
        Self { seals: key.agent_to_client(), opens: key.client_to_agent(), next: 0, seen: BTreeSet::new() }
    }

    fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&self.next.to_le_bytes());
        self.next += 1;
        self.seals.seal(nonce, plaintext).to_vec()
    }
}

fn pattern(stream: StreamId, at: usize) -> u8 {
    (at as u32).wrapping_mul(31).wrapping_add(stream.0) as u8
}

impl Run {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    fn new(kind: u8, payload: u8) -> Self {
        let now = Instant::now();
        let mut config = Config::new(uuid::Uuid::nil(), 1, 1_700_000_000_000);
        config.max_payload = 64 + usize::from(payload) * 64;
        config.kinds = match kind / 32 % 4 {
            0 => SessionKinds::Connections,
            3 => SessionKinds::Any,
            _ => SessionKinds::Shell,
        };
        config.max_message_rate = [0, 900, 20, 0][usize::from(kind) / 8 % 4];
        let mut run = Self {
            max_payload: config.max_payload,
            session: Session::new(config, now),
            now,
            online: false,
            writable: true,
            ready: false,
            closed: 0,
            streams: Vec::new(),
            read: BTreeMap::new(),
            sent: BTreeMap::new(),
            spoiled: BTreeSet::new(),
            tainted: false,
            next: 0,
            held_back: Vec::new(),
            unacknowledged: Vec::new(),
            transmitted: 0,
            seal: None,
        };
        run.connect();
        match kind / 32 {
            1 => run.say(PayloadKind::Output, b"$ "),
            // Nothing but what the operations make of it.
            5 => return run,
            2 => run.agree_on_a_key(),
            6 => {
                run.ask_for_encryption();
                return run;
            }
            _ => {}
        }
        if matches!(kind / 32, 1 | 2) {
            assert!(run.ready && run.session.mode() == Some(Mode::Shell));
            return run;
        }
        let (agent, kind_of_document) = match kind % 8 {
            0 => ("3.0.196.0", "LocalPortForwarding"),
            1 => ("3.3.987.0", "Other"),
            2 => ("3.1.1511.0", "LocalPortForwarding"),
            // No handshake but what the operations make of it.
            3 => return run,
            _ => ("3.3.987.0", "LocalPortForwarding"),
        };
        let request = format!(
            r#"{{"AgentVersion":"{agent}","RequestedClientActions":[{{"ActionType":"SessionType","ActionParameters":{{"SessionType":"Port","Properties":{{"type":"{kind_of_document}"}}}}}}]}}"#
        );
        run.say(PayloadKind::HandshakeRequest, request.as_bytes());
        run.acknowledge(0);
        run.say(PayloadKind::HandshakeComplete, b"{}");
        run.acknowledge(1);
        assert!(run.ready);
        run
    }

    fn ask_for_encryption(&mut self) {
        let request = br#"{"AgentVersion":"3.3.987.0","RequestedClientActions":[{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"k","Challenge":"AA=="}},{"ActionType":"SessionType","ActionParameters":{"SessionType":"InteractiveCommands","Properties":null}}]}"#;
        self.say(PayloadKind::HandshakeRequest, request);
        self.seal = Some(Seal::new());
    }

    fn agree_on_a_key(&mut self) {
        self.ask_for_encryption();
        self.give_key(true);
        let challenge = self.sealed(&[1; 64]);
        self.say(PayloadKind::EncChallengeRequest, &to_json(&EncChallenge { challenge: Some(challenge) }));
        self.say(PayloadKind::HandshakeComplete, b"{}");
    }

    fn give_key(&mut self, there_is_one: bool) {
        let key = SealedKey { plaintext: data_key(), ciphertext: vec![1] };
        let key = if there_is_one { Ok(key) } else { Err("no".to_owned()) };
        self.session.handle(self.now, Input::DataKey(key));
        self.drain();
    }

    /// As the agent sends it.
    fn sealed(&mut self, plaintext: &[u8]) -> Vec<u8> {
        self.seal.as_mut().map_or_else(|| plaintext.to_vec(), |seal| seal.seal(plaintext))
    }

    /// What only shells have.
    fn shell(&mut self, script: &mut Script<'_>) {
        match script.byte() % 8 {
            0..=2 => {
                let kind = if script.byte().is_multiple_of(2) { PayloadKind::Output } else { PayloadKind::StdErr };
                let payload = vec![7; script.number().min(60_000)];
                let payload = self.sealed(&payload);
                self.say_or_hold(script, kind, &payload);
            }
            3 => {
                let payload = self.sealed(format!("EXIT_CODE: {}", script.byte()).as_bytes());
                self.say_or_hold(script, PayloadKind::ExitCode, &payload);
            }
            4 => self.session.set_size(Size { cols: script.byte().into(), rows: script.byte().into() }),
            5 => {
                let there_is_one = !script.byte().is_multiple_of(8);
                self.give_key(there_is_one);
            }
            6 => {
                let challenge = self.sealed(&[1; 64]);
                self.say(PayloadKind::EncChallengeRequest, &to_json(&EncChallenge { challenge: Some(challenge) }));
            }
            _ => {
                let (stream, limit) = (self.stream(script), script.number());
                let mut pieces: [Bytes; 4] = Default::default();
                let read = self.session.read_output(stream, &mut pieces, limit);
                if let Ok(OutputRead::Data(_, count)) = read {
                    let bytes = pieces[..count].concat();
                    assert!(bytes.len() <= limit && bytes.iter().all(|byte| *byte == 7 || self.seal.is_none()));
                    assert!(pieces[..count].iter().all(|piece| !piece.is_empty()));
                }
                let _drained: bool = self.session.is_drained();
            }
        }
    }

    fn operation(&mut self, script: &mut Script<'_>) {
        match script.byte() % 30 {
            26..30 => self.shell(script),
            0..=1 => {
                if let Ok(stream) = self.session.open_stream() {
                    self.streams.push(stream);
                }
            }
            2..=4 => {
                let (stream, len) = (self.stream(script), script.number());
                let written = self.session.write(stream, &vec![7; len]);
                assert!(written.is_err() || self.ready);
                assert!(
                    written.is_ok_and(|count| count <= len) || len == 0 || self.session.write(stream, b"").is_err()
                );
            }
            5..=6 => self.read(script),
            7 => {
                let stream = self.stream(script);
                self.session.finish(stream);
            }
            8 => {
                let stream = self.stream(script);
                self.session.release(stream);
                self.streams.retain(|other| *other != stream);
                assert!(self.session.read(stream, &mut Vec::new()).is_err() || self.session.mode() != Some(Mode::Mux));
            }
            9..=11 => {
                let stream = self.stream(script);
                let count = script.number().min(60_000);
                if !self.streams.contains(&stream) {
                    // Thrown away, unless it comes after the stream was opened.
                    self.spoiled.insert(stream);
                }
                let from = self.sent.entry(stream).or_default();
                let data = (*from..*from + count).map(|at| pattern(stream, at));
                let frame: Vec<u8> = FrameHeader::psh(stream, count as u16).encode().into_iter().chain(data).collect();
                *from += count;
                self.say_or_hold(script, PayloadKind::Output, &frame);
            }
            12 => {
                let stream = self.stream(script);
                self.say_or_hold(script, PayloadKind::Output, &FrameHeader::fin(stream).encode());
            }
            13 => self.say_or_hold(script, PayloadKind::Flag, &FlagKind::ConnectToPortError.encode()),
            14 => {
                let kind = if script.byte().is_multiple_of(2) {
                    MessageKind::PausePublication
                } else {
                    MessageKind::StartPublication
                };
                self.deliver(message(kind, PayloadKind::Undefined, 0, b""));
            }
            15..=16 => {
                let index = usize::from(script.byte());
                if let Some(number) = self.unacknowledged.get(index % self.unacknowledged.len().max(1)) {
                    self.acknowledge(*number);
                }
            }
            17 => {
                for number in std::mem::take(&mut self.unacknowledged) {
                    self.acknowledge(number);
                }
            }
            18 => self.acknowledge(i64::from(script.byte()) - 128),
            19 => {
                for frame in std::mem::take(&mut self.held_back).into_iter().rev() {
                    self.deliver(frame);
                }
            }
            20 => {
                self.now += Duration::from_millis(script.number() as u64);
                self.session.handle(self.now, Input::Timeout);
            }
            21 => {
                if self.online {
                    self.online = false;
                    self.session.handle(self.now, Input::Disconnected);
                } else {
                    self.connect();
                }
            }
            22 => self.writable = !self.writable,
            23 => {
                let input = if script.byte().is_multiple_of(2) { Input::Pong } else { Input::PingSent };
                self.session.handle(self.now, input);
            }
            24 => self.nonsense(script),
            _ => match script.byte() {
                0..4 => self.session.end(self.now),
                4 => self.deliver(message(MessageKind::ChannelClosed, PayloadKind::Undefined, 0, &script.bytes())),
                _ => {}
            },
        }
    }

    fn nonsense(&mut self, script: &mut Script<'_>) {
        let (kind, bytes) = (script.byte(), script.bytes());
        match kind % 16 {
            0 => self.deliver(bytes.into()),
            1 => {
                self.tainted = true;
                self.say(PayloadKind::Output, &bytes);
            }
            2 => self.deliver(message(MessageKind::Acknowledge, PayloadKind::Undefined, 0, &bytes)),
            3 => {
                let number = i64::from_be_bytes([script.byte(), script.byte(), 0, 0, 0, 0, 0, script.byte()]);
                self.tainted = true;
                self.deliver(message(MessageKind::OutputStreamData, PayloadKind::Output, number, &bytes));
            }
            // Of the handshake, whose bodies may be nonsense at any time; once it is over they are ignored.
            kind => self.say(PayloadKind::from_wire(kind.into()), &bytes),
        }
    }

    /// One of the application's streams, or one that does not exist.
    fn stream(&self, script: &mut Script<'_>) -> StreamId {
        let byte = script.byte();
        let known = self.streams.get(usize::from(byte) % self.streams.len().max(1));
        known.copied().filter(|_| byte < 250).unwrap_or_else(|| StreamId(byte.into()))
    }

    fn read(&mut self, script: &mut Script<'_>) {
        let stream = self.stream(script);
        let mut buffer = vec![0; script.number().max(1)];
        let Ok(Read::Data(count)) = self.session.read(stream, &mut &mut buffer[..]) else { return };
        let from = self.read.entry(stream).or_default();
        if self.session.mode() == Some(Mode::Mux) && !self.tainted && !self.spoiled.contains(&stream) {
            let expected = (*from..).map(|at| pattern(stream, at));
            assert!(buffer[..count].iter().copied().eq(expected.take(count)), "{stream} at {from}");
        }
        *from += count;
    }

    fn connect(&mut self) {
        self.online = true;
        self.session.handle(self.now, Input::Connected(Token::new("token")));
        self.drain();
    }

    fn say(&mut self, kind: PayloadKind, payload: &[u8]) {
        self.next += 1;
        self.deliver(message(MessageKind::OutputStreamData, kind, self.next - 1, payload));
    }

    /// The agent's next message; now, later, or twice.
    fn say_or_hold(&mut self, script: &mut Script<'_>, kind: PayloadKind, payload: &[u8]) {
        let frame = message(MessageKind::OutputStreamData, kind, self.next, payload);
        self.next += 1;
        match script.byte() {
            0..16 => self.held_back.push(frame),
            16..32 => {
                self.held_back.push(frame.clone());
                self.deliver(frame);
            }
            _ => self.deliver(frame),
        }
    }

    /// What cannot be delivered now waits, as on a connection that is not read.
    fn deliver(&mut self, frame: Bytes) {
        if self.online && self.session.wants_messages() {
            self.session.handle(self.now, Input::Message(Inbound::from(frame)));
            self.drain();
        } else {
            self.held_back.push(frame);
        }
    }

    fn acknowledge(&mut self, number: i64) {
        self.unacknowledged.retain(|other| *other != number);
        let body = format!(r#"{{"AcknowledgedMessageSequenceNumber":{number}}}"#);
        self.deliver(message(MessageKind::Acknowledge, PayloadKind::Undefined, 0, body.as_bytes()));
    }

    fn drain(&mut self) {
        for outputs in 0.. {
            assert!(outputs < OUTPUTS, "it does not come to rest");
            let output =
                if self.writable { self.session.poll_output(self.now) } else { self.session.poll_event(self.now) };
            match output {
                Output::Transmit(transmit) => self.transmit(transmit),
                Output::Ping => assert!(self.online && self.closed == 0),
                Output::Event(Event::Ready { .. }) => {
                    assert!(!self.ready, "ready twice");
                    self.ready = true;
                }
                Output::Event(Event::Closed { .. }) => self.closed += 1,
                Output::Event(_) => {}
                Output::Timeout(deadline) => {
                    assert!(deadline.is_none_or(|at| at > self.now), "a deadline that has passed");
                    break;
                }
            }
        }
        assert_eq!(self.closed, usize::from(self.session.closed().is_some()));
        let occupancy = self.session.occupancy();
        let bounds = [
            (occupancy.unacked_messages, limits::IN_FLIGHT_MESSAGES + 3),
            (occupancy.unacked_bytes, limits::IN_FLIGHT_BYTES + 2 * (self.max_payload + 1024)),
            (occupancy.early_messages, limits::EARLY_MESSAGES),
            (occupancy.early_bytes, limits::EARLY_BYTES),
            (occupancy.waiting_acknowledgements, limits::WAITING_ACKNOWLEDGEMENTS),
            (occupancy.streams, limits::OPEN_STREAMS),
            (occupancy.parked_bytes, limits::PARKED_BYTES + limits::EARLY_BYTES + (1 << 20)),
            (occupancy.largest_unsent, limits::STREAM_UNSENT),
        ];
        assert!(bounds.into_iter().all(|(value, bound)| value <= bound), "{occupancy:?}");
    }

    fn transmit(&mut self, transmit: Transmit) {
        assert!(self.online && self.writable && self.closed == 0, "nothing is sent without a websocket");
        let Transmit::Binary(frame) = transmit else { return };
        let again = frame.is_retransmission();
        let message = Message::decode(frame.into_bytes()).expect("our own message");
        message.check_digest().expect("our own digest");
        if message.header.kind != MessageKind::InputStreamData {
            assert_eq!(message.header.kind, MessageKind::Acknowledge);
            return;
        }
        let number = message.header.sequence.0;
        if again {
            assert!(number < self.transmitted);
            return;
        }
        assert_eq!(number, self.transmitted, "numbers have no gaps");
        self.transmitted += 1;
        self.unacknowledged.push(number);
        let is_data = message.header.payload_kind == PayloadKind::Output;
        if let Some(seal) = self.seal.as_mut().filter(|_| is_data) {
            assert!(seal.opens.open(&message.payload).is_ok(), "in the clear");
            assert!(seal.seen.insert(message.payload[..NONCE_LEN].to_vec()), "a nonce was used twice");
        }
        assert!(!message.payload.is_empty() && (!is_data || message.payload.len() <= self.max_payload));
        assert!(self.ready || number < 2, "only the response and the shield go out before ready");
    }
}

fn message(kind: MessageKind, payload_kind: PayloadKind, number: i64, payload: &[u8]) -> Bytes {
    let header = Header {
        kind,
        schema_version: 1,
        created_ms: 1,
        sequence: SequenceNumber(number),
        flags: Flags::NONE,
        id: MessageId::default(),
        payload_kind,
    };
    Message { header, digest: [0; 32], payload: Bytes::copy_from_slice(payload), declared_len: 0 }.encode()
}
