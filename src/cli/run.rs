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

mod asking;
mod clouds;
mod fleet;
mod over;
mod process;
mod serving;
mod start;

use std::{pin::pin, process::ExitCode, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) use self::{
    asking::{LoginOffer, planned},
    clouds::{Clouds, Connectors, Loaded, configured, late_configuration, load},
    over::Over,
    start::explained,
};
use self::{
    fleet::Fleet,
    process::Process,
    serving::{Ready, Replan, Serving},
    start::{Bound, Harbour, Prepared, connect_all, prepare},
};
use super::{
    args::{Args, Command},
    board::Board,
    completions,
    config::{Config, load_plan},
    console::Console,
    doctor,
    exit::Exit,
    live::{self, LiveView},
    logging, login, ls, manual,
    own_variables::OwnVariables,
    plan::{Access, Plan},
    plugin,
    report::Report,
    reporter::Reporter,
    shell,
    signals::Signals,
    stdio,
    sys::{self, Inherited},
};
use crate::forward::{SessionConnector, stdio::Stdin};

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    if plugin::is_called_for(std::env::args_os().next().as_ref()) {
        return plugin::main(std::env::args_os());
    }
    // Before there are any handlers.
    let inherited = Inherited::note();
    // And before there are any threads.
    let variables = OwnVariables::take();
    let typed = match Args::read(std::env::args_os(), |name| variables.get(name).or_else(|| std::env::var_os(name))) {
        Ok(args) => args,
        Err(error) => {
            // Help and version on stdout, mistakes on stderr. Nobody there to read it is not worth a failure.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let (args, config) = match &typed.command {
        // What they print is the same anywhere.
        Some(Command::Completions(_) | Command::Man) => (typed.clone(), Ok(Config::default())),
        _ => Config::complete(typed.clone()),
    };
    let stdin = match args.command {
        Some(Command::Stdio(_) | Command::Shell(_)) => sys::own_stdin(),
        _ => Stdin::default(),
    };
    logging::init(&args.say);
    // One thread: a tunnel passes bytes on from one task to the next, and each hand-over to another thread costs more than
    // what it does. It hashes and masks some 400 MB/s (benches/README.md).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Ok(console), Ok(runtime)) = (Console::new(), runtime) else {
        tracing::error!("cannot start threads");
        return Exit::Failure.into();
    };
    let mut reporter = Reporter::new(console, args.say.output, args.say.quiet);
    let is_stdio = matches!(args.command, Some(Command::Stdio(_)));
    if !args.forward.exec.is_empty() || matches!(args.command, Some(Command::Stdio(_) | Command::Shell(_))) {
        reporter = reporter.leaving_stdout();
    }
    if is_stdio && args.say.verbose == 0 {
        // OpenSSH shows it to whoever logs in.
        reporter = reporter.saying_little();
    }
    let reporter = Arc::new(reporter);
    config.iter().for_each(|config| config.tell(&args, &reporter));
    let over = match (config, &args.command) {
        (Err(report), _) => Over::Failed(report),
        (Ok(config), None | Some(Command::Up(_))) => {
            let call = Call { typed, args: args.clone(), inherited, variables };
            runtime.block_on(forward(call, &config, &reporter))
        }
        (Ok(_), Some(Command::Shell(shell))) => runtime.block_on(shell::run(shell, args.clone(), &stdin, &reporter)),
        (Ok(config), Some(command)) => runtime.block_on(run_command(command, &args, &stdin, &config, &reporter)),
    };
    // What still runs, a name lookup for instance, is not waited for.
    runtime.shutdown_background();
    if let Over::Failed(report) = &over {
        reporter.failed(report);
    }
    let (status, by) = over.status();
    match args.command {
        None | Some(Command::Up(_) | Command::Shell(_) | Command::Stdio(_)) => reporter.stopped(status, by),
        // What a command writes to stdout is its own.
        Some(_) => reporter.flush(),
    }
    ExitCode::from(status)
}

