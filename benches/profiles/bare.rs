//! The bare loop: what the same bytes cost with everything left out that can be.
//!
//! ```text
//!  local socket ─▶ near end: hash, mask ══ websocket ══▶ far end: hash ─▶ destination's socket
//!                  (a process)          ◀══ acknowledgements ══ (a process)
//! ```
//!
//! The same two TCP hops, the same messages, the same websocket with the same settings, a hash and an acknowledgement for
//! each message. No sessions, no streams, no retransmission, no timers.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes};
use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use ssmfwd::{
    session::websocket_config,
    wire::{Acknowledge, Draft, Flags, Header, Message, MessageId, MessageKind, PayloadKind, SequenceNumber},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message as Frame};

use crate::harness::{Outcome, announce};

/// Bytes that may be unacknowledged: as the client that is compared.
const WINDOW: usize = 4 << 20;
/// Messages between two looks at the other direction.
const BATCH: usize = 64;

/// The near end: waits for one application, sends what it writes to the far end.
pub(crate) async fn near(arguments: &[String]) -> Outcome<()> {
    let [far, payload] = arguments else { return Err("expected ADDRESS PAYLOAD".into()) };
    let (far, payload): (SocketAddr, usize) = (far.parse()?, payload.parse()?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    announce(listener.local_addr()?)?;
    let (application, _) = listener.accept().await?;
    let socket = TcpStream::connect(far).await?;
    socket.set_nodelay(true)?;
    let url = format!("ws://{far}/");
    let (websocket, _) = tokio_tungstenite::client_async_with_config(url, socket, Some(websocket_config())).await?;
    let mut near = Near { application, websocket, payload, next: 0, acknowledged: 0, draft: None };
    std::future::poll_fn(|cx| near.poll(cx)).await
}

struct Near {
    application: TcpStream,
    websocket: WebSocketStream<TcpStream>,
    payload: usize,
    next: i64,
    acknowledged: i64,
    /// Has room for a payload.
    draft: Option<Draft>,
}

impl Near {
    /// Ends only when something breaks: whoever started this process ends it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<()>> {
        loop {
            while let Poll::Ready(frame) = Pin::new(&mut self.websocket).poll_next(cx) {
                let Frame::Binary(frame) = frame.ok_or("the far end has gone")?? else { continue };
                let message = Message::decode(frame)?;
                message.check_digest()?;
                self.acknowledged = Acknowledge::decode(&message.payload)?.sequence + 1;
            }
            let sent = match self.poll_send(cx) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            };
            if sent < BATCH {
                if let Poll::Ready(flushed) = Pin::new(&mut self.websocket).poll_flush(cx) {
                    flushed?;
                }
                return Poll::Pending;
            }
        }
    }

    /// Sends a batch, or what there is. Pending when it has to wait for whatever was asked last.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<usize>> {
        let window = i64::try_from((WINDOW / self.payload).max(1))?;
        let mut sent = 0;
        while sent < BATCH && self.next - self.acknowledged < window {
            ready!(Pin::new(&mut self.websocket).poll_ready(cx))?;
            let mut draft = self.draft.take().unwrap_or_else(|| self.draft());
            let filled = fill(&self.application, cx, &mut draft, self.payload);
            if draft.payload_len() == 0 {
                self.draft = Some(draft);
                // At the end of the application nothing is left to do but to be ended.
                return if filled.is_ready() && sent == 0 { Poll::Pending } else { Poll::Ready(Ok(sent)) };
            }
            self.next += 1;
            Pin::new(&mut self.websocket).start_send(Frame::Binary(draft.seal()))?;
            sent += 1;
        }
        Poll::Ready(Ok(sent))
    }

    fn draft(&self) -> Draft {
        Draft::new(&header(MessageKind::InputStreamData, self.next, PayloadKind::Output), self.payload)
    }
}

/// Reads into a message until it is full or nothing is there.
fn fill(from: &TcpStream, cx: &mut Context<'_>, draft: &mut Draft, payload: usize) -> Poll<io::Result<()>> {
    while draft.payload_len() < payload {
        ready!(from.poll_read_ready(cx))?;
        let room = payload - draft.payload_len();
        match from.try_read_buf(&mut draft.payload_mut().limit(room)) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            ended => return Poll::Ready(ended.map(drop)),
        }
    }
    Poll::Ready(Ok(()))
}

/// The far end: writes what comes to the destination, and acknowledges it.
pub(crate) async fn far(arguments: &[String]) -> Outcome<()> {
    let [port] = arguments else { return Err("expected PORT".into()) };
    let port: u16 = port.parse()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    announce(listener.local_addr()?)?;
    let (socket, _) = listener.accept().await?;
    socket.set_nodelay(true)?;
    let mut websocket = tokio_tungstenite::accept_async_with_config(socket, Some(websocket_config())).await?;
    let mut destination = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut frame = websocket.next().await;
    while let Some(Ok(Frame::Binary(bytes))) = frame {
        let message = Message::decode(bytes)?;
        message.check_digest()?;
        destination.write_all(&message.payload).await?;
        websocket.feed(Frame::Binary(acknowledgement(&message.header))).await?;
        frame = match websocket.next().now_or_never() {
            Some(frame) => frame,
            None => {
                websocket.flush().await?;
                websocket.next().await
            }
        };
    }
    Ok(())
}

fn acknowledgement(of: &Header) -> Bytes {
    let mut draft = Draft::new(&header(MessageKind::Acknowledge, 0, PayloadKind::Undefined), 192);
    Acknowledge::encode_into(draft.payload_mut(), of.kind.as_str(), of.id, of.sequence);
    draft.seal()
}

fn header(kind: MessageKind, sequence: i64, payload_kind: PayloadKind) -> Header {
    Header {
        kind,
        schema_version: 1,
        created_ms: 1_700_000_000_000,
        sequence: SequenceNumber(sequence),
        flags: Flags::NONE,
        id: MessageId::from_random(fastrand::u128(..)),
        payload_kind,
    }
}
