//! From a plan to forwards that can carry data. All of them, or none: before ready, every failure ends everything.

use std::{
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{
    clouds::{Clouds, Connectors},
    finish,
    over::Over,
};
use crate::{
    cli::{
        board::{Board, Posted},
        exit::Exit,
        live::Progress,
        plan::{Plan, PlannedForward},
        report::{Report, Symptom},
        reporter::Reporter,
        signals::Signals,
        supervision::Activation,
        targets::is_node_id,
    },
    forward::{AdoptedListener, Connector, Forwarder, ForwarderOptions, Listen, SessionAccounts},
    session::ConnectError,
};

/// How long it may take to find out more about a failure.
const EXPLANATION: Duration = Duration::from_secs(5);

/// A forward that listens, and what makes its sessions.
pub(super) struct Prepared<C> {
    /// As planned.
    pub(super) asked: PlannedForward,
    /// As planned, and completed by what the AWS configuration says.
    pub(super) forward: PlannedForward,
    pub(super) bound: Bound,
    pub(super) connector: Arc<C>,
}

/// A forward that listens, and is seen to.
pub(super) struct Bound {
    pub(super) forwarder: Forwarder,
    pub(super) posted: Posted,
}

/// What all forwards have in common.
pub(super) struct Harbour {
    pub(super) accounts: SessionAccounts,
    pub(super) board: Arc<Board>,
    /// What forwards are waiting for.
    pub(super) progress: Arc<Progress>,
    pub(super) reporter: Arc<Reporter>,
    /// Fires when somebody waits for the end.
    pub(super) hurry: CancellationToken,
    /// Sockets that listen already: a forward that comes back after a reload finds them here, because whoever has passed
    /// them still has their addresses.
    pub(super) passed: Mutex<Vec<(Listen, Vec<AdoptedListener>)>>,
}

impl Harbour {
    /// Binds every forward, before anything else: a busy port must not cost a session.
    pub(super) fn bind_all(&self, plan: &Plan, passed: Activation) -> Result<Vec<Bound>, Report> {
        let passed = passed.assign(&plan.forwards)?;
        let listens = plan.forwards.iter().map(|forward| forward.spec.listen.clone());
        *self.passed() = listens.zip(passed).filter(|(_, sockets)| !sockets.is_empty()).collect();
        plan.forwards.iter().map(|forward| self.bind(forward)).collect()
    }

    fn passed(&self) -> MutexGuard<'_, Vec<(Listen, Vec<AdoptedListener>)>> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sockets that were passed for an address, if any were.
    fn passed_for(&self, listen: &Listen) -> io::Result<Vec<AdoptedListener>> {
        let passed = self.passed();
        let sockets = passed.iter().find(|(other, _)| other == listen).map(|(_, sockets)| sockets);
        sockets.into_iter().flatten().map(AdoptedListener::try_clone).collect()
    }

    /// Binds one forward, unless it has been given sockets that listen already.
    pub(super) fn bind(&self, forward: &PlannedForward) -> Result<Bound, Report> {
        let passed = self.passed_for(&forward.spec.listen).map_err(|error| {
            Report::new(Exit::Bind, "the sockets that were passed cannot be used").caused_by(&error)
        })?;
        let (accounts, hurry) = (self.accounts.clone(), self.hurry.clone());
        let options = ForwarderOptions { accounts, hurry, ..forward.options.clone() };
        let (told, progress, name) = (self.reporter.of(forward), self.progress.clone(), forward.name().to_owned());
        let observer = Arc::new(move |event| {
            progress.note(&name, &event);
            told.tell(&event);
        });
        let bound = match passed {
            none if none.is_empty() => Forwarder::bind(&forward.spec, options, observer),
            passed => Forwarder::adopt(passed, options, observer),
        };
        let forwarder = bound.map_err(|error| Report::bind(&error))?;
        let posted = self.board.post(forward, forwarder.monitor());
        Ok(Bound { forwarder, posted })
    }
}

/// Finds a connector for every forward.
pub(super) async fn prepare<S: Connectors>(
    plan: &Plan,
    bound: Vec<Bound>,
    connectors: &mut S,
) -> Result<Vec<Prepared<S::Connector>>, Report> {
    let mut found = Vec::with_capacity(bound.len());
    for asked in &plan.forwards {
        let mut forward = asked.clone();
        let connector = connectors.connector(&mut forward).await?;
        found.push((asked.clone(), forward, connector));
    }
    let prepared = |((asked, forward, connector), bound)| Prepared { asked, forward, bound, connector };
    Ok(found.into_iter().zip(bound).map(prepared).collect())
}

/// Starts all sessions at once; a forward that is lazy has none.
pub(super) async fn connect_all<C: Connector>(
    prepared: &[Prepared<C>],
    signals: &mut Signals,
    reporter: &Reporter,
) -> Result<Vec<Option<C::Tunnel>>, Over> {
    let cancel = CancellationToken::new();
    let mut connecting = pin!(join_all(prepared.iter().map(|prepared| connect(prepared, &cancel))));
    let (connected, signal) = tokio::select! {
        connected = &mut connecting => (Some(connected), None),
        signal = signals.next() => {
            reporter.stopping(signal);
            cancel.cancel();
            (finish(connecting, signals, reporter).await, Some(signal))
        }
    };

    let mut tunnels = Vec::with_capacity(prepared.len());
    let mut failure = None;
    for (Prepared { forward, bound, .. }, connected) in prepared.iter().zip(connected.unwrap_or_default()) {
        match connected {
            Ok(tunnel) => tunnels.push((&bound.forwarder, tunnel)),
            // Another one failed, or a signal came.
            Err(ConnectError::Cancelled) => {}
            Err(error) => failure = failure.or_else(|| Some(Report::connect(&error, forward, &forward.access))),
        }
    }
    let over = match (signal, failure) {
        (Some(signal), _) => Over::Signal(signal),
        (None, Some(report)) => Over::Failed(report),
        (None, None) if tunnels.len() == prepared.len() => {
            return Ok(tunnels.into_iter().map(|(_, tunnel)| tunnel).collect());
        }
        (None, None) => Over::Failed(Report::new(Exit::Failure, "cancelled")),
    };
    let discarding = tunnels.into_iter().filter_map(|(forwarder, tunnel)| Some(forwarder.discard(tunnel?)));
    finish(join_all(discarding), signals, reporter).await;
    Err(over)
}

/// Starts one session. Its failure cancels the others.
async fn connect<C: Connector>(
    Prepared { forward, bound, connector, .. }: &Prepared<C>,
    cancel: &CancellationToken,
) -> Result<Option<C::Tunnel>, ConnectError> {
    if forward.lazy {
        return Ok(None);
    }
    let connected = bound.forwarder.connect(&**connector, forward.request.clone(), cancel.clone()).await;
    if connected.is_err() {
        cancel.cancel();
    }
    connected.map(Some)
}

/// A failure, with what can be found out about it afterwards: why a target is not connected.
pub(in crate::cli) async fn explained<'a>(
    report: Report,
    clouds: &Clouds,
    mut forwards: impl Iterator<Item = &'a PlannedForward>,
) -> Report {
    let Some(about) = report.about.clone().filter(|_| report.symptom == Some(Symptom::TargetNotConnected)) else {
        return report;
    };
    let forward = forwards.find(|forward| forward.name() == about.forward);
    // Only nodes are registered; nothing else is known of a container than that it is not there.
    let target = about.target.as_deref().filter(|target| is_node_id(target));
    let (Some(forward), Some(target)) = (forward, target) else { return report };
    let Some(aws) = clouds.aws(forward) else { return report };
    match time::timeout(EXPLANATION, aws.describe(target)).await {
        Ok(Ok(node)) => report.knowing(node, forward, &forward.access),
        // Denied, most often: then it stays at what is known.
        Ok(Err(error)) => {
            tracing::debug!(%error, "nothing more is known of the target");
            report
        }
        Err(_) => report,
    }
}
