//! The session: what comes in, what it means, what goes out.

mod link;
mod receive;
mod shell;
mod time;
mod transmit;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes};
use zeroize::Zeroizing;

use super::{
    Cause, CloseReason, Config, Event, Initiator, Input, Mode, OpenError, Output, Read, Statistics, StreamError,
    StreamId,
    budget::Share,
    handshake::Handshake,
    incoming::Incoming,
    limits,
    outgoing::Outgoing,
    pacing::Pacer,
    payload_size::PayloadSize,
    port::Port,
    reconnect::Reconnect,
    slab::Slab,
    statistics::MessageCounts,
    timer::{Timer, TimerTable},
};
use crate::wire::{AgentFeatures, PayloadKind, SequenceNumber, SessionTypeParameters};

/// One SSM session's data channel, over as many websockets as it takes.
///
/// Whether a websocket is there (`online`) is a state beside the phase: an interruption changes no phase.
#[derive(Debug)]
pub struct Session {
    config: Config,
    origin: Instant,
    random: fastrand::Rng,
    phase: Phase,
    /// The session type and its properties, as the handshake named them.
    declared: Option<SessionTypeParameters>,
    online: bool,
    /// A websocket was there before: the next one resumes.
    resuming: bool,
    reconnect: Reconnect,
    /// The next thing heard shows that the session goes on.
    resumed_unsaid: bool,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Memory of messages that are kept until they are acknowledged.
    messages: Slab,
    /// Memory of acknowledgements, which are gone once they are written.
    acknowledgements: Slab,
    pacer: Pacer,
    /// When there are tokens for what would go out now.
    token_at: Option<Instant>,
    /// When everything was acknowledged last.
    idle_since: Option<Instant>,
    payload_size: PayloadSize,
    kills: Kills,
    /// Sequenced messages that are not stream data; few, and not held by the window.
    control: VecDeque<(PayloadKind, Bytes)>,
    /// Messages whose retransmission has fallen due.
    again: VecDeque<SequenceNumber>,
    text: Option<Zeroizing<String>>,
    ping_wanted: bool,
    ping_in_flight: bool,
    /// The next ping is to be answered sooner than others.
    probing: bool,
    heard: Instant,
    /// Bytes of all frames that came in.
    received: u64,
    malformed: u32,
    paused: bool,
    /// When the agent last said something, as far as it could be heard.
    agent_heard: Instant,
    /// How long the agent had been silent, with something to acknowledge, when the websocket was lost.
    silent_for: Duration,
    /// The agent's silence is not worth a word before it has lasted from here, too.
    patient_since: Instant,
    stalled: bool,
    /// Somebody waits until everything is acknowledged.
    drained_wanted: bool,
    reading: bool,
    /// For how long, in sum, others have waited for the reader for whose sake reading has stopped.
    held_up_for: Duration,
    /// Since when they do now.
    held_up_since: Option<Instant>,
    parked: Share,
    unread: Share,
    counts: MessageCounts,
    timers: TimerTable,
    events: VecDeque<Event>,
}

