//! One forward: its listeners, its sessions, and the connections between them.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Accepted, BindError, Carried, ConnectionEnd, Connector, Event, ForwardSpec, Listeners, LocalAddress, LocalSocket,
    Observer, Peer, Relay, SessionAccounts, Sessions, Tunnel, event,
    lingering::Lingering,
    sessions::Place,
    supply::{NoSession, Opened, Source, Supply, supply},
};
use crate::session::{ConnectError, StartRequest};

/// How long connections may go on by themselves when the forward is asked to stop.
const DRAIN: Duration = Duration::from_secs(1);

/// Settings of a forward.
#[derive(Debug, Clone)]
pub struct ForwarderOptions {
    /// Connections at a time; others wait. Lingering ones do not count.
    pub max_connections: NonZeroU32,
    /// The linger time of the half-close policy.
    pub linger: Duration,
    /// How long new connections are held while a lost session is brought back, counted from its loss.
    pub reconnect_window: Duration,
    /// The SSM sessions behind the forward.
    pub sessions: Sessions,
    /// Counts the sessions of all forwards with clones of these options.
    pub accounts: SessionAccounts,
}

/// Why a forward is over.
#[derive(Debug)]
#[non_exhaustive]
pub enum ForwardEnd {
    /// It was asked to stop.
    Stopped,
    /// No session can be had any more: StartSession was denied for a minute, or its document is gone.
    Failed(ConnectError),
}

/// A forward with bound listeners.
pub struct Forwarder {
    listeners: Listeners,
    options: ForwarderOptions,
    observer: Observer,
    /// The place in the account of a session that was started and does not serve yet.
    place: Mutex<Option<Place>>,
}

impl Forwarder {
    /// Binds the local addresses. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// When one of them cannot be bound.
    pub fn bind(spec: &ForwardSpec, options: ForwarderOptions, observer: Observer) -> Result<Self, BindError> {
        let listeners = Listeners::bind(&spec.listen)?;
        for address in listeners.addresses() {
            observer(Event::Listening(address));
        }
        Ok(Self { listeners, options, observer, place: Mutex::default() })
    }

    /// The bound addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<LocalAddress> {
        self.listeners.addresses()
    }

    /// Starts the session with which this forward begins.
    ///
    /// # Errors
    /// When it does not become ready; nothing is left behind.
    pub async fn connect<C: Connector>(
        &self,
        connector: &C,
        request: StartRequest,
        cancel: CancellationToken,
    ) -> Result<C::Tunnel, ConnectError> {
        // Before any other forward fills up: all that are needed come first.
        *self.place() = Some(self.options.accounts.take(&request.target));
        let result = event::start(connector, request, 0, &self.observer, cancel).await;
        if result.is_err() {
            *self.place() = None;
        }
        result
    }

    /// Ends a session of [`Self::connect`] that will not be used after all.
    pub async fn discard<T: Tunnel>(&self, tunnel: T) {
        let reason = tunnel.close().await;
        (self.observer)(event::end_of(&tunnel, 0, reason, false));
        *self.place() = None;
    }

    fn place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves connections, with `tunnel` at first, and with sessions of `connector` when it is lost or ended: until
    /// `drain` fires, or no session can be had any more. All sessions are over when this returns.
    pub async fn run<C: Connector>(
        self,
        connector: Arc<C>,
        request: StartRequest,
        tunnel: C::Tunnel,
        drain: CancellationToken,
    ) -> ForwardEnd {
        let Self { listeners, options, observer, place } = self;
        let place = place.into_inner().unwrap_or_else(PoisonError::into_inner);
        let place = place.unwrap_or_else(|| options.accounts.take(&request.target));
        let (abort, stopping) = (CancellationToken::new(), drain.child_token());
        // Should this future be dropped, its connections are too.
        let _dropped = abort.clone().drop_guard();
        let (sessions, accounts) = (options.sessions, options.accounts);
        let source = Source { connector, request, observer: observer.clone(), sessions, accounts };
        let (supply, mut supervisor) = supply(source, (tunnel, place), options.reconnect_window, fastrand::Rng::new());
        let shared = Arc::new(Shared {
            supply,
            observer,
            linger: options.linger,
            connections: Arc::new(Semaphore::new(options.max_connections.get() as usize)),
            lingering: Arc::new(Lingering::new(stopping.clone())),
            tasks: TaskTracker::new(),
            stopping,
            abort,
        });
        let end = tokio::select! {
            error = supervisor.supply() => ForwardEnd::Failed(error),
            () = drain.cancelled() => ForwardEnd::Stopped,
            () = shared.clone().serve(listeners) => ForwardEnd::Stopped,
        };

        // Connections that linger are hurried, but not cut: the agent acknowledges bytes before the destination has
        // them, and only its FIN tells that it has. One that goes on is cut with its session; one whose session is
        // over already, and that only waits for its local program, is cut as well.
        shared.stopping.cancel();
        shared.tasks.close();
        supervisor.stop();
        let mut ends = Vec::new();
        tokio::select! {
            _ = time::timeout(DRAIN, shared.tasks.wait()) => {}
            () = supervisor.watch(&mut ends) => {}
        }
        supervisor.close(&mut ends).await;
        shared.abort.cancel();
        shared.tasks.wait().await;
        ends.into_iter().for_each(|end| (shared.observer)(end));
        end
    }
}

