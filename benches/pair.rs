//! The state machine and the emulated agent's core, joined in memory by a network that takes no time.
//!
//! The clock is virtual and moves only when neither end has anything to do. What is measured with it is the work of
//! both ends together, digests included; sockets, tasks and locks are not there.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use bytes::Bytes;
use ssmfwd::{
    emulator::agent::{AgentCore, AgentInput, AgentOptions, AgentOutput, Behaviour, ConnectionId, SessionType},
    proto::{Config, Event, Inbound, Input, Mode, Output, Read, Session, StreamId, Token, Transmit},
};

const EPOCH_MS: u64 = 1_700_000_000_000;

/// What an application or a destination hands over at once, bytes: about what a relay reads from a socket.
const PIECE: usize = 16 << 10;
static PATTERN: [u8; PIECE] = [0x5a; PIECE];
/// Messages to the client between two turns of its applications: about what one read of a websocket brings.
const BATCH: usize = 32;

/// Both ends of one session.
pub(crate) struct Pair {
    now: Instant,
    session: Session,
    agent: AgentCore,
    to_agent: VecDeque<Bytes>,
    to_client: VecDeque<Bytes>,
    session_deadline: Option<Instant>,
    agent_deadline: Option<Instant>,
    ready: Option<Mode>,
    apps: BTreeMap<StreamId, App>,
    /// Streams to be served: told by the state machine, or given work.
    turn: VecDeque<StreamId>,
    destinations: BTreeMap<ConnectionId, Destination>,
    buffer: Vec<u8>,
}

#[derive(Default)]
struct App {
    to_write: usize,
    received: usize,
}

#[derive(Default)]
struct Destination {
    to_send: usize,
    received: usize,
}

impl Pair {
    /// A session that is ready, with this many streams whose destinations are dialled.
    ///
    /// `max_payload`: of data messages upward, bytes. Downward it is the agent's 1024.
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    pub(crate) fn ready(mode: Mode, streams: usize, max_payload: usize) -> Self {
        let now = Instant::now();
        let mut config = Config::new(uuid::Uuid::from_u128(1), 1, EPOCH_MS);
        config.max_payload = max_payload;
        let options = AgentOptions {
            version: if mode == Mode::Basic { "3.0.150.0" } else { "3.3.987.0" }.to_owned(),
            session_id: "bench-0123456789abcdef0".to_owned(),
            target: "i-0123456789abcdef0".to_owned(),
            session_type: SessionType::Port,
            properties: serde_json::json!({"type": "LocalPortForwarding", "portNumber": "80", "localPortNumber": "0"}),
            behaviour: Behaviour::ideal(),
            seed: 1,
            epoch_ms: EPOCH_MS,
        };
        let mut pair = Self {
            now,
            session: Session::new(config, now),
            agent: AgentCore::new(options, now),
            to_agent: VecDeque::new(),
            to_client: VecDeque::new(),
            session_deadline: None,
            agent_deadline: None,
            ready: None,
            apps: BTreeMap::new(),
            turn: VecDeque::new(),
            destinations: BTreeMap::new(),
            buffer: vec![0; PIECE],
        };
        pair.agent.handle(now, AgentInput::Connected);
        pair.drain_agent();
        pair.session.handle(now, Input::Connected(Token::new("token")));
        pair.run(|pair| pair.ready.is_some());
        assert_eq!(pair.ready, Some(mode));
        for _ in 0..streams {
            let stream = pair.session.open_stream().expect("ready");
            pair.apps.insert(stream, App::default());
        }
        // A byte each, so that all are dialled.
        pair.upload(streams);
        pair
    }

    /// Sends so many bytes upward, spread evenly over the streams, and returns when the destinations have them.
    pub(crate) fn upload(&mut self, bytes: usize) {
        let share = bytes / self.apps.len();
        for (stream, app) in &mut self.apps {
            app.to_write = share;
            self.turn.push_back(*stream);
        }
        let total = share * self.apps.len();
        let received = |pair: &Self| pair.destinations.values().map(|destination| destination.received).sum::<usize>();
        let before = received(self);
        self.run(|pair| received(pair) >= before + total);
        assert_eq!(received(self), before + total);
    }

