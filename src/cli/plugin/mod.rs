//! The program in place of AWS's `session-manager-plugin`: started under that name it takes its arguments and says its
//! lines (`proto-notes/plugin.md`).
//!
//! ```text
//! arguments ─▶ AWS ─▶ websocket, handshake ─▶ what kind of session?
//!  2                                            ├─ connections ─▶ listen, serve      [`port`]
//!                                               ├─ a raw pipe  ─▶ stdin and stdout   `forward::stdio`
//!                                               └─ a shell     ─▶ the terminal       `cli::shell`
//! ```
//!
//! The session was started by whoever has started us, so nothing takes its place when it ends. Everything else is as
//! with a session of our own: it is resumed, it is ended on every way out, and a failure has a status.

#[cfg(unix)]
mod hidden;
mod invocation;
mod port;
mod words;

use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use aws_config::SdkConfig;
use tokio_util::sync::CancellationToken;

use self::{
    invocation::{Invocation, Wanted},
    words::{Line, PRESENCE, VERSION},
};
use super::{
    args::{Args, Escape},
    console::Console,
    exit::Exit,
    logging,
    plan::PlannedForward,
    report::Report,
    reporter::Reporter,
    run::{Over, finish},
    shell::{self, ShellEnd, ShellOptions},
    signals::{Signal, Signals},
    sys::take_variable,
};
use crate::{
    aws::{Aws, AwsOptions, SharedMfaPrompt},
    cli::prompt::TerminalPrompt,
    forward::{
        Bind, ConnectionEnd, Destination, Event, ForwardSpec, Listen, Observer, end_session,
        stdio::{StdioEnd, StdioOptions, StdioTunnel},
    },
    proto::{Cause, CloseReason, Initiator},
    session::{
        ConnectError, Dialer, Grant, Mode, Session, SessionEvent, SessionId, SessionKinds, SessionOptions,
        watch_for_wake,
    },
};

/// The name that calls for all this.
const NAME: &str = "session-manager-plugin";

/// Whoever sets it to `true` has no credentials for us to look for.
const NO_CREDENTIALS: &str = "SSM_PLUGIN_SKIP_CLIENT_CONFIGURE";

/// Whether the program was started as the plugin.
pub(super) fn is_called_for(program: Option<&OsString>) -> bool {
    program.map(Path::new).and_then(Path::file_stem).is_some_and(|name| name == NAME)
}

/// The whole program in its place.
pub(super) fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let (program, arguments) =
        arguments.split_first().map_or_else(|| (OsStr::new(NAME), &[][..]), |(it, them)| (it, them));
    #[cfg(unix)]
    hidden::start_anew(program, arguments);
    #[cfg(not(unix))]
    let _ = program;
    // Before there is another thread: what is taken away from the environment must not be read meanwhile.
    let invocation = match Wanted::read(arguments.to_vec(), take_answer) {
        Ok(Wanted::Presence) => return said(PRESENCE),
        Ok(Wanted::Version) => return said(&format!("{VERSION}\n")),
        Ok(Wanted::Session(invocation)) => invocation,
        Err(misuse) => {
            let hint = format!("hint: this is ssmfwd in place of {NAME}, which other programs start");
            write_to(&mut io::stderr(), &format!("error: {misuse}\n\n{hint}\n"));
            return Exit::Usage.into();
        }
    };
    // The variables of our own options count here, too.
    let target = invocation.target.as_deref().unwrap_or("i-00000000000000000");
    let words = ["ssmfwd", "0:1", "--target", target].map(OsString::from);
    let args = match Args::read(words, |name| std::env::var_os(name)) {
        Ok(args) => args,
        Err(error) => {
            error.print().ok();
            return Exit::Usage.into();
        }
    };
    logging::init(&args.say);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Ok(console), Ok(runtime)) = (Console::new(), runtime) else {
        tracing::error!("cannot start threads");
        return Exit::Failure.into();
    };
    let reporter = Arc::new(Reporter::new(console, args.say.output, args.say.quiet).leaving_stdout().saying_little());
    let over = runtime.block_on(run(&invocation, &args, &reporter));
    runtime.shutdown_background();
    if let Over::Failed(report) = &over {
        reporter.failed(report);
    }
    reporter.flush();
    let (status, _) = over.status();
    ExitCode::from(status)
}

/// What stands in for an argument that is the name of it.
fn take_answer(name: &str) -> Option<OsString> {
    #[cfg(unix)]
    if let Some(answer) = hidden::read(name) {
        return Some(answer);
    }
    take_variable(name)
}

fn said(text: &str) -> ExitCode {
    write_to(&mut io::stdout(), text);
    Exit::Success.into()
}

/// Says one of the lines. Nobody there to read it is not worth a failure.
fn say(line: Line<'_>) {
    write_to(&mut io::stdout(), &line.to_string());
}

