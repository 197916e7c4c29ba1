//! Random sequences of inputs: what the shell may rely on whatever the peers do.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// What the shell knows about one connection.
#[derive(Default)]
struct Known {
    dialled: bool,
    closed: bool,
    unwritten: usize,
}

/// Applies random inputs, well-formed and not, and checks every output.
struct Shell {
    agent: AgentCore,
    now: Instant,
    random: fastrand::Rng,
    known: BTreeMap<u64, Known>,
    connected: bool,
    ended: bool,
    acknowledged: BTreeSet<i64>,
    /// It is a session of a program.
    shell: bool,
}

impl Shell {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut behaviour = if random.bool() { Behaviour::ideal() } else { Behaviour::realistic() };
        if random.bool() {
            (behaviour.local_socket, behaviour.receive_bucket, behaviour.accept_backlog) = (500, 300, 2);
        }
        behaviour.crash_when_refused = random.bool();
        let (session_type, properties) = match random.u8(..8) {
            0 | 1 => (SessionType::Port, ssh()),
            2 => (SessionType::StandardStream, json!({"shellProfile": "cd"})),
            3 => {
                let properties = json!({"commands": "ls", "separateOutputStream": random.bool()});
                (SessionType::NonInteractiveCommands, properties)
            }
            _ => (SessionType::Port, forwarding()),
        };
        let now = start();
        Self {
            agent: AgentCore::new(AgentOptions { seed, session_type, ..options(properties, behaviour) }, now),
            shell: session_type != SessionType::Port,
            now,
            random,
            known: BTreeMap::new(),
            connected: false,
            ended: false,
            acknowledged: BTreeSet::new(),
        }
    }

    fn input(&mut self, input: AgentInput) {
        self.agent.handle(self.now, input);
        for _ in 0..10_000 {
            match self.agent.poll_output(self.now) {
                AgentOutput::Timeout(deadline) => {
                    assert!(deadline.is_none_or(|deadline| deadline > self.now), "deadline not later");
                    return;
                }
                output => self.check(output),
            }
        }
        panic!("outputs without end");
    }

    fn check(&mut self, output: AgentOutput) {
        assert!(!self.ended, "{output:?} after the end");
        match output {
            AgentOutput::Transmit(frame) => {
                assert!(self.connected, "sent without websocket");
                let message = Message::decode(frame).expect("a message");
                message.check_digest().expect("the digest");
                assert!(!message.payload.is_empty() && message.payload.len() <= 1024 + 3, "payload of odd size");
                if message.header.kind == MessageKind::Acknowledge {
                    self.acknowledged.insert(Acknowledge::decode(&message.payload).expect("a body").sequence);
                }
            }
            AgentOutput::Dial(id, ..) | AgentOutput::Start(id, _) => {
                assert!(self.known.insert(id.0, Known::default()).is_none(), "{id:?} again");
            }
            AgentOutput::Resize(id, _) | AgentOutput::Signal(id, _) => {
                let known = self.known.get(&id.0).expect("started");
                assert!(known.dialled && !known.closed, "resize or signal of {id:?}");
            }
            AgentOutput::Decrypt(_) => panic!("no session of these is sealed"),
            AgentOutput::Write(id, data) => {
                let known = self.known.get_mut(&id.0).expect("dialled");
                assert!(known.dialled && !known.closed && !data.is_empty(), "write to {id:?}");
                known.unwritten += data.len();
                assert!(known.unwritten <= 128 << 10, "{} bytes open", known.unwritten);
            }
            AgentOutput::Close(id) => {
                assert!(!std::mem::replace(&mut self.known.get_mut(&id.0).expect("dialled").closed, true), "{id:?}");
            }
            AgentOutput::Ended(_) => self.ended = true,
            AgentOutput::Timeout(_) => {}
        }
    }

    fn step(&mut self) {
        let input = match self.random.u8(..24) {
            0 => {
                self.connected = true;
                AgentInput::Connected
            }
            1 if self.random.bool() => {
                self.connected = false;
                AgentInput::Disconnected
            }
            2..=4 => {
                self.now += Duration::from_micros(self.random.u64(..300_000));
                AgentInput::Timeout
            }
            5..=9 => self.destination(),
            10 | 11 => AgentInput::Received(self.connection(), self.bytes(5000)),
            12 if self.shell && self.random.u8(..4) > 0 => match self.random.u8(..3) {
                0 => AgentInput::Exited(self.connection(), 1),
                _ => AgentInput::ReceivedError(self.connection(), self.bytes(3000)),
            },
            12 => AgentInput::Eof(self.connection()),
            13 => {
                let kinds = [MessageKind::PausePublication, MessageKind::StartPublication];
                let kind = self.random.choice(kinds).expect("a kind");
                AgentInput::Binary(message(kind, 0, PayloadKind::Undefined, b""))
            }
            14 => AgentInput::Binary(self.bytes(300)),
            15 => {
                let body = format!("{{\"AcknowledgedMessageSequenceNumber\":{}}}", self.random.i64(-1..20));
                let ack = message(MessageKind::Acknowledge, 0, PayloadKind::Undefined, body.as_bytes());
                AgentInput::Binary(ack)
            }
            _ => self.stream_data(),
        };
        self.input(input);
    }

    fn connection(&mut self) -> ConnectionId {
        ConnectionId(self.random.u64(..self.known.len() as u64 + 2))
    }

    fn bytes(&mut self, max: usize) -> Bytes {
        let len = self.random.usize(..max);
        std::iter::repeat_with(|| self.random.u8(..)).take(len).collect()
    }

    /// Mostly something a destination can do, in its state.
    fn destination(&mut self) -> AgentInput {
        let id = self.connection();
        let refused = self.random.u8(..3) == 0;
        match self.known.get_mut(&id.0) {
            Some(known) if !known.dialled && refused && self.shell => AgentInput::StartFailed(id, String::new()),
            Some(known) if !known.dialled && refused => AgentInput::DialFailed(id, String::new()),
            Some(known) if !known.dialled => {
                known.dialled = true;
                if self.shell { AgentInput::Started(id) } else { AgentInput::Dialled(id) }
            }
            Some(known) => {
                let len = self.random.usize(..=known.unwritten);
                known.unwritten -= len;
                AgentInput::Written(id, len)
            }
            None => AgentInput::Dialled(id),
        }
    }

    fn stream_data(&mut self) -> AgentInput {
        let expected = self.agent.expected_sequence();
        let sequence = if self.random.u8(..4) == 0 { expected + self.random.i64(-3..4) } else { expected };
        let stream = StreamId(self.random.u32(2..8));
        let junk = self.bytes(400);
        let (kind, payload) = match self.random.u8(..12) {
            0 => (PayloadKind::Output, junk.to_vec()),
            1..=3 => (PayloadKind::Output, FrameHeader::syn(stream).encode().to_vec()),
            4 => (PayloadKind::Output, FrameHeader::fin(stream).encode().to_vec()),
            5 if self.shell => (PayloadKind::Size, br#"{"cols":80,"rows":24}"#.to_vec()),
            5 => (PayloadKind::Flag, FlagKind::DisconnectToPort.encode().to_vec()),
            6 if self.random.u8(..20) == 0 => (PayloadKind::Flag, FlagKind::TerminateSession.encode().to_vec()),
            7 => {
                let version = self.random.choice(["1.2.764.0", "1.2.331.0", "1.0.0"]).expect("a version");
                let body = json!({"ClientVersion": version, "ProcessedClientActions": null}).to_string();
                (PayloadKind::HandshakeResponse, body.into_bytes())
            }
            _ => {
                let length = u16::try_from(junk.len()).expect("short");
                (PayloadKind::Output, [&FrameHeader::psh(stream, length).encode(), &junk[..]].concat())
            }
        };
        AgentInput::Binary(input_message(sequence, kind, &payload))
    }
}

