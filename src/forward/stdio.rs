//! One connection for this process alone: its stdin and stdout are the local socket.
//!
//! A stream lives in one session and dies with it, so another session is never started in its place: nobody would use
//! it. What heals is the websocket under it, as in any session, for as long as the caller's patience lasts. So there is
//! no pool here and no supervisor: a session, its stream, a [`Relay`].
//!
//! Which end comes first decides what happens:
//!
//! ```text
//! destination ends ─▶ all is delivered to stdout ─▶ over, without waiting for stdin
//! stdin ends ───────▶ all is delivered to the destination, the answer as HalfClose says ─▶ FIN ─▶ over
//! stdout ends ──────▶ nobody is there any more: over at once
//! the agent's attempt to connect gets no answer ─▶ over, once that is sure
//! ```

mod descriptor;
mod dialled;

use std::{
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::descriptor::{Input, Output, Stdin};
use self::dialled::not_dialled;
use super::{
    ConnectionEnd, Connector, Event, LocalSocket, Observer, Peer, Relay, Tunnel, end_session, start_session,
    status::Traffic,
};
use crate::{
    proto::CloseReason,
    session::{ConnectError, Health, OpenError, SessionId, StartRequest},
};

/// How the only connection is treated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StdioOptions {
    /// How long a reply is waited for after the end of stdin.
    pub(crate) linger: Duration,
    /// How long the destination may leave the agent without an answer.
    pub(crate) connect_timeout: Duration,
    /// How long the session may be without a websocket.
    pub(crate) reconnect_window: Duration,
    /// How long, once stdin has ended, nothing may be heard of what it held: it is all that is left to wait for.
    pub(crate) stall_timeout: Duration,
}

/// How it all ended.
#[derive(Debug)]
pub(crate) enum StdioEnd {
    /// The connection has come to an end of its own.
    Connection(ConnectionEnd),
    /// The destination ended the connection before a byte had passed in either direction.
    Nothing,
    /// stdin or stdout failed, other than by the end of whoever is there.
    Local(io::Error),
    /// The session was lost, or ended by somebody else.
    Session(CloseReason),
    /// The session had no websocket for so long.
    Outage(Duration),
    /// The caller wanted it.
    Stopped,
}

/// A session for the one connection.
pub(crate) struct StdioTunnel<T> {
    tunnel: T,
    observer: Observer,
}

/// Starts the session. When `cancel` fires, or on an error, nothing is left behind.
pub(crate) async fn start<C: Connector>(
    connector: &C,
    request: StartRequest,
    observer: Observer,
    cancel: CancellationToken,
) -> Result<StdioTunnel<C::Tunnel>, ConnectError> {
    let tunnel = start_session(connector, request, observer.clone(), cancel).await?;
    Ok(StdioTunnel { tunnel, observer })
}

impl<T: Tunnel> StdioTunnel<T> {
    /// For a session that is there.
    pub(crate) fn of(tunnel: T, observer: Observer) -> Self {
        Self { tunnel, observer }
    }

    /// The session.
    pub(crate) fn id(&self) -> &SessionId {
        self.tunnel.id()
    }

    /// Carries the connection to its end, and ends the session. Nothing is left of it when this returns.
    pub(crate) async fn carry(self, stdin: &Stdin, options: StdioOptions, stop: &CancellationToken) -> StdioEnd {
        let end = match Stdio::open(stdin) {
            Ok(local) => self.relay(local, options, stop).await,
            Err(error) => StdioEnd::Local(error),
        };
        end_session(&self.tunnel, &self.observer).await;
        end
    }

    async fn relay(&self, local: Stdio, options: StdioOptions, stop: &CancellationToken) -> StdioEnd {
        let (failure, gone) = (local.failure.clone(), local.output.gone());
        let began = Instant::now();
        let opened = tokio::select! {
            opened = self.tunnel.open() => opened,
            () = stop.cancelled() => return StdioEnd::Stopped,
        };
        let stream = match opened {
            Ok(stream) => stream,
            Err(OpenError::Closed(reason)) => return StdioEnd::Session(reason),
            // It ends at this moment; a stream of a new session cannot be refused otherwise.
            Err(_) => return StdioEnd::Session(self.tunnel.closed().await),
        };
        let peer = Peer::Stdio;
        (self.observer)(Event::ConnectionOpened { peer });
        let traffic = Arc::<Traffic>::default();
        let relay = Relay::counted(local, stream, options.linger, traffic.clone());
        let mut relay = relay.waiting_for_fin(options.stall_timeout).awaiting_greeting();
        let unhurried = CancellationToken::new();
        let (connection, end) = tokio::select! {
            end = relay.finish(&unhurried) => (end, match end {
                ConnectionEnd::SessionEnded => StdioEnd::Session(self.tunnel.closed().await),
                // What a thread writes may fail only when all is over.
                end => failure.take().map_or(StdioEnd::Connection(end), StdioEnd::Local),
            }),
            // Also while nothing is written that could fail.
            () = gone => (ConnectionEnd::LocalReset, StdioEnd::Connection(ConnectionEnd::LocalReset)),
            () = not_dialled(&self.tunnel, &traffic, options.connect_timeout) => {
                (ConnectionEnd::Unanswered, StdioEnd::Connection(ConnectionEnd::Unanswered))
            }
            outage = outage(self.tunnel.health(), options.reconnect_window) => {
                (ConnectionEnd::NoSession, StdioEnd::Outage(outage))
            }
            () = stop.cancelled() => (ConnectionEnd::Stopped, StdioEnd::Stopped),
        };
        let (bytes_up, bytes_down) = (traffic.up(), traffic.down());
        if connection == ConnectionEnd::DestinationRefused {
            (self.observer)(Event::DestinationRefused { peer });
        }
        (self.observer)(Event::ConnectionClosed {
            peer,
            bytes_up,
            bytes_down,
            duration: began.elapsed(),
            end: connection,
        });
        match end {
            StdioEnd::Connection(ConnectionEnd::DestinationClosed) if bytes_up + bytes_down == 0 => StdioEnd::Nothing,
            end => end,
        }
    }
}

