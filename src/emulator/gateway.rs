//! The message gateway's websocket: who may open one, and the task that serves it.
//!
//! The task only moves messages between the socket and the session's [`Link`]; what they mean is the session thread's
//! business. Reading stops while that thread is behind.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Sink, SinkExt, StreamExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message as Frame, Utf8Bytes,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    conn::Conn,
    mailbox::{Event, Inbox, Link, Outgoing, budget, cost, outgoing_cost},
    service::{Refusal, Service},
};
use crate::wire::{OpenDataChannel, from_json};

/// How long a client may take to send its first message.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// How long a client may take to answer a close frame, or to leave after the end of its session.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);
/// Frames read between two looks at what is to be written.
const READ_BATCH: usize = 256;

/// Limits of a client's websocket: a message is at most 1 MiB.
pub(super) fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(64 << 10)
        .write_buffer_size(64 << 10)
        .max_write_buffer_size(2 << 20)
        .max_message_size(Some(1 << 20))
        .max_frame_size(Some(1 << 20))
}

/// Serves one websocket from its first message to its end.
pub(super) async fn serve(service: Arc<Service>, mut websocket: WebSocketStream<Conn>, session: String, cell: String) {
    service.observe(|state| state.websockets += 1);
    let _open = Open(Arc::clone(&service));
    let (inbox, client_version) = match admit(&service, &mut websocket, &session, &cell).await {
        Ok(admitted) => admitted,
        Err((code, reason)) => return close(websocket, code, reason).await,
    };
    let link = Arc::new(Link::new(budget(service.config().one_way_delay())));
    service.observe_session(&session, |session| {
        session.websockets += 1;
        session.client_version = client_version;
    });
    inbox.push(Event::Attached(Arc::clone(&link)));
    let mut pump = Pump { websocket, link: Arc::clone(&link), inbox: Arc::clone(&inbox), unsent: VecDeque::new() };
    let end = std::future::poll_fn(|cx| pump.poll(cx)).await;
    let violation = match &end {
        End::Violation(what) => Some((*what).to_owned()),
        End::Gone | End::Left | End::Reset | End::Close(..) | End::Farewell => None,
    };
    inbox.push(Event::Lost(Arc::clone(&link), violation));
    match end {
        End::Gone => {}
        End::Left => {
            // The answer is queued already.
            drop(tokio::time::timeout(FAREWELL_LIMIT, pump.websocket.flush()).await);
        }
        End::Reset => pump.websocket.get_ref().reset_on_drop(),
        End::Close(code, reason) => close(pump.websocket, code, reason).await,
        End::Violation(_) => close(pump.websocket, 1002, "protocol error").await,
        End::Farewell => farewell(pump.websocket).await,
    }
}

/// Counts a websocket as open.
struct Open(Arc<Service>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.observe(|state| state.websockets -= 1);
    }
}

type Admitted = (Arc<Inbox>, Option<String>);

/// Reads the first message, strictly; the error is how to close.
async fn admit(
    service: &Arc<Service>,
    websocket: &mut WebSocketStream<Conn>,
    session: &str,
    cell: &str,
) -> Result<Admitted, (u16, &'static str)> {
    let violation = |what: &str| {
        service.violation(session, what);
        Err((1002, "protocol error"))
    };
    let text = match tokio::time::timeout(OPEN_LIMIT, first_message(websocket)).await {
        Ok(Some(Frame::Text(text))) => text,
        Ok(Some(_)) => return violation("the first message is not a text frame"),
        Ok(None) => return Err((1000, "")),
        Err(_) => return Err((1008, "no first message")),
    };
    let open: OpenDataChannel = match from_json("first message", text.as_bytes()) {
        Ok(open) => open,
        Err(error) => return violation(&error.to_string()),
    };
    if open.message_schema_version != OpenDataChannel::SCHEMA {
        return violation("the first message has another schema version than 1.0");
    }
    let uuids = [Some(&open.request_id), open.client_id.as_ref()];
    if !service.config().any_ids && uuids.into_iter().flatten().any(|id| uuid::Uuid::try_parse(id).is_err()) {
        return violation("the first message has an id that is not a UUID");
    }
    match service.admit(session, &open.token_value, cell) {
        Ok(inbox) => Ok((inbox, open.client_version)),
        Err(refusal) => {
            tracing::info!(session, %refusal, "data channel refused");
            match refusal {
                Refusal::Resources => Err((1011, "out of resources")),
                // It lived when the upgrade came: a client cannot know.
                Refusal::Session => Err((1008, "token refused")),
                Refusal::Token | Refusal::Cell => {
                    service.observe(|state| state.tokens_refused += 1);
                    Err((1008, "token refused"))
                }
            }
        }
    }
}

/// The first text or binary message; pings before it are answered by the library.
async fn first_message(websocket: &mut WebSocketStream<Conn>) -> Option<Frame> {
    loop {
        match websocket.next().await?.ok()? {
            frame @ (Frame::Text(_) | Frame::Binary(_)) => return Some(frame),
            Frame::Close(_) => return None,
            Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_) => {}
        }
    }
}