#[test]
fn whatever_happens_outputs_keep_their_promises() {
    let mut outcomes = BTreeMap::<&str, u32>::new();
    for seed in 0..400 {
        let run = std::panic::catch_unwind(|| {
            let mut shell = Shell::new(seed);
            for _ in 0..600 {
                shell.step();
            }
            let mode = shell.agent.mode().map_or("no handshake", |mode| match mode {
                Mode::Mux => "mux",
                Mode::Basic => "basic",
                Mode::Raw => "raw",
                Mode::Shell => "shell",
            });
            (mode, shell.acknowledged.len())
        });
        let (mode, acknowledged) = run.unwrap_or_else(|panic| {
            // The harness shows the message of the panic; this names the seed.
            panic!("seed {seed}: {:?}", panic.downcast_ref::<String>())
        });
        *outcomes.entry(mode).or_default() += u32::from(acknowledged > 5);
    }
    // The runs got somewhere.
    assert!(
        ["mux", "basic", "raw", "shell"].iter().all(|mode| outcomes.get(mode).is_some_and(|runs| *runs > 5)),
        "{outcomes:?}"
    );
}

#[test]
fn bytes_arrive_whole_through_reordering_duplication_and_slow_destinations() {
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut behaviour = Behaviour::ideal();
        (behaviour.local_socket, behaviour.receive_bucket) = (2000, 1000);
        let mut rig = Rig::open(forwarding(), behaviour);
        let uploaded: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(20_000).collect();
        let mut stream = FrameHeader::syn(StreamId(3)).encode().to_vec();
        for piece in uploaded.chunks(700) {
            stream.extend(psh(3, piece).0.encode());
            stream.extend(piece);
        }
        stream.extend(FrameHeader::fin(StreamId(3)).encode());
        let pieces: Vec<&[u8]> = stream.chunks(random.usize(1..900)).collect();

        // A client that keeps eight messages in flight, in any order, more than once, until they are acknowledged.
        let (mut base, mut done) = (0, BTreeSet::new());
        let (mut written, mut open, mut closed) = (Vec::new(), 0, false);
        for _ in 0..200_000 {
            if base == pieces.len() && closed {
                break;
            }
            if rig.agent.wants_messages() && base < pieces.len() {
                let index = (base + random.usize(..8)).min(pieces.len() - 1);
                let sequence = i64::try_from(index).expect("few") + 1;
                let input = input_message(sequence, PayloadKind::Output, pieces[index]);
                rig.agent.handle(rig.now, AgentInput::Binary(input));
            } else if open > 0 {
                let taken = random.usize(1..=open);
                open -= taken;
                rig.agent.handle(rig.now, AgentInput::Written(ConnectionId(1), taken));
            }
            loop {
                match rig.agent.poll_output(rig.now) {
                    AgentOutput::Timeout(_) => break,
                    AgentOutput::Dial(id, ..) => rig.agent.handle(rig.now, AgentInput::Dialled(id)),
                    AgentOutput::Write(_, data) => {
                        open += data.len();
                        written.extend_from_slice(&data);
                    }
                    AgentOutput::Close(_) => closed = true,
                    AgentOutput::Transmit(frame) => {
                        if let Ok(ack) = Acknowledge::decode(&Message::decode(frame).expect("a message").payload) {
                            done.insert(ack.sequence);
                        }
                    }
                    AgentOutput::Ended(text) => panic!("seed {seed}: ended {text:?}"),
                    other => panic!("seed {seed}: no program is part of this: {other:?}"),
                }
            }
            while done.contains(&(i64::try_from(base).expect("few") + 1)) {
                base += 1;
            }
            assert!(uploaded.starts_with(&written), "seed {seed}: wrong bytes");
        }
        assert!(closed && written.len() == uploaded.len(), "seed {seed}: {} bytes, closed {closed}", written.len());
    }
}
