//! The pure world: the client's state machine against the emulated agent's core, through a seeded network, on a virtual
//! clock. Nothing waits, nothing is real, and the same seed always does the same.
//!
//! ```text
//!   apps ◀─▶ proto::Session ◀─▶ Network (delay, loss, duplication, reordering, cuts) ◀─▶ AgentCore ◀─▶ destinations
//! ```
//!
//! Three profiles: a *carrier* like the real one (TCP keeps order and loses nothing, until a cut loses everything that
//! is under way), a *harsh* one that also drops, repeats and reorders single messages, and an *ordeal* that takes its
//! time: outages of minutes, websockets that live for seconds, pauses again and again, readers that stop.
//!
//! In most runs the websocket takes a few messages at a time, as it does in the shell: what the session has to say next
//! waits in it, while time passes and things happen.

mod allowance;
mod apps;
mod destination;
mod invariants;
mod network;
mod plan;
mod shell;

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ssmfwd::{
    emulator::agent::{AgentCore, AgentInput, AgentOptions, AgentOutput, Behaviour, ConnectionId, SessionType},
    proto::{
        Config, Event, Inbound, Input, Mode, Output, ProcessBudget, Read, Session, Slowdown, StreamError, StreamId,
        Token, Transmit, limits,
    },
};

use self::{
    allowance::TOO_LARGE,
    apps::App,
    destination::Destinations,
    invariants::{Observer, Resumed, WRITE},
    network::{Network, Packet, Reads, publication},
    plan::{Ending, Plan},
    shell::Shell,
};

/// What a run is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Carrier,
    Harsh,
    Ordeal,
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) steps: u32,
    /// Resumes after which the whole queue arrived in time.
    pub(crate) resumes: u32,
    /// How often reading stopped because a reader had.
    pub(crate) stops: u32,
    /// Probes that were acknowledged as such.
    pub(crate) probes: u32,
    /// Probes that were too large for the way.
    pub(crate) too_large: u32,
    /// A digest of everything the client sent, and when.
    pub(crate) transcript: u64,
}

pub(crate) struct World {
    seed: u64,
    now: Instant,
    origin: Instant,
    random: fastrand::Rng,
    session: Session,
    shell: Shell,
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
    may_close: bool,
    resumed: Option<Resumed>,
    resumes: u32,
    stops: u32,
    websockets: u32,
    refusals: u32,
    profile: Profile,
    /// The largest payload of the agent.
    chunk: usize,
    /// The largest payload that may be tried.
    max_payload: usize,
    /// Data messages a second, 0 without a limit, and what pauses leave of it.
    rate: u32,
    slowdown: Slowdown,
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
        let refusals = behaviour.refuse_early;
        if plans.iter().any(|plan| plan.nap.is_some()) {
            behaviour.chunk = 32 << 10;
        }
        let chunk = behaviour.chunk;
        if random.u8(..4) == 0 {
            behaviour.store_delay = Duration::from_micros(200);
        }
        let network = Network::new(fastrand::Rng::with_seed(random.u64(..)), profile, origin);
        // Agents that expect a keepalive end a session that was silent for 30 s. An outage of 10 s can make it that long:
        // what the outage lost waits as long again, and once more for each refusal.
        let long_silence = network.calm_since() - origin > Duration::from_secs(10) || refusals > 0;
        let version = match mode {
            Mode::Basic => "3.0.150.0",
            _ if long_silence => "3.3.987.0",
            _ => ["3.0.222.0", "3.1.1511.0", "3.3.987.0"][random.usize(..3)],
        };
        let agent = AgentCore::new(
            AgentOptions {
                version: version.to_owned(),
                session_id: "user-0123456789abcdef0".to_owned(),
                target: "i-0123456789abcdef0".to_owned(),
                session_type: SessionType::Port,
                properties: serde_json::json!({
                    "type": "LocalPortForwarding", "portNumber": "80", "localPortNumber": "0"
                }),
                behaviour,
                seed: random.u64(..),
                epoch_ms: 1_700_000_000_000,
            },
            origin,
        );
        let mut config = Config::new(uuid::Uuid::from_u128(random.u128(..)), random.u64(..), 1_700_000_000_000);
        // A start that is cut again and again ends as it should, but shows nothing here.
        config.handshake_timeout = if profile == Profile::Ordeal { A_DAY } else { limits::STALL_TIMEOUT };
        if profile == Profile::Ordeal {
            // Little is needed until a reader that stops holds up the session.
            config.budget = exhausted();
        }
        config.max_payload = [limits::PAYLOAD, 5000, limits::PAYLOAD_MAX, 64 << 10][random.usize(..4)];
        config.max_message_rate = [0, 100, limits::MESSAGE_RATE][random.usize(..3)];
        let (max_payload, rate, slowdown) = (config.max_payload, config.max_message_rate, config.slowdown.clone());
        let apps = plans.iter().copied().map(App::new).collect();
        Self {
            seed,
            now: origin,
            origin,
            session: Session::new(config, origin),
            shell: Shell::new(fastrand::Rng::with_seed(random.u64(..)), profile),
            agent,
            network,
            destinations: Destinations::new(plans, fastrand::Rng::with_seed(random.u64(..)), mode),
            observer: Observer::new(seed, profile, rate),
            apps,
            by_stream: BTreeMap::new(),
            ready: false,
            mode,
            session_deadline: None,
            agent_deadline: None,
            transcript: 0,
            closed: false,
            may_close: false,
            resumed: None,
            resumes: 0,
            stops: 0,
            websockets: 0,
            refusals,
            profile,
            chunk,
            max_payload,
            rate,
            slowdown,
            random,
        }
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Outcome {
        self.agent.handle(self.now, AgentInput::Connected);
        self.connect();
        self.drain();
        let mut steps = 0u32;
        let mut deadline = None;
        while !(self.apps.iter().all(|app| app.done) && self.destinations.all_done()) {
            if self.network.is_agent_gone() {
                return self.vanished(steps);
            }
            if self.agent.ended() {
                return self.outcome(steps);
            }
            steps += 1;
            let calm_since = self.network.calm_since();
            // A probe that kills a websocket is another outage.
            deadline = deadline.filter(|(_, since)| *since == calm_since);
            if deadline.is_none() && self.now >= calm_since {
                deadline = Some((self.deadline(), calm_since));
            }
            assert!(self.network.too_large() <= TOO_LARGE, "seed {}: probes without end", self.seed);
            assert!(
                steps < 2_000_000 && deadline.is_none_or(|(deadline, _)| self.now <= deadline),
                "seed {} {:?}: not delivered in time: {:?} after the network was calm\n{:#?}\n{:?}\n{:?} (reads: {})\n{:?}\n{:?}",
                self.seed,
                self.profile,
                self.now - self.network.calm_since(),
                self.apps.iter().filter(|app| !app.done).collect::<Vec<_>>(),
                self.session.occupancy(),
                self.agent,
                self.agent.wants_messages(),
                self.destinations,
                self.network,
            );
            self.step();
            self.check_delivery();
        }
        // All of it is there in time.
        self.resumes += u32::from(self.resumed.take().is_some_and(|resumed| !resumed.queued.is_empty()));
        self.end();
        self.outcome(steps)
    }

