//! The task of a session: one poll function that moves messages between the websocket and the state machine, and finds
//! another websocket when one is lost.
//!
//! ```text
//!             ┌── read a batch, hash it ──┐            ┌── hash, write, flush once ──┐
//!   websocket ┤                           ├─▶ lock ─▶ ─┤                             ├─▶ websocket
//!             └── the one Sleep ──────────┘  feed,     └── wake streams, tell owner ─┘
//!                                            drain
//! ```
//!
//! **Reading never waits for writing.** The agent acknowledges inside its reader, so a client that stops reading while
//! it flushes can deadlock with it. What cannot be written stays in the state machine, which has bounds.

mod news;

use std::{
    any::Any,
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{Sink, Stream as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::coop,
    time::{Instant, Sleep, sleep_until},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message},
};

use self::news::{News, loss};
use super::{
    SessionOptions, Transport, clock,
    coalescing::{Change, Coalescing},
    data_key::{Asking, DataKeys},
    reconnector::{Attempt, Attempting, Failure},
    shared::{Shared, State},
};
use crate::{
    proto::{Cause, CloseReason, Event, Inbound, Initiator, Input, Output, StreamId, Transmit, limits},
    wire,
};

/// Messages taken from the websocket before the state machine sees them.
const READ_MESSAGES: usize = 64;
/// Bytes taken from the websocket before the state machine sees them: what its bounds may be exceeded by.
const READ_BYTES: usize = 256 << 10;
/// Messages taken out of the state machine before the websocket gets them. More than are read: else acknowledgements
/// pile up behind a gateway that is quick, up to where they are dropped, and the agent resends what it misses at ten a
/// second.
const WRITE_MESSAGES: usize = 2 * READ_MESSAGES;
/// Passes in one poll, so that one busy session does not keep a worker to itself.
const PASSES: usize = 16;
/// How often an attempt may be made anew: on a network that comes and goes, one that was never brought to its end would
/// never succeed.
const RESTART: Duration = Duration::from_secs(10);
/// What the genuine programs put into their pings.
const PING: &[u8] = b"keepalive";

/// How a session ended and whether TerminateSession has to be called.
pub(super) struct Ended {
    pub(super) reason: CloseReason,
    pub(super) terminate: bool,
}

/// Starts an attempt to replace a lost websocket.
pub(super) type Reconnect<S> = Box<dyn Fn() -> Attempting<S> + Send>;

pub(super) struct Driver<S> {
    shared: Arc<Shared>,
    options: SessionOptions,
    link: Link<S>,
    /// None: the session ends with its websocket.
    reconnect: Option<Reconnect<S>>,
    data_keys: DataKeys,
    /// The data key that the agent wants.
    asking: Option<Asking>,
    /// Since when there is no websocket, or none that is known to carry the session on.
    lost_at: Option<Instant>,
    sleep: Pin<Box<Sleep>>,
    deadline: Option<Instant>,
    inputs: Vec<Input>,
    lost: Option<String>,
    /// Writing has failed: what can still be read comes before the loss.
    broken: Option<String>,
    outbox: VecDeque<Message>,
    /// What comes out of the state machine in one exchange; empty between them.
    transmits: Vec<Transmit>,
    news: Vec<News>,
    wakers: Vec<Waker>,
    /// The state machine had nothing more to say.
    drained: bool,
    needs_flush: bool,
    ping_unflushed: bool,
    wants_messages: bool,
    coalescing: Coalescing,
    /// A download is all that goes on.
    only_receives: bool,
    /// An attempt, or the wait for a data key, is new: it has not been polled yet.
    unpolled: bool,
    /// Attempts to replace the websocket that have failed since it was lost.
    attempts: u32,
    /// The one that has just failed.
    not_resumed: Option<Failure>,
    /// When the next one is made, if it is not asked for yet.
    resumes_at: Option<Instant>,
    /// When a websocket that takes nothing and says nothing is given up: what it does not take cannot be answered, and
    /// a ping is behind it.
    blocked_until: Option<Instant>,
    /// The websocket's buffer was full.
    full: bool,
    /// The machine or the network may have woken, and nothing was heard since.
    suspect: bool,
    /// When an attempt was last made anew because of that.
    restarted: Option<Instant>,
    /// When it is to be made anew once more, if it is not over by then.
    restart_at: Option<Instant>,
    /// How long the answer to a probe may take.
    probe_timeout: Duration,
    /// The session cannot be carried on.
    given_up: Option<CloseReason>,
    ended: Option<Ended>,
}

