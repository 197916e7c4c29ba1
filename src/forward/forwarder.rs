//! One forward: its listeners, its sessions, and the connections between them.

mod shared;

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::shared::Shared;
use super::{
    AdoptedListener, BindError, Connector, Event, ForwardSpec, Listeners, LocalAddress, Monitor, Observer,
    SessionAccounts, Sessions, Tunnel, event,
    lingering::Lingering,
    sessions::Place,
    status::{Life, Phase},
    supply::{Source, supply},
};
use crate::session::{ConnectError, StartRequest};

/// Settings of a forward.
#[derive(Debug, Clone)]
pub struct ForwarderOptions {
    /// Connections at a time; others wait. Lingering ones do not count.
    pub max_connections: NonZeroU32,
    /// The linger time of the half-close policy.
    pub linger: Duration,
    /// How long new connections are held while a lost session is brought back, counted from its loss.
    pub reconnect_window: Duration,
    /// After so long without connections the sessions are ended, and the next connection starts another; `None`: never.
    /// Connections that linger or wait are connections.
    pub idle_close: Option<Duration>,
    /// How long connections may go on by themselves when the forward is asked to stop. Those that linger may not.
    pub drain: Duration,
    /// Once it fires, that takes a second at most.
    pub hurry: CancellationToken,
    /// The SSM sessions behind the forward.
    pub sessions: Sessions,
    /// Counts the sessions of all forwards with clones of these options.
    pub accounts: SessionAccounts,
}

/// 1024 connections, a linger time of 5 s, a reconnect window of 60 s, no end for want of use, 1 s to drain, automatic
/// sessions in an account of their own.
impl Default for ForwarderOptions {
    fn default() -> Self {
        Self {
            max_connections: NonZeroU32::MIN.saturating_add(1023),
            linger: Duration::from_secs(5),
            reconnect_window: Duration::from_secs(60),
            idle_close: None,
            drain: Duration::from_secs(1),
            hurry: CancellationToken::new(),
            sessions: Sessions::default(),
            accounts: SessionAccounts::default(),
        }
    }
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
    life: Life,
    /// The place in the account of a session that was started and does not serve yet.
    place: Mutex<Option<Place>>,
}

impl Forwarder {
    /// Binds the local addresses. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// When one of them cannot be bound.
    pub fn bind(spec: &ForwardSpec, options: ForwarderOptions, observer: Observer) -> Result<Self, BindError> {
        Ok(Self::new(Listeners::bind(&spec.listen)?, options, observer))
    }

    /// Takes sockets that listen already instead of binding any; they are closed at the end, and their files stay. Must
    /// run inside a tokio runtime.
    ///
    /// # Errors
    /// When one of them does not listen, or there is none.
    pub fn adopt(
        listeners: Vec<AdoptedListener>,
        options: ForwarderOptions,
        observer: Observer,
    ) -> Result<Self, BindError> {
        Ok(Self::new(Listeners::adopt(listeners)?, options, observer))
    }

    fn new(listeners: Listeners, options: ForwarderOptions, observer: Observer) -> Self {
        let monitor = Monitor::new(listeners.addresses());
        let observer = monitor.observe(observer);
        for address in listeners.addresses() {
            observer(Event::Listening(address));
        }
        Self { listeners, options, observer, life: Life(monitor), place: Mutex::default() }
    }