    fn outcome(&self, steps: u32) -> Outcome {
        Outcome {
            steps,
            resumes: self.resumes,
            stops: self.stops,
            probes: self.observer.probes(),
            too_large: self.network.too_large(),
            transcript: self.transcript,
        }
    }

    /// The agent's worker was killed without a word. Nothing tells that from a destination that takes no data, so the
    /// session lasts as long as that may; then every connection ends with an error, behind what was delivered.
    fn vanished(mut self, mut steps: u32) -> Outcome {
        let settled = self.network.pause_ends().unwrap_or(self.now).max(self.network.calm_since()).max(self.now);
        // What goes out last is the keepalive, or in basic mode what the next connection begins with; a pause that is still
        // on its way may hold it.
        let sending = self.sending(self.apps.iter().map(|app| app.plan.up).sum());
        let sending = sending.takes(self.messages_up(), self.network.longest_way() * 2);
        let last = settled + sending + limits::KEEPALIVE + limits::SETTLE + limits::PAUSE + self.network.delay() * 8;
        let limit = last + limits::STALL_TIMEOUT + self.naps();
        self.may_close = true;
        while self.session.closed().is_none() && self.now <= limit {
            steps += 1;
            assert!(steps < 2_000_000, "seed {}: it does not come to rest", self.seed);
            self.step();
        }
        if self.session.mode().is_none() {
            // The handshake has a time of its own, which is as long as nobody likes to simulate.
            assert!(self.session.closed().is_some() || self.profile == Profile::Ordeal, "seed {}", self.seed);
        } else if self.session.closed().is_none() {
            assert_eq!(self.session.occupancy().unacked_messages, 0, "seed {}: nobody noticed", self.seed);
            self.end();
        }
        let reason = self.session.closed().cloned();
        for app in self.apps.iter().filter(|app| !app.done) {
            let Some(stream) = app.stream else { continue };
            let expected = reason.clone().map(StreamError::SessionEnded);
            // What came before the end is there for a reader that had stopped.
            let mut read = || self.session.read(stream, &mut &mut [0; 4096][..]);
            let end = std::iter::repeat_with(&mut read).find(|read| !matches!(read, Ok(Read::Data(_))));
            let end = end.expect("it does not read for ever");
            assert!(end.as_ref().err() == expected.as_ref(), "seed {}: {end:?} {app:?}", self.seed);
        }
        self.outcome(steps)
    }