fn write_to(to: &mut impl io::Write, text: &str) {
    to.write_all(text.as_bytes()).and_then(|()| to.flush()).ok();
}

async fn run(invocation: &Invocation, args: &Args, reporter: &Arc<Reporter>) -> Over {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return Over::Failed(Report::new(Exit::Failure, "cannot handle signals").caused_by(&error)),
    };
    let id = SessionId(invocation.session_id.clone());
    say(Line::Starting(&id));
    let forward = match plan(invocation, args) {
        Ok(forward) => forward,
        Err(report) => return Over::Failed(report),
    };
    let cancel = CancellationToken::new();
    let observer = observer(&forward, reporter);
    let session = {
        let mut attaching = std::pin::pin!(attach(invocation, &forward, &observer, reporter, cancel.clone()));
        tokio::select! {
            session = &mut attaching => session,
            signal = signals.next() => {
                cancel.cancel();
                if let Some(Ok(session)) = finish(attaching, &mut signals, reporter).await {
                    finish(end_session(&session, &observer), &mut signals, reporter).await;
                }
                return left(signal);
            }
        }
    };
    let session = match session {
        Ok(session) => session,
        Err(Unattached::Report(report)) => return Over::Failed(report),
        Err(Unattached::Connect(ConnectError::Closed(reason))) if is_told(&reason) => {
            tell_end(&id, &reason);
            return Over::Failed(Report::connect(&ConnectError::Closed(reason), &forward, &forward.access));
        }
        Err(Unattached::Connect(error)) => return Over::Failed(Report::connect(&error, &forward, &forward.access)),
    };
    match session.mode() {
        Mode::Shell => {
            let options =
                ShellOptions { escape: Escape(Some(b'~')), reconnect_window: forward.options.reconnect_window };
            let end = shell::carry(&session, options, &mut signals, reporter).await;
            finish(end_session(&session, &observer), &mut signals, reporter).await;
            if let ShellEnd::Ended(_) | ShellEnd::Left = end {
                say(Line::Exiting(&id));
            }
            match end {
                ShellEnd::Session(reason) => lost(&id, &reason, &forward),
                ShellEnd::Signal(signal) => left(signal),
                end => shell::over(end, &forward),
            }
        }
        Mode::Raw => {
            let stop = CancellationToken::new();
            let options = StdioOptions {
                linger: forward.options.linger,
                reconnect_window: forward.options.reconnect_window,
                stall_timeout: forward.session.stall_timeout,
            };
            let mut carrying = std::pin::pin!(StdioTunnel::of(session, observer).carry(options, &stop));
            tokio::select! {
                end = &mut carrying => of_pipe(&id, end, &forward),
                signal = signals.next() => {
                    stop.cancel();
                    finish(carrying, &mut signals, reporter).await;
                    left(signal)
                }
            }
        }
        _ => port::serve(session, forward, observer, &mut signals, reporter).await,
    }
}

/// What a forward would have been planned as that had led to this session.
fn plan(invocation: &Invocation, args: &Args) -> Result<PlannedForward, Report> {
    let spec = ForwardSpec {
        text: format!("session {}", invocation.session_id),
        listen: Listen::Tcp { bind: Bind::Loopback, port: 0 },
        destination: Destination::default(),
        target: None,
    };
    let mut forward = PlannedForward::of(spec, args)?;
    forward.request.document.clone_from(&invocation.document);
    forward.access.region = Some(invocation.region.clone()).filter(|region| !region.is_empty());
    // Given by whoever has the session; the environment is for what they leave open.
    forward.access.profile = invocation.profile.clone().or(forward.access.profile);
    forward.access.endpoint_url = invocation.endpoint_url.clone().or(forward.access.endpoint_url);
    forward.access.look_at_environment();
    Ok(forward)
}

/// Tells of what concerns the session. What the lines for others say already is only an event.
fn observer(forward: &PlannedForward, reporter: &Arc<Reporter>) -> Observer {
    let told = reporter.of(forward);
    Arc::new(move |event| match event {
        Event::SessionEnded { .. } | Event::Dormant { .. } | Event::StartFailed { .. } => {}
        Event::DestinationRefused { .. } => say(Line::DestinationFailed),
        event => told.tell(&event),
    })
}

/// Why there is no session to go on with.
enum Unattached {
    Report(Report),
    Connect(ConnectError),
}

