//! The forwards that run: each in a task of its own, with its own end. Reloading the configuration adds and removes
//! some while the others go on.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    clouds::Connectors,
    start::{Bound, Harbour, Prepared},
};
use crate::{
    cli::{
        board::Posted,
        exit::Exit,
        plan::{Plan, PlannedForward},
        report::Report,
        reporter::Reporter,
    },
    forward::{Connector, ForwardEnd, ForwardState, Forwarder, LocalAddress, Monitor, Tunnel},
    session::{ConnectError, Mode},
};

/// Forwards that run.
pub(super) struct Fleet {
    harbour: Arc<Harbour>,
    running: Vec<Running>,
    tasks: JoinSet<(u64, Option<Report>)>,
    next_id: u64,
    /// Of those that failed for good, the first in command order.
    failed: Option<(u64, Report)>,
}

/// A forward that runs, or is about to, or could not.
struct Running {
    id: u64,
    /// As planned: what a new plan is compared with.
    asked: PlannedForward,
    shared: Arc<Shared>,
}

/// What the task of a forward and the fleet have in common.
#[derive(Default)]
struct Shared {
    /// Stops it.
    drain: CancellationToken,
    /// What it is doing; missing before it listens.
    listening: OnceLock<(Monitor, CancellationToken)>,
    /// It could not be started: the next reload tries again.
    failed: AtomicBool,
    /// Fires when nothing is left of it.
    over: CancellationToken,
}

impl Shared {
    fn listens(&self, forwarder: &Forwarder) {
        self.listening.get_or_init(|| (forwarder.monitor(), forwarder.closed()));
    }

    fn state(&self) -> ForwardState {
        match self.listening.get() {
            _ if self.failed.load(Ordering::Relaxed) => ForwardState::Stopped,
            Some((monitor, _)) => monitor.state(),
            None => ForwardState::Starting,
        }
    }

    /// For how long it has been lost, if nothing of it is left that may come back by itself.
    fn lost_for(&self) -> Option<Duration> {
        self.listening.get().and_then(|(monitor, _)| monitor.lost_for())
    }

    /// Completes when its address can be bound again.
    async fn gone(&self) {
        // One that does not listen yet will see that it is not wanted.
        match self.listening.get() {
            Some((_, closed)) => closed.cancelled().await,
            None => self.over.cancelled().await,
        }
    }

    /// A forward that was asked for later than the others and could not be had: no reason to end them. It stays to be
    /// seen, until the next reload.
    fn is_missing(&self, report: &Report, forward: &PlannedForward, harbour: &Harbour) -> Posted {
        harbour.reporter.failed(report);
        self.failed.store(true, Ordering::Relaxed);
        harbour.board.post(forward, Monitor::stopped())
    }
}

impl Fleet {
    pub(super) fn new(harbour: Harbour) -> Self {
        Self { harbour: Arc::new(harbour), running: Vec::new(), tasks: JoinSet::new(), next_id: 0, failed: None }
    }

    /// Runs a forward with the session that it begins with, if it does not begin without one.
    pub(super) fn add<C: Connector>(&mut self, prepared: Prepared<C>, tunnel: Option<C::Tunnel>) {
        let (id, shared) = self.enter(prepared.asked);
        let Prepared { forward, bound: Bound { forwarder, posted }, connector, .. } = prepared;
        shared.listens(&forwarder);
        self.tasks.spawn(async move {
            let _here = (shared.over.clone().drop_guard(), posted);
            (id, serve(forwarder, connector, &forward, tunnel, shared.drain.clone()).await)
        });
    }

