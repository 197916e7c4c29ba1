//! The pure world: the client's state machine against the emulated agent's core, through a seeded network, on a virtual
//! clock. Nothing waits, nothing is real, and the same seed always does the same.
//!
//! ```text
//!   apps ◀─▶ proto::Session ◀─▶ Network (delay, loss, duplication, reordering, cuts) ◀─▶ AgentCore ◀─▶ destinations
//! ```
//!
//! Two profiles: a *carrier* like the real one (TCP keeps order and loses nothing, until a cut loses everything that
//! is under way) and a *harsh* one that also drops, repeats and reorders single messages.

mod destination;
mod invariants;
mod network;
mod plan;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ssmfwd::{
    emulator::agent::{AgentCore, AgentInput, AgentOptions, AgentOutput, Behaviour, ConnectionId},
    proto::{
        Config, Event, Inbound, Input, Mode, OpenError, Output, Read, Session, StreamError, StreamId, Token, Transmit,
    },
};

use self::{
    destination::Destinations,
    invariants::Observer,
    network::{Network, Packet},
    plan::{Ending, Plan},
};

/// What a run is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Carrier,
    Harsh,
}

/// One local connection: its plan and how far it has come.
#[derive(Debug)]
struct App {
    plan: Plan,
    stream: Option<StreamId>,
    sent: usize,
    received: usize,
    finished: bool,
    done: bool,
}

