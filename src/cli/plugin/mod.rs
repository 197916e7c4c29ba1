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
    report::{Report, Symptom},
    reporter::Reporter,
    run::{Over, finish},
    shell::{self, ShellEnd, ShellOptions},
    signals::{Signal, Signals},
    sys::{self, take_variable},
};
use crate::{
    aws::{Aws, AwsOptions, SharedMfaPrompt},
    cli::prompt::TerminalPrompt,
    forward::{
        Bind, ConnectionEnd, Destination, Event, ForwardSpec, Listen, Observer, end_session,
        stdio::{Stdin, StdioEnd, StdioOptions, StdioTunnel},
    },
    proto::{Cause, CloseReason},
    session::{
        ConnectError, ControlErrorKind, ControlPlane as _, DialError, Dialer, Grant, Mode, Session, SessionEvent,
        SessionId, SessionKinds, SessionOptions, watch_for_wake,
    },
};

/// The name that calls for all this.
const NAME: &str = "session-manager-plugin";

/// Whoever sets it to `true` has no credentials for us to look for.
const NO_CREDENTIALS: &str = "SSM_PLUGIN_SKIP_CLIENT_CONFIGURE";

/// What helps where encryption would need to know the target.
const OLD_CALLER: &str = "whoever started this passes no target, as old versions of the AWS CLI do: update it";

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
    let stdin = sys::own_stdin();
    logging::init(&args.say);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Ok(console), Ok(runtime)) = (Console::new(), runtime) else {
        tracing::error!("cannot start threads");
        return Exit::Failure.into();
    };
    let reporter = Arc::new(Reporter::new(console, args.say.output, args.say.quiet).leaving_stdout().saying_little());
    let over = runtime.block_on(run(&invocation, &args, &stdin, &reporter));
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

fn write_to(to: &mut impl io::Write, text: &str) {
    to.write_all(text.as_bytes()).and_then(|()| to.flush()).ok();
}

async fn run(invocation: &Invocation, args: &Args, stdin: &Stdin, reporter: &Arc<Reporter>) -> Over {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return Over::Failed(Report::new(Exit::Failure, "cannot handle signals").caused_by(&error)),
    };
    let id = SessionId(invocation.session_id.clone());
    reporter.plain(&Line::Starting(&id).to_string());
    // Before anything else is written there.
    reporter.flush();
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
                return left(signal, reporter);
            }
        }
    };
    let session = match session {
        Ok(session) => session,
        Err(Unattached::Report(report)) => return Over::Failed(report),
        Err(Unattached::Connect(ConnectError::Closed(reason))) if is_told(&reason) => {
            tell_end(&id, &reason, reporter);
            return Over::Failed(Report::connect(&ConnectError::Closed(reason), &forward, &forward.access));
        }
        Err(Unattached::Connect(error)) => {
            let report = Report::connect(&error, &forward, &forward.access);
            return Over::Failed(match invocation.target {
                None if report.symptom == Some(Symptom::DataKeyUnusable) => report.with_hint(OLD_CALLER),
                _ => report,
            });
        }
    };
    match session.mode() {
        Mode::Shell => {
            let options =
                ShellOptions { escape: Escape(Some(b'~')), reconnect_window: forward.options.reconnect_window };
            let end = shell::carry(&session, stdin, options, &mut signals, reporter).await;
            end.forget(&mut signals);
            finish(end_session(&session, &observer), &mut signals, reporter).await;
            if let ShellEnd::Ended(_) | ShellEnd::Left = end {
                reporter.plain(&Line::Exiting(&id).to_string());
            }
            match end {
                ShellEnd::Session(reason) => lost(&id, &reason, &forward, reporter),
                ShellEnd::Signal(signal) => left(signal, reporter),
                end => shell::over(end, &forward),
            }
        }
        Mode::Raw => {
            let stop = CancellationToken::new();
            let options = StdioOptions {
                linger: forward.options.linger,
                connect_timeout: forward.session.connect_timeout,
                reconnect_window: forward.options.reconnect_window,
                stall_timeout: forward.session.stall_timeout,
            };
            let mut carrying = std::pin::pin!(StdioTunnel::of(session, observer).carry(stdin, options, &stop));
            tokio::select! {
                end = &mut carrying => of_pipe(&id, end, &forward, reporter),
                signal = signals.next() => {
                    stop.cancel();
                    finish(carrying, &mut signals, reporter).await;
                    left(signal, reporter)
                }
            }
        }
        _ => port::serve(session, forward, observer, &mut signals, reporter).await,
    }
}