    /// Becomes what a new plan wants: forwards that are in both go on untouched. Those that are new are started in the
    /// background; one that cannot be started is told, and ends nothing else. The tokens fire when they have been.
    pub(super) async fn reload<S: Connectors>(&mut self, plan: Plan, connectors: &mut S) -> Vec<CancellationToken> {
        let (mut added, mut removed, mut unchanged) = (Vec::new(), Vec::new(), 0);
        for Running { asked, shared, .. } in self.running.iter().filter(|running| running.stays()) {
            let has_failed = shared.failed.load(Ordering::Relaxed);
            if plan.forwards.contains(asked) && !has_failed {
                unchanged += 1;
            } else {
                shared.drain.cancel();
                if !has_failed {
                    removed.push(asked.name().to_owned());
                }
            }
        }
        let mut arriving = Vec::new();
        for asked in plan.forwards {
            if self.running.iter().any(|running| running.stays() && running.asked == asked) {
                continue;
            }
            added.push(asked.name().to_owned());
            // Whoever has its address has to leave it first.
            let collides =
                |running: &&Running| !running.stays() && running.asked.spec.listen.collides_with(&asked.spec.listen);
            let before: Vec<_> = self.running.iter().filter(collides).map(|running| running.shared.clone()).collect();
            let mut forward = asked.clone();
            let connector = connectors.connector(&mut forward).await;
            arriving.push(self.start(asked, forward, connector, before));
        }
        self.harbour.reporter.reloading(&added, &removed, unchanged);
        arriving
    }

    fn start<C: Connector>(
        &mut self,
        asked: PlannedForward,
        forward: PlannedForward,
        connector: Result<Arc<C>, Report>,
        before: Vec<Arc<Shared>>,
    ) -> CancellationToken {
        let (id, shared) = self.enter(asked);
        let harbour = self.harbour.clone();
        let arrived = CancellationToken::new();
        let arrival = arrived.clone().drop_guard();
        self.tasks.spawn(async move {
            let _over = shared.over.clone().drop_guard();
            for other in before {
                other.gone().await;
            }
            if shared.drain.is_cancelled() {
                return (id, None);
            }
            let listening = connector.and_then(|connector| Ok((connector, harbour.bind(&forward)?)));
            let (connector, Bound { forwarder, posted }) = match listening {
                Ok(listening) => listening,
                Err(report) => {
                    let _posted = shared.is_missing(&report, &forward, &harbour);
                    drop(arrival);
                    shared.drain.cancelled().await;
                    return (id, None);
                }
            };
            shared.listens(&forwarder);
            let tunnel = start_late(&forwarder, &*connector, &forward, &shared.drain, &harbour.reporter).await;
            drop(arrival);
            let has_begun = tunnel.is_some() || forward.lazy;
            match serve(forwarder, connector, &forward, tunnel, shared.drain.clone()).await {
                Some(report) if !has_begun => {
                    drop(posted);
                    let _posted = shared.is_missing(&report, &forward, &harbour);
                    shared.drain.cancelled().await;
                    (id, None)
                }
                report => (id, report),
            }
        });
        arrived
    }

    fn enter(&mut self, asked: PlannedForward) -> (u64, Arc<Shared>) {
        let id = self.next_id;
        self.next_id += 1;
        let shared = Arc::<Shared>::default();
        self.running.push(Running { id, asked, shared: shared.clone() });
        (id, shared)
    }

    /// Completes when all that were added serve: whoever asks now is told that they are ready.
    pub(super) async fn serving(&self) {
        // Each does at its first turn.
        while self.running.iter().any(|running| running.shared.state() == ForwardState::Starting) {
            tokio::task::yield_now().await;
        }
    }

    /// What they are doing, in one line: how many are ready, and what the others are.
    pub(super) fn summary(&self) -> String {
        let here = self.running.iter().filter(|running| running.stays());
        let state = |running: &Running| (running.asked.name().to_owned(), running.shared.state());
        let (ready, others): (Vec<_>, Vec<_>) = here.map(state).partition(|(_, state)| state.is_ready());
        let all = ready.len() + others.len();
        let forwards = if all == 1 { "forward" } else { "forwards" };
        let mut summary = format!("{} of {all} {forwards} ready", ready.len());
        for (name, state) in others {
            summary.push_str(&format!("; {name}: {}", state.name()));
        }
        summary
    }

    fn leave(&mut self, id: u64) {
        let Some(at) = self.running.iter().position(|running| running.id == id) else { return };
        let gone = self.running.remove(at);
        let name = gone.asked.name();
        // One that takes its place has its name.
        if !self.running.iter().any(|running| running.asked.name() == name) {
            self.harbour.progress.forget(name);
        }
    }