/// Goes on with the session.
async fn attach(
    invocation: &Invocation,
    forward: &PlannedForward,
    observer: &Observer,
    reporter: &Reporter,
    cancel: CancellationToken,
) -> Result<Session, Unattached> {
    let aws = Arc::new(aws(forward, reporter).await.map_err(Unattached::Report)?);
    aws.outbound().ready().await.map_err(|error| {
        let report = Report::new(Exit::Failure, "cannot load the trusted roots of this machine");
        Unattached::Report(report.caused_by(&error))
    })?;
    let id = SessionId(invocation.session_id.clone());
    let grant = aws.adopt(&id, invocation.token.clone(), invocation.stream_url.clone()).await;
    let grant: Grant = grant.map_err(|error| Unattached::Connect(ConnectError::Control(error)))?;
    let mut options: SessionOptions = forward.session.options();
    options.wake = Some(watch_for_wake());
    options.kinds = SessionKinds::Any;
    shell::terminal_size(&mut options);
    options.observer = Some(Arc::new({
        let (observer, session) = (observer.clone(), id.clone());
        move |event: SessionEvent| observer(Event::Session { session: session.clone(), member: 0, event })
    }));
    let dialer = Arc::new(Dialer::over(aws.outbound().clone()));
    Session::adopt(aws, dialer, grant, invocation.target.clone(), options, cancel).await.map_err(Unattached::Connect)
}

/// The API, for what a session needs of it later. A session is worth more than credentials: without any it cannot be
/// resumed, but goes on for as long as its websocket does.
async fn aws(forward: &PlannedForward, reporter: &Reporter) -> Result<Aws, Report> {
    let access = &forward.access;
    let options = || {
        let mut options = AwsOptions::default();
        options.profile.clone_from(&access.profile);
        options.region.clone_from(&access.region);
        options.endpoint_url.clone_from(&access.endpoint_url);
        options.ssmmessages_endpoint.clone_from(&access.ssmmessages_endpoint);
        options.use_fips = access.use_fips;
        options.use_dual_stack = access.use_dual_stack;
        options.mfa = Some(SharedMfaPrompt::new(TerminalPrompt::new(access.mfa_code.clone())));
        options
    };
    let is_without = std::env::var_os(NO_CREDENTIALS).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if !is_without {
        match Aws::load(options()).await {
            Ok(aws) => return Ok(aws),
            Err(error) => {
                reporter.warn(&format!("{error}: the session will not survive the loss of its connection"));
            }
        }
    }
    let config = SdkConfig::builder().build();
    Aws::from_sdk_config(&config, options()).map_err(|error| Report::configuration(&error, access))
}

/// What became of stdin and stdout.
fn of_pipe(id: &SessionId, end: StdioEnd, forward: &PlannedForward) -> Over {
    match end {
        StdioEnd::Stopped => Over::Done,
        StdioEnd::Connection(ConnectionEnd::DestinationRefused | ConnectionEnd::Unanswered) => {
            Over::Failed(Report::new(Exit::Destination, format!("{}: the destination did not answer", forward.name())))
        }
        StdioEnd::Connection(_) => Over::Done,
        StdioEnd::Local(error) => Over::Failed(Report::new(Exit::Failure, "cannot go on").caused_by(&error)),
        StdioEnd::Session(reason) => lost(id, &reason, forward),
        StdioEnd::Outage(outage) => Over::Failed(Report::new(
            Exit::Lost,
            format!("{} could not be brought back within {:.0} s", forward.name(), outage.as_secs_f64()),
        )),
    }
}

/// A session that has ended before it was to.
fn lost(id: &SessionId, reason: &CloseReason, forward: &PlannedForward) -> Over {
    tell_end(id, reason);
    if matches!(&reason.cause, Cause::ChannelClosed(text) if text.is_empty()) && reason.initiator == Initiator::Agent {
        return Over::Done;
    }
    Over::Failed(Report::over(reason, forward))
}

/// Whether there is a line for it.
fn is_told(reason: &CloseReason) -> bool {
    matches!(reason.cause, Cause::ChannelClosed(_) | Cause::SessionOver)
}

fn tell_end(id: &SessionId, reason: &CloseReason) {
    match &reason.cause {
        Cause::ChannelClosed(text) if text.is_empty() => say(Line::Exiting(id)),
        Cause::ChannelClosed(text) => say(Line::Closed(id, text)),
        Cause::SessionOver => say(Line::TimedOut(id)),
        _ => {}
    }
}

/// Somebody wants no more of it. Ctrl-C is how a session of the plugin is left: for its callers not a failure.
fn left(signal: Signal) -> Over {
    match signal {
        Signal::Interrupt => {
            say(Line::Interrupted);
            Over::Done
        }
        signal => Over::Signal(signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides() {
        for (program, called_for) in [
            ("session-manager-plugin", true),
            ("/usr/local/bin/session-manager-plugin", true),
            ("session-manager-plugin.exe", true),
            ("ssmfwd", false),
            ("/session-manager-plugin/ssmfwd", false),
        ] {
            assert_eq!(is_called_for(Some(&program.into())), called_for, "{program}");
        }
        assert!(!is_called_for(None));
    }
}
