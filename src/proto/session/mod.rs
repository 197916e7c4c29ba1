//! The session: what comes in, what it means, what goes out.

mod receive;
mod time;
mod transmit;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes};
use zeroize::{Zeroize, Zeroizing};

use super::{
    Cause, CloseReason, Config, Event, Initiator, Input, Mode, OpenError, Output, Read, StreamError, StreamId, Token,
    budget::Share,
    handshake::Handshake,
    incoming::Incoming,
    limits,
    outgoing::Outgoing,
    port::Port,
    timer::{Timer, TimerTable},
};
use crate::wire::{AgentFeatures, MessageId, OpenDataChannel, PayloadKind, SequenceNumber, to_json};

/// One SSM session's data channel, over as many websockets as it takes.
///
/// Whether a websocket is there (`online`) is a state beside the phase: an interruption changes no phase.
#[derive(Debug)]
pub struct Session {
    config: Config,
    origin: Instant,
    random: fastrand::Rng,
    phase: Phase,
    online: bool,
    /// A websocket was there before: the next one resumes.
    resuming: bool,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Sequenced messages that are not stream data; few, and not held by the window.
    control: VecDeque<(PayloadKind, Bytes)>,
    /// Retransmissions that have fallen due.
    again: VecDeque<Bytes>,
    text: Option<Zeroizing<String>>,
    ping_wanted: bool,
    ping_in_flight: bool,
    heard: Instant,
    malformed: u32,
    paused: bool,
    /// When the agent last said something.
    agent_heard: Instant,
    stalled: bool,
    reading: bool,
    parked: Share,
    timers: TimerTable,
    events: VecDeque<Event>,
}

/// ```text
///   Handshaking ──complete──▶ Open ──▶ Closed
///        └──────────────────────────────▲
/// ```
#[derive(Debug)]
enum Phase {
    Handshaking(Handshake),
    Open(Open),
    /// The streams are kept so that what was received before the end can be read.
    Closed(CloseReason, Option<Port>),
}

#[derive(Debug)]
struct Open {
    port: Port,
    mode: Mode,
    agent_version: String,
    features: AgentFeatures,
    shield: Shield,
    ending: Ending,
}

/// The first message after the handshake, harmless if it is lost (`proto-notes/handshake.md#shield`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shield {
    Wanted,
    Sent { sequence: SequenceNumber, wait: Duration },
    Passed,
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// What is queued is still sent, for a moment.
    Draining,
    /// The TerminateSession flag waits to be sent.
    FlagWanted,
    /// The flag is sent.
    FlagSent(SequenceNumber),
}

/// How full the buffers are, for tests and statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Occupancy {
    /// Messages in flight.
    pub unacked_messages: usize,
    /// Bytes in flight.
    pub unacked_bytes: usize,
    /// Messages that came ahead of an expected one.
    pub early_messages: usize,
    /// Their bytes.
    pub early_bytes: usize,
    /// Acknowledgements to be written.
    pub waiting_acknowledgements: usize,
    /// Streams that the application holds.
    pub streams: usize,
    /// Bytes received above what each stream may hold for itself.
    pub parked_bytes: usize,
    /// The largest number of unsent bytes of any stream.
    pub largest_unsent: usize,
    /// The largest number of unread bytes of any stream.
    pub largest_unread: usize,
}