    /// A forward that has been lost for longer than its reconnect window. One whose agent is silent is not: its session,
    /// and the connections on it, are kept until the stall timeout.
    pub(super) fn gone(&self) -> Option<&PlannedForward> {
        let is_gone = |running: &&Running| {
            running.shared.lost_for().is_some_and(|lost| lost > running.asked.options.reconnect_window)
        };
        self.running.iter().find(is_gone).map(|running| &running.asked)
    }

    /// How long their end may take, because connections may go on for a while.
    pub(super) fn drain_time(&self) -> Duration {
        self.running.iter().map(|running| running.asked.options.drain).max().unwrap_or_default()
    }

    /// When it fires, connections are not left to themselves for long any more.
    pub(super) fn hurrying(&self) -> CancellationToken {
        self.harbour.hurry.clone()
    }

    /// Connections are not left to themselves for long any more.
    pub(super) fn hurry(&self) {
        self.harbour.hurry.cancel();
    }

    /// Completes when a forward fails for good. Pending for ever if none does. Cancel-safe.
    pub(super) async fn failure(&mut self) {
        while let Some(end) = self.tasks.join_next().await {
            self.note(end);
            if self.failed.is_some() {
                return;
            }
        }
        std::future::pending().await
    }

    /// Stops all, and waits until nothing is left of them.
    pub(super) async fn end(&mut self) {
        self.running.iter().for_each(|running| running.shared.drain.cancel());
        while let Some(end) = self.tasks.join_next().await {
            self.note(end);
        }
    }

    /// Why one of them failed for good: of several, the first in command order.
    pub(super) fn report(self) -> Option<Report> {
        self.failed.map(|(_, report)| report)
    }

    fn note(&mut self, end: Result<(u64, Option<Report>), JoinError>) {
        match end {
            Ok((id, report)) => {
                self.leave(id);
                if let Some(report) = report
                    && self.failed.as_ref().is_none_or(|(first, _)| id < *first)
                {
                    self.failed = Some((id, report));
                }
            }
            // A panic: its message is on stderr already.
            Err(error) => {
                tracing::error!(%error, "a forward failed");
                let report = || Report::new(Exit::Failure, "a forward failed: this is a bug in ssmfwd");
                self.failed.get_or_insert_with(|| (u64::MAX, report()));
            }
        }
    }
}

impl Running {
    /// Whether it has not been asked to stop.
    fn stays(&self) -> bool {
        !self.shared.drain.is_cancelled()
    }
}

/// Starts the session of a forward that was added later. Without one it begins like a lazy one: a connection that needs
/// a session tries again.
async fn start_late<C: Connector>(
    forwarder: &Forwarder,
    connector: &C,
    forward: &PlannedForward,
    drain: &CancellationToken,
    reporter: &Reporter,
) -> Option<C::Tunnel> {
    if forward.lazy {
        reporter.sleeps(forward, &forwarder.addresses());
        return None;
    }
    match forwarder.connect(connector, forward.request.clone(), drain.clone()).await {
        Ok(tunnel) => {
            tell_opened(forward, &forwarder.addresses(), &tunnel, reporter);
            Some(tunnel)
        }
        Err(ConnectError::Cancelled) => None,
        Err(error) => {
            reporter.failed(&Report::connect(&error, forward, &forward.access));
            reporter.sleeps(forward, &forwarder.addresses());
            None
        }
    }
}

/// Says what leads where.
pub(super) fn tell_opened<T: Tunnel>(
    forward: &PlannedForward,
    addresses: &[LocalAddress],
    tunnel: &T,
    reporter: &Reporter,
) {
    reporter.opened(forward, addresses, tunnel.id());
    if tunnel.mode() == Mode::Basic {
        reporter.carries_one(forward);
    }
}

/// Serves until the end. The failure is missing if it was asked to stop.
async fn serve<C: Connector>(
    forwarder: Forwarder,
    connector: Arc<C>,
    forward: &PlannedForward,
    tunnel: Option<C::Tunnel>,
    drain: CancellationToken,
) -> Option<Report> {
    let request = forward.request.clone();
    let end = match tunnel {
        Some(tunnel) => forwarder.run(connector, request, tunnel, drain).await,
        None => forwarder.run_lazy(connector, request, drain).await,
    };
    match end {
        ForwardEnd::Stopped => None,
        ForwardEnd::Failed(error) => Some(Report::not_replaced(&error, forward, &forward.access)),
    }
}
