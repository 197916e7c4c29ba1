//! One thread per session: the gateway's relaying and the agent, in one loop.
//!
//! A thread and not a task, because the agent paces itself by about a millisecond, which tokio's timer is too coarse
//! for. The websocket and the destinations are tasks; they reach this thread through its [`Inbox`].
//!
//! ```text
//!            Link ──▶ inspect, caps ──▶ ClientLink, Line (rate, delay, faults) ──▶ ┌───────────┐ ──▶ Destinations
//!  websocket                                                                       │ AgentCore │
//!            Link ◀──────────────────── ClientLink, Line (rate, delay, faults) ◀── └───────────┘ ◀── Destinations
//! ```

mod levers;
mod sealing;
mod sides;

use std::{collections::VecDeque, io, sync::Arc, time::Instant};

use bytes::Bytes;
use serde_json::Value;

use self::{
    sealing::Sealing,
    sides::{AgentSide, Client, Life},
};
use super::{
    AgentKind, Counting, EmulatorConfig, EndedBy, Oversize, SessionType,
    agent::{AgentCore, AgentInput, AgentOptions, AgentOutput, Behaviour},
    clock,
    destination::Destinations,
    line::{Fate, Line},
    link_rate::Direction,
    mailbox::{Event, Inbox, Link, Outgoing, cost},
    meter::{RateMeter, Verdict},
    relay::{FromAgent, FromClient, Mint, classify, inspect},
    service::Service,
    state::ChannelState,
    tally::Tally,
};
use crate::wire::MessageKind;

/// Messages to the agent between two looks at what goes to the client.
const BATCH: usize = 128;

/// Messages that an agent with a window may have under way for each millisecond of round-trip time: 128 MB/s.
const WINDOW_PER_MS: usize = 128;
/// And at most, messages.
const MAX_WINDOW: usize = 32 << 10;

/// What a session's thread is told at its start.
pub(super) struct Assignment {
    pub(super) id: String,
    pub(super) target: String,
    pub(super) session_type: SessionType,
    pub(super) properties: Value,
    pub(super) started: Instant,
    pub(super) seed: u64,
}

/// Starts the thread of a session.
///
/// # Errors
/// When the system has no thread to give.
pub(super) fn spawn(service: Arc<Service>, inbox: Arc<Inbox>, assignment: Assignment) -> io::Result<()> {
    let builder = std::thread::Builder::new().name("emulated-agent".into());
    service.observe(|state| state.agents += 1);
    let watched = Arc::clone(&service);
    let spawned = builder.spawn(move || {
        let _alive = Alive { service: Arc::clone(&service), session: assignment.id.clone() };
        Worker::new(service, inbox, assignment).run();
    });
    if spawned.is_err() {
        watched.observe(|state| state.agents -= 1);
    }
    spawned.map(drop) // the thread ends with its session; nobody waits for it
}

/// Counts a thread as running. If it panics, which is a bug of the emulator, a test must not pass by luck.
struct Alive {
    service: Arc<Service>,
    session: String,
}

impl Drop for Alive {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.service.end(&self.session, EndedBy::Agent, "the emulator panicked");
            self.service.violation(&self.session, "the emulator panicked");
        }
        self.service.observe(|state| state.agents -= 1);
    }
}

fn behaviour(kind: AgentKind) -> Behaviour {
    match kind {
        AgentKind::Realistic => Behaviour::realistic(),
        AgentKind::Ideal => Behaviour::ideal(),
    }
}

/// The window of an agent. It is not a quirk of the genuine one, so the delay that is emulated must not make it one.
fn window(kind: AgentKind, config: &EmulatorConfig) -> Option<usize> {
    let in_flight = usize::try_from(config.rtt.as_millis()).unwrap_or(usize::MAX).saturating_mul(WINDOW_PER_MS);
    behaviour(kind).window.map(|window| window.saturating_add(in_flight).min(MAX_WINDOW))
}

/// What the service says at the end of a session that was idle, as users have quoted it.
const IDLE_TEXT: &str = "Your session timed out due to inactivity and has been terminated.";
/// What it says at the end of one that has become too old: a guess.
const MAX_DURATION_TEXT: &str = "Your session has reached its maximum duration and has been terminated.";

