//! Streams to one destination without a listener: the sessions of a forward, for connections that this process makes
//! itself.
//!
//! ```text
//! open ──▶ DirectSource ── Supply ──▶ the best session of the pool ──▶ DirectStream
//!             ▲                          ▲
//!             └────── Keeper ── Supervisor: starts, replaces, ends ──┘
//! ```
//!
//! The first session is started before there is a source, so that whoever needs it learns why it cannot be had. The
//! [`Keeper`] then works for as long as somebody may ask for streams: until it is told to stop, the source has been
//! unused for its idle time, or it and all its streams are dropped.

use std::{
    future::pending,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Connector, Event, Monitor, Observer, SessionAccounts, Sessions, Tunnel, TunnelStream, event,
    supply::{Lease, NoSession, Opened, Source, Supervisor, Supply, supply},
};
use crate::session::{ConnectError, SessionEvent, SessionId, StartRequest};

/// Settings of a source of streams.
#[derive(Debug, Clone)]
pub(crate) struct DirectOptions {
    /// The SSM sessions behind it.
    pub(crate) sessions: Sessions,
    /// Counts the sessions of all sources and forwards with clones of it.
    pub(crate) accounts: SessionAccounts,
    /// How long new streams are held while a lost session is brought back.
    pub(crate) reconnect_window: Duration,
    /// How long it keeps its sessions without a stream.
    pub(crate) idle: Duration,
}

/// Why there is no stream.
#[derive(Debug)]
pub(crate) enum NoStream {
    /// The source is over: another one may be started.
    Over,
    /// No session could be had in time; the last failure of a start, if one has failed.
    NoSession(Option<Arc<ConnectError>>),
}

/// How the work of a [`Keeper`] came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeeperEnd {
    /// It was told to stop.
    Stopped,
    /// Nobody has used the source for its idle time, or nobody can any more.
    Unused,
    /// No session can be had any more.
    Failed,
}

/// Gives out streams to one destination.
pub(crate) struct DirectSource<T: Tunnel> {
    supply: Supply<T>,
    shared: Arc<Shared>,
    /// Tells the keeper that neither the source nor a stream of it is left.
    _alive: DropGuard,
}

/// Owns the sessions of a source.
pub(crate) struct Keeper<C: Connector> {
    supervisor: Supervisor<C>,
    shared: Arc<Shared>,
    observer: Observer,
    idle: Duration,
    abandoned: CancellationToken,
}

/// What a source and its keeper have in common.
#[derive(Default)]
struct Shared {
    uses: watch::Sender<Uses>,
    failure: Mutex<Option<Arc<ConnectError>>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Uses {
    /// Streams, also those that are being opened.
    count: usize,
    /// No more are taken.
    closed: bool,
}

/// Starts the first session of a source. When `cancel` fires, or on an error, nothing is left behind.
pub(crate) async fn start<C: Connector>(
    connector: Arc<C>,
    request: StartRequest,
    options: DirectOptions,
    observer: Observer,
    cancel: CancellationToken,
) -> Result<(DirectSource<C::Tunnel>, Keeper<C>), ConnectError> {
    let shared = Arc::<Shared>::default();
    // Nobody asks it: what a source does is seen in its streams.
    let monitor = Monitor::new(Vec::new());
    let observer = shared.clone().observing(observer);
    let DirectOptions { sessions, accounts, reconnect_window, idle } = options;
    let place = accounts.take(&request.target);
    let tunnel = event::start(&*connector, request.clone(), 0, (&observer, &monitor), cancel).await?;
    let idle_close = None;
    let source = Source { connector, request, observer: observer.clone(), monitor, sessions, idle_close, accounts };
    let (supply, supervisor) = supply(source, Some((tunnel, place)), reconnect_window, fastrand::Rng::new());
    let abandoned = CancellationToken::new();
    let keeper = Keeper { supervisor, shared: shared.clone(), observer, idle, abandoned: abandoned.clone() };
    Ok((DirectSource { supply, shared, _alive: abandoned.drop_guard() }, keeper))
}

impl<T: Tunnel> DirectSource<T> {
    /// A stream on the best session of the moment; waits for one if need be. Cancel-safe.
    pub(crate) async fn open(self: &Arc<Self>) -> Result<DirectStream<T>, NoStream> {
        let in_use = Use::new(self).ok_or(NoStream::Over)?;
        match self.supply.open().await {
            Ok(Opened { stream, lease }) => Ok(DirectStream { stream, lease, _in_use: in_use }),
            Err(NoSession) => Err(NoStream::NoSession(self.shared.failure())),
        }
    }
}

impl<C: Connector> Keeper<C> {
    /// Supplies sessions until the end. What is open stays open.
    pub(crate) async fn keep(&mut self, stop: &CancellationToken) -> KeeperEnd {
        let end = tokio::select! {
            error = self.supervisor.supply() => {
                self.shared.failed(Arc::new(error));
                KeeperEnd::Failed
            }
            () = stop.cancelled() => KeeperEnd::Stopped,
            () = self.abandoned.cancelled() => KeeperEnd::Unused,
            () = self.shared.unused(self.idle) => KeeperEnd::Unused,
        };
        self.shared.close();
        self.supervisor.stop();
        end
    }