/// The way to the gateway.
enum Link<S> {
    Open(Box<WebSocketStream<S>>),
    /// Lost; the state machine says when to try again.
    Down,
    Dialling(Attempting<S>),
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Driver<S> {
    pub(super) fn new(
        shared: Arc<Shared>,
        options: SessionOptions,
        websocket: WebSocketStream<S>,
        reconnect: Option<Reconnect<S>>,
        data_keys: DataKeys,
    ) -> Self {
        Self {
            shared,
            options,
            link: Link::Open(Box::new(websocket)),
            reconnect,
            data_keys,
            asking: None,
            lost_at: None,
            sleep: Box::pin(sleep_until(Instant::now())),
            deadline: None,
            inputs: Vec::with_capacity(READ_MESSAGES),
            lost: None,
            broken: None,
            outbox: VecDeque::with_capacity(WRITE_MESSAGES),
            transmits: Vec::with_capacity(WRITE_MESSAGES),
            news: Vec::new(),
            wakers: Vec::new(),
            drained: false,
            needs_flush: false,
            ping_unflushed: false,
            wants_messages: true,
            coalescing: Coalescing::default(),
            only_receives: false,
            unpolled: false,
            attempts: 0,
            not_resumed: None,
            resumes_at: None,
            blocked_until: None,
            full: false,
            suspect: false,
            restarted: None,
            restart_at: None,
            probe_timeout: limits::PROBE,
            given_up: None,
            ended: None,
        }
    }

    /// Takes a batch of messages. True if there may be more.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let mut bytes = 0;
        let Link::Open(websocket) = &mut self.link else { return false };
        while self.wants_messages && self.lost.is_none() {
            if self.inputs.len() >= READ_MESSAGES || bytes >= READ_BYTES {
                return true;
            }
            let Poll::Ready(message) = Pin::new(&mut **websocket).poll_next(cx) else { break };
            self.blocked_until = None;
            self.suspect = false;
            match message {
                Some(Ok(Message::Binary(frame))) => {
                    bytes += frame.len();
                    trace_message("received", &frame);
                    self.inputs.push(Input::Message(Inbound::from(frame)));
                }
                // The reference reads a text frame as a message too.
                Some(Ok(Message::Text(text))) => {
                    bytes += text.len();
                    self.inputs.push(Input::Message(Inbound::from(bytes::Bytes::from(text))));
                }
                Some(Ok(Message::Ping(_))) => {
                    // The library has queued the pong, which leaves with the next flush.
                    self.needs_flush = true;
                    self.inputs.push(Input::Pong);
                }
                Some(Ok(Message::Pong(_) | Message::Frame(_))) => self.inputs.push(Input::Pong),
                Some(Ok(Message::Close(frame))) => {
                    self.lost = Some(frame.map_or_else(
                        || "the gateway closed the websocket".to_owned(),
                        |frame| {
                            let reason = frame.reason.as_str().escape_default();
                            format!("the gateway closed the websocket with {} {reason}", u16::from(frame.code))
                        },
                    ));
                }
                Some(Err(error)) => self.lost = Some(loss(&error)),
                None => self.lost = Some("the gateway closed the websocket".to_owned()),
            }
        }
        // Without budget the websocket says that nothing is there although it has not looked.
        if self.lost.is_none() && coop::has_budget_remaining() {
            self.lost = self.broken.take();
        }
        false
    }

    /// Whether the websocket is to be read in this pass. A socket that is polled is looked at when its time has come.
    fn looks(&mut self) -> bool {
        let Some(look_at) = self.coalescing.look_at() else { return true };
        if look_at > Instant::now() {
            return false;
        }
        self.change(Change::Poll);
        true
    }