/// What the connections of a forward share.
struct Shared<T> {
    supply: Supply<T>,
    observer: Observer,
    linger: Duration,
    connections: Arc<Semaphore>,
    lingering: Arc<Lingering>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// Cuts every connection.
    abort: CancellationToken,
}

impl<T: Tunnel> Shared<T> {
    /// Accepts for ever.
    async fn serve(self: Arc<Self>, mut listeners: Listeners) {
        let mut failing = false;
        // The permit comes first: connections beyond the limit wait in the kernel.
        while let Ok(permit) = self.connections.clone().acquire_owned().await {
            match listeners.accept().await {
                Ok(accepted) => {
                    failing = false;
                    let connection = self.clone().connection(accepted, permit);
                    self.tasks.spawn(connection);
                }
                Err(error) if failing => tracing::debug!(%error, "still cannot accept connections"),
                Err(error) => {
                    failing = true;
                    (self.observer)(Event::AcceptFailed(error.to_string()));
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, accepted: Accepted, permit: OwnedSemaphorePermit) {
        let peer = accepted.peer();
        (self.observer)(Event::ConnectionOpened { peer });
        match accepted {
            Accepted::Tcp(socket, _) => {
                if let Err(error) = socket.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY on a local socket");
                }
                self.carry(socket, peer, permit).await;
            }
            #[cfg(unix)]
            Accepted::Unix(socket) => self.carry(socket, peer, permit).await,
        }
    }

    /// Carries one connection to its end. Tells of the end before the local program can see it, so that what it does
    /// next is told after it.
    async fn carry<L: LocalSocket>(&self, socket: L, peer: Peer, permit: OwnedSemaphorePermit) {
        let started = Instant::now();
        // Until the relay takes over, a failure must not look like an end either.
        if let Err(error) = socket.set_reset_on_drop(true) {
            tracing::debug!(%error, "cannot set the linger option of a local socket");
        }
        let opened = tokio::select! {
            biased;
            opened = self.supply.open() => opened.map_err(|NoSession| ConnectionEnd::NoSession),
            () = socket.gave_up() => Err(ConnectionEnd::LocalReset),
        };
        // The stream goes first: locals are dropped in reverse order.
        let Opened { stream, lease } = match opened {
            Ok(opened) => opened,
            Err(end) => return self.report(peer, end, 0, 0, started.elapsed()),
        };
        let mut relay = Relay::new(socket, stream, self.linger);
        let end = self.abort.run_until_cancelled(async {
            match relay.carry().await {
                Carried::Ended(end) => end,
                Carried::Lingering => {
                    lease.linger();
                    let place = self.lingering.enter(permit);
                    relay.finish(place.hurry()).await
                }
            }
        });
        let end = end.await.unwrap_or(ConnectionEnd::Stopped);
        self.report(peer, end, relay.bytes_up(), relay.bytes_down(), started.elapsed());
    }

    fn report(&self, peer: Peer, end: ConnectionEnd, bytes_up: u64, bytes_down: u64, duration: Duration) {
        let end = match end {
            ConnectionEnd::SessionEnded | ConnectionEnd::LingerExpired | ConnectionEnd::NoSession
                if self.stopping.is_cancelled() =>
            {
                ConnectionEnd::Stopped
            }
            end => end,
        };
        if end == ConnectionEnd::DestinationRefused {
            (self.observer)(Event::DestinationRefused { peer });
        }
        (self.observer)(Event::ConnectionClosed { peer, bytes_up, bytes_down, duration, end });
    }
}

#[cfg(test)]
mod tests;