/// What a forward would have been planned as that had led to this session.
fn plan(invocation: &Invocation, args: &Args) -> Result<PlannedForward, Report> {
    let spec = ForwardSpec {
        text: invocation.session_id.clone(),
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
    let (told, reporter) = (reporter.of(forward), reporter.clone());
    Arc::new(move |event| match event {
        Event::SessionEnded { .. } | Event::Dormant { .. } | Event::StartFailed { .. } => {}
        Event::DestinationRefused { .. } => reporter.plain(&Line::DestinationFailed.to_string()),
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
    let grant: Grant = match aws.adopt(&id, invocation.token.clone(), invocation.stream_url.clone()).await {
        Ok(grant) => grant,
        Err(error) => {
            // Nobody else will.
            if let Err(error) = aws.terminate(&id).await {
                reporter.warn(&format!("{error}: the session lives until its idle timeout"));
            }
            return Err(Unattached::Connect(ConnectError::Control(error)));
        }
    };
    let mut options: SessionOptions = forward.session.options();
    options.wake = Some(watch_for_wake());
    options.kinds = SessionKinds::Any;
    shell::terminal_size(&mut options);
    options.observer = Some(Arc::new({
        let (observer, session) = (observer.clone(), id.clone());
        move |event: SessionEvent| observer(Event::Session { session: session.clone(), member: 0, event })
    }));
    let dialer = Arc::new(Dialer::over(aws.outbound().clone()));
    let target = || invocation.target.clone();
    let adopted = Session::adopt(aws, dialer.clone(), grant.clone(), target(), options.clone(), cancel.clone()).await;
    match adopted {
        // There are credentials, which are no use. The token has not been used: nothing was dialled.
        Err(ConnectError::Dial(DialError::Sign(error))) => {
            reporter.warn(&format!("{error}: {UNSIGNED}"));
            let aws = without_credentials(forward).map_err(Unattached::Report)?;
            Session::adopt(Arc::new(aws), dialer, grant, target(), options, cancel).await
        }
        adopted => adopted,
    }
    .map_err(Unattached::Connect)
}

/// What it means to have no credentials.
const UNSIGNED: &str = "the session goes on without credentials; it is over when its connection is lost, and a shell that \
     is left lives on until its idle timeout";

/// The API, for what a session needs of it later. A session is worth more than credentials: without any it cannot be
/// resumed, but goes on for as long as its websocket does.
async fn aws(forward: &PlannedForward, reporter: &Reporter) -> Result<Aws, Report> {
    if std::env::var_os(NO_CREDENTIALS).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return without_credentials(forward);
    }
    let endpoint = forward.access.endpoint_url.clone();
    match Aws::load(options(forward, endpoint.clone())).await {
        Ok(aws) => Ok(aws),
        // The AWS CLI passes the endpoint that follows from FIPS and dual stack, which go with no other endpoint: they
        // lead there again.
        Err(error) => match Aws::load(options(forward, None)).await {
            Ok(aws) if endpoint.is_some() && error.kind == ControlErrorKind::InvalidRequest => Ok(aws),
            _ => {
                reporter.warn(&format!("{error}: {UNSIGNED}"));
                without_credentials(forward)
            }
        },
    }
}

fn without_credentials(forward: &PlannedForward) -> Result<Aws, Report> {
    let config = SdkConfig::builder().build();
    let aws = Aws::from_sdk_config(&config, options(forward, forward.access.endpoint_url.clone()));
    aws.map_err(|error| Report::configuration(&error, &forward.access))
}

fn options(forward: &PlannedForward, endpoint_url: Option<String>) -> AwsOptions {
    let access = &forward.access;
    let mut options = AwsOptions::default();
    options.profile.clone_from(&access.profile);
    options.region.clone_from(&access.region);
    options.endpoint_url = endpoint_url;
    options.ssmmessages_endpoint.clone_from(&access.ssmmessages_endpoint);
    options.use_fips = access.use_fips;
    options.use_dual_stack = access.use_dual_stack;
    options.mfa = Some(SharedMfaPrompt::new(TerminalPrompt::new(access.mfa_code.clone())));
    options
}

/// What became of stdin and stdout.
fn of_pipe(id: &SessionId, end: StdioEnd, forward: &PlannedForward, reporter: &Reporter) -> Over {
    match end {
        StdioEnd::Stopped => Over::Done,
        StdioEnd::Connection(ConnectionEnd::DestinationRefused | ConnectionEnd::Unanswered) => {
            Over::Failed(Report::new(Exit::Destination, format!("{}: the destination did not answer", forward.name())))
        }
        StdioEnd::Connection(_) => Over::Done,
        StdioEnd::Nothing => Over::Failed(Report::new(
            Exit::Destination,
            format!("{}: the connection ended before anything was said", forward.name()),
        )),
        StdioEnd::Local(error) => Over::Failed(Report::new(Exit::Failure, "cannot go on").caused_by(&error)),
        StdioEnd::Session(reason) => lost(id, &reason, forward, reporter),
        StdioEnd::Outage(outage) => Over::Failed(Report::new(
            Exit::Lost,
            format!("{} could not be brought back within {:.0} s", forward.name(), outage.as_secs_f64()),
        )),
    }
}

/// A session that has ended before it was to.
fn lost(id: &SessionId, reason: &CloseReason, forward: &PlannedForward, reporter: &Reporter) -> Over {
    tell_end(id, reason, reporter);
    if reason.is_end_of_data() {
        return Over::Done;
    }
    Over::Failed(Report::over(reason, forward))
}

/// Whether there is a line for it.
fn is_told(reason: &CloseReason) -> bool {
    matches!(reason.cause, Cause::ChannelClosed(_) | Cause::SessionOver)
}

fn tell_end(id: &SessionId, reason: &CloseReason, reporter: &Reporter) {
    let line = match &reason.cause {
        Cause::ChannelClosed(text) if text.is_empty() => Line::Exiting(id),
        Cause::ChannelClosed(text) => Line::Closed(id, text),
        Cause::SessionOver => Line::TimedOut(id),
        _ => return,
    };
    reporter.plain(&line.to_string());
}

/// Somebody wants no more of it. Ctrl-C is how a session of the plugin is left: for its callers not a failure.
fn left(signal: Signal, reporter: &Reporter) -> Over {
    match signal {
        Signal::Interrupt => {
            reporter.plain(&Line::Interrupted.to_string());
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