    /// Decides whether the socket wakes us for the next message. `read`: so many were read, if it was read. True if it
    /// is to be read at once.
    fn coalesce(&mut self, read: Option<usize>) -> bool {
        let Link::Open(websocket) = &mut self.link else { return false };
        if !(websocket.get_mut() as &mut dyn Any).is::<Transport>() {
            return false;
        }
        let change = self.coalescing.read(Instant::now(), read, self.only_receives);
        if let Some(change) = change {
            self.change(change);
        }
        change == Some(Change::Wake)
    }

    /// Only our own transport can be polled: those of others wake us for each message.
    fn change(&mut self, change: Change) {
        let Link::Open(websocket) = &mut self.link else { return };
        let Some(transport) = (websocket.get_mut() as &mut dyn Any).downcast_mut::<Transport>() else { return };
        let changed = match change {
            Change::Poll => transport.socket().look(),
            Change::Wake => transport.socket().wake(),
        };
        if let Err(error) = changed {
            self.lost.get_or_insert_with(|| error.to_string());
        }
    }

    /// Nothing can be written any more.
    fn break_off(&mut self, error: &tungstenite::Error) {
        self.broken.get_or_insert_with(|| loss(error));
        self.outbox.clear();
        self.needs_flush = false;
        self.ping_unflushed = false;
    }

