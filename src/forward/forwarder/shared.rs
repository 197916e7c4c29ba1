//! What the connections of a forward share, and how each is carried from accept to close.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::forward::{
    Accepted, Carried, ConnectionEnd, Event, Listeners, LocalSocket, Monitor, Observer, Peer, Relay, Tunnel,
    lingering::Lingering,
    status::Connection,
    supply::{NoSession, Opened, Supply},
};

/// How long connections may go on by themselves when somebody waits for their end.
const HURRIED: Duration = Duration::from_secs(1);

/// What the connections of a forward share.
pub(super) struct Shared<T> {
    pub(super) supply: Supply<T>,
    pub(super) observer: Observer,
    pub(super) monitor: Monitor,
    pub(super) linger: Duration,
    pub(super) connections: Arc<Semaphore>,
    /// How many permits that has in all.
    pub(super) limit: usize,
    pub(super) lingering: Arc<Lingering>,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
    /// Cuts every connection.
    pub(super) abort: CancellationToken,
}

impl<T: Tunnel> Shared<T> {
    /// Accepts for ever.
    pub(super) async fn serve(self: Arc<Self>, mut listeners: Listeners) {
        let (mut failing, mut limited) = (false, false);
        loop {
            match listeners.accept().await {
                Ok(accepted) => {
                    failing = false;
                    let Some(permit) = self.permit(&accepted, &mut limited).await else { return };
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

    /// Waits until a connection may be one of so many. The first beyond the limit waits here, so that it is known that
    /// connections do; all others wait in the kernel.
    async fn permit(&self, waiting: &Accepted, limited: &mut bool) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.connections.clone().try_acquire_owned() {
            *limited = false;
            return Some(permit);
        }
        // As the kernel does with those that it holds when nobody listens any more.
        waiting.set_reset_on_drop();
        if !std::mem::replace(limited, true) {
            (self.observer)(Event::ConnectionsLimited { limit: self.limit });
        }
        self.connections.clone().acquire_owned().await.ok()
    }

    /// Completes when all connections have ended by themselves, or after `limit`: a second once somebody is in a hurry.
    pub(super) async fn drained(&self, limit: Duration, hurry: &CancellationToken) {
        tokio::select! {
            _ = timeout(limit, self.tasks.wait()) => {}
            () = hurry.cancelled() => drop(timeout(limit.min(HURRIED), self.tasks.wait()).await),
        }
    }

    async fn connection(self: Arc<Self>, accepted: Accepted, permit: OwnedSemaphorePermit) {
        let peer = accepted.peer();
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
    pub(super) async fn carry<L: LocalSocket>(&self, socket: L, peer: Peer, permit: OwnedSemaphorePermit) {
        let connection = self.monitor.connection(peer);
        (self.observer)(Event::ConnectionOpened { peer });
        // Until the relay takes over, a failure must not look like an end either.
        arm(&socket);
        let opened = tokio::select! {
            biased;
            opened = self.supply.open() => opened.map_err(|NoSession| ConnectionEnd::NoSession),
            () = socket.gave_up() => Err(ConnectionEnd::LocalReset),
        };
        // The stream goes first: locals are dropped in reverse order.
        let Opened { stream, lease } = match opened {
            Ok(opened) => opened,
            Err(end) => return self.report(peer, &connection, end),
        };
        connection.carried_by(lease.session());
        let mut relay = Relay::counted(socket, stream, self.linger, connection.traffic().clone());
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
        self.report(peer, &connection, end);
    }

    fn report(&self, peer: Peer, connection: &Connection, end: ConnectionEnd) {
        let end = match end {
            ConnectionEnd::SessionEnded | ConnectionEnd::LingerExpired | ConnectionEnd::NoSession
                if self.stopping.is_cancelled() =>
            {
                ConnectionEnd::Stopped
            }
            end => end,
        };
        let (bytes_up, bytes_down, duration) = connection.end(end);
        if end == ConnectionEnd::DestinationRefused {
            (self.observer)(Event::DestinationRefused { peer });
        }
        (self.observer)(Event::ConnectionClosed { peer, bytes_up, bytes_down, duration, end });
    }
}

impl Accepted {
    /// A connection that is dropped before it is carried has failed.
    fn set_reset_on_drop(&self) {
        match self {
            Self::Tcp(socket, _) => arm(socket),
            #[cfg(unix)]
            Self::Unix(socket) => arm(socket),
        }
    }
}

fn arm(socket: &impl LocalSocket) {
    if let Err(error) = socket.set_reset_on_drop(true) {
        tracing::debug!(%error, "cannot set the linger option of a local socket");
    }
}