/// Websockets that were lost with the same large message at the head of what is in flight. A few in a row may be a bad
/// network; so then the message is held back until a websocket has shown that it lasts without it.
#[derive(Debug, Default, Clone, Copy)]
struct Kills {
    head: Option<SequenceNumber>,
    /// Lost with it, for whatever reason.
    losses: u32,
    /// Lost right after it, having lasted without it.
    proofs: u32,
    /// When it was last sent on one of them.
    lost: Option<Instant>,
    /// When something was acknowledged last.
    acknowledged: Option<Instant>,
    /// Since when there is the present websocket.
    opened: Option<Instant>,
    /// Something came in on it.
    heard: bool,
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

impl Open {
    /// Whether the application has been told that data may flow. Of a shell it may be said before the shield has
    /// passed: an agent that has begun to write may be slow to listen, and what is written here waits all the same.
    fn is_ready(&self) -> bool {
        self.shield == Shield::Passed || self.port.mode() == Mode::Shell
    }
}

#[derive(Debug)]
struct Open {
    port: Port,
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
    /// Bytes that the delay-aware window lets in flight, beside the hard bounds.
    pub window: usize,
    /// The largest payload that a data message may have at the moment.
    pub payload: usize,
}

impl Session {
    /// A session that waits for its first websocket.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        let config = config.clamped();
        let kinds = config.kinds;
        let mut timers = TimerTable::default();
        timers.set(Timer::Handshake, now + config.handshake_timeout);
        Self {
            random: fastrand::Rng::with_seed(config.seed),
            outgoing: Outgoing::new(&config.budget),
            messages: Slab::default(),
            acknowledgements: Slab::default(),
            pacer: Pacer::new(config.max_message_rate, config.slowdown.clone()),
            token_at: None,
            idle_since: None,
            payload_size: PayloadSize::new(config.path.clone(), config.max_payload),
            kills: Kills::default(),
            parked: config.budget.parked(),
            unread: config.budget.unread(),
            config,
            origin: now,
            declared: None,
            phase: Phase::Handshaking(Handshake::new(kinds)),
            drained_wanted: false,
            online: false,
            resuming: false,
            reconnect: Reconnect::default(),
            resumed_unsaid: false,
            incoming: Incoming::default(),
            control: VecDeque::new(),
            again: VecDeque::new(),
            text: None,
            ping_wanted: false,
            ping_in_flight: false,
            probing: false,
            heard: now,
            received: 0,
            malformed: 0,
            paused: false,
            agent_heard: now,
            silent_for: Duration::ZERO,
            patient_since: now,
            stalled: false,
            reading: true,
            held_up_for: Duration::ZERO,
            held_up_since: None,
            counts: MessageCounts::default(),
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
            Input::Disconnected => self.disconnected(now),
            Input::ConnectFailed => self.connect_failed(now),
            Input::Wake => self.wake(now),
            Input::Message(inbound) => {
                self.hear(now);
                self.say_resumed();
                self.message(now, inbound);
            }
            Input::Pong => self.hear(now),
            Input::DataKey(key) => self.data_key(key),
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
                    self.counts.transmitted(&transmit);
                    return Output::Transmit(transmit);
                }
                self.counts.held(if let Phase::Open(open) = &self.phase { open.port.waiting() } else { 0 });
                if std::mem::take(&mut self.ping_wanted) {
                    self.ping_in_flight = true;
                    return Output::Ping;
                }
            }
            match self.next_deadline(now) {
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
            Phase::Open(open) if open.is_ready() && open.ending == Ending::No => open.port.open(),
            Phase::Handshaking(_) | Phase::Open(_) => Err(OpenError::NotReady),
            // What came before the end can still be read.
            Phase::Closed(_, Some(port)) if port.outlives_session() => port.open(),
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

    /// Queues the data of a buffer, usually without a copy: the buffer is taken, and another, empty one is left in its
    /// place, perhaps without capacity. Of more than half of [`limits::STREAM_UNSENT`] only a part is taken, which is
    /// then missing from its front. Returns how much was taken; 0 means that an [`Event::Writable`] will come.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub fn write_buffer(&mut self, stream: StreamId, buffer: &mut Vec<u8>) -> Result<usize, StreamError> {
        self.port()?.write_buffer(stream, buffer)
    }

    /// Reads what has arrived.
    ///
    /// # Errors
    /// See [`StreamError`]; only after all that arrived before was read.
    pub fn read(&mut self, stream: StreamId, out: &mut impl BufMut) -> Result<Read, StreamError> {
        let read = self.port()?.read(stream, out);
        self.give_back();
        read
    }

