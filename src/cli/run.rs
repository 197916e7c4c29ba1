//! The run of the program: bind, connect, serve, end. Every way out ends the SSM sessions.
//!
//! ```text
//! plan ─▶ bind all ─▶ AWS ─▶ connect all ─▶ ready ─▶ serve ─▶ drain ─▶ exit status
//!          │           │      │  a failure or a signal: cancel the others, wait until they are ended
//!          3         2, 4     1, 4, 5, 6, 7              the signal, or 5, 6
//! ```
//!
//! A session that is lost while serving is the forward's business: it ends the program only when no other one can be
//! started in its place.

use std::{pin::pin, process::ExitCode, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    task::{JoinError, JoinSet},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    args::{Args, Command},
    console::Console,
    doctor,
    events::By,
    exit::Exit,
    logging,
    login::{self, Offered},
    ls, picker,
    plan::{self, Access, Plan, PlannedForward},
    prompt::{TerminalPrompt, somebody_is_there},
    report::{Report, Symptom},
    reporter::Reporter,
    signals::{Signal, Signals},
    targets,
};
use crate::{
    aws::{Aws, AwsOptions, SharedMfaPrompt},
    forward::{Connector, ForwardEnd, Forwarder, SessionConnector, Tunnel},
    session::{ConnectError, ControlError, Dialer, Mode, SessionOptions, watch_for_wake},
};

/// How long it may take to find out more about a failure.
const EXPLANATION: Duration = Duration::from_secs(5);

/// Why a run is over.
enum Over {
    /// A command has done its work.
    Done,
    Signal(Signal),
    Failed(Report),
}

impl Over {
    fn exit(&self) -> (Exit, By) {
        match self {
            Self::Done => (Exit::Success, By::Ssmfwd),
            Self::Signal(signal) => (signal.exit(), By::Signal),
            Self::Failed(report) => (report.exit, By::Ssmfwd),
        }
    }
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::read(std::env::args_os(), |name| std::env::var_os(name)) {
        Ok(args) => args,
        Err(error) => {
            // Help and version on stdout, mistakes on stderr. Nobody there to read it is not worth a failure.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    logging::init(&args.say);
    // One thread: a tunnel passes bytes on from one task to the next, and each hand-over to another thread costs more than
    // what it does. It hashes and masks some 400 MB/s (benches/README.md).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Ok(console), Ok(runtime)) = (Console::new(), runtime) else {
        tracing::error!("cannot start threads");
        return Exit::Failure.into();
    };
    let reporter = Arc::new(Reporter::new(console, args.say.output, args.say.quiet));
    let over = match &args.command {
        Some(command) => runtime.block_on(run_command(command, &args, &reporter)),
        None => runtime.block_on(forward(&args, &reporter)),
    };
    // What still runs, a name lookup for instance, is not waited for.
    runtime.shutdown_background();
    if let Over::Failed(report) = &over {
        reporter.failed(report);
    }
    let (exit, by) = over.exit();
    match args.command {
        // What a command writes to stdout is its own.
        Some(_) => reporter.flush(),
        None => reporter.stopped(exit, by),
    }
    exit.into()
}

/// Forwards, as the arguments say. Who has named no target is asked for one, if there is somebody to ask.
async fn forward(args: &Args, reporter: &Arc<Reporter>) -> Over {
    let plan = match Plan::new(args) {
        Ok(plan) => plan,
        Err(_) if somebody_is_there() && plan::lacks_only_a_target(args) => {
            return ask_and_forward(args, reporter).await;
        }
        Err(report) => return Over::Failed(report),
    };
    run(plan, None, reporter).await
}

async fn ask_and_forward(args: &Args, reporter: &Arc<Reporter>) -> Over {
    let (aws, target) = match ask(args, reporter).await {
        Ok(asked) => asked,
        Err(over) => return over,
    };
    let mut args = args.clone();
    args.session.target = Some(target);
    match Plan::new(&args) {
        Ok(plan) => run(plan, Some(aws), reporter).await,
        Err(report) => Over::Failed(report),
    }
}

/// Asks for a target. The nodes to choose from take credentials, and so perhaps a login.
async fn ask(args: &Args, reporter: &Arc<Reporter>) -> Result<((Aws, Access), String), Over> {
    let mut signals = Signals::install()
        .map_err(|error| Over::Failed(Report::new(Exit::Failure, "cannot handle signals").caused_by(&error)))?;
    let mut may_log_in = true;
    loop {
        let mut access = Access::of(&args.access).map_err(Over::Failed)?;
        let asking = async {
            let aws = load(&mut access, args.session.connect_timeout).await?;
            let target = picker::ask(&aws, &access, reporter).await?;
            Ok::<_, Report>((aws, target))
        };
        let asked = tokio::select! {
            asked = asking => asked,
            signal = signals.next() => return Err(Over::Signal(signal)),
        };
        match asked {
            Ok((aws, Some(target))) => return Ok(((aws, access), target)),
            Ok((_, None)) => return Err(Over::Signal(Signal::Interrupt)),
            Err(report) => log_in(report, &access, &mut may_log_in, &mut signals, reporter).await?,
        }
    }
}

/// Offers once the login that a failure calls for. `Ok`: what failed can be tried again, from the start.
async fn log_in(
    report: Report,
    access: &Access,
    may_log_in: &mut bool,
    signals: &mut Signals,
    reporter: &Reporter,
) -> Result<(), Over> {
    if !std::mem::take(may_log_in) {
        return Err(Over::Failed(report));
    }
    match login::offer(&report, access, signals, reporter).await {
        Offered::LoggedIn => Ok(()),
        Offered::No => Err(Over::Failed(report)),
        Offered::Failed(report) => Err(Over::Failed(report)),
        Offered::Signal(signal) => Err(Over::Signal(signal)),
    }
}

/// A command that does one thing and ends. A signal ends it at once.
async fn run_command(command: &Command, args: &Args, reporter: &Arc<Reporter>) -> Over {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return Over::Failed(Report::new(Exit::Failure, "cannot handle signals").caused_by(&error)),
    };
    let stop = CancellationToken::new();
    let mut work = pin!(async {
        match command {
            Command::Login(login) => login::run(login, args, reporter).await,
            Command::Ls(ls) => ls::run(ls, args, reporter).await,
            Command::Doctor(doctor) => doctor::run(doctor, args, reporter, &stop).await,
        }
    });
    tokio::select! {
        done = &mut work => done.map_or_else(Over::Failed, |()| Over::Done),
        signal = signals.next() => {
            if matches!(command, Command::Doctor(_)) {
                stop.cancel();
                finish(work, &mut signals, reporter).await;
            }
            Over::Signal(signal)
        }
    }
}

