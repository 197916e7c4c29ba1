//! A stream that ends in order: what a socket's `shutdown` and `close` do, as far as the agent allows it.
//!
//! The agent has no half-close: on our FIN it closes the whole connection, replies still to come included
//! (`proto-notes/port-sessions.md#half-close`). So the FIN of a `shutdown` is held back as [`HalfClose`] says, and for
//! no longer than until the stream is dropped. It is looked at when the stream is read, which is what somebody does who
//! waits for a reply; no task of its own is needed for it. Whoever waits in a read while another one calls `shutdown` is
//! woken for it, or nobody would look.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{self, Sleep},
};

use crate::forward::{Fin, HalfClose, Tunnel, TunnelStream, direct::DirectStream};

/// One stream with its ends.
pub(super) struct Orderly<T: Tunnel> {
    stream: DirectStream<T>,
    policy: HalfClose,
    our_end: OurEnd,
    timer: Option<Pin<Box<Sleep>>>,
    /// Who waits in a read, perhaps not the one who writes.
    reader: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OurEnd {
    /// Not yet.
    Open,
    /// `shutdown` was called; the FIN waits for the policy.
    Held,
    /// The FIN is out.
    Sent,
}

impl<T: Tunnel> Orderly<T> {
    pub(super) fn new(stream: DirectStream<T>, linger: Duration) -> Self {
        Self { stream, policy: HalfClose::new(linger), our_end: OurEnd::Open, timer: None, reader: None }
    }

    pub(super) fn stream(&self) -> &DirectStream<T> {
        &self.stream
    }

    /// Sends the FIN if it is due; otherwise sees to it that the task is woken when it is.
    fn poll_fin(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.our_end == OurEnd::Held {
            let due = match self.policy.fin(now()) {
                Fin::NotDue => return Ok(()),
                Fin::Now => return self.send_fin(cx),
                Fin::At(due) => time::Instant::from_std(due),
            };
            let timer = self.timer.get_or_insert_with(|| Box::pin(time::sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn send_fin(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.our_end = OurEnd::Sent;
        self.timer = None;
        match Pin::new(&mut self.stream).poll_shutdown(cx) {
            Poll::Ready(sent) => sent,
            // It is on its way: streams need no help for it.
            Poll::Pending => Ok(()),
        }
    }
}

fn now() -> Instant {
    time::Instant::now().into_std()
}

impl<T: Tunnel> AsyncRead for Orderly<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (room, before) = (buffer.remaining(), buffer.filled().len());
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                self.policy.heard(now());
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) if room > 0 && self.our_end == OurEnd::Held => {
                // The agent has ended: nothing is left that our FIN could cut off.
                Poll::Ready(self.send_fin(cx))
            }
            Poll::Pending => match self.poll_fin(cx) {
                Ok(()) => {
                    match &mut self.reader {
                        Some(reader) => reader.clone_from(cx.waker()),
                        reader => *reader = Some(cx.waker().clone()),
                    }
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(error)),
            },
            ready => ready,
        }
    }
}

impl<T: Tunnel> AsyncWrite for Orderly<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.our_end != OurEnd::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.policy.sent();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.our_end == OurEnd::Open {
            self.our_end = OurEnd::Held;
            self.stream.linger();
            let rtt = self.stream.rtt();
            self.policy.local_ended(now(), rtt);
        }
        let sent = self.poll_fin(cx);
        // The timer wakes who has polled it last, and that is to be who waits: this caller is done.
        if self.our_end == OurEnd::Held
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
        Poll::Ready(sent)
    }
}

/// What was written is sent, as by a socket that is closed; a stream that is dropped without an end would discard it.
impl<T: Tunnel> Drop for Orderly<T> {
    fn drop(&mut self) {
        if self.our_end != OurEnd::Sent
            && let Err(error) = self.send_fin(&mut Context::from_waker(Waker::noop()))
        {
            tracing::debug!(%error, "a stream had ended before it was dropped");
        }
    }
}

#[cfg(test)]
mod tests;
