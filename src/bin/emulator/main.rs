//! `ssmfwd-emulator`: an emulated AWS for any client, as a program.

mod demo;
mod destination;
mod switches;

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    ffi::{OsStr, OsString},
    io::{self, Write as _},
    path::PathBuf,
    process::{ExitCode, ExitStatus},
};

use clap::{Parser, Subcommand};
use ssmfwd::emulator::Emulator;
use tokio::process::Command;

use self::switches::Switches;

/// An emulated AWS on loopback: SSM API, message gateway and agent, for any client that reads the usual AWS variables.
///
/// It verifies signatures, plays the agent of one target with the genuine one's quirks, dials real TCP destinations from
/// this machine, and runs shells on it. Everything that can go wrong is a switch, and can also be changed while it runs:
/// see `control_url` in what `serve` prints.
#[derive(Debug, Parser)]
#[command(name = "ssmfwd-emulator", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Job,
}

#[derive(Debug, Subcommand)]
enum Job {
    /// Run until Ctrl-C; print one JSON line with `endpoint_url`, `control_url`, `target` and `env`.
    ///
    /// `env` holds the variables that point an AWS client at the emulator, made-up credentials included.
    Serve(Switches),
    /// Run COMMAND with the variables set that point it at the emulator, and exit with its status.
    ///
    /// The folder of this program comes first on its PATH. Signals are passed on (in a terminal, Ctrl-C reaches it
    /// anyway). Exit status: that of COMMAND; 126 if it cannot be started, 127 if it is not found, 128 + N if signal N
    /// ended it.
    Exec {
        #[command(flatten)]
        switches: Switches,
        /// The command and its arguments, after `--`.
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Show the main job: forward a local port to a small HTTP server through an emulated AWS, and fetch through it.
    ///
    /// What is between the two is the code that runs in production. Prints what happened and what was measured, and
    /// stays until Ctrl-C. Not with --tls: only a program started by `exec` trusts the authority of a run.
    Demo {
        /// End after the measurements.
        #[arg(long)]
        once: bool,
        #[command(flatten)]
        switches: Switches,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    match run(cli.command) {
        Ok(code) => code,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                text.push_str(&format!("\n  caused by: {error}"));
                cause = error.source();
            }
            // Without a stderr there is nobody to tell.
            drop(writeln!(io::stderr(), "{text}"));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Diagnostics on stderr, by `RUST_LOG`; libraries whose trace logs hold tokens and payloads stay quiet.
fn start_log() {
    use tracing_subscriber::EnvFilter;
    let mut filter = EnvFilter::builder().parse_lossy(env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()));
    for quiet in ["tungstenite=info", "tokio_tungstenite=info", "hyper=info", "rustls=info"] {
        if let Ok(directive) = quiet.parse() {
            filter = filter.add_directive(directive);
        }
    }
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

fn run(job: Job) -> Result<ExitCode, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match job {
        Job::Serve(switches) => {
            let emulator = Emulator::start(switches.into_config()?)?;
            runtime.block_on(serve(&emulator))?;
            Ok(ExitCode::SUCCESS)
        }
        Job::Exec { switches, command } => {
            let emulator = Emulator::start(switches.into_config()?)?;
            runtime.block_on(exec(&emulator, command))
        }
        Job::Demo { once, switches } => {
            let config = switches.into_config()?;
            if config.tls {
                return Err("demo does not serve TLS; see `exec --tls -- ssmfwd ...`".into());
            }
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(demo::run(config, once))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn serve(emulator: &Emulator) -> io::Result<()> {
    let mut signals = Signals::new()?; // before anybody knows that we are here
    let description = serde_json::json!({
        "endpoint_url": emulator.endpoint_url(),
        "control_url": emulator.control_url(),
        "target": emulator.target(),
        "env": emulator.env().into_iter().collect::<BTreeMap<_, _>>(),
    });
    writeln!(io::stdout(), "{description}")?;
    io::stdout().flush()?;
    signals.next().await;
    Ok(())
}

async fn exec(emulator: &Emulator, command: Vec<OsString>) -> Result<ExitCode, Box<dyn Error>> {
    let mut signals = Signals::new()?;
    let (program, arguments) = command.split_first().ok_or("no command")?;
    let mut command = Command::new(program);
    command.args(arguments).envs(emulator.env()).env("PATH", search_path()?).kill_on_drop(true);
    for name in Emulator::CONFLICTING_ENV {
        command.env_remove(name);
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            writeln!(io::stderr(), "error: {} cannot be started: {error}", program.display())?;
            return Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }));
        }
    };
    loop {
        tokio::select! {
            status = child.wait() => return Ok(exit_code(status?)),
            signal = signals.next() => pass_on(&child, signal),
        }
    }
}

/// The folder of this program, where `ssmfwd` is too, before all others.
fn search_path() -> Result<OsString, Box<dyn Error>> {
    let program = env::current_exe()?;
    let folder = program.parent().map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(folder.into_iter().chain(env::split_paths(OsStr::new(&path))))?)
}

fn exit_code(status: ExitStatus) -> ExitCode {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX));
    }
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(unix)]
use unix::{Signals, pass_on};

#[cfg(unix)]
mod unix {
    use std::io::{self, IsTerminal as _};

    use rustix::process::{Pid, Signal as Number, kill_process};
    use tokio::{
        process::Child,
        signal::unix::{Signal, SignalKind, signal},
    };

    /// The signals that end a program.
    pub(super) struct Signals {
        interrupt: Signal,
        quit: Signal,
        hangup: Signal,
        terminate: Signal,
    }

    impl Signals {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                quit: signal(SignalKind::quit())?,
                hangup: signal(SignalKind::hangup())?,
                terminate: signal(SignalKind::terminate())?,
            })
        }

        pub(super) async fn next(&mut self) -> Number {
            tokio::select! {
                _ = self.interrupt.recv() => Number::INT,
                _ = self.quit.recv() => Number::QUIT,
                _ = self.hangup.recv() => Number::HUP,
                _ = self.terminate.recv() => Number::TERM,
            }
        }
    }

    /// Sends a signal to the child, unless the terminal has sent it to both of us: a second Ctrl-C means something
    /// else to many programs.
    pub(super) fn pass_on(child: &Child, signal: Number) {
        let from_terminal = signal != Number::TERM && io::stdin().is_terminal();
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| !from_terminal)
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::warn!(%error, ?signal, "signal not passed on");
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "the same face as on unix")]
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // Without a handler the system ends the program by itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The console has sent it to the child as well.
#[cfg(not(unix))]
fn pass_on(_: &tokio::process::Child, (): ()) {}