/// The AWS API with the credentials and the region that the user chose.
pub(super) async fn control_plane(access: &Access) -> Result<Aws, ControlError> {
    let mut options = AwsOptions::default();
    options.profile.clone_from(&access.profile);
    options.region.clone_from(&access.region);
    options.endpoint_url.clone_from(&access.endpoint_url);
    options.mfa = Some(SharedMfaPrompt::new(TerminalPrompt::new(access.mfa_code.clone())));
    options.ssmmessages_endpoint.clone_from(&access.ssmmessages_endpoint);
    options.use_fips = access.use_fips;
    options.use_dual_stack = access.use_dual_stack;
    Aws::load(options).await
}

/// The same, and the choice of credentials completed with what the AWS configuration says: hints need it.
pub(super) async fn configured(access: &mut Access) -> Result<Aws, ControlError> {
    access.look_at_environment();
    let control = control_plane(access).await?;
    access.region = Some(control.region().to_owned());
    access.profile = control.profile().map(str::to_owned);
    access.uses_mfa = control.uses_mfa();
    Ok(control)
}

/// The same within a time, and whoever has to give a code has been asked for it.
pub(super) async fn load(access: &mut Access, limit: Duration) -> Result<Aws, Report> {
    let control = match time::timeout(limit, configured(access)).await {
        Ok(Ok(control)) => control,
        Ok(Err(error)) => return Err(Report::configuration(&error, access)),
        Err(_) => return Err(late_configuration()),
    };
    // Before the time to connect begins to run.
    control.ask_for_code().await;
    Ok(control)
}

pub(super) fn late_configuration() -> Report {
    Report::new(Exit::Failure, "the AWS configuration could not be read in time")
}

/// Runs the plan, with the AWS API if that has been loaded already.
async fn run(mut plan: Plan, mut aws: Option<(Aws, Access)>, reporter: &Arc<Reporter>) -> Over {
    let mut started = Instant::now();
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return Over::Failed(Report::new(Exit::Failure, "cannot handle signals").caused_by(&error)),
    };
    // Before anything else: a busy port must not cost a session.
    let forwarders = match bind_all(&plan, reporter) {
        Ok(forwarders) => forwarders,
        Err(report) => return Over::Failed(report),
    };
    let asked_for = plan.access.clone();
    let mut may_log_in = true;
    loop {
        // Without what was found out the first time.
        plan.access.clone_from(&asked_for);
        let connector = tokio::select! {
            connector = connector(&mut plan, aws.take(), reporter) => connector,
            signal = signals.next() => {
                reporter.stopping(signal);
                return Over::Signal(signal);
            }
        };
        let (connector, control) = match connector {
            Ok((connector, control)) => (Arc::new(connector), control),
            Err(report) => return Over::Failed(report),
        };
        reporter.uses(&plan.access);
        let _identity = tell_identity(Arc::clone(&control), &plan.access, reporter);
        let report = match connect_all(&plan, &forwarders, &*connector, &mut signals, reporter).await {
            Ok(tunnels) => return stay(&plan, forwarders, tunnels, connector, &mut signals, reporter, started).await,
            Err(Over::Failed(report)) => report,
            Err(over) => return over,
        };
        let report = tokio::select! {
            explained = explained(report.clone(), &control, &plan) => explained,
            // It has failed before the signal came.
            _ = signals.next() => return Over::Failed(report),
        };
        if let Err(over) = log_in(report, &plan.access, &mut may_log_in, &mut signals, reporter).await {
            return over;
        }
        // From the start: what was loaded is from before. The time that somebody took is not ours.
        started = Instant::now();
    }
}

