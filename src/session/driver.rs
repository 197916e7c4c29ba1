//! The task of a session: one poll function that moves messages between the websocket and the state machine.
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

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
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

use super::{
    SessionEvent, SessionOptions, clock,
    shared::{Shared, State, Status},
};
use crate::{
    proto::{Cause, CloseReason, Event, Inbound, Initiator, Input, Output, StreamId, Transmit},
    wire,
};

/// Messages taken from the websocket before the state machine sees them.
const READ_MESSAGES: usize = 64;
/// Bytes taken from the websocket before the state machine sees them: what its bounds may be exceeded by.
const READ_BYTES: usize = 256 << 10;
/// Messages taken out of the state machine before the websocket gets them.
const WRITE_MESSAGES: usize = 32;
/// Passes in one poll, so that one busy session does not keep a worker to itself.
const PASSES: usize = 16;
/// What the genuine programs put into their pings.
const PING: &[u8] = b"keepalive";

/// How a session ended and whether TerminateSession has to be called.
pub(super) struct Ended {
    pub(super) reason: CloseReason,
    pub(super) terminate: bool,
}

pub(super) struct Driver<S> {
    shared: Arc<Shared>,
    options: SessionOptions,
    websocket: WebSocketStream<S>,
    sleep: Pin<Box<Sleep>>,
    deadline: Option<Instant>,
    inputs: Vec<Input>,
    lost: Option<String>,
    /// Writing has failed: what can still be read comes before the loss.
    broken: Option<String>,
    outbox: VecDeque<Message>,
    /// The state machine had nothing more to say.
    drained: bool,
    needs_flush: bool,
    ping_unflushed: bool,
    wants_messages: bool,
    ended: Option<Ended>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(shared: Arc<Shared>, options: SessionOptions, websocket: WebSocketStream<S>) -> Self {
        Self {
            shared,
            options,
            websocket,
            sleep: Box::pin(sleep_until(Instant::now())),
            deadline: None,
            inputs: Vec::with_capacity(READ_MESSAGES),
            lost: None,
            broken: None,
            outbox: VecDeque::with_capacity(WRITE_MESSAGES),
            drained: false,
            needs_flush: false,
            ping_unflushed: false,
            wants_messages: true,
            ended: None,
        }
    }