    /// Reads what has arrived without a copy: fills places with pieces of up to `limit` bytes together. The count of
    /// [`Read::Data`] is of the pieces. They may be slices of large read buffers: what is kept is to be copied.
    ///
    /// # Errors
    /// See [`StreamError`]; only after all that arrived before was read.
    pub fn read_pieces(&mut self, stream: StreamId, pieces: &mut [Bytes], limit: usize) -> Result<Read, StreamError> {
        let read = self.port()?.read_pieces(stream, pieces, limit);
        self.give_back();
        read
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
            self.give_back();
        }
    }

    /// What was read counts no longer against the process: nobody may come to say so for long.
    fn give_back(&mut self) {
        if let Phase::Open(open) = &self.phase {
            self.unread.set(open.port.unread());
            self.parked.set(open.port.parked());
        }
    }

    /// Why a stream was cut, if it was, for a reader that is not reading and would not learn of it: its reader held up
    /// the others, which an [`Event::Readable`] tells, and what it has not read is gone; or the session ended before
    /// the stream did, which [`Event::Closed`] tells. A stream that had ended before its session was not cut.
    #[must_use]
    pub fn cut(&self, stream: StreamId) -> Option<StreamError> {
        match &self.phase {
            Phase::Open(open) => open.port.cut(stream),
            Phase::Closed(_, port) => port.as_ref()?.cut(stream),
            Phase::Handshaking(_) => None,
        }
    }

    /// The streams, and what is left of them.
    fn ports(&self) -> Option<&Port> {
        match &self.phase {
            Phase::Open(open) => Some(&open.port),
            Phase::Closed(_, port) => port.as_ref(),
            Phase::Handshaking(_) => None,
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
            Phase::Open(open) if open.is_ready() && self.online => {
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

    /// Gives the session up at once. Unless it was the service that ended it, the API has to be told.
    pub fn abort(&mut self, reason: CloseReason) {
        if !matches!(self.phase, Phase::Closed(..)) {
            let terminate = reason.initiator != Initiator::Service;
            self.close(reason, terminate);
        }
    }

    fn close(&mut self, reason: CloseReason, terminate: bool) {
        let phase = std::mem::replace(&mut self.phase, Phase::Closed(reason.clone(), None));
        if let Phase::Open(mut open) = phase {
            open.port.end_all(&reason);
            open.port.rest();
            self.phase = Phase::Closed(reason.clone(), Some(open.port));
        }
        self.outgoing.clear();
        self.messages.rest();
        self.incoming = Incoming::default();
        self.control.clear();
        self.again.clear();
        self.text = None;
        self.ping_wanted = false;
        self.parked.set(0);
        self.unread.set(0);
        self.timers.stop_all();
        self.events.push_back(Event::Closed { reason, terminate });
    }

    // --- state for the shell and for tests -------------------------------------------------------------------

    /// Whether the websocket is to be read: false while local readers are so far behind that the budget is spent.
    #[must_use]
    pub fn wants_messages(&self) -> bool {
        self.reading
    }

    /// Whether a download is all that goes on: full messages come one after another, and nothing was sent that is to be
    /// answered or acknowledged. They may then be handed over together, a few milliseconds late.
    #[must_use]
    pub fn only_receives(&self) -> bool {
        let quiet = |open: &Open| open.ending == Ending::No && !open.port.has_unsent();
        self.counts.run_down() >= limits::DOWNLOAD
            && self.reading
            && self.outgoing.unacked() == 0
            && matches!(&self.phase, Phase::Open(open) if quiet(open))
    }

    /// Whether the agent has been silent for long although it has data to acknowledge.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Whether data may flow: [`Event::Ready`] was there, and no end yet.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(&self.phase, Phase::Open(open) if open.is_ready())
    }

    /// Whether a lost websocket is worth replacing: data may flow; or a shell is to begin, whose agent may have begun
    /// already, and which nobody can start a second time.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.is_ready() || (self.config.kinds.include_shells() && !matches!(self.phase, Phase::Closed(..)))
    }

    /// What the agent says it is, four numbers such as `3.3.987.0`, once the handshake is complete. A shell may have
    /// none.
    #[must_use]
    pub fn agent_version(&self) -> Option<&str> {
        if let Phase::Open(open) = &self.phase {
            Some(&*open.agent_version).filter(|text| !text.is_empty())
        } else {
            None
        }
    }

    /// The session type and the document's properties, as the agent named them in the handshake; `None` before it is
    /// complete, and of a shell that began without one. Stays when the session has ended.
    #[must_use]
    pub fn declared(&self) -> Option<&SessionTypeParameters> {
        self.declared.as_ref()
    }

    /// What is carried, and how, once the handshake is over; also of a session that has ended since.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        self.ports().map(Port::mode)
    }

    /// The smoothed round trip to the agent; the first guess before there is one.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.outgoing.srtt().unwrap_or(limits::SHIELD_RETRY)
    }

    /// The smoothed round trip to the agent, once one was measured.
    #[must_use]
    pub fn srtt(&self) -> Option<Duration> {
        self.outgoing.srtt()
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

    /// What was carried, and how fast.
    #[must_use]
    pub fn statistics(&mut self, now: Instant) -> Statistics {
        let meter = match &mut self.phase {
            Phase::Open(open) => Some(open.port.meter()),
            Phase::Closed(_, port) => port.as_mut().map(Port::meter),
            Phase::Handshaking(_) => None,
        };
        self.counts.statistics(now, meter)
    }

    /// How full the buffers are.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        let port = self.ports();
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
            window: self.outgoing.window().size(self.payload_size.limit()),
            payload: self.payload_size.limit(),
        }
    }

    /// What the path upwards has delivered lately, bytes a second, once something is known of it.
    #[must_use]
    pub fn delivery_rate(&self) -> Option<u64> {
        self.outgoing.window().rate()
    }
}
