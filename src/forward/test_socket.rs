//! A local socket for tests: one end of an in-memory duplex, the test plays the local program at the other.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::LocalSocket;

/// The end that is ours.
pub(crate) struct TestSocket {
    pub(crate) io: DuplexStream,
    /// Whether dropping it would reset the connection.
    pub(crate) resets: Arc<AtomicBool>,
}

impl LocalSocket for TestSocket {
    fn set_reset_on_drop(&self, reset: bool) -> io::Result<()> {
        self.resets.store(reset, Ordering::SeqCst);
        Ok(())
    }

    async fn gave_up(&self) {
        std::future::pending().await
    }
}

impl AsyncRead for TestSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for TestSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