/// A failure, with what can be found out about it afterwards: why a target is not connected.
async fn explained(report: Report, aws: &Aws, plan: &Plan) -> Report {
    let Some(about) = report.about.clone().filter(|_| report.symptom == Some(Symptom::TargetNotConnected)) else {
        return report;
    };
    let forward = plan.forwards.iter().find(|forward| forward.name() == about.forward);
    // Only nodes are registered; nothing else is known of a container than that it is not there.
    let target = about.target.as_deref().filter(|target| target.starts_with("i-") || target.starts_with("mi-"));
    let (Some(forward), Some(target)) = (forward, target) else { return report };
    match time::timeout(EXPLANATION, aws.describe(target)).await {
        Ok(Ok(node)) => report.knowing(node, forward, &plan.access),
        // Denied, most often: then it stays at what is known.
        Ok(Err(error)) => {
            tracing::debug!(%error, "nothing more is known of the target");
            report
        }
        Err(_) => report,
    }
}

fn bind_all(plan: &Plan, reporter: &Arc<Reporter>) -> Result<Vec<Forwarder>, Report> {
    let bind = |forward: &PlannedForward| {
        let reporter = reporter.of(forward);
        let observer = Arc::new(move |event| reporter.tell(&event));
        Forwarder::bind(&forward.spec, plan.options.clone(), observer).map_err(|error| Report::bind(&error))
    };
    plan.forwards.iter().map(bind).collect()
}

/// What starts the sessions, and the AWS API for other questions. Completes the plan with what the AWS configuration
/// says.
async fn connector(
    plan: &mut Plan,
    aws: Option<(Aws, Access)>,
    reporter: &Arc<Reporter>,
) -> Result<(SessionConnector, Arc<Aws>), Report> {
    let control = match aws {
        Some((control, access)) => {
            plan.access = access;
            control
        }
        None => load(&mut plan.access, plan.connect_timeout).await?,
    };
    let control = Arc::new(control);
    targets::tell(&control, plan, reporter);
    control.outbound().ready().await.map_err(|error| {
        Report::new(Exit::Failure, "cannot load the trusted roots of this machine").caused_by(&error)
    })?;
    let dialer = Dialer::over(Arc::clone(control.outbound()));
    let options = SessionOptions { wake: Some(watch_for_wake()), ..plan.session_options() };
    Ok((SessionConnector::new(control.clone(), Arc::new(dialer), options), control))
}

/// Says who we are as soon as it is known, beside everything else and until the end of the run; says nothing if it
/// cannot be known.
fn tell_identity(control: Arc<Aws>, access: &Access, reporter: &Arc<Reporter>) -> Option<AbortOnDropHandle<()>> {
    if !reporter.wants_identity() {
        return None;
    }
    let (access, reporter) = (access.clone(), Arc::clone(reporter));
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        match control.identity().await {
            Ok(identity) => reporter.identity(&identity, &access),
            // No permission is needed for it, but a way to STS is.
            Err(error) => tracing::debug!(%error, "who we are is not known"),
        }
    })))
}

/// Says that all are ready, and stays until the end.
async fn stay<C: Connector>(
    plan: &Plan,
    forwarders: Vec<Forwarder>,
    tunnels: Vec<C::Tunnel>,
    connector: Arc<C>,
    signals: &mut Signals,
    reporter: &Arc<Reporter>,
    started: Instant,
) -> Over {
    let mut ready = Vec::with_capacity(forwarders.len());
    for ((forward, forwarder), tunnel) in plan.forwards.iter().zip(&forwarders).zip(&tunnels) {
        reporter.opened(forward, &forwarder.addresses(), tunnel.id());
        if tunnel.mode() == Mode::Basic {
            reporter.carries_one(forward);
        }
        ready.push((forward, forwarder.addresses()));
    }
    reporter.ready(&ready, started.elapsed());
    serve_all(plan, forwarders.into_iter().zip(tunnels), &connector, signals, reporter).await
}