    /// The bound addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<LocalAddress> {
        self.listeners.addresses()
    }

    /// Fires when it does not listen any more: its addresses can be bound again, while its connections end.
    #[must_use]
    pub fn closed(&self) -> CancellationToken {
        self.listeners.closed()
    }

    /// Asks what the forward is doing, also while it runs and when it is over.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        self.life.0.clone()
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
        let result = event::start(connector, request, 0, (&self.observer, &self.life.0), cancel).await;
        if result.is_err() {
            *self.place() = None;
        }
        result
    }

    /// Ends a session of [`Self::connect`] that will not be used after all.
    pub async fn discard<T: Tunnel>(&self, tunnel: T) {
        let reason = tunnel.close().await;
        self.life.0.session_unused(&tunnel);
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
        let (listeners, running) = self.running(connector, request, Some(tunnel));
        running.until_over(drain, |shared| shared.serve(listeners)).await
    }

    /// The same without a session at first: the first connection starts one, and is held meanwhile as with any other
    /// that has none.
    pub async fn run_lazy<C: Connector>(
        self,
        connector: Arc<C>,
        request: StartRequest,
        drain: CancellationToken,
    ) -> ForwardEnd {
        let (listeners, running) = self.running(connector, request, None);
        running.until_over(drain, |shared| shared.serve(listeners)).await
    }

    fn running<C: Connector>(
        self,
        connector: Arc<C>,
        request: StartRequest,
        tunnel: Option<C::Tunnel>,
    ) -> (Listeners, Running<C>) {
        let Self { listeners, options, observer, life, place } = self;
        let place = place.into_inner().unwrap_or_else(PoisonError::into_inner);
        let first = tunnel.map(|tunnel| (tunnel, place.unwrap_or_else(|| options.accounts.take(&request.target))));
        (listeners, Running { connector, request, first, options, observer, life })
    }
}

/// A forward apart from its listeners.
struct Running<C: Connector> {
    connector: Arc<C>,
    request: StartRequest,
    first: Option<(C::Tunnel, Place)>,
    options: ForwarderOptions,
    observer: Observer,
    life: Life,
}

impl<C: Connector> Running<C> {
    /// Serves what `serve` accepts, which is dropped as soon as nothing more is to be accepted.
    async fn until_over<F: Future<Output = ()>>(
        self,
        drain: CancellationToken,
        serve: impl FnOnce(Arc<Shared<C::Tunnel>>) -> F,
    ) -> ForwardEnd {
        let Self { connector, request, first, options, observer, life: Life(ref monitor) } = self;
        let (abort, stopping) = (CancellationToken::new(), drain.child_token());
        // Should this future be dropped, its connections are too.
        let _dropped = abort.clone().drop_guard();
        let source = Source {
            connector,
            request,
            observer: observer.clone(),
            monitor: monitor.clone(),
            sessions: options.sessions,
            idle_close: options.idle_close,
            accounts: options.accounts,
        };
        let (supply, mut supervisor) = supply(source, first, options.reconnect_window, fastrand::Rng::new());
        let limit = options.max_connections.get() as usize;
        let shared = Arc::new(Shared {
            supply,
            observer,
            monitor: monitor.clone(),
            linger: options.linger,
            connections: Arc::new(Semaphore::new(limit)),
            limit,
            lingering: Arc::new(Lingering::new(stopping.clone())),
            tasks: TaskTracker::new(),
            stopping,
            abort,
        });
        let end = tokio::select! {
            error = supervisor.supply() => ForwardEnd::Failed(error),
            () = drain.cancelled() => ForwardEnd::Stopped,
            () = serve(shared.clone()) => ForwardEnd::Stopped,
        };

        // Connections that linger are hurried, but not cut: the agent acknowledges bytes before the destination has
        // them, and only its FIN tells that it has. One that goes on is cut with its session; one whose session is
        // over already, and that only waits for its local program, is cut as well.
        monitor.set_phase(Phase::Stopping);
        shared.stopping.cancel();
        shared.tasks.close();
        supervisor.stop();
        let mut ends = Vec::new();
        tokio::select! {
            () = shared.drained(options.drain, &options.hurry) => {}
            () = supervisor.watch(&mut ends) => {}
        }
        supervisor.close(&mut ends).await;
        shared.abort.cancel();
        shared.tasks.wait().await;
        ends.into_iter().for_each(|end| (shared.observer)(end));
        end
    }
}

#[cfg(test)]
mod tests;