    /// Ends all sessions. If none can be had any more, those that are left are kept until their streams are gone, or
    /// `stop` fires.
    pub(crate) async fn close(mut self, end: KeeperEnd, stop: &CancellationToken) {
        let mut ends = Vec::new();
        if end == KeeperEnd::Failed {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.abandoned.cancelled() => {}
                () = self.supervisor.watch(&mut ends) => {}
            }
        }
        self.supervisor.close(&mut ends).await;
        ends.into_iter().for_each(|end| (self.observer)(end));
    }
}

impl Shared {
    /// Keeps the last failure, for those who waited in vain.
    fn observing(self: Arc<Self>, observer: Observer) -> Observer {
        Arc::new(move |event| {
            match &event {
                Event::StartFailed { error, .. } => self.failed(error.clone()),
                Event::Session { event: SessionEvent::Ready, .. } => *self.lock() = None,
                _ => {}
            }
            observer(event);
        })
    }

    fn failed(&self, error: Arc<ConnectError>) {
        *self.lock() = Some(error);
    }

    fn failure(&self) -> Option<Arc<ConnectError>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<ConnectError>>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.uses.send_modify(|uses| uses.closed = true);
    }

    /// Completes when there was no stream for so long; from then on none is taken. Cancel-safe.
    async fn unused(&self, idle: Duration) {
        let mut uses = self.uses.subscribe();
        loop {
            // The sender is ours and outlives this.
            if uses.wait_for(|uses| uses.count == 0).await.is_err() {
                return pending().await;
            }
            // An idle time beyond the end of time does not pass.
            let Some(deadline) = Instant::now().checked_add(idle) else { return pending().await };
            let used = timeout_at(deadline, uses.wait_for(|uses| uses.count > 0)).await.is_ok();
            if !used && self.close_if_unused() {
                return;
            }
        }
    }

    fn close_if_unused(&self) -> bool {
        let mut closed = false;
        self.uses.send_if_modified(|uses| {
            uses.closed |= uses.count == 0;
            closed = uses.closed;
            false
        });
        closed
    }
}

/// A stream, or one that is being opened. Keeps the source.
struct Use<T: Tunnel>(Arc<DirectSource<T>>);

impl<T: Tunnel> Use<T> {
    /// `None` if the source is over.
    fn new(source: &Arc<DirectSource<T>>) -> Option<Self> {
        let entered = source.shared.uses.send_if_modified(|uses| {
            uses.count += usize::from(!uses.closed);
            !uses.closed
        });
        entered.then(|| Self(source.clone()))
    }
}

impl<T: Tunnel> Drop for Use<T> {
    fn drop(&mut self) {
        self.0.shared.uses.send_modify(|uses| uses.count -= 1);
    }
}

/// One stream of a source. Dropped, it ends like any [`TunnelStream`]; its session and the source learn of it after
/// that.
pub(crate) struct DirectStream<T: Tunnel> {
    // In this order they are dropped.
    stream: T::Stream,
    lease: Lease<T>,
    _in_use: Use<T>,
}

impl<T: Tunnel> DirectStream<T> {
    /// The session that carries it.
    pub(crate) fn session(&self) -> &SessionId {
        self.lease.session()
    }

    /// It has ended on one side: it will not be in the way of others.
    pub(crate) fn linger(&self) {
        self.lease.linger();
    }
}

impl<T: Tunnel> AsyncRead for DirectStream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<T: Tunnel> AsyncWrite for DirectStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<T: Tunnel> TunnelStream for DirectStream<T> {
    fn rtt(&self) -> Duration {
        self.stream.rtt()
    }

    fn poll_read_pieces(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_read_pieces(cx, pieces, limit)
    }

    fn poll_write_buffer(&mut self, cx: &mut Context<'_>, buffer: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        self.stream.poll_write_buffer(cx, buffer)
    }

    fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.stream.poll_cut(cx)
    }
}

#[cfg(test)]
mod tests;