    /// Feeds the state machine and takes out what it wants done.
    fn exchange(&mut self, cx: &Context<'_>) {
        let now = clock::now();
        let due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline.into_std() <= now);
        let (timeout, blocked, restart) = (due(self.deadline), due(self.blocked_until), due(self.restart_at));
        let mut transmits = std::mem::take(&mut self.transmits);
        let mut news = std::mem::take(&mut self.news);
        let mut wakers = std::mem::take(&mut self.wakers);
        let mut ping = false;
        // What may be slow to drop, or call back, is dropped outside the lock.
        let mut old = None;
        let shared = Arc::clone(&self.shared);
        {
            let mut state = shared.lock();
            for input in self.inputs.drain(..) {
                state.proto.handle(now, input);
            }
            news.extend(self.not_resumed.take().map(News::NotResumed));
            if timeout {
                state.proto.handle(now, Input::Timeout);
            }
            if std::mem::take(&mut state.woken) || restart {
                old = self.wake();
            }
            if let Some(reason) = self.given_up.take() {
                state.proto.abort(reason);
            }
            if blocked && self.lost.is_none() {
                self.lost = Some("the gateway takes nothing and says nothing".to_owned());
            }
            if let Some(text) = self.lost.take() {
                // What happened before the loss is told before it.
                while let Output::Event(event) = state.proto.poll_event(now) {
                    collect_wakers(&mut state, &event, &mut wakers);
                    news.push(News::Event(event));
                }
                old = self.lose(now, &mut state, text, &mut news).or(old);
            }
            self.drained = false;
            let deadline = loop {
                let writable = self.broken.is_none() && self.outbox.len() + transmits.len() < WRITE_MESSAGES;
                let output = if writable { state.proto.poll_output(now) } else { state.proto.poll_event(now) };
                match output {
                    Output::Transmit(transmit) => transmits.push(transmit),
                    Output::Ping => ping = true,
                    Output::Event(Event::Unresponsive) => {
                        let text = "the gateway does not answer pings".to_owned();
                        old = self.lose(now, &mut state, text, &mut news).or(old);
                    }
                    Output::Event(event) => {
                        collect_wakers(&mut state, &event, &mut wakers);
                        news.push(News::Event(event));
                    }
                    Output::Timeout(deadline) => {
                        self.drained = writable;
                        break deadline;
                    }
                }
            };
            self.deadline = deadline.map(Instant::from_std);
            self.wants_messages = state.proto.wants_messages();
            self.only_receives = state.proto.only_receives();
            self.probe_timeout = state.proto.probe_timeout();
            self.resumes_at = state.proto.reconnects_at().map(Instant::from_std);
            match &mut state.driver {
                Some(driver) => driver.clone_from(cx.waker()),
                driver => *driver = Some(cx.waker().clone()),
            }
        }
        drop(old);
        wakers.drain(..).for_each(Waker::wake);
        self.wakers = wakers;
        news.drain(..).for_each(|news| self.tell_news(news));
        self.news = news;
        for transmit in transmits.drain(..) {
            self.outbox.push_back(match transmit {
                Transmit::Text(text) => Message::text(text.as_str()),
                Transmit::Binary(frame) => {
                    let frame = frame.into_bytes();
                    trace_message("sends", &frame);
                    Message::Binary(frame)
                }
            });
        }
        self.transmits = transmits;
        if !matches!(self.link, Link::Open(_)) {
            // Hashed and kept, so that they can be sent again.
            self.outbox.clear();
        } else if ping {
            self.outbox.push_back(Message::Ping(bytes::Bytes::from_static(PING)));
            self.ping_unflushed = true;
        }
    }

    /// The machine or the network may have woken: what waits for an answer may wait in vain. Returns what is to be
    /// dropped.
    fn wake(&mut self) -> Option<Link<S>> {
        match (&self.link, &self.reconnect) {
            (Link::Open(_), _) => {
                self.suspect = true;
                let soon = Instant::now() + self.probe_timeout;
                self.blocked_until = self.blocked_until.map(|until| until.min(soon));
                None
            }
            (Link::Dialling(_), Some(reconnect)) => {
                if let Some(not_before) = self.restarted.map(|at| at + RESTART).filter(|at| *at > Instant::now()) {
                    self.restart_at = Some(not_before);
                    return None;
                }
                self.restarted = Some(Instant::now());
                self.restart_at = None;
                self.unpolled = true;
                Some(std::mem::replace(&mut self.link, Link::Dialling(reconnect())))
            }
            _ => None,
        }
    }

    /// The websocket is gone. A session that is ending ends as asked; one that cannot be resumed, or was not ready yet,
    /// is lost with it. Returns what is to be dropped.
    fn lose(
        &mut self,
        now: std::time::Instant,
        state: &mut State,
        text: String,
        news: &mut Vec<News>,
    ) -> Option<Link<S>> {
        if !matches!(self.link, Link::Open(_)) {
            return None;
        }
        let old = std::mem::replace(&mut self.link, Link::Down);
        self.broken = None;
        self.outbox.clear();
        self.needs_flush = false;
        self.ping_unflushed = false;
        self.blocked_until = None;
        self.full = false;
        self.suspect = false;
        self.coalescing = Coalescing::default();
        let resumable = state.proto.is_resumable();
        state.proto.handle(now, Input::Disconnected);
        if state.proto.closed().is_none() {
            if self.reconnect.is_none() || !resumable {
                state.proto.abort(CloseReason::new(Initiator::Transport, Cause::ConnectionLost(text)));
            } else {
                news.push(News::Lost(text));
            }
        }
        Some(old)
    }

    /// Goes on with the attempt to replace the websocket. True if it is over.
    fn dial(&mut self, cx: &mut Context<'_>) -> bool {
        self.unpolled = false;
        let Link::Dialling(attempt) = &mut self.link else { return false };
        let Poll::Ready(attempt) = attempt.as_mut().poll(cx) else { return false };
        (self.restarted, self.restart_at) = (None, None);
        self.link = Link::Down;
        match attempt {
            Attempt::Open(token, websocket) => {
                self.link = Link::Open(websocket);
                self.inputs.push(Input::Connected(token));
            }
            Attempt::Failed(failure) => {
                self.attempts = self.attempts.saturating_add(1);
                self.inputs.push(Input::ConnectFailed);
                // Told once the state machine has said when the next one is due.
                self.not_resumed = Some(failure);
            }
            Attempt::Over => self.given_up = Some(CloseReason::new(Initiator::Service, Cause::SessionOver)),
            Attempt::Denied(Failure { cause, .. }) => {
                self.given_up = Some(CloseReason::new(Initiator::Library, Cause::NotResumable(cause)));
            }
        }
        true
    }

    /// Goes on with the wait for a data key. True if it is over.
    fn ask(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(asking) = &mut self.asking else { return false };
        let Poll::Ready(answer) = asking.as_mut().poll(cx) else { return false };
        self.asking = None;
        let key = answer.map_err(|error| {
            let text = error.to_string();
            self.shared.lock().no_data_key = Some(error);
            text
        });
        self.inputs.push(Input::DataKey(key));
        true
    }

    /// Hands over what is in the outbox, and flushes once all there was to say is handed over.
    fn write(&mut self, cx: &mut Context<'_>) {
        let Link::Open(websocket) = &mut self.link else { return };
        while !self.outbox.is_empty() {
            match Pin::new(&mut **websocket).poll_ready(cx) {
                Poll::Pending => {
                    self.full = true;
                    return self.blocked();
                }
                Poll::Ready(Err(error)) => return self.break_off(&error),
                Poll::Ready(Ok(())) => {}
            }
            let Some(message) = self.outbox.pop_front() else { return };
            self.needs_flush = true;
            // A buffer that has room anyway does not show that anything has left.
            if std::mem::take(&mut self.full) {
                self.blocked_until = None;
            }
            if let Err(error) = Pin::new(&mut **websocket).start_send(message) {
                return self.break_off(&error);
            }
        }
        if self.needs_flush && (self.drained || self.ended.is_some()) {
            match Pin::new(&mut **websocket).poll_flush(cx) {
                Poll::Pending => return self.blocked(),
                Poll::Ready(Err(error)) => return self.break_off(&error),
                Poll::Ready(Ok(())) => self.needs_flush = false,
            }
            self.blocked_until = None;
            if std::mem::take(&mut self.ping_unflushed) {
                self.inputs.push(Input::PingSent);
            }
        }
    }

    /// The websocket takes nothing at the moment. While it is not read, it is not known to be silent.
    fn blocked(&mut self) {
        if self.wants_messages {
            let two_intervals = self.options.ping_interval.saturating_mul(2);
            let patience = if self.suspect { self.probe_timeout } else { two_intervals.max(self.probe_timeout) };
            self.blocked_until = self.blocked_until.or_else(|| Instant::now().checked_add(patience));
        } else {
            self.blocked_until = None;
        }
    }

    /// True if the deadline has come.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> bool {
        let deadlines = [self.deadline, self.blocked_until, self.restart_at, self.coalescing.look_at()];
        let Some(deadline) = deadlines.into_iter().flatten().min() else { return false };
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(cx).is_ready()
    }
}