struct Worker {
    service: Arc<Service>,
    config: Arc<EmulatorConfig>,
    id: String,
    inbox: Arc<Inbox>,
    mint: Mint,
    rng: fastrand::Rng,
    core: AgentCore,
    core_deadline: Option<Instant>,
    agent: AgentSide,
    client: Option<Client>,
    up: Line,
    down: Line,
    destinations: Destinations,
    meter: RateMeter,
    tally: Tally,
    /// What kind of agent it was born as.
    kind: AgentKind,
    started: Instant,
    /// When stream data last flowed.
    busy: Instant,
    /// The client sent the TerminateSession flag.
    flagged: bool,
    session_type: SessionType,
    /// What has been said of the session's seal.
    sealing: Sealing,
    relayed_since_reset: u64,
    /// The client's websocket is to be reset at the next safe point.
    reset_due: bool,
    /// The session is over; the thread ends when the client's last message has left.
    over: bool,
    finished: bool,
}

impl Worker {
    fn new(service: Arc<Service>, inbox: Arc<Inbox>, assignment: Assignment) -> Self {
        let (config, now) = (service.config(), clock::now());
        let Assignment { id, target, session_type, properties, started, seed } = assignment;
        let mut behaviour = behaviour(config.agent);
        behaviour.refuse_early = config.refuse_early.unwrap_or(behaviour.refuse_early);
        behaviour.swallow_early = config.swallow_early.unwrap_or(behaviour.swallow_early);
        behaviour.window = window(config.agent, &config);
        behaviour.refusal.clone_from(&config.agent_refuses);
        behaviour.session_type.clone_from(&config.session_type);
        behaviour.kms_key = config.kms_key.clone().filter(|_| config.kms_in_ports || session_type != SessionType::Port);
        behaviour.require_challenge = config.require_kms_challenge;
        behaviour.seal_fault = config.seal_fault;
        behaviour.windows = config.windows;
        let options = AgentOptions {
            version: config.agent_version.clone(),
            session_id: id.clone(),
            target: target.clone(),
            session_type,
            properties,
            behaviour,
            seed,
            epoch_ms: clock::epoch_ms(),
        };
        Self {
            agent: AgentSide::Away(started + config.agent_start()),
            core: AgentCore::new(options, now),
            core_deadline: None,
            client: None,
            up: Line::default(),
            down: Line::default(),
            destinations: Destinations::new(service.runtime().clone(), Arc::clone(&inbox)),
            meter: RateMeter::new(now),
            tally: Tally::default(),
            kind: config.agent,
            started,
            busy: now,
            flagged: false,
            session_type,
            sealing: Sealing::default(),
            relayed_since_reset: 0,
            reset_due: false,
            over: false,
            finished: false,
            mint: Mint::new(&id, &target, seed),
            rng: fastrand::Rng::with_seed(seed ^ 0xfa17),
            service,
            config,
            id,
            inbox,
        }
    }

    fn run(mut self) {
        let mut events = VecDeque::new();
        while !self.finished {
            self.inbox.wait(self.deadline());
            let now = clock::now();
            self.refresh_config(now);
            self.inbox.drain(&mut events);
            for event in events.drain(..) {
                self.on_event(now, event);
                self.reset_if_due(now);
            }
            self.on_time(now);
            self.pass(now);
            self.publish();
            if self.over && self.down.is_empty() {
                if let Some(client) = &self.client {
                    client.link.send([Outgoing::Farewell]);
                }
                self.finished = true;
            }
        }
        self.inbox.close();
    }

