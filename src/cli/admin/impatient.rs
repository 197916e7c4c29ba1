//! A socket whose other end must take what is written to it in a while.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// Fails when something written has not been taken within the limit: all of it, so that a reader of one byte now and
/// then gains nothing. Reading is bounded by who reads.
pub(super) struct Impatient<S> {
    socket: S,
    limit: Duration,
    /// Runs since the socket first took nothing more, until a flush finds that all is taken.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> Impatient<S> {
    pub(super) fn new(socket: S, limit: Duration) -> Self {
        Self { socket, limit, deadline: None }
    }

    fn poll_late<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.socket).poll_write(cx, buf) {
            Poll::Pending => self.poll_late(cx),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.socket).poll_write_vectored(cx, bufs) {
            Poll::Pending => self.poll_late(cx),
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.socket).poll_flush(cx) {
            Poll::Pending => self.poll_late(cx),
            Poll::Ready(flushed) => {
                self.deadline = None;
                Poll::Ready(flushed)
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.socket).poll_shutdown(cx) {
            Poll::Pending => self.poll_late(cx),
            shut => shut,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_reader_of_single_bytes_gains_nothing() {
        let (mut reader, writer) = duplex(8);
        let mut writer = Impatient::new(writer, LIMIT);
        let start = Instant::now();
        let slow = async {
            loop {
                tokio::time::timeout(Duration::from_secs(1), std::future::pending::<()>()).await.expect_err("a second");
                if reader.read_u8().await.is_err() {
                    return;
                }
            }
        };
        let writing = async {
            let error = writer.write_all(&[0; 100]).await.expect_err("too slow");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            drop(writer);
            start.elapsed()
        };
        let (elapsed, ()) = tokio::join!(writing, slow);
        assert_eq!(elapsed.as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_in_time_starts_anew() {
        let (mut reader, writer) = duplex(8);
        let mut writer = Impatient::new(writer, LIMIT);
        for _ in 0..3 {
            let reading = async {
                tokio::time::timeout(LIMIT / 2, std::future::pending::<()>()).await.expect_err("a while");
                reader.read_exact(&mut [0; 16]).await.expect("what was written")
            };
            let writing = async {
                writer.write_all(&[0; 16]).await?;
                writer.flush().await
            };
            let (written, _) = tokio::join!(writing, reading);
            written.expect("in time");
        }
    }
}
