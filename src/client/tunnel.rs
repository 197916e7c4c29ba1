//! A forward of local addresses, run in the background.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Client, ClientError, Events,
    events::{EventSource, LaterEvents},
};
use crate::{
    forward::{
        Connector, ForwardEnd, ForwardSpec, ForwardStatus, Forwarder, ForwarderOptions, LocalAddress, Monitor, Sessions,
    },
    session::{ConnectError, StartRequest},
};

/// A forward that is to be bound. What is not set here is as in the client's [`ClientOptions`](super::ClientOptions).
#[must_use = "nothing listens before `bind`"]
pub struct TunnelBuilder {
    client: Client,
    spec: ForwardSpec,
    target: Option<String>,
    request: StartRequest,
    options: ForwarderOptions,
    lazy: bool,
}

impl TunnelBuilder {
    pub(super) fn new(client: &Client, spec: ForwardSpec) -> Self {
        let settings = &client.shared.options;
        let options = ForwarderOptions {
            linger: settings.linger,
            reconnect_window: settings.reconnect_window,
            sessions: settings.sessions,
            accounts: settings.accounts.clone(),
            ..ForwarderOptions::default()
        };
        Self { client: client.clone(), spec, target: None, request: settings.request(), options, lazy: false }
    }

    /// The target, as `--target` takes it, if the forward has none of its own.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// The session document, in place of the one that the destination stands for.
    pub fn document(mut self, name: impl Into<String>, parameters: BTreeMap<String, Vec<String>>) -> Self {
        self.request.document = Some(name.into());
        self.request.parameters = parameters;
        self
    }

    /// Connections at a time; others wait. Default 1024.
    pub fn max_connections(mut self, count: NonZeroU32) -> Self {
        self.options.max_connections = count;
        self
    }

    /// The SSM sessions behind it.
    pub fn sessions(mut self, sessions: Sessions) -> Self {
        self.options.sessions = sessions;
        self
    }

    /// How long a reply is waited for after a local program has ended its side.
    pub fn linger(mut self, time: Duration) -> Self {
        self.options.linger = time;
        self
    }

    /// How long new connections are held while a lost session is brought back.
    pub fn reconnect_window(mut self, time: Duration) -> Self {
        self.options.reconnect_window = time;
        self
    }

    /// Starts no session before the first connection comes: it is [`ready`](Tunnel::ready) when it is bound.
    pub fn lazy(mut self) -> Self {
        self.lazy = true;
        self
    }

    /// After so long without connections its sessions are ended; the next connection starts another. Default: never.
    pub fn idle_close(mut self, time: Duration) -> Self {
        self.options.idle_close = Some(time);
        self
    }

    /// How long connections may go on by themselves when it is closed. Default 1 s.
    pub fn drain(mut self, time: Duration) -> Self {
        self.options.drain = time;
        self
    }

    /// Binds the local addresses, and starts the session in the background: local programs can connect from now on, and
    /// are served when it is [`ready`](Tunnel::ready).
    ///
    /// # Errors
    /// [`NoTarget`](ClientError::NoTarget), [`Bind`](ClientError::Bind), [`Closed`](ClientError::Closed) if the client is.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(self) -> Result<Tunnel, ClientError> {
        let Self { client, spec, target, mut request, options, lazy } = self;
        let shared = &client.shared;
        // Held until the task is spawned.
        let _begun = shared.life.begin().ok_or(ClientError::Closed)?;
        let drain = shared.life.closing.child_token();
        request.target =
            spec.target.clone().or(target).ok_or_else(|| ClientError::NoTarget { forward: spec.text.clone() })?;
        request.parameters.extend(spec.destination.parameters());
        request.document = request.document.or_else(|| spec.destination.document().map(Into::into));
        let source = EventSource::new();
        let observer = source.observer();
        let (first, later) = source.split();
        let forwarder =
            Forwarder::bind(&spec, options, observer).map_err(|error| ClientError::Bind(Arc::new(error)))?;
        let (addresses, monitor) = (forwarder.addresses(), forwarder.monitor());
        let (sender, phase) = watch::channel(Phase::Starting);
        let running = run((forwarder, lazy), Arc::clone(&shared.connector), request, drain.clone(), sender);
        shared.life.tasks.spawn(running);
        Ok(Tunnel { spec, addresses, phase, events: (Mutex::new(Some(first)), later), monitor, drain })
    }
}