    /// Sends so many bytes downward, spread evenly over the streams, and returns when the applications have them.
    pub(crate) fn download(&mut self, bytes: usize) {
        let share = bytes / self.destinations.len();
        for destination in self.destinations.values_mut() {
            destination.to_send = share;
        }
        // A read that finds nothing is what asks for an event.
        self.turn.extend(self.apps.keys());
        let total = share * self.destinations.len();
        let received = |pair: &Self| pair.apps.values().map(|app| app.received).sum::<usize>();
        let before = received(self);
        self.run(|pair| received(pair) >= before + total);
        assert_eq!(received(self), before + total);
    }

    /// Passes everything on until `done`.
    fn run(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let moved = self.serve_apps() | self.drain_session() | self.deliver_to_agent() | self.deliver_to_client();
            if !moved {
                self.sleep();
            }
        }
    }

    fn sleep(&mut self) {
        let next = [self.session_deadline, self.agent_deadline].into_iter().flatten().min();
        self.now = next.expect("one of the ends has something left to do").max(self.now);
        self.session.handle(self.now, Input::Timeout);
        self.drain_session();
        self.agent.handle(self.now, AgentInput::Timeout);
        self.drain_agent();
    }

    fn serve_apps(&mut self) -> bool {
        let moved = !self.turn.is_empty();
        while let Some(stream) = self.turn.pop_front() {
            while let Some(app) = self.apps.get_mut(&stream).filter(|app| app.to_write > 0) {
                let piece = app.to_write.min(PIECE);
                let taken = self.session.write(stream, &PATTERN[..piece]).expect("an open stream");
                app.to_write -= taken;
                self.drain_session();
                if taken == 0 {
                    break;
                }
            }
            while let Read::Data(count) = self.session.read(stream, &mut &mut self.buffer[..]).expect("an open stream")
            {
                self.apps.entry(stream).or_default().received += count;
                self.drain_session();
            }
        }
        moved
    }

    fn drain_session(&mut self) -> bool {
        let mut moved = false;
        loop {
            match self.session.poll_output(self.now) {
                Output::Timeout(deadline) => {
                    self.session_deadline = deadline;
                    return moved;
                }
                Output::Transmit(Transmit::Binary(frame)) => self.to_agent.push_back(frame.into_bytes()),
                // The gateway's business.
                Output::Transmit(Transmit::Text(_)) => {}
                Output::Ping => self.session.handle(self.now, Input::PingSent),
                Output::Event(Event::Ready { mode, .. }) => self.ready = Some(mode),
                Output::Event(Event::Readable(stream) | Event::Writable(stream)) => self.turn.push_back(stream),
                Output::Event(Event::Closed { reason, .. }) => panic!("the session closed: {reason}"),
                Output::Event(_) => {}
            }
            moved = true;
        }
    }

    fn deliver_to_agent(&mut self) -> bool {
        let mut moved = self.feed_agent();
        while self.agent.wants_messages() {
            let Some(message) = self.to_agent.pop_front() else { break };
            self.agent.handle(self.now, AgentInput::Binary(message));
            self.drain_agent();
            moved = true;
        }
        moved
    }

    /// Destinations send for as long as the agent reads them.
    fn feed_agent(&mut self) -> bool {
        let mut moved = false;
        for (id, destination) in &mut self.destinations {
            while destination.to_send > 0 && self.agent.wants_data(*id) {
                let piece = destination.to_send.min(PIECE);
                destination.to_send -= piece;
                self.agent.handle(self.now, AgentInput::Received(*id, Bytes::from_static(&PATTERN[..piece])));
                moved = true;
            }
        }
        if moved {
            self.drain_agent();
        }
        moved
    }

    fn drain_agent(&mut self) {
        loop {
            match self.agent.poll_output(self.now) {
                AgentOutput::Timeout(deadline) => {
                    self.agent_deadline = deadline;
                    return;
                }
                AgentOutput::Transmit(message) => self.to_client.push_back(message),
                AgentOutput::Dial(id, ..) => {
                    self.destinations.insert(id, Destination::default());
                    self.agent.handle(self.now, AgentInput::Dialled(id));
                }
                AgentOutput::Write(id, data) => {
                    self.destinations.entry(id).or_default().received += data.len();
                    self.agent.handle(self.now, AgentInput::Written(id, data.len()));
                }
                other => panic!("nothing ends in a bench: {other:?}"),
            }
        }
    }

    fn deliver_to_client(&mut self) -> bool {
        let batch = self.to_client.len().min(BATCH);
        for message in self.to_client.drain(..batch).collect::<Vec<_>>() {
            self.session.handle(self.now, Input::Message(Inbound::from(message)));
            self.drain_session();
        }
        batch > 0
    }
}
