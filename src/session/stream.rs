//! One connection to the destination.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{connection::Holder, shared::State};
use crate::proto::{Read, StreamError, StreamId};

/// One connection to the destination, through the session.
///
/// Reading: data, then `Ok(0)` after the agent's FIN. A refused destination is
/// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused), a lost session
/// [`ConnectionReset`](io::ErrorKind::ConnectionReset), after the data that came before; a stream that was reset because
/// its reader held up the others is [`TimedOut`](io::ErrorKind::TimedOut).
///
/// `shutdown` sends the FIN behind what was written. The genuine agent then closes the *whole* connection to the
/// destination, so callers that want a reply must read it first. Dropping a stream without `shutdown` discards what
/// was not sent yet and sends the FIN (the protocol has no reset).
pub struct Stream {
    holder: Arc<Holder>,
    id: StreamId,
}

impl Stream {
    pub(super) fn new(holder: Arc<Holder>, id: StreamId) -> Self {
        holder.shared.lock().streams.entry(id).or_default();
        Self { holder, id }
    }

    /// The stream's number in its session.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// The smoothed round trip time to the agent.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.holder.shared.lock().proto.rtt()
    }

    /// Completes when the stream is cut, with the error that reading it would come to: for a reader that is not
    /// reading, and would not learn of it. Cut is a stream whose reader holds up the others of the session, and one
    /// that had not ended when its session did; what had ended before stays complete.
    pub fn poll_cut(&self, cx: &Context<'_>) -> Poll<io::Error> {
        self.holder.shared.change(|state| {
            if let Some(error) = state.proto.cut(self.id) {
                return (Poll::Ready(io_error(error)), false);
            }
            self.wait(state, cx, |wakers| &mut wakers.read);
            (Poll::Pending, false)
        })
    }

    fn wait(&self, state: &mut State, cx: &Context<'_>, slot: fn(&mut super::shared::Wakers) -> &mut Option<Waker>) {
        let waker = slot(state.streams.entry(self.id).or_default());
        match waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("session", &self.holder.shared.id).field("id", &self.id).finish()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.holder.shared.change(|state| {
            let read = state.proto.read(self.id, buffer);
            let poll = match read {
                Ok(Read::Data(_) | Read::End) => Poll::Ready(Ok(())),
                Ok(Read::Pending) => {
                    self.wait(state, cx, |wakers| &mut wakers.read);
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(io_error(error))),
            };
            // Room in a full buffer lets the driver read the websocket again.
            (poll, !state.proto.wants_messages())
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.holder.shared.change(|state| match state.proto.write(self.id, bytes) {
            Ok(0) if !bytes.is_empty() => {
                self.wait(state, cx, |wakers| &mut wakers.write);
                (Poll::Pending, false)
            }
            Ok(count) => (Poll::Ready(Ok(count)), true),
            Err(error) => (Poll::Ready(Err(io_error(error))), false),
        })
    }

    /// Nothing to do: what is written is sent as soon as the window allows.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.holder.shared.change(|state| (state.proto.finish(self.id), true));
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        tracing::debug!(session = %self.holder.shared.id, stream = %self.id, "stream closed");
        self.holder.shared.change(|state| {
            state.streams.remove(&self.id);
            (state.proto.release(self.id), true)
        });
    }
}

fn io_error(error: StreamError) -> io::Error {
    let kind = match &error {
        StreamError::Refused => io::ErrorKind::ConnectionRefused,
        StreamError::SessionEnded(_) => io::ErrorKind::ConnectionReset,
        StreamError::SlowReader => io::ErrorKind::TimedOut,
        StreamError::Finished | StreamError::PeerFinished => io::ErrorKind::BrokenPipe,
        StreamError::Unknown => io::ErrorKind::NotConnected,
    };
    io::Error::new(kind, error)
}