/// Runs a forward from its first session to its end.
async fn run<C: Connector>(
    (forwarder, lazy): (Forwarder, bool),
    connector: Arc<C>,
    request: StartRequest,
    drain: CancellationToken,
    phase: watch::Sender<Phase>,
) {
    if lazy {
        phase.send_replace(Phase::Ready);
        let end = forwarder.run_lazy(connector, request, drain).await;
        phase.send_replace(Phase::Ended(failure(end)));
        return;
    }
    let started = forwarder.connect(&*connector, request.clone(), drain.child_token()).await;
    let end = match started {
        Ok(session) => {
            phase.send_replace(Phase::Ready);
            failure(forwarder.run(connector, request, session, drain).await)
        }
        Err(ConnectError::Cancelled) if drain.is_cancelled() => None,
        Err(error) => Some(ClientError::Start(Arc::new(error))),
    };
    phase.send_replace(Phase::Ended(end));
}

fn failure(end: ForwardEnd) -> Option<ClientError> {
    match end {
        ForwardEnd::Failed(error) => Some(ClientError::Lost(Arc::new(error))),
        ForwardEnd::Stopped => None,
    }
}

#[derive(Debug, Clone)]
enum Phase {
    Starting,
    /// The first session was ready. What becomes of it is in the status.
    Ready,
    /// Over, with the failure that has ended it.
    Ended(Option<ClientError>),
}

/// A forward: bound, and served in the background.
///
/// Not to be confused with [`forward::Tunnel`](crate::forward::Tunnel), the trait that forwards need of a session.
///
/// # The end
/// [`close`](Self::close) ends it in order. Dropping it does the same in the background, as far as the runtime is left
/// to do it. It outlives its [`Client`], unless that is closed.
pub struct Tunnel {
    spec: ForwardSpec,
    addresses: Vec<LocalAddress>,
    phase: watch::Receiver<Phase>,
    /// The events since it was bound, for the first who asks.
    events: (Mutex<Option<Events>>, LaterEvents),
    monitor: Monitor,
    drain: CancellationToken,
}

impl Tunnel {
    /// What is forwarded.
    #[must_use]
    pub fn spec(&self) -> &ForwardSpec {
        &self.spec
    }

    /// Where it listens, with the real ports: one or two addresses with the same port, or the path of a unix socket.
    #[must_use]
    pub fn addresses(&self) -> &[LocalAddress] {
        &self.addresses
    }

    /// The first TCP address, for a client that takes one; `None` for a unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses.iter().find_map(|address| match address {
            LocalAddress::Tcp(address) => Some(*address),
            LocalAddress::Unix(_) => None,
        })
    }

    /// Waits until its first session can carry data. Connections that come earlier wait in the kernel. Cancel-safe.
    ///
    /// # Errors
    /// [`Start`](ClientError::Start): the session cannot be had, and the tunnel is over; [`Closed`](ClientError::Closed),
    /// [`Lost`](ClientError::Lost): it has ended already.
    pub async fn ready(&self) -> Result<(), ClientError> {
        let mut phase = self.phase.clone();
        match phase.wait_for(|phase| !matches!(phase, Phase::Starting)).await.as_deref() {
            Ok(Phase::Ended(Some(error))) => Err(error.clone()),
            Ok(Phase::Ready) => Ok(()),
            Ok(Phase::Starting | Phase::Ended(None)) | Err(_) => Err(ClientError::Closed),
        }
    }

    /// Waits until it is over. What can heal does not end it: a lost session is replaced, for as long as it takes.
    /// Cancel-safe.
    ///
    /// # Errors
    /// What has ended it: [`Start`](ClientError::Start), or [`Lost`](ClientError::Lost) when StartSession was denied for
    /// a minute, or its document is gone. Nothing, if it was closed.
    pub async fn ended(&self) -> Result<(), ClientError> {
        let mut phase = self.phase.clone();
        match phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await.as_deref() {
            Ok(Phase::Ended(Some(error))) => Err(error.clone()),
            Ok(_) => Ok(()),
            // The runtime drops its tasks.
            Err(_) => Err(ClientError::Closed),
        }
    }

    /// What happens in it. The first call gives what has happened since [`bind`](TunnelBuilder::bind) too, if that was
    /// not more than is kept; later calls begin where they are made. The stream ends with the tunnel.
    #[must_use]
    pub fn events(&self) -> Events {
        let (first, later) = &self.events;
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| later.subscribe())
    }

    /// What it is doing at this moment: state, sessions, connections, sums. After its end too.
    #[must_use]
    pub fn status(&self) -> ForwardStatus {
        self.monitor.status()
    }

    /// Ends it in order: no new connections, a moment for those that are about to end, the rest is reset, then its
    /// sessions are ended. Returns when nothing is left.
    ///
    /// # Errors
    /// What had ended it before, as [`ended`](Self::ended).
    pub async fn close(self) -> Result<(), ClientError> {
        self.drain.cancel();
        self.ended().await
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.drain.cancel();
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("spec", &self.spec).field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl fmt::Debug for TunnelBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelBuilder").field("spec", &self.spec).field("target", &self.target).finish_non_exhaustive()
    }
}