/// Starts all sessions at once. All of them, or none: before ready, every failure ends everything.
async fn connect_all<C: Connector>(
    plan: &Plan,
    forwarders: &[Forwarder],
    connector: &C,
    signals: &mut Signals,
    reporter: &Reporter,
) -> Result<Vec<C::Tunnel>, Over> {
    let cancel = CancellationToken::new();
    let each = plan.forwards.iter().zip(forwarders);
    let mut connecting = pin!(join_all(each.map(|each| connect(each, connector, &cancel))));
    let (connected, signal) = tokio::select! {
        connected = &mut connecting => (Some(connected), None),
        signal = signals.next() => {
            reporter.stopping(signal);
            cancel.cancel();
            (finish(connecting, signals, reporter).await, Some(signal))
        }
    };

    let mut tunnels = Vec::with_capacity(forwarders.len());
    let mut failure = None;
    for ((forward, forwarder), connected) in plan.forwards.iter().zip(forwarders).zip(connected.unwrap_or_default()) {
        match connected {
            Ok(tunnel) => tunnels.push((forwarder, tunnel)),
            // Another one failed, or a signal came.
            Err(ConnectError::Cancelled) => {}
            Err(error) => failure = failure.or_else(|| Some(Report::connect(&error, forward, &plan.access))),
        }
    }
    let over = match (signal, failure) {
        (Some(signal), _) => Over::Signal(signal),
        (None, Some(report)) => Over::Failed(report),
        (None, None) if tunnels.len() == forwarders.len() => {
            return Ok(tunnels.into_iter().map(|(_, tunnel)| tunnel).collect());
        }
        (None, None) => Over::Failed(Report::new(Exit::Failure, "cancelled")),
    };
    let discarding = tunnels.into_iter().map(|(forwarder, tunnel)| forwarder.discard(tunnel));
    finish(join_all(discarding), signals, reporter).await;
    Err(over)
}

/// Brings to its end what ends sessions, unless somebody is in a hurry.
async fn finish<F: Future>(work: F, signals: &mut Signals, reporter: &Reporter) -> Option<F::Output> {
    let output = signals.unless_interrupted(work).await;
    if output.is_none() {
        reporter.leaving();
    }
    output
}

/// Starts one session. Its failure cancels the others.
async fn connect<C: Connector>(
    (forward, forwarder): (&PlannedForward, &Forwarder),
    connector: &C,
    cancel: &CancellationToken,
) -> Result<C::Tunnel, ConnectError> {
    let connected = forwarder.connect(connector, forward.request.clone(), cancel.clone()).await;
    if connected.is_err() {
        cancel.cancel();
    }
    connected
}

/// Serves until a signal comes or a forward fails for good, then ends everything.
async fn serve_all<C: Connector>(
    plan: &Plan,
    forwards: impl Iterator<Item = (Forwarder, C::Tunnel)>,
    connector: &Arc<C>,
    signals: &mut Signals,
    reporter: &Reporter,
) -> Over {
    let drain = CancellationToken::new();
    let mut running = JoinSet::new();
    for (index, ((forwarder, tunnel), forward)) in forwards.zip(&plan.forwards).enumerate() {
        let (connector, request, drain) = (connector.clone(), forward.request.clone(), drain.clone());
        running.spawn(async move { (index, forwarder.run(connector, request, tunnel, drain).await) });
    }
    let mut ends = Ends::default();
    let signal = tokio::select! {
        Some(end) = running.join_next() => {
            ends.note(end);
            None
        }
        signal = signals.next() => {
            reporter.stopping(signal);
            Some(signal)
        }
    };
    drain.cancel();
    let all_ended = async {
        while let Some(end) = running.join_next().await {
            ends.note(end);
        }
    };
    finish(all_ended, signals, reporter).await;
    match (signal, ends.first) {
        (Some(signal), _) => Over::Signal(signal),
        (None, Some((index, error))) => Over::Failed(Report::not_replaced(&error, &plan.forwards[index], &plan.access)),
        (None, None) => Over::Failed(Report::new(Exit::Failure, "a forward failed: this is a bug in ssmfwd")),
    }
}

/// Forwards that failed for good: the first in command order decides.
#[derive(Default)]
struct Ends {
    first: Option<(usize, ConnectError)>,
}

impl Ends {
    fn note(&mut self, end: Result<(usize, ForwardEnd), JoinError>) {
        match end {
            Ok((_, ForwardEnd::Stopped)) => {}
            Ok((index, _)) if self.first.as_ref().is_some_and(|(first, _)| *first < index) => {}
            Ok((index, ForwardEnd::Failed(error))) => self.first = Some((index, error)),
            // A panic: its message is on stderr already.
            Err(error) => tracing::error!(%error, "a forward failed"),
        }
    }
}

#[cfg(test)]
mod tests;