/// Completes when the session has been without a websocket for so long, with how long that was. Cancel-safe.
pub(crate) async fn outage(mut health: watch::Receiver<Health>, window: Duration) -> Duration {
    loop {
        let since = match *health.borrow_and_update() {
            Health::Reconnecting { since } => Some(since),
            _ => None,
        };
        // A window beyond the end of time does not close.
        let closes = since.and_then(|since| since.checked_add(window));
        let late = async {
            match closes {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let mut late = pin!(late);
        tokio::select! {
            biased;
            changed = health.changed() => if changed.is_err() {
                // The end of the session is told by its stream.
                std::future::pending::<()>().await;
            },
            () = &mut late => return since.map_or(window, |since| since.elapsed()),
        }
    }
}

/// stdin and stdout as one socket.
struct Stdio {
    input: Input,
    output: Output,
    /// stdout has been ended or has failed: what stdin still has is nobody's.
    done: bool,
    failure: Failure,
}

/// Why stdin or stdout failed.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<io::Error>>>);

impl Failure {
    fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes a failure, unless it only says that nobody is there any more. Returns one like it.
    fn note(&self, what: &str, error: io::Error) -> io::Error {
        let kind = error.kind();
        if !matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
            let mut failure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| io::Error::new(kind, format!("{what}: {error}")));
        }
        kind.into()
    }
}

impl Stdio {
    fn open(stdin: &Stdin) -> io::Result<Self> {
        Ok(Self { input: stdin.open()?, output: Output::stdout()?, done: false, failure: Failure::default() })
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        written.map_err(|error| {
            self.done = true;
            self.failure.note("stdout", error)
        })
    }
}

impl LocalSocket for Stdio {
    /// A pipe knows no reset. How the connection has ended is said by the exit status.
    fn set_reset_on_drop(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    /// Nobody is held while a session is brought back.
    async fn gave_up(&self) {
        std::future::pending().await
    }
}

impl AsyncRead for Stdio {
    /// At its end as soon as stdout is: nobody is there to read a reply.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut this.input).poll_read(cx, buffer);
        read.map_err(|error| this.failure.note("stdin", error))
    }
}

impl AsyncWrite for Stdio {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.output).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.output).poll_write_vectored(cx, slices);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_flush(cx)
    }

    /// The destination has ended: stdin has no destination any more either, and is not waited for.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let flushed = Pin::new(&mut this.output).poll_shutdown(cx);
        this.done |= flushed.is_ready();
        flushed.map_err(|error| this.failure.note("stdout", error))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);
    const LONG: Duration = Duration::from_secs(100_000);

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_too_long_when_it_alone_has_filled_the_window() {
        let (sender, health) = watch::channel(Health::Ready);
        assert!(timeout(LONG, outage(health.clone(), WINDOW)).await.is_err(), "there is none");
        let mut late = pin!(outage(health, WINDOW));
        for _ in 0..3 {
            sender.send_replace(Health::Reconnecting { since: Instant::now() });
            assert!(timeout(WINDOW / 2, &mut late).await.is_err());
            sender.send_replace(Health::Ready);
            assert!(timeout(WINDOW, &mut late).await.is_err(), "it came back");
        }
        // Noticed late: it counts from its beginning.
        let since = Instant::now() - Duration::from_secs(20);
        sender.send_replace(Health::Reconnecting { since });
        let noticed = Instant::now();
        assert_eq!(late.await, WINDOW);
        assert_eq!(noticed.elapsed(), WINDOW - Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_without_an_end_and_a_session_without_one_are_waited_for() {
        let (sender, health) = watch::channel(Health::Reconnecting { since: Instant::now() });
        assert!(timeout(LONG, outage(health.clone(), Duration::MAX)).await.is_err());
        drop(sender);
        let (_, stopped) = watch::channel(Health::Stalled);
        assert!(timeout(LONG, outage(stopped, WINDOW)).await.is_err(), "nobody can change it any more");
    }

    #[test]
    fn only_what_is_no_end_is_a_failure() {
        let failure = Failure::default();
        for quiet in [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset] {
            assert_eq!(failure.note("stdout", quiet.into()).kind(), quiet);
            assert!(failure.take().is_none());
        }
        failure.note("stdout", io::ErrorKind::StorageFull.into());
        failure.note("stdin", io::ErrorKind::BrokenPipe.into());
        assert!(failure.take().is_some_and(|error| error.to_string().starts_with("stdout: ")), "the first");
    }
}