/// How the pumping ended.
#[derive(Debug)]
enum End {
    /// The connection broke.
    Gone,
    /// The client sent a close frame.
    Left,
    /// The session's thread wants it reset.
    Reset,
    /// The session's thread wants it closed.
    Close(u16, &'static str),
    /// The session is over.
    Farewell,
    /// The client sent something that is no message.
    Violation(&'static str),
}

struct Pump {
    websocket: WebSocketStream<Conn>,
    link: Arc<Link>,
    inbox: Arc<Inbox>,
    unsent: VecDeque<Outgoing>,
}

impl Pump {
    /// One pass: reads what is there, writes what is to be sent, flushes. Reading never waits for writing.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.link.register(cx.waker());
        match self.poll_read(cx) {
            ControlFlow::Break(end) => return Poll::Ready(end),
            ControlFlow::Continue(()) => {}
        }
        if let ControlFlow::Break(end) = self.poll_write(cx) {
            return Poll::Ready(end);
        }
        Poll::Pending
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> ControlFlow<End> {
        let (mut batch, mut charge, mut frames) = (Vec::new(), 0, 0);
        let result = loop {
            if !self.link.may_receive() {
                break ControlFlow::Continue(()); // woken by the thread
            }
            if frames == READ_BATCH {
                cx.waker().wake_by_ref();
                break ControlFlow::Continue(());
            }
            frames += 1;
            match self.websocket.poll_next_unpin(cx) {
                Poll::Pending => break ControlFlow::Continue(()),
                Poll::Ready(Some(Ok(Frame::Binary(message)))) => {
                    charge += cost(&message);
                    self.link.charge(cost(&message));
                    batch.push(message);
                }
                Poll::Ready(Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_)))) => {}
                Poll::Ready(Some(Ok(Frame::Text(_)))) => {
                    break ControlFlow::Break(End::Violation("a second text frame"));
                }
                Poll::Ready(Some(Err(Error::Capacity(_)))) => {
                    break ControlFlow::Break(End::Violation("a message of more than 1 MiB"));
                }
                Poll::Ready(Some(Err(Error::Protocol(error)))) if is_violation(&error) => {
                    tracing::info!(%error, "websocket");
                    break ControlFlow::Break(End::Violation("broken websocket framing"));
                }
                Poll::Ready(Some(Ok(Frame::Close(_)))) => break ControlFlow::Break(End::Left),
                Poll::Ready(None | Some(Err(_))) => break ControlFlow::Break(End::Gone),
            }
        };
        debug_assert!(charge > 0 || batch.is_empty());
        if !batch.is_empty() {
            self.inbox.push(Event::Messages(Arc::clone(&self.link), batch));
        }
        result
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> ControlFlow<End> {
        loop {
            match std::pin::Pin::new(&mut self.websocket).poll_ready(cx) {
                Poll::Pending => return ControlFlow::Continue(()),
                Poll::Ready(Err(_)) => return ControlFlow::Break(End::Gone),
                Poll::Ready(Ok(())) => {}
            }
            self.link.take(&mut self.unsent);
            let Some(item) = self.unsent.pop_front() else { break };
            let item_cost = outgoing_cost(&item);
            match item {
                Outgoing::Message(message) => {
                    if std::pin::Pin::new(&mut self.websocket).start_send(Frame::Binary(message)).is_err() {
                        return ControlFlow::Break(End::Gone);
                    }
                }
                Outgoing::Close(code, reason) => return ControlFlow::Break(End::Close(code, reason)),
                Outgoing::Farewell => return ControlFlow::Break(End::Farewell),
                Outgoing::Reset => return ControlFlow::Break(End::Reset),
            }
            if self.link.sent(item_cost) {
                self.inbox.wake();
            }
        }
        match std::pin::Pin::new(&mut self.websocket).poll_flush(cx) {
            Poll::Ready(Err(_)) => ControlFlow::Break(End::Gone),
            Poll::Ready(Ok(())) | Poll::Pending => ControlFlow::Continue(()),
        }
    }
}

/// A connection that just ends is not a violation: the genuine programs never send close frames.
fn is_violation(error: &tokio_tungstenite::tungstenite::error::ProtocolError) -> bool {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    !matches!(error, ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing)
}

/// Sends a close frame and waits a while for the client's.
async fn close(mut websocket: WebSocketStream<Conn>, code: u16, reason: &'static str) {
    let frame = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from_static(reason) };
    let goodbye = async {
        if websocket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = websocket.next().await {}
        }
    };
    drop(tokio::time::timeout(FAREWELL_LIMIT, goodbye).await); // then it is dropped, polite or not
}

/// The client has been told that its session is over and leaves by itself.
async fn farewell(mut websocket: WebSocketStream<Conn>) {
    let gone = async {
        if websocket.flush().await.is_ok() {
            while let Some(Ok(_)) = websocket.next().await {}
        }
    };
    if tokio::time::timeout(FAREWELL_LIMIT, gone).await.is_err() {
        close(websocket, 1000, "").await;
    }
}
