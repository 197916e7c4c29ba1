//! A stream as users have it.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::orderly::Orderly;
use crate::{
    forward::{TunnelStream as _, direct::DirectStream},
    session::{Session, SessionId},
};

/// A connection to a destination through a target, like a [`TcpStream`](tokio::net::TcpStream).
///
/// **Reading** gives data, then `Ok(0)` when the destination has ended. A destination that refused is
/// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused); a lost session
/// [`ConnectionReset`](io::ErrorKind::ConnectionReset), after the data that came before; a stream that was cut because
/// its reader held up others of its session for half a minute [`TimedOut`](io::ErrorKind::TimedOut). A destination that
/// resets its connection looks like one that ends it: the agent does not tell them apart.
///
/// **Writing** waits when more than the path takes is on its way. What was written is sent without a flush.
///
/// **Shutting down** ends our side. The agent cannot pass that on alone: it would close the whole connection, and cut off
/// the reply. So it is told when the destination has ended, or owes nothing and has been silent for a moment, or has
/// been silent for [`ClientOptions::linger`](super::ClientOptions::linger) although it owes a reply, as seen by whoever
/// reads. A destination that waits for the end before it answers gets it only then.
///
/// **Dropping** it sends what was written, and ends the connection.
pub struct ClientStream {
    inner: Orderly<Session>,
}

impl ClientStream {
    pub(super) fn new(stream: DirectStream<Session>, linger: Duration) -> Self {
        Self { inner: Orderly::new(stream, linger) }
    }

    /// The SSM session that carries it.
    #[must_use]
    pub fn session(&self) -> &SessionId {
        self.inner.stream().session()
    }

    /// The smoothed round trip time to the agent.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.inner.stream().rtt()
    }
}

impl fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream").field("session", self.session()).finish_non_exhaustive()
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