/// How the program was called.
struct Call {
    typed: Args,
    /// Completed by the configuration file.
    args: Args,
    /// What whoever called it has made of its signals.
    inherited: Inherited,
    /// What was meant for us alone.
    variables: OwnVariables,
}

/// Forwards, as the arguments say. Who has named no target is asked for one, if there is somebody to ask.
async fn forward(mut call: Call, config: &Config, reporter: &Arc<Reporter>) -> Over {
    // Before anything is started that could inherit it.
    let process = match Process::take(&call.args, call.inherited.clone(), &call.variables) {
        Ok(process) => process,
        Err(report) => return Over::Failed(report),
    };
    let notifier = process.notifier();
    let work = async {
        let mut signals = match Signals::install() {
            Ok(signals) => signals,
            Err(error) => return Over::Failed(Report::new(Exit::Failure, "cannot handle signals").caused_by(&error)),
        };
        let plan = |args: &Args| config.plan(args);
        let planned = planned(&mut call.args, plan, |plan| &plan.forwards, &mut signals, reporter);
        let (plan, asked) = match planned.await {
            Ok(planned) => planned,
            Err(over) => return over,
        };
        let loaded = asked.map(|asked| {
            // Whenever the file is read again, too.
            call.typed.choose_target(asked.target);
            asked.loaded
        });
        let has_view = !process.has_command() && live::is_wanted(&call.args.say);
        let replan = || load_plan(&call.typed);
        run(Errand { plan, replan: &replan, loaded, process, has_view }, &mut signals, reporter).await
    };
    let over = notifier.watched(work).await;
    if let Over::Failed(report) = &over {
        // A supervisor that shows it shows what failed.
        notifier.stopping(&report.error, Duration::ZERO);
    }
    over
}

/// A command that does one thing and ends. A signal ends it at once.
async fn run_command(command: &Command, args: &Args, stdin: &Stdin, config: &Config, reporter: &Arc<Reporter>) -> Over {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return Over::Failed(Report::new(Exit::Failure, "cannot handle signals").caused_by(&error)),
    };
    let stop = CancellationToken::new();
    let mut work = pin!(async {
        match command {
            Command::Login(login) => login::run(login, args, reporter).await,
            Command::Stdio(stdio) => stdio::run(stdio, args, stdin, reporter, &stop).await,
            Command::Ls(ls) => ls::run(ls, args, reporter).await,
            Command::Doctor(doctor) => doctor::run(doctor, args, reporter, &stop).await,
            Command::Completions(completions) => {
                completions::run(completions, reporter).await;
                Ok(())
            }
            Command::Man => {
                manual::run(reporter).await;
                Ok(())
            }
            Command::CheckConfig => config.check(args, reporter),
            // They have runs of their own.
            Command::Up(_) | Command::Shell(_) => Ok(()),
        }
    });
    tokio::select! {
        done = &mut work => done.map_or_else(Over::Failed, |()| Over::Done),
        signal = signals.next() => {
            if matches!(command, Command::Doctor(_) | Command::Stdio(_)) {
                stop.cancel();
                finish(work, &mut signals, reporter).await;
            }
            Over::Signal(signal)
        }
    }
}

/// What is to be done, and with what.
struct Errand<'a> {
    plan: Plan,
    replan: Replan<'a>,
    /// An AWS API that is there already.
    loaded: Option<Loaded>,
    process: Process,
    /// People see all forwards at the bottom of their terminal.
    has_view: bool,
}