    fn on_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Attached(link) => self.attached(now, link),
            Event::Messages(link, messages) => {
                for message in messages {
                    self.client_sent(now, &link, message);
                }
            }
            Event::Lost(link, violation) => {
                if let Some(what) = violation {
                    self.service.violation(&self.id, &what);
                }
                if self.is_current(&link) {
                    self.client_lost(now);
                }
            }
            Event::Destination(id, event) => {
                if let Some(input) = self.destinations.input(id, event) {
                    self.feed(now, input);
                }
            }
            Event::Act(action) => self.act(now, &action),
            Event::End(by, output) => self.end(now, by, &output),
            Event::Stop => self.finished = true,
        }
    }

    /// A client came, for the first time or again. A websocket that it may still have is superseded.
    fn attached(&mut self, now: Instant, link: Arc<Link>) {
        if self.client.is_some() {
            self.reset_client(now);
        }
        self.service.observe_session(&self.id, |session| session.channel = ChannelState::Open);
        let life = Life::new(now, self.config.cut_every, &mut self.rng);
        self.client = Some(Client { link, life, paused: false });
        self.relayed_since_reset = 0;
        self.meter = RateMeter::new(now);
        if self.agent_is_connected() {
            self.publication_to_client(now, MessageKind::StartPublication);
            let message = self.mint.publication(MessageKind::StartPublication);
            self.feed(now, AgentInput::Binary(message));
        }
    }

    fn publication_to_client(&mut self, now: Instant, kind: MessageKind) {
        let Some(client) = &mut self.client else { return };
        let pause = kind == MessageKind::PausePublication;
        if !pause && client.paused && self.config.lose_start_publication {
            self.tally.starts_lost += 1;
            return;
        }
        client.paused = pause;
        self.tally.pauses += u64::from(pause);
        let message = self.mint.publication(kind);
        let leaves = self.leaves(now, Direction::Down, &message);
        self.down.send(leaves, self.config.one_way_delay(), message);
    }

    fn client_sent(&mut self, now: Instant, link: &Arc<Link>, message: Bytes) {
        let charge = cost(&message);
        if self.over || !self.is_current(link) {
            return link.release(charge);
        }
        let (data, payload) = match inspect(&message) {
            Ok(FromClient::StreamData { payload, terminates }) => {
                self.flagged |= terminates && self.session_type == SessionType::Port;
                self.busy = now;
                self.tally.up.add(payload);
                self.tally.largest_payload = self.tally.largest_payload.max(payload);
                (true, payload)
            }
            Ok(FromClient::Acknowledge) => {
                self.tally.acknowledgements_up += 1;
                (false, 0)
            }
            Err(violation) => {
                link.release(charge);
                self.service.violation(&self.id, &violation);
                return self.close_client(now, 1002, "protocol error");
            }
        };
        if let Some(cap) = self.config.payload_cap.filter(|cap| payload > cap.bytes) {
            link.release(charge);
            return match cap.then {
                Oversize::Close => self.close_client(now, 1009, "message too big"),
                Oversize::Reset => self.reset_client(now),
                Oversize::Silence => self.tally.dropped += 1,
            };
        }
        if let Some(cap) = self.config.rate_cap.filter(|cap| data || cap.counting == Counting::All) {
            match self.meter.count(now, &cap) {
                Verdict::Fine => {}
                Verdict::Pause => self.publication_to_client(now, MessageKind::PausePublication),
                Verdict::Start => self.publication_to_client(now, MessageKind::StartPublication),
                Verdict::Kill => {
                    link.release(charge);
                    return self.reset_client(now);
                }
            }
        }
        if !self.agent_is_connected() {
            return link.release(charge); // as recorded: what comes while the other end is away is lost
        }
        let leaves = self.leaves(now, Direction::Up, &message);
        let config = &self.config;
        let fate = self.up.send_through(leaves, config.one_way_delay(), message, &config.faults, &mut self.rng);
        if fate.dropped {
            link.release(charge);
        }
        self.relayed(fate);
    }

    fn agent_sent(&mut self, now: Instant, message: Bytes) {
        match classify(&message) {
            FromAgent::ForTheGateway => return,
            FromAgent::StreamData { payload } => {
                self.busy = now;
                self.tally.down.add(payload);
            }
            FromAgent::Other => {}
        }
        if self.client.is_some() {
            let leaves = self.leaves(now, Direction::Down, &message);
            let config = &self.config;
            let fate = self.down.send_through(leaves, config.one_way_delay(), message, &config.faults, &mut self.rng);
            self.relayed(fate);
        }
    }

    /// When a message has left the client's link, where it waits its turn.
    fn leaves(&self, now: Instant, direction: Direction, message: &Bytes) -> Instant {
        self.service.client_link().pass(now, direction, message.len(), self.config.link_bytes_per_second)
    }

    /// Counts a relayed message and what the faults made of it.
    fn relayed(&mut self, fate: Fate) {
        self.tally.dropped += u64::from(fate.dropped);
        self.tally.duplicated += u64::from(fate.duplicated);
        self.tally.reordered += u64::from(fate.reordered);
        self.relayed_since_reset += 1;
        self.reset_due |= self.config.faults.disconnect_every.is_some_and(|every| self.relayed_since_reset >= every);
    }

    /// Gives the agent an input and carries out what it answers.
    fn feed(&mut self, now: Instant, input: AgentInput) {
        if self.agent == AgentSide::Dead {
            return;
        }
        self.core.handle(now, input);
        self.core_deadline = loop {
            match self.core.poll_output(now) {
                AgentOutput::Transmit(message) => self.agent_sent(now, message),
                AgentOutput::Dial(id, host, port) => self.destinations.dial(now, id, host, port, &self.config),
                AgentOutput::Write(id, data) => self.destinations.write(id, data),
                AgentOutput::Close(id) => self.destinations.close(id),
                AgentOutput::Start(id, program) => self.destinations.start(id, &program, &self.config),
                AgentOutput::Resize(id, size) => self.destinations.resize(id, size),
                AgentOutput::Signal(id, signal) => self.destinations.signal(id, signal),
                AgentOutput::Decrypt(request) => {
                    let key = self.service.keys().decrypt(&self.config, &request);
                    self.core.handle(now, AgentInput::Decrypted(key));
                }
                AgentOutput::Ended(text) => {
                    let by = if self.flagged { EndedBy::Flag } else { EndedBy::Agent };
                    // Comes back as an event, unless somebody else was quicker.
                    self.service.end(&self.id, by, &text);
                }
                AgentOutput::Timeout(deadline) => break deadline,
            }
        };
        self.look_at_seal();
        if self.core.crashed() {
            self.kill_agent();
        }
    }

    /// Moves messages along until nothing is due.
    fn pass(&mut self, now: Instant) {
        loop {
            let mut moved = 0;
            while moved < BATCH && !self.stalled() && self.core.wants_messages() {
                let Some((message, charge)) = self.up.arrived(now) else { break };
                if let Some(client) = &self.client {
                    client.link.release(charge);
                }
                self.feed(now, AgentInput::Binary(message));
                self.reset_if_due(now);
                moved += 1;
            }
            self.destinations.flush();
            if !self.stalled() {
                self.destinations.arm(&self.core);
            }
            self.hand_over(now);
            if moved < BATCH {
                return;
            }
        }
    }

    /// Gives the websocket what has arrived on the client's side of the line.
    fn hand_over(&mut self, now: Instant) {
        let Some(client) = &self.client else { return };
        if self.down.next_arrival().is_none_or(|arrival| arrival > now) {
            return;
        }
        let down = &mut self.down;
        client.link.send(std::iter::from_fn(|| down.arrived(now)).map(|(message, _)| Outgoing::Message(message)));
    }

    /// The client does not read, so the agent cannot write: like the genuine one it then does nothing at all.
    fn stalled(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.link.is_full(self.down.cost()))
    }

    fn on_time(&mut self, now: Instant) {
        if let AgentSide::Away(until) = self.agent
            && now >= until
            && self.client.is_some()
            && !self.config.outage
        {
            self.agent = AgentSide::Connected(Life::new(now, self.config.agent_cut_every, &mut self.rng));
            self.tally.agent_websockets += 1;
            self.publication_to_client(now, MessageKind::StartPublication);
            self.feed(now, AgentInput::Connected);
            let message = self.mint.publication(MessageKind::StartPublication);
            self.feed(now, AgentInput::Binary(message));
        }
        if self.core_deadline.is_some_and(|deadline| now >= deadline) && !self.stalled() {
            self.feed(now, AgentInput::Timeout);
            self.reset_if_due(now);
        }
        if let Some(cap) = self.config.rate_cap
            && self.meter.tick(now, &cap) == Verdict::Start
        {
            self.publication_to_client(now, MessageKind::StartPublication);
        }
        let due = |time: Option<Instant>| time.is_some_and(|time| now >= time);
        if due(self.client_life().and_then(|life| life.bye(&self.config))) {
            self.bye_client(now);
        }
        if due(self.client_life().and_then(|life| life.cut)) {
            self.reset_client(now);
        }
        if due(self.agent_life().and_then(|life| life.bye(&self.config))) {
            self.bye_agent(now);
        }
        if due(self.agent_life().and_then(|life| life.cut)) {
            self.disconnect_agent(now);
        }
        if due(self.destinations.deadline(&self.config)) {
            self.destinations.review(now, &self.config);
        }
        if due(self.idle_at()) {
            self.service.end(&self.id, EndedBy::Idle, IDLE_TEXT);
        }
        if due(self.expires_at()) {
            self.service.end(&self.id, EndedBy::MaxDuration, MAX_DURATION_TEXT);
        }
    }

    /// The client's websocket, while it is of any use.
    fn client_life(&self) -> Option<Life> {
        self.client.as_ref().filter(|_| !self.over).map(|client| client.life)
    }

    fn agent_life(&self) -> Option<Life> {
        match self.agent {
            AgentSide::Connected(life) => Some(life),
            AgentSide::Away(_) | AgentSide::Dead => None,
        }
    }

    fn agent_is_connected(&self) -> bool {
        self.agent_life().is_some()
    }

    fn idle_at(&self) -> Option<Instant> {
        Some(self.busy + self.config.idle_timeout.filter(|_| !self.over)?)
    }

    fn expires_at(&self) -> Option<Instant> {
        Some(self.started + self.config.max_duration.filter(|_| !self.over)?)
    }

    fn deadline(&self) -> Option<Instant> {
        let core = self.core_deadline.filter(|_| !self.stalled());
        let up = self.up.next_arrival().filter(|_| self.core.wants_messages() && !self.stalled());
        let connects = match self.agent {
            AgentSide::Away(until) if self.client.is_some() && !self.config.outage => Some(until),
            _ => None,
        };
        let meter = self.config.rate_cap.and_then(|_| self.meter.deadline());
        let line = self.down.next_arrival();
        let ends = [self.client_life(), self.agent_life()].into_iter().flatten();
        let ends = ends.flat_map(|life| [life.bye(&self.config), life.cut]);
        let dials = self.destinations.deadline(&self.config);
        let others = [core, up, line, connects, meter, dials, self.idle_at(), self.expires_at()];
        others.into_iter().chain(ends).flatten().min()
    }

    /// Not in the middle of an agent's outputs, because losing the client is itself an input to it.
    fn reset_if_due(&mut self, now: Instant) {
        if std::mem::take(&mut self.reset_due) {
            self.reset_client(now);
        }
    }

    fn reset_client(&mut self, now: Instant) {
        if let Some(client) = &self.client {
            client.link.send([Outgoing::Reset]);
            self.tally.cuts += 1;
            self.client_lost(now);
        }
    }

    /// What is under way to the client still reaches it before the close frame; what it sends after is not read.
    fn close_client(&mut self, now: Instant, code: u16, reason: &'static str) {
        let Some(client) = &self.client else { return };
        let down = &mut self.down;
        let rest = std::iter::from_fn(|| down.arrived(now)).map(|(message, _)| Outgoing::Message(message));
        client.link.send(rest.chain([Outgoing::Close(code, reason)]));
        self.client_lost(now);
    }

    fn client_lost(&mut self, now: Instant) {
        self.lose_up();
        self.down.lose_all();
        self.client = None;
        self.service.observe_session(&self.id, |session| session.channel = ChannelState::Lost);
        if self.agent_is_connected() {
            let message = self.mint.publication(MessageKind::PausePublication);
            self.feed(now, AgentInput::Binary(message));
        }
    }

    fn lose_up(&mut self) {
        let charge = self.up.lose_all();
        if let Some(client) = &self.client {
            client.link.release(charge);
        }
    }

    /// The session is over: both ends are told. The websocket stays until the client closes it or a while has passed.
    fn end(&mut self, now: Instant, by: EndedBy, output: &str) {
        tracing::debug!(session = self.id, ?by, "session ended");
        let message = self.mint.channel_closed(None);
        self.feed(now, AgentInput::Binary(message));
        if self.client.is_some() {
            let message = self.mint.channel_closed(Some(output));
            let leaves = self.leaves(now, Direction::Down, &message);
            self.down.send(leaves, self.config.one_way_delay(), message);
        }
        self.kill_agent();
        self.over = true;
    }

    fn publish(&mut self) {
        let dials = self.destinations.dials();
        if self.tally.is_new(dials) {
            self.service.observe_session(&self.id, |session| self.tally.publish(session, dials));
        }
    }

    fn is_current(&self, link: &Arc<Link>) -> bool {
        self.client.as_ref().is_some_and(|client| Arc::ptr_eq(&client.link, link))
    }
}