    /// Takes a batch of messages. True if there may be more.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let mut bytes = 0;
        while self.wants_messages && self.lost.is_none() {
            if self.inputs.len() >= READ_MESSAGES || bytes >= READ_BYTES {
                return true;
            }
            let Poll::Ready(message) = Pin::new(&mut self.websocket).poll_next(cx) else { break };
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
                Some(Err(error)) => self.lost = Some(error.to_string()),
                None => self.lost = Some("the gateway closed the websocket".to_owned()),
            }
        }
        // Without budget the websocket says that nothing is there although it has not looked.
        if self.lost.is_none() && coop::has_budget_remaining() {
            self.lost = self.broken.take();
        }
        false
    }

    /// Nothing can be written any more.
    fn break_off(&mut self, error: &tungstenite::Error) {
        self.broken.get_or_insert_with(|| error.to_string());
        self.outbox.clear();
        self.needs_flush = false;
        self.ping_unflushed = false;
    }

    /// Feeds the state machine and takes out what it wants done.
    fn exchange(&mut self, cx: &Context<'_>) {
        let now = clock::now();
        let due = self.deadline.is_some_and(|deadline| deadline.into_std() <= now);
        let mut transmits = Vec::new();
        let mut events = Vec::new();
        let mut wakers = Vec::new();
        let mut ping = false;
        {
            let mut state = self.shared.lock();
            for input in self.inputs.drain(..) {
                state.proto.handle(now, input);
            }
            if due {
                state.proto.handle(now, Input::Timeout);
            }
            if let Some(text) = self.lost.take() {
                // A session that is ending ends as asked; any other is lost with its websocket.
                state.proto.handle(now, Input::Disconnected);
                state.proto.abort(CloseReason::new(Initiator::Transport, Cause::ConnectionLost(text)));
            }
            self.drained = false;
            let deadline = loop {
                let writable = self.broken.is_none() && self.outbox.len() + transmits.len() < WRITE_MESSAGES;
                let output = if writable { state.proto.poll_output(now) } else { state.proto.poll_event(now) };
                match output {
                    Output::Transmit(transmit) => transmits.push(transmit),
                    Output::Ping => ping = true,
                    Output::Event(event) => {
                        collect_wakers(&mut state, &event, &mut wakers);
                        if event == Event::Unresponsive {
                            let text = "the gateway does not answer pings".to_owned();
                            state.proto.abort(CloseReason::new(Initiator::Transport, Cause::ConnectionLost(text)));
                        }
                        events.push(event);
                    }
                    Output::Timeout(deadline) => {
                        self.drained = writable;
                        break deadline;
                    }
                }
            };
            self.deadline = deadline.map(Instant::from_std);
            self.wants_messages = state.proto.wants_messages();
            state.driver = Some(cx.waker().clone());
        }
        wakers.into_iter().for_each(Waker::wake);
        for event in events {
            self.tell(event);
        }
        for transmit in transmits {
            self.outbox.push_back(match transmit {
                Transmit::Text(text) => Message::text(text.as_str()),
                Transmit::Binary(frame) => {
                    let frame = frame.into_bytes();
                    trace_message("sends", &frame);
                    Message::Binary(frame)
                }
            });
        }
        if ping {
            self.outbox.push_back(Message::Ping(bytes::Bytes::from_static(PING)));
            self.ping_unflushed = true;
        }
    }

    fn tell(&mut self, event: Event) {
        if !matches!(event, Event::Readable(_) | Event::Writable(_)) {
            tracing::debug!(session = %self.shared.id, ?event);
        }
        match event {
            Event::Ready { .. } => {
                self.shared.status.send_replace(Status::Ready);
            }
            Event::CustomerMessage(text) => self.options.tell(SessionEvent::CustomerMessage(text)),
            Event::CanOpen => self.shared.can_open.notify_waiters(),
            Event::DestinationRefused(_) => self.options.tell(SessionEvent::DestinationRefused),
            Event::Paused(paused) => self.options.tell(SessionEvent::Paused(paused)),
            Event::Stalled(stalled) => self.options.tell(SessionEvent::Stalled(stalled)),
            Event::Backpressure(behind) => self.options.tell(SessionEvent::Backpressure(behind)),
            Event::SlowReader(_) => self.options.tell(SessionEvent::SlowReader),
            Event::Closed { reason, terminate } => self.ended = Some(Ended { reason, terminate }),
            Event::Readable(_) | Event::Writable(_) | Event::Unresponsive => {}
        }
    }

    /// Hands over what is in the outbox, and flushes once all there was to say is handed over.
    fn write(&mut self, cx: &mut Context<'_>) {
        while !self.outbox.is_empty() {
            match Pin::new(&mut self.websocket).poll_ready(cx) {
                Poll::Pending => return,
                Poll::Ready(Err(error)) => return self.break_off(&error),
                Poll::Ready(Ok(())) => {}
            }
            let Some(message) = self.outbox.pop_front() else { return };
            self.needs_flush = true;
            if let Err(error) = Pin::new(&mut self.websocket).start_send(message) {
                return self.break_off(&error);
            }
        }
        if self.needs_flush && (self.drained || self.ended.is_some()) {
            match Pin::new(&mut self.websocket).poll_flush(cx) {
                Poll::Pending => return,
                Poll::Ready(Err(error)) => return self.break_off(&error),
                Poll::Ready(Ok(())) => self.needs_flush = false,
            }
            if std::mem::take(&mut self.ping_unflushed) {
                self.inputs.push(Input::PingSent);
            }
        }
    }

    /// True if the deadline has come.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.deadline else { return false };
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

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        for _ in 0..PASSES {
            let more = this.read(cx);
            let was_reading = this.wants_messages;
            this.exchange(cx);
            // Only a read tells the websocket whom to wake: it must not wait for the next pass.
            let more = more || (this.wants_messages && !was_reading);
            this.write(cx);
            if let Some(ended) = this.ended.take() {
                return Poll::Ready(ended);
            }
            let unwritten = !this.outbox.is_empty();
            let again = more
                || !this.inputs.is_empty()
                || this.lost.is_some()
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