pub(crate) struct World {
    seed: u64,
    now: Instant,
    origin: Instant,
    random: fastrand::Rng,
    session: Session,
    agent: AgentCore,
    network: Network,
    destinations: Destinations,
    observer: Observer,
    apps: Vec<App>,
    by_stream: BTreeMap<StreamId, usize>,
    ready: bool,
    mode: Mode,
    session_deadline: Option<Instant>,
    agent_deadline: Option<Instant>,
    transcript: u64,
    closed: bool,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    pub(crate) fn new(seed: u64, mode: Mode, profile: Profile) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let origin = Instant::now();
        let plans = plan::plans(&mut random, mode, profile);
        let mut behaviour = if random.bool() { Behaviour::ideal() } else { Behaviour::realistic() };
        // Which stream a refusal belongs to can only be told when destinations are dialled one after another.
        behaviour.serial_dial = true;
        behaviour.swallow_early = random.u32(..2);
        behaviour.refuse_early = random.u32(..4);
        if random.u8(..4) == 0 {
            behaviour.store_delay = Duration::from_micros(200);
        }
        let version = match mode {
            Mode::Basic => "3.0.150.0",
            _ => ["3.0.222.0", "3.1.1511.0", "3.3.987.0"][random.usize(..3)],
        };
        let agent = AgentCore::new(
            AgentOptions {
                version: version.to_owned(),
                session_id: "user-0123456789abcdef0".to_owned(),
                properties: serde_json::json!({
                    "type": "LocalPortForwarding", "portNumber": "80", "localPortNumber": "0"
                }),
                behaviour,
                seed: random.u64(..),
                epoch_ms: 1_700_000_000_000,
            },
            origin,
        );
        let config = Config::new(uuid::Uuid::from_u128(random.u128(..)), random.u64(..), 1_700_000_000_000);
        let network = Network::new(fastrand::Rng::with_seed(random.u64(..)), profile, origin);
        let apps = plans
            .iter()
            .map(|plan| App { plan: *plan, stream: None, sent: 0, received: 0, finished: false, done: false })
            .collect();
        Self {
            seed,
            now: origin,
            origin,
            session: Session::new(config, origin),
            agent,
            network,
            destinations: Destinations::new(plans, fastrand::Rng::with_seed(random.u64(..)), mode),
            observer: Observer::new(seed, profile),
            apps,
            by_stream: BTreeMap::new(),
            ready: false,
            mode,
            session_deadline: None,
            agent_deadline: None,
            transcript: 0,
            closed: false,
            random,
        }
    }

    /// Runs to the end and returns a digest of everything the client sent.
    pub(crate) fn run(mut self) -> u64 {
        self.agent.handle(self.now, AgentInput::Connected);
        self.connect();
        self.drain();
        let mut steps = 0u32;
        while !(self.apps.iter().all(|app| app.done) && self.destinations.all_done()) {
            steps += 1;
            let late = self.now > self.network.calm_since() + self.allowance();
            assert!(
                steps < 2_000_000 && !late,
                "seed {}: not delivered in time: {:?} after the network was calm\n{:#?}\n{:?}\n{:?} (reads: {})\n{:?}\n{:?}",
                self.seed,
                self.now - self.network.calm_since(),
                self.apps.iter().filter(|app| !app.done).collect::<Vec<_>>(),
                self.session.occupancy(),
                self.agent,
                self.agent.wants_messages(),
                self.destinations,
                self.network,
            );
            self.step();
        }
        self.end();
        self.transcript
    }

    /// After a calm network everything is delivered by then: round trips, back-off of what was refused (doubled
    /// timeouts of up to 10 s), 100 ms for every message of the agent that was lost (it resends only its oldest), and
    /// its pump's pace.
    fn allowance(&self) -> Duration {
        let bytes: usize = self.apps.iter().map(|app| app.plan.down).sum();
        Duration::from_secs(25)
            + self.network.delay() * 40 * u32::try_from(self.apps.len()).unwrap_or(u32::MAX)
            + Duration::from_millis(150) * self.network.lost_of_agent()
            + Duration::from_micros(1200) * u32::try_from(bytes / 500 + self.apps.len() * 8).unwrap_or(u32::MAX)
    }

    fn step(&mut self) {
        let next = [
            self.session_deadline,
            self.agent_deadline,
            self.network.next(self.agent.wants_messages()),
            self.destinations.next(),
        ];
        let next = next.into_iter().flatten().min();
        let next =
            next.unwrap_or_else(|| panic!("seed {}: nothing will ever happen again: {:?}", self.seed, self.apps));
        // What waited for the agent to read arrives late.
        self.now = next.max(self.now);
        if self.session_deadline.is_some_and(|at| at <= self.now) {
            self.session.handle(self.now, Input::Timeout);
        }
        if self.agent_deadline.is_some_and(|at| at <= self.now) {
            self.agent.handle(self.now, AgentInput::Timeout);
        }
        while let Some(packet) = self.network.due(self.now, self.agent.wants_messages()) {
            self.deliver(packet);
        }
        while let Some(input) = self.destinations.due(self.now) {
            self.agent.handle(self.now, input);
            self.drain_agent();
        }
        self.destinations.feed(self.now, &mut self.agent);
        self.drain();
    }

    fn deliver(&mut self, packet: Packet) {
        match packet {
            Packet::ToAgent(bytes) => self.agent.handle(self.now, AgentInput::Binary(bytes)),
            Packet::ToClient(bytes) => {
                self.session.handle(self.now, Input::Message(Inbound::from(bytes)));
            }
            Packet::CutClient => self.session.handle(self.now, Input::Disconnected),
            Packet::RestoreClient => self.connect(),
            Packet::CutAgent => self.agent.handle(self.now, AgentInput::Disconnected),
            Packet::RestoreAgent => self.agent.handle(self.now, AgentInput::Connected),
        }
        self.drain();
    }

    fn connect(&mut self) {
        self.session.handle(self.now, Input::Connected(Token::new("token")));
        self.observer.websocket();
    }

    /// Drains both ends and lets the apps act until nothing changes.
    fn drain(&mut self) {
        loop {
            self.drain_session();
            self.drain_agent();
            self.destinations.feed(self.now, &mut self.agent);
            self.drain_agent();
            if !self.act() {
                break;
            }
        }
        self.drain_session();
        self.observer.check(&self.session, &self.agent);
    }

    fn drain_session(&mut self) {
        loop {
            match self.session.poll_output(self.now) {
                Output::Transmit(Transmit::Text(text)) => self.record(text.as_bytes()),
                Output::Transmit(Transmit::Binary(frame)) => {
                    let again = frame.is_retransmission();
                    let bytes = frame.into_bytes();
                    self.record(&bytes);
                    self.observer.transmitted(self.now, &bytes, again);
                    self.network.send_to_agent(self.now, bytes);
                }
                Output::Ping => self.session.handle(self.now, Input::PingSent),
                Output::Event(event) => self.event(event),
                Output::Timeout(deadline) => {
                    assert!(deadline.is_none_or(|at| at > self.now), "seed {}: a deadline that spins", self.seed);
                    self.session_deadline = deadline;
                    return;
                }
            }
        }
    }

    fn drain_agent(&mut self) {
        loop {
            match self.agent.poll_output(self.now) {
                AgentOutput::Transmit(bytes) => self.network.send_to_client(self.now, bytes),
                AgentOutput::Timeout(deadline) => {
                    self.agent_deadline = deadline;
                    return;
                }
                AgentOutput::Ended(text) => {
                    assert!(self.closed, "seed {}: the agent ended the session: {text}", self.seed);
                }
                other => self.destinations.output(self.now, other),
            }
        }
    }

    fn record(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.transcript = (self.transcript ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.transcript ^= u64::try_from((self.now - self.origin).as_nanos()).unwrap_or(u64::MAX);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Ready { mode, .. } => {
                assert_eq!(mode, self.mode, "seed {}", self.seed);
                self.ready = true;
            }
            Event::Closed { reason, .. } => {
                assert!(self.closed, "seed {}: the session closed: {reason}", self.seed);
            }
            Event::Unresponsive => {
                // A cut that the network has not reported yet.
                self.session.handle(self.now, Input::Pong);
            }
            _ => {}
        }
    }

    // --- apps ------------------------------------------------------------------------------------------------

    /// Every app does what it can. True if any did something.
    fn act(&mut self) -> bool {
        if !self.ready || self.closed {
            return false;
        }
        let mut acted = false;
        for index in 0..self.apps.len() {
            if self.apps[index].done {
                continue;
            }
            if self.apps[index].stream.is_none() {
                match self.session.open_stream() {
                    Ok(stream) => {
                        self.apps[index].stream = Some(stream);
                        self.by_stream.insert(stream, index);
                        acted = true;
                    }
                    Err(OpenError::Busy) => return acted,
                    Err(error) => panic!("seed {}: open: {error}", self.seed),
                }
            }
            acted |= self.write(index) | self.read(index);
            if self.mode == Mode::Basic && !self.apps[index].done {
                return acted;
            }
        }
        acted
    }

    fn write(&mut self, index: usize) -> bool {
        let app = &mut self.apps[index];
        let Some(stream) = app.stream.filter(|_| !app.done && !app.finished) else { return false };
        let plan = app.plan;
        let before = app.sent;
        while app.sent < plan.up {
            let size = self.random.usize(1..=9000).min(plan.up - app.sent);
            let data: Vec<u8> = (app.sent..app.sent + size).map(|at| plan.byte(plan::UP, at)).collect();
            match self.session.write(stream, &data) {
                Ok(0) => break,
                Ok(count) => app.sent += count,
                Err(StreamError::Refused) if plan.ending == Ending::Refused => break,
                Err(error) => panic!("seed {}: app {index} writes: {error}", self.seed),
            }
        }
        if plan.ending == Ending::AppAborts && app.sent >= plan.up / 2 {
            self.session.release(stream);
            app.done = true;
            return true;
        }
        before != app.sent
    }

    fn read(&mut self, index: usize) -> bool {
        let app = &mut self.apps[index];
        let Some(stream) = app.stream.filter(|_| !app.done) else { return false };
        let plan = app.plan;
        let mut buffer = [0; 4096];
        let mut acted = false;
        loop {
            match self.session.read(stream, &mut &mut buffer[..]) {
                Ok(Read::Data(count)) => {
                    for (at, byte) in buffer[..count].iter().enumerate() {
                        let expected = plan.byte(plan::DOWN, app.received + at);
                        assert_eq!(*byte, expected, "seed {}: app {index} at {}", self.seed, app.received + at);
                    }
                    app.received += count;
                    acted = true;
                    assert!(app.received <= plan.down, "seed {}: app {index} got too much", self.seed);
                }
                Ok(Read::Pending) => break,
                Ok(Read::End) => {
                    let expected = plan.ending == Ending::DestinationCloses || app.finished;
                    assert!(expected, "seed {}: app {index} ended too early: {app:?}", self.seed);
                    assert_eq!(app.received, plan.down, "seed {}: app {index}", self.seed);
                    return self.done(index);
                }
                Err(StreamError::Refused) => {
                    assert_eq!(plan.ending, Ending::Refused, "seed {}: app {index}", self.seed);
                    return self.done(index);
                }
                Err(error) => panic!("seed {}: app {index} reads: {error}", self.seed),
            }
        }
        let everything = app.received == plan.down && app.sent == plan.up;
        if plan.ending == Ending::AppCloses && everything && !app.finished {
            app.finished = true;
            self.session.finish(stream);
            acted = true;
        }
        acted
    }

    /// The one terminal event of a stream.
    fn done(&mut self, index: usize) -> bool {
        let app = &mut self.apps[index];
        assert!(!app.done, "seed {}: app {index} ended twice", self.seed);
        app.done = true;
        if let Some(stream) = app.stream {
            self.session.release(stream);
        }
        true
    }

    // --- the end ---------------------------------------------------------------------------------------------

    /// Ends the session and expects the agent to be told within the drain and the flag's wait.
    fn end(&mut self) {
        self.network.stop_faults(self.now);
        self.closed = true;
        let limit = self.now + Duration::from_secs(60);
        self.session.end(self.now);
        self.drain();
        while self.session.closed().is_none() {
            assert!(self.now < limit, "seed {}: the session does not end", self.seed);
            self.step();
        }
        let occupancy = self.session.occupancy();
        assert_eq!((occupancy.unacked_bytes, occupancy.early_bytes), (0, 0), "seed {}", self.seed);
    }
}

/// `ConnectionId`s count the dials, and in this world the dials are in the order of the apps.
fn app_of(id: ConnectionId) -> usize {
    usize::try_from(id.0 - 1).expect("small numbers")
}

/// Bytes of a pattern, for destinations.
fn pattern(plan: &Plan, direction: u8, from: usize, count: usize) -> Bytes {
    (from..from + count).map(|at| plan.byte(direction, at)).collect::<Vec<u8>>().into()
}
