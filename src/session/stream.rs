//! One connection to the destination.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    connection::Holder,
    shared::{Shared, State},
};
use crate::proto::{OutputRead, Read, StreamError, StreamId};

/// One connection to the destination, through the session.
///
/// Reading: data, then `Ok(0)` after the agent's FIN. A refused destination is
/// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused), a lost session
/// [`ConnectionReset`](io::ErrorKind::ConnectionReset), after the data that came before; a stream that was reset
/// because its reader held up the others is [`TimedOut`](io::ErrorKind::TimedOut).
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

    /// Reads without a copy: fills places with pieces of up to `limit` bytes together, and returns how many; 0 is the
    /// agent's FIN. Pieces may be slices of large read buffers: what is kept for long is to be copied. Otherwise like
    /// [`poll_read`](AsyncRead::poll_read).
    ///
    /// # Errors
    /// Those of reading.
    pub fn poll_read_pieces(
        &mut self,
        cx: &Context<'_>,
        pieces: &mut [Bytes],
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        self.poll_read_by(cx, Read::Pending, |state, id| state.proto.read_pieces(id, pieces, limit))
            .map_ok(|read| if let Read::Data(count) = read { count } else { 0 })
    }

    /// Writes a buffer without a copy: takes it, and leaves another, empty one in its place, perhaps without capacity.
    /// Of more than 32 KiB only a part is taken, which is then missing from its front. Returns how much was taken.
    /// Otherwise like [`poll_write`](AsyncWrite::poll_write).
    ///
    /// # Errors
    /// Those of writing.
    pub fn poll_write_buffer(&mut self, cx: &Context<'_>, buffer: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        let is_empty = buffer.is_empty();
        self.poll_write_by(cx, is_empty, |state, id| state.proto.write_buffer(id, buffer))
    }

    /// For two holders that write and read; each has at most one waker.
    pub(super) fn poll_write_from(&self, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_by(cx, bytes.is_empty(), |state, id| state.proto.write(id, bytes))
    }

    /// What a shell has written.
    pub(super) fn poll_read_output(
        &self,
        cx: &Context<'_>,
        pieces: &mut [Bytes],
        limit: usize,
    ) -> Poll<io::Result<OutputRead>> {
        self.poll_read_by(cx, OutputRead::Pending, |state, id| state.proto.read_output(id, pieces, limit))
    }

    pub(super) fn finish(&self) {
        self.holder.shared.change(|state| (state.proto.finish(self.id), true));
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.holder.shared
    }

    fn poll_write_by(
        &self,
        cx: &Context<'_>,
        is_empty: bool,
        write: impl FnOnce(&mut State, StreamId) -> Result<usize, StreamError>,
    ) -> Poll<io::Result<usize>> {
        self.holder.shared.change(|state| match write(state, self.id) {
            Ok(0) if !is_empty => {
                self.wait(state, cx, |wakers| &mut wakers.write);
                (Poll::Pending, false)
            }
            Ok(count) => (Poll::Ready(Ok(count)), true),
            Err(error) => (Poll::Ready(Err(io_error(error))), false),
        })
    }

    fn poll_read_by<R: PartialEq>(
        &self,
        cx: &Context<'_>,
        pending: R,
        read: impl FnOnce(&mut State, StreamId) -> Result<R, StreamError>,
    ) -> Poll<io::Result<R>> {
        self.holder.shared.change(|state| {
            let poll = match read(state, self.id) {
                Ok(read) if read == pending => {
                    self.wait(state, cx, |wakers| &mut wakers.read);
                    Poll::Pending
                }
                Ok(read) => Poll::Ready(Ok(read)),
                Err(error) => Poll::Ready(Err(io_error(error))),
            };
            // Room in a full buffer lets the driver read the websocket again.
            (poll, !state.proto.wants_messages())
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
        self.poll_read_by(cx, Read::Pending, |state, id| state.proto.read(id, buffer)).map_ok(|_| ())
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_from(cx, bytes)
    }

    /// Nothing to do: what is written is sent as soon as the window allows.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
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