/// Runs the plan.
async fn run(errand: Errand<'_>, signals: &mut Signals, reporter: &Arc<Reporter>) -> Over {
    let Errand { plan, replan, mut loaded, mut process, has_view } = errand;
    let mut started = Instant::now();
    let board = Arc::<Board>::default();
    signals.show_state({
        let (board, reporter) = (board.clone(), reporter.clone());
        move || reporter.state(&board.snapshot())
    });
    if !process.has_command() {
        signals.serve();
    }
    let (accounts, progress, hurry, passed) = Default::default();
    let harbour = Harbour { accounts, board, progress, reporter: reporter.clone(), hurry, passed };
    let binding = take_places(&plan, &mut process, &harbour);
    let bound = tokio::select! {
        bound = binding => bound,
        signal = signals.next() => return Over::Signal(signal),
    };
    let mut bound = match bound {
        Ok(bound) => bound,
        Err(report) => return Over::Failed(report),
    };
    let mut login = LoginOffer::default();
    loop {
        process.starting(&plan);
        // Without what was found out the first time.
        let mut clouds = Clouds::new(reporter);
        let preparing = prepare_all(&plan, bound, loaded.take(), &mut clouds);
        let prepared = tokio::select! {
            prepared = preparing => prepared,
            signal = signals.next() => {
                reporter.stopping(signal);
                return Over::Signal(signal);
            }
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(report) => return Over::Failed(report),
        };
        // Nobody has to be asked for anything from here on.
        let view = has_view.then(|| reporter.view(LiveView::new(harbour.board.clone(), harbour.progress.clone())));
        let report = match connect_all(&prepared, signals, reporter).await {
            Ok(tunnels) => {
                let ready = Ready { prepared, tunnels, started };
                let settings = plan.process;
                let serving = Serving { fleet: Fleet::new(harbour), connectors: clouds, process, settings, replan };
                return serving.run(ready, signals, reporter).await;
            }
            Err(Over::Failed(report)) => report,
            Err(over) => return over,
        };
        drop(view);
        let report = tokio::select! {
            explained = explained(report.clone(), &clouds, prepared.iter().map(|prepared| &prepared.forward)) => explained,
            // It has failed before the signal came.
            _ = signals.next() => return Over::Failed(report),
        };
        let report = if process.has_command() && plan.process.wait { report.for_destination() } else { report };
        let about = report.about.as_ref().map(|about| &about.forward[..]);
        let about = prepared.iter().map(|prepared| &prepared.forward).find(|forward| Some(forward.name()) == about);
        let access = about.map_or_else(Access::default, |forward| forward.access.clone());
        if let Err(over) = login.after(report, &access, signals, reporter).await {
            return over;
        }
        // From the start: what was loaded is from before. The time that somebody took is not ours.
        bound = prepared.into_iter().map(|prepared| prepared.bound).collect();
        started = Instant::now();
    }
}

/// Binds everything: before anything else, because a busy port must not cost a session.
async fn take_places(plan: &Plan, process: &mut Process, harbour: &Harbour) -> Result<Vec<Bound>, Report> {
    let bound = harbour.bind_all(plan, process.passed_sockets())?;
    process.open_admin(plan, harbour).await?;
    Ok(bound)
}

/// Finds out for every forward what makes its sessions.
async fn prepare_all(
    plan: &Plan,
    bound: Vec<Bound>,
    loaded: Option<Loaded>,
    clouds: &mut Clouds,
) -> Result<Vec<Prepared<SessionConnector>>, Report> {
    if let Some(loaded) = loaded {
        clouds.adopt(loaded).await?;
    }
    let prepared = prepare(plan, bound, clouds).await?;
    clouds.tell_names(prepared.iter().map(|prepared| &prepared.forward));
    Ok(prepared)
}

/// Brings to its end what ends sessions, unless somebody is in a hurry.
pub(super) async fn finish<F: Future>(work: F, signals: &mut Signals, reporter: &Reporter) -> Option<F::Output> {
    finish_or_hurry(work, signals, || {}, reporter).await
}

/// The same; somebody who presses Ctrl-C for the first time is helped.
async fn finish_or_hurry<F: Future>(
    work: F,
    signals: &mut Signals,
    hurry: impl Fn(),
    reporter: &Reporter,
) -> Option<F::Output> {
    let output = signals.unless_interrupted(work, hurry).await;
    if output.is_none() {
        reporter.leaving();
    }
    output
}

#[cfg(test)]
mod tests;
