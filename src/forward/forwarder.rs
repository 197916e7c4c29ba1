//! One forward: its listeners, its session, and the connections between them.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Accepted, BindError, Carried, ConnectionEnd, Connector, Event, ForwardSpec, Listeners, LocalAddress, LocalSocket,
    Observer, Peer, Relay, Tunnel, lingering::Lingering,
};
use crate::{
    proto::CloseReason,
    session::{ConnectError, StartRequest},
};

/// How long connections may go on by themselves when the forward is asked to stop.
const DRAIN: Duration = Duration::from_secs(1);

/// How long connections have to notice that their session is over, before they are dropped.
const NOTICE: Duration = Duration::from_secs(1);

/// Settings of a forward.
#[derive(Debug, Clone)]
pub struct ForwarderOptions {
    /// Connections at a time; others wait. Lingering ones do not count.
    pub max_connections: NonZeroU32,
    /// The linger time of the half-close policy.
    pub linger: Duration,
}

/// A forward with bound listeners.
pub struct Forwarder {
    listeners: Listeners,
    options: ForwarderOptions,
    observer: Observer,
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
        Ok(Self { listeners, options, observer })
    }

    /// The bound addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<LocalAddress> {
        self.listeners.addresses()
    }

    /// Starts the session of this forward.
    ///
    /// # Errors
    /// When it does not become ready; nothing is left behind.
    pub async fn connect<C: Connector>(
        &self,
        connector: &C,
        request: StartRequest,
        cancel: CancellationToken,
    ) -> Result<C::Tunnel, ConnectError> {
        let observer = self.observer.clone();
        connector.connect(request, Arc::new(move |event| observer(Event::Session(event))), cancel).await
    }

    /// Serves connections until the session ends or `drain` fires. The session is over when this returns.
    pub async fn run<T: Tunnel>(self, tunnel: T, drain: CancellationToken) -> CloseReason {
        let Self { listeners, options, observer } = self;
        let permits = options.max_connections.get() as usize;
        let shared = Arc::new(Shared {
            tunnel,
            observer,
            linger: options.linger,
            connections: Arc::new(Semaphore::new(permits)),
            lingering: Arc::new(Lingering::new(drain.clone())),
            tasks: TaskTracker::new(),
            abort: CancellationToken::new(),
            stopping: drain.clone(),
        });
        let reason = {
            let mut ended = std::pin::pin!(shared.tunnel.closed());
            tokio::select! {
                reason = &mut ended => Some(reason),
                () = drain.cancelled() => None,
                () = shared.clone().serve(listeners) => None,
            }
        };
        let reason = match reason {
            Some(reason) => reason,
            None => {
                // Connections that linger are hurried, but not cut: the agent acknowledges bytes before the destination
                // has them, and only its FIN tells that it has. One that goes on is cut with its session.
                shared.tasks.close();
                tokio::select! {
                    _ = time::timeout(DRAIN, shared.tasks.wait()) => {}
                    _ = shared.tunnel.closed() => {}
                }
                shared.tunnel.close().await
            }
        };
        shared.tasks.close();
        if time::timeout(NOTICE, shared.tasks.wait()).await.is_err() {
            shared.abort.cancel();
            shared.tasks.wait().await;
        }
        // A session that ended by itself is over for its connections, but the API may still have to be told.
        shared.tunnel.close().await;
        (shared.observer)(Event::SessionEnded(reason.clone()));
        reason
    }
}

/// What the connections of a forward share.
struct Shared<T> {
    tunnel: T,
    observer: Observer,
    linger: Duration,
    connections: Arc<Semaphore>,
    lingering: Arc<Lingering>,
    tasks: TaskTracker,
    /// Drops every connection.
    abort: CancellationToken,
    stopping: CancellationToken,
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
        let started = Instant::now();
        (self.observer)(Event::ConnectionOpened { peer });
        let (end, bytes_up, bytes_down) = match accepted {
            Accepted::Tcp(socket, _) => {
                if let Err(error) = socket.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY on a local socket");
                }
                self.carry(socket, permit).await
            }
            #[cfg(unix)]
            Accepted::Unix(socket) => self.carry(socket, permit).await,
        };
        self.report(peer, end, bytes_up, bytes_down, started.elapsed());
    }

    /// Carries one connection to its end: how it ended, bytes up and bytes down.
    async fn carry<L: LocalSocket>(&self, socket: L, permit: OwnedSemaphorePermit) -> (ConnectionEnd, u64, u64) {
        let mut relay = None;
        let end = self.abort.run_until_cancelled(async {
            // Until the relay takes over, a failure must not look like an end either.
            if let Err(error) = socket.set_reset_on_drop(true) {
                tracing::debug!(%error, "cannot set the linger option of a local socket");
            }
            let Ok(stream) = self.tunnel.open().await else { return ConnectionEnd::SessionEnded };
            let relay = relay.insert(Relay::new(socket, stream, self.linger));
            match relay.carry().await {
                Carried::Ended(end) => end,
                Carried::Lingering => {
                    let place = self.lingering.enter(permit);
                    relay.finish(place.hurry()).await
                }
            }
        });
        let end = end.await.unwrap_or(ConnectionEnd::SessionEnded);
        let bytes = relay.as_ref().map_or((0, 0), |relay| (relay.bytes_up(), relay.bytes_down()));
        (end, bytes.0, bytes.1)
    }

    fn report(&self, peer: Peer, end: ConnectionEnd, bytes_up: u64, bytes_down: u64, duration: Duration) {
        let end = match end {
            ConnectionEnd::SessionEnded | ConnectionEnd::LingerExpired if self.stopping.is_cancelled() => {
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