impl Session {
    /// A session that waits for its first websocket.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        let config = config.clamped();
        let mut timers = TimerTable::default();
        timers.set(Timer::Handshake, now + config.handshake_timeout);
        Self {
            random: fastrand::Rng::with_seed(config.seed),
            outgoing: Outgoing::new(&config.budget),
            parked: config.budget.parked(),
            config,
            origin: now,
            phase: Phase::Handshaking(Handshake::default()),
            online: false,
            resuming: false,
            incoming: Incoming::default(),
            control: VecDeque::new(),
            again: VecDeque::new(),
            text: None,
            ping_wanted: false,
            ping_in_flight: false,
            heard: now,
            malformed: 0,
            paused: false,
            agent_heard: now,
            stalled: false,
            reading: true,
            timers,
            events: VecDeque::new(),
        }
    }

    /// Takes an input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if matches!(self.phase, Phase::Closed(..)) {
            return;
        }
        match input {
            Input::Connected(token) => self.connected(now, &token),
            Input::Disconnected => self.disconnected(),
            Input::Message(inbound) => {
                self.hear(now);
                self.message(now, inbound);
            }
            Input::Pong => self.hear(now),
            Input::PingSent => self.ping_sent(now),
            Input::Timeout => self.timeout(now),
        }
    }

    /// The next thing to do. Call until [`Output::Timeout`].
    pub fn poll_output(&mut self, now: Instant) -> Output {
        self.poll(now, true)
    }

    /// Like [`poll_output`](Self::poll_output), for a caller whose websocket takes nothing at the moment: what is to be
    /// sent stays here, where it has bounds. Only events and the deadline come out.
    pub fn poll_event(&mut self, now: Instant) -> Output {
        self.poll(now, false)
    }

    fn poll(&mut self, now: Instant, writable: bool) -> Output {
        loop {
            self.advance(now);
            if let Some(event) = self.next_event() {
                return Output::Event(event);
            }
            if self.online && writable {
                if let Some(transmit) = self.next_transmit(now) {
                    return Output::Transmit(transmit);
                }
                if std::mem::take(&mut self.ping_wanted) {
                    self.ping_in_flight = true;
                    return Output::Ping;
                }
            }
            match self.next_deadline() {
                Some(deadline) if deadline <= now => self.timeout(now),
                deadline => return Output::Timeout(deadline),
            }
        }
    }

    // --- streams ---------------------------------------------------------------------------------------------

    /// Opens a connection to the destination. Does not wait for the agent: a refusal shows on the stream.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_stream(&mut self) -> Result<StreamId, OpenError> {
        match &mut self.phase {
            Phase::Open(open) if open.shield == Shield::Passed && open.ending == Ending::No => open.port.open(),
            Phase::Handshaking(_) | Phase::Open(_) => Err(OpenError::NotReady),
            Phase::Closed(reason, _) => Err(OpenError::Closed(reason.clone())),
        }
    }

    /// Queues data. Returns how much was taken; 0 means that an [`Event::Writable`] will come.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub fn write(&mut self, stream: StreamId, data: &[u8]) -> Result<usize, StreamError> {
        self.port()?.write(stream, data)
    }

    /// Reads what has arrived.
    ///
    /// # Errors
    /// See [`StreamError`]; only after all that arrived before was read.
    pub fn read(&mut self, stream: StreamId, out: &mut impl BufMut) -> Result<Read, StreamError> {
        self.port()?.read(stream, out)
    }

    /// Ends our direction behind what was written. The genuine agent then closes the whole connection to the
    /// destination (`proto-notes/port-sessions.md#half-close`).
    pub fn finish(&mut self, stream: StreamId) {
        if let Ok(port) = self.port() {
            port.finish(stream);
        }
    }

    /// Lets go of a stream: unread data is thrown away, and unsent data too unless it was finished before.
    pub fn release(&mut self, stream: StreamId) {
        if let Ok(port) = self.port() {
            port.release(stream);
        }
    }

    /// Whether a stream was reset because its reader held up the others: what it has not read is gone. An
    /// [`Event::Readable`] tells of it.
    #[must_use]
    pub fn was_reset(&self, stream: StreamId) -> bool {
        match &self.phase {
            Phase::Open(open) => open.port.was_reset(stream),
            Phase::Closed(_, port) => port.as_ref().is_some_and(|port| port.was_reset(stream)),
            Phase::Handshaking(_) => false,
        }
    }

    fn port(&mut self) -> Result<&mut Port, StreamError> {
        match &mut self.phase {
            Phase::Open(open) => Ok(&mut open.port),
            Phase::Closed(_, Some(port)) => Ok(port),
            Phase::Handshaking(_) | Phase::Closed(_, None) => Err(StreamError::Unknown),
        }
    }

    // --- the end ---------------------------------------------------------------------------------------------

    /// Ends the session: what is queued is sent for up to [`limits::DRAIN`], then the agent is told.
    pub fn end(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Open(open) if open.shield == Shield::Passed && self.online => {
                if open.ending == Ending::No {
                    open.ending = Ending::Draining;
                    self.timers.set(Timer::Drain, now + limits::DRAIN);
                }
            }
            Phase::Handshaking(_) | Phase::Open(_) => {
                self.close(CloseReason::new(Initiator::Us, Cause::Requested), true);
            }
            Phase::Closed(..) => {}
        }
    }

    /// Gives the session up at once.
    pub fn abort(&mut self, reason: CloseReason) {
        if !matches!(self.phase, Phase::Closed(..)) {
            self.close(reason, true);
        }
    }

    fn close(&mut self, reason: CloseReason, terminate: bool) {
        let phase = std::mem::replace(&mut self.phase, Phase::Closed(reason.clone(), None));
        if let Phase::Open(mut open) = phase {
            open.port.end_all(&reason);
            self.phase = Phase::Closed(reason.clone(), Some(open.port));
        }
        self.outgoing.clear();
        self.incoming = Incoming::default();
        self.control.clear();
        self.again.clear();
        self.text = None;
        self.ping_wanted = false;
        self.parked.set(0);
        self.timers.stop_all();
        self.events.push_back(Event::Closed { reason, terminate });
    }

    // --- state for the shell and for tests -------------------------------------------------------------------

    /// Whether the websocket is to be read: false while local readers are so far behind that the budget is spent.
    #[must_use]
    pub fn wants_messages(&self) -> bool {
        self.reading
    }

    /// How connections are carried, once the handshake is over.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        match &self.phase {
            Phase::Open(open) => Some(open.mode),
            _ => None,
        }
    }

    /// The smoothed round trip to the agent; the first guess before there is one.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.outgoing.srtt().unwrap_or(limits::SHIELD_RETRY)
    }

    /// The present retransmission timeout.
    #[must_use]
    pub fn rto(&self) -> Duration {
        self.outgoing.rto()
    }

    /// Why the session ended, once it has.
    #[must_use]
    pub fn closed(&self) -> Option<&CloseReason> {
        match &self.phase {
            Phase::Closed(reason, _) => Some(reason),
            _ => None,
        }
    }

    /// How full the buffers are.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        let port = match &self.phase {
            Phase::Open(open) => Some(&open.port),
            Phase::Closed(_, port) => port.as_ref(),
            Phase::Handshaking(_) => None,
        };
        let (early_messages, early_bytes) = self.incoming.early();
        let (largest_unsent, largest_unread) = port.map_or((0, 0), Port::largest_buffers);
        Occupancy {
            unacked_messages: self.outgoing.unacked(),
            unacked_bytes: self.outgoing.unacked_bytes(),
            early_messages,
            early_bytes,
            waiting_acknowledgements: self.incoming.waiting_acknowledgements(),
            streams: port.map_or(0, Port::held),
            parked_bytes: port.map_or(0, Port::parked),
            largest_unsent,
            largest_unread,
        }
    }

    // --- websockets ------------------------------------------------------------------------------------------

    fn connected(&mut self, now: Instant, token: &Token) {
        self.online = true;
        self.heard = now;
        self.agent_heard = now;
        self.malformed = 0;
        self.text = Some(self.open_message(token));
        self.ping_wanted = true;
        self.ping_in_flight = false;
        if std::mem::replace(&mut self.resuming, true) {
            self.incoming.resumed();
            self.outgoing.resumed(now);
            self.unpause();
            if let Phase::Open(Open { shield: Shield::Sent { wait, .. }, .. }) = &self.phase {
                self.timers.set(Timer::Shield, now + *wait);
            }
        }
        self.timers.set(Timer::Ping, now + self.config.ping_interval);
    }

    fn disconnected(&mut self) {
        self.online = false;
        self.text = None;
        self.ping_wanted = false;
        self.ping_in_flight = false;
        self.incoming.disconnected();
        self.again.clear();
        for timer in [Timer::Ping, Timer::Silence, Timer::Retransmit, Timer::Shield, Timer::Resend, Timer::Pause] {
            self.timers.stop(timer);
        }
        if matches!(&self.phase, Phase::Open(open) if open.ending != Ending::No) {
            self.close(CloseReason::new(Initiator::Us, Cause::Requested), true);
        }
    }

    fn open_message(&mut self, token: &Token) -> Zeroizing<String> {
        let mut body = OpenDataChannel {
            message_schema_version: OpenDataChannel::SCHEMA.to_owned(),
            request_id: MessageId::from_random(self.random.u128(..)).to_string(),
            token_value: token.expose().to_owned(),
            client_id: Some(self.config.client_id.hyphenated().to_string()),
            client_version: Some(self.config.client_version.clone()),
        };
        let json = to_json(&body);
        let text = String::from_utf8_lossy(&json).into_owned();
        // What the websocket library copies cannot be wiped; what lies here can.
        body.token_value.zeroize();
        if let Ok(mut json) = json.try_into_mut() {
            json.as_mut().zeroize();
        }
        Zeroizing::new(text)
    }

    fn hear(&mut self, now: Instant) {
        self.heard = now;
        self.timers.stop(Timer::Silence);
    }

    fn ping_sent(&mut self, now: Instant) {
        if std::mem::take(&mut self.ping_in_flight) {
            let interval = self.config.ping_interval;
            self.timers.start(Timer::Silence, (self.heard + interval * 2).max(now + interval));
        }
    }
}
