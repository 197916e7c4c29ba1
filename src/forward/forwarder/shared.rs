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
    pub(super) lingering: Arc<Lingering>,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
    /// Cuts every connection.
    pub(super) abort: CancellationToken,
}

impl<T: Tunnel> Shared<T> {
    /// Accepts for ever.
    pub(super) async fn serve(self: Arc<Self>, mut listeners: Listeners) {
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
            Err(end) => return self.report(peer, &connection, end),
        };
        connection.carried_by(lease.session());
        let mut relay = Relay::new(socket, stream, self.linger).counted_by(connection.traffic());
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