/// What a message is, never what it carries.
fn trace_message(what: &'static str, frame: &bytes::Bytes) {
    if !tracing::enabled!(tracing::Level::TRACE) {
        return;
    }
    if let Ok(wire::Message { header, payload, .. }) = wire::Message::decode(frame.clone()) {
        let (sequence, len) = (header.sequence.0, payload.len());
        tracing::trace!(kind = %header.kind, sequence, payload = ?header.payload_kind, len, "{what}");
    }
}

fn collect_wakers(state: &mut State, event: &Event, wakers: &mut Vec<Waker>) {
    let mut collect = |id: &StreamId, read: bool| {
        let Some(waiting) = state.streams.get_mut(id) else { return };
        wakers.extend(if read { waiting.read.take() } else { waiting.write.take() });
    };
    match event {
        Event::Readable(id) => collect(id, true),
        Event::Writable(id) => collect(id, false),
        _ => {}
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Future for Driver<S> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        for _ in 0..PASSES {
            let dialled = this.dial(cx) | this.ask(cx);
            // What has failed is over when all that can be read is read.
            let looks = this.looks() || this.broken.is_some();
            let unread = looks && this.read(cx);
            let read = looks.then_some(if unread { usize::MAX } else { this.inputs.len() });
            let more = unread || dialled;
            let was_reading = this.wants_messages;
            this.exchange(cx);
            // Only a read tells the websocket whom to wake: it must not wait for the next pass.
            let more = this.coalesce(read) || more || (this.wants_messages && !was_reading);
            this.write(cx);
            if let Some(ended) = this.ended.take() {
                return Poll::Ready(ended);
            }
            let unwritten = !this.outbox.is_empty();
            let again = more
                || !this.inputs.is_empty()
                || this.lost.is_some()
                || this.given_up.is_some()
                || this.unpolled
                || this.broken.is_some()
                || (!this.drained && !unwritten)
                || this.poll_deadline(cx);
            if !again {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