    fn reads(&self) -> Reads {
        let agent = self.agent.wants_messages() || self.network.is_agent_gone();
        Reads { agent, client: self.session.wants_messages() }
    }

    fn step(&mut self) {
        let gone = self.network.is_agent_gone();
        if self.now >= self.network.calm_since() {
            self.shell.hurry(self.now);
        }
        let next = [
            self.session_deadline,
            self.agent_deadline.filter(|_| !gone),
            self.network.next(self.reads()),
            self.destinations.next().filter(|_| !gone),
            self.shell.next(),
            self.apps.iter().filter(|app| !app.done).filter_map(|app| app.wakes(self.now)).min(),
        ];
        let next = next.into_iter().flatten().min();
        let next =
            next.unwrap_or_else(|| panic!("seed {}: nothing will ever happen again: {:?}", self.seed, self.apps));
        // What waited for the agent to read arrives late.
        self.now = next.max(self.now);
        self.observer.passes(self.now, &self.session);
        if self.session_deadline.is_some_and(|at| at <= self.now) {
            self.session.handle(self.now, Input::Timeout);
            // What fell due is told before what comes at the same moment.
            self.drain();
        }
        while let Some(packet) = self.network.due(self.now, self.reads()) {
            self.deliver(packet);
        }
        if self.network.is_agent_gone() {
            return self.drain();
        }
        if self.agent_deadline.is_some_and(|at| at <= self.now) {
            self.agent.handle(self.now, AgentInput::Timeout);
        }
        while let Some(input) = self.destinations.due(self.now) {
            self.agent.handle(self.now, input);
            self.drain_agent();
        }
        self.destinations.feed(self.now, &mut self.agent);
        self.drain();
    }

    /// One round trip after a resume everything is under way that was queued upwards: on a carrier, if neither a pause
    /// nor another cut comes between.
    fn expect_delivery(&mut self) {
        let undisturbed = self.profile == Profile::Carrier
            && self.mode == Mode::Mux
            && self.ready
            && self.refusals == 0
            && self.network.is_up()
            && self.naps() == Duration::ZERO
            && !self.loses_probes()
            && self.network.pause_ends().is_none_or(|end| end < self.now);
        let of_app = |(index, app): (usize, &App)| {
            let there =
                !app.done && app.plan.ending != Ending::AppAborts && self.destinations.received(index).is_some();
            there.then_some((index, app.sent))
        };
        let queued = self.apps.iter().enumerate().filter_map(of_app).collect();
        let rest = |(index, app): (usize, &App)| app.plan.up - self.destinations.received(index).unwrap_or(0);
        // What has arrived and is not known to have is sent again, and takes its tokens and its part of the window.
        let rest = self.apps.iter().enumerate().map(rest).sum::<usize>() + self.session.occupancy().unacked_bytes;
        let way = self.network.longest_way();
        let sending = self.sending(rest).takes(self.messages(rest), way * 2) + self.observer.holds();
        self.resumed = undisturbed.then(|| Resumed::new(self.now, way, sending, queued));
    }

    fn check_delivery(&mut self) {
        let Some(resumed) = self.resumed.take_if(|resumed| resumed.by < self.now) else { return };
        self.resumes += u32::from(!resumed.queued.is_empty());
        for (app, sent) in resumed.queued {
            let received = self.destinations.received(app);
            assert!(received >= Some(sent), "seed {}: app {app}: {received:?} of {sent} after a resume", self.seed);
        }
    }

    fn deliver(&mut self, packet: Packet) {
        match &packet {
            Packet::RestoreClient => self.expect_delivery(),
            Packet::CutClient | Packet::CutAgent | Packet::StaleClient => self.resumed = None,
            _ => {}
        }
        match packet {
            Packet::ToAgent(_) | Packet::CutAgent | Packet::RestoreAgent if self.network.is_agent_gone() => {}
            Packet::ToAgent(bytes) => self.agent.handle(self.now, AgentInput::Binary(bytes)),
            Packet::ToClient(bytes) => self.hear(bytes),
            Packet::Publication(kind) if self.network.is_client_up() => self.hear(publication(kind)),
            Packet::Publication(_) => {}
            Packet::Pong => {
                self.observer.gateway_heard(self.now);
                self.session.handle(self.now, Input::Pong);
            }
            Packet::CutClient => {
                self.observer.lost(self.now);
                self.session.handle(self.now, Input::Disconnected);
            }
            Packet::RestoreClient | Packet::StaleClient => self.connect(),
            Packet::AgentGone => {}
            Packet::CutAgent => self.agent.handle(self.now, AgentInput::Disconnected),
            Packet::RestoreAgent => self.agent.handle(self.now, AgentInput::Connected),
        }
        self.drain();
    }

    fn hear(&mut self, bytes: Bytes) {
        self.observer.heard(self.now, &bytes);
        self.session.handle(self.now, Input::Message(Inbound::from(bytes)));
    }

    fn connect(&mut self) {
        self.websockets += 1;
        self.shell.connected();
        self.session.handle(self.now, Input::Connected(Token::new(format!("token {}.", self.websockets))));
        self.observer.websocket(self.now);
    }

    /// Drains both ends and lets the apps act until nothing changes.
    fn drain(&mut self) {
        loop {
            self.drain_session();
            if !self.network.is_agent_gone() {
                self.drain_agent();
                self.destinations.feed(self.now, &mut self.agent);
                self.drain_agent();
            }
            if !self.act() {
                break;
            }
        }
        self.drain_session();
        let up = self.apps.iter().map(|app| app.plan.up).sum();
        let round_trip = self.network.longest_round_trip() + WRITE * self.messages_up() + self.sending(up).link;
        self.observer.check(&self.session, &self.agent, round_trip.max(limits::SHIELD_RETRY));
    }

    fn drain_session(&mut self) {
        loop {
            let writable = self.shell.is_writable(self.now);
            let output = if writable { self.session.poll_output(self.now) } else { self.session.poll_event(self.now) };
            if matches!(output, Output::Transmit(_))
                && let Some(wait) = self.shell.took(self.now)
                && let Some(resumed) = &mut self.resumed
            {
                resumed.by += wait;
            }
            match output {
                Output::Transmit(Transmit::Text(text)) => {
                    let token = format!("\"token {}.\"", self.websockets);
                    assert!(text.contains(&token), "seed {}: not the token of this websocket", self.seed);
                    self.record(text.as_bytes());
                }
                Output::Transmit(Transmit::Binary(frame)) => {
                    let again = frame.is_retransmission();
                    let bytes = frame.into_bytes();
                    self.record(&bytes);
                    self.observer.transmitted(self.now, &bytes, again);
                    let too_large = self.network.too_large();
                    self.network.send_to_agent(self.now, bytes);
                    if self.network.too_large() > too_large {
                        self.resumed = None;
                    }
                }
                Output::Ping => {
                    self.session.handle(self.now, Input::PingSent);
                    self.network.ping(self.now);
                }
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
                    // It gives up what never began, after 15 s.
                    let missed = self.profile == Profile::Ordeal && !self.ready;
                    assert!(self.closed || missed, "seed {}: the agent ended the session: {text}", self.seed);
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
                assert!(self.closed || self.may_close, "seed {}: the session closed: {reason}", self.seed);
                self.closed = true;
            }
            Event::Unresponsive => panic!("seed {}: the gateway answers every ping", self.seed),
            Event::SlowReader(stream) => panic!("seed {}: {stream} is reset, too early", self.seed),
            Event::Backpressure(stops) => self.stops += u32::from(stops),
            Event::Stalled(true) => self.observer.stalled(self.now),
            Event::Resumed => self.observer.resumed(self.now),
            _ => {}
        }
    }

    // --- the end ---------------------------------------------------------------------------------------------

    /// Ends the session and expects the agent to be told within the drain and the flag's wait.
    fn end(&mut self) {
        self.network.stop_faults(self.now);
        self.shell.hurry(self.now);
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

/// Longer than anything in this world.
const A_DAY: Duration = Duration::from_secs(86_400);

/// A budget that other sessions of the process have used up, so that only the floor of each is left.
fn exhausted() -> ProcessBudget {
    static BUDGET: OnceLock<(ProcessBudget, Mutex<Vec<Session>>)> = OnceLock::new();
    let (budget, _) = BUDGET.get_or_init(|| {
        let budget = ProcessBudget::default();
        let sessions = limits::PARKED_BYTES_PROCESS / limits::PARKED_BYTES;
        let hogs = (0..sessions).map(|_| crate::peer::with_readers_stopped(&budget));
        (budget.clone(), Mutex::new(hogs.collect()))
    });
    budget.clone()
}

/// `ConnectionId`s count the dials, and in this world the dials are in the order of the apps.
fn app_of(id: ConnectionId) -> usize {
    usize::try_from(id.0 - 1).expect("small numbers")
}

/// Bytes of a pattern, for destinations.
fn pattern(plan: &Plan, direction: u8, from: usize, count: usize) -> Bytes {
    (from..from + count).map(|at| plan.byte(direction, at)).collect::<Vec<u8>>().into()
}
