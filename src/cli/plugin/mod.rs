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

mod caller;
#[cfg(unix)]
mod hidden;
mod invocation;
mod port;
mod variables;
mod words;

use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use tokio_util::sync::CancellationToken;

use self::{
    invocation::{Invocation, Refused, Started, Wanted},
    variables::Settings,
    words::{Line, PRESENCE, VERSION},
};
use super::{
    args::Args,
    console::Console,
    exit::Exit,
    logging,
    own_variables::OwnVariables,
    plan::PlannedForward,
    report::{Report, Symptom},
    reporter::Reporter,
    run::{Over, finish},
    shell::{self, ShellEnd, ShellOptions},
    signals::{Signal, Signals},
    sys::{self, take_variable},
};
use crate::{
    forward::{
        Bind, ConnectionEnd, Destination, Event, ForwardSpec, Listen, Observer, end_session,
        stdio::{Stdin, StdioEnd, StdioOptions, StdioTunnel},
    },
    proto::{Cause, CloseReason},
    session::{
        ConnectError, ControlError, ControlPlane as _, Dialer, Grant, Mode, QueryForm, Session, SessionEvent,
        SessionId, SessionKinds, SessionOptions, watch_for_wake,
    },
};

/// The name that calls for all this.
const NAME: &str = "session-manager-plugin";

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
    let wanted = Wanted::read(arguments.to_vec(), take_answer);
    let own = OwnVariables::take();
    let invocation = match wanted {
        Ok(Wanted::Presence) => return said(PRESENCE),
        Ok(Wanted::Version) => return said(&format!("{VERSION}\n")),
        Ok(Wanted::Session(invocation)) => invocation,
        Err(Refused { misuse, started }) => {
            let hint = format!("this is ssmfwd in place of {NAME}, which other programs start");
            return refuse(&Report::usage(misuse.to_string()).with_hint(hint), started.as_ref());
        }
    };
    let started = Some(&invocation.started);
    let settings = Settings::read(&own);
    let planned = settings.and_then(|settings| Ok((plan(&invocation, &settings.args)?, settings)));
    let (forward, settings) = match planned {
        Ok(planned) => planned,
        Err(report) => return refuse(&report, started),
    };
    let stdin = sys::own_stdin();
    let say = &settings.args.say;
    logging::init(say);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Ok(console), Ok(runtime)) = (Console::new(), runtime) else {
        return refuse(&Report::new(Exit::Failure, "cannot start threads"), started);
    };
    let reporter = Arc::new(Reporter::new(console, say.output, say.quiet).leaving_stdout().saying_little());
    let over = runtime.block_on(run(&invocation, forward, &settings, &stdin, &reporter));
    runtime.shutdown_background();
    if let Over::Failed(report) = &over {
        reporter.failed(report);
    }
    reporter.flush();
    let (status, _) = over.status();
    ExitCode::from(status)
}

/// Says what is wrong, and ends a session that is not even begun with.
fn refuse(report: &Report, started: Option<&Started>) -> ExitCode {
    write_to(&mut io::stderr(), &format!("{report}\n"));
    if let Some(started) = started {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let ended = match runtime {
            Ok(runtime) => {
                let ended = runtime.block_on(started.end());
                runtime.shutdown_background();
                ended
            }
            Err(error) => Err(format!("{error}: the session lives until its idle timeout")),
        };
        if let Err(why) = ended {
            write_to(&mut io::stderr(), &format!("warning: {why}\n"));
        }
    }
    report.exit.into()
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

async fn run(
    invocation: &Invocation,
    forward: PlannedForward,
    settings: &Settings,
    stdin: &Stdin,
    reporter: &Arc<Reporter>,
) -> Over {
    let started = &invocation.started;
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => {
            started.end().await.unwrap_or_else(|why| reporter.warn(&why));
            return Over::Failed(Report::new(Exit::Failure, "cannot handle signals").caused_by(&error));
        }
    };
    let id = SessionId(started.session_id.clone());
    reporter.plain(&Line::Starting(&id).to_string());
    // Before anything else is written there.
    reporter.flush();
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
        Err(Unattached::Report(report)) => {
            started.end().await.unwrap_or_else(|why| reporter.warn(&why));
            return Over::Failed(report);
        }
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
            let options = ShellOptions { escape: settings.escape, reconnect_window: forward.options.reconnect_window };
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
        _ => port::serve(session, invocation, forward, observer, &mut signals, reporter).await,
    }
}

/// What a forward would have been planned as that had led to this session.
fn plan(invocation: &Invocation, args: &Args) -> Result<PlannedForward, Report> {
    let spec = ForwardSpec {
        text: invocation.started.session_id.clone(),
        listen: Listen::Tcp { bind: Bind::Loopback, port: 0 },
        destination: Destination::default(),
        target: None,
    };
    // What is left to be wrong is a value of a variable.
    let mut forward = PlannedForward::of(spec, args).map_err(|report| report.with_hint(variables::HINT))?;
    forward.request.document.clone_from(&invocation.document);
    // Of whatever form: the service has taken it. What is said of one that nobody has named says so.
    forward.request.target = invocation.target.clone().unwrap_or_else(|| "the target".to_owned());
    // Given by whoever has the session; the environment is for what they leave open.
    let Started { session_id: _, region, profile, endpoint_url } = &invocation.started;
    let access = &mut forward.access;
    access.region = region.clone().or_else(|| access.region.take());
    access.profile = profile.clone().or_else(|| access.profile.take());
    access.endpoint_url = endpoint_url.clone().or_else(|| access.endpoint_url.take());
    access.look_at_environment();
    Ok(forward)
}

/// Tells of what concerns the session. What the lines for others say already is only an event.
fn observer(forward: &PlannedForward, reporter: &Arc<Reporter>) -> Observer {
    let (told, reporter) = (reporter.of(forward).alone(), reporter.clone());
    Arc::new(move |event| match event {
        Event::SessionEnded { .. } | Event::Dormant { .. } | Event::StartFailed { .. } => {}
        Event::DestinationRefused { .. } => reporter.plain(&Line::DestinationFailed.to_string()),
        Event::Session { event: SessionEvent::CustomerMessage(text), .. } => {
            reporter.plain(&Line::Message(&text).to_string());
        }
        event => told.tell(&event),
    })
}

/// Why there is no session to go on with.
enum Unattached {
    /// It was not tried, and the session lives.
    Report(Report),
    /// It was, and the session has been ended.
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
    let access = &forward.access;
    let without_credentials = || {
        let aws = caller::without_credentials(access).map(Arc::new);
        aws.map_err(|error| Unattached::Report(Report::configuration(&error, access)))
    };
    let goes_on = |error: &ControlError| reporter.warn(&format!("{error}: {UNSIGNED}"));
    let mut aws = if caller::has_none() {
        without_credentials()?
    } else {
        match caller::load(access).await {
            Ok(aws) => Arc::new(aws),
            Err(error) => {
                goes_on(&error);
                without_credentials()?
            }
        }
    };
    let outbound = aws.outbound().clone();
    outbound.ready().await.map_err(|error| {
        let report = Report::new(Exit::Failure, "cannot load the trusted roots of this machine");
        Unattached::Report(report.caused_by(&error))
    })?;
    let id = SessionId(invocation.started.session_id.clone());
    let grant: Grant = match aws.adopt(&id, invocation.token.clone(), invocation.stream_url.clone()).await {
        Ok(grant) => grant,
        Err(error) => {
            // Nobody else will end it.
            if let Err(error) = aws.terminate(&id).await {
                reporter.warn(&format!("{error}: the session lives until its idle timeout"));
            }
            return Err(Unattached::Connect(ConnectError::Control(error)));
        }
    };
    // A session is worth more than credentials: those that are no use are known before it is gone on with.
    if !grant.url.is_presigned()
        && let Err(error) = aws.sign_upgrade(&grant.url, QueryForm::PlusIsSpace).await
    {
        goes_on(&error);
        aws = without_credentials()?;
    }
    let mut options: SessionOptions = forward.session.options();
    options.wake = Some(watch_for_wake());
    options.kinds = kinds(invocation.document.as_deref());
    shell::terminal_size(&mut options);
    options.observer = Some(Arc::new({
        let (observer, session) = (observer.clone(), id.clone());
        move |event: SessionEvent| observer(Event::Session { session: session.clone(), member: 0, event })
    }));
    let dialer = Arc::new(Dialer::over(outbound));
    Session::adopt(aws, dialer, grant, invocation.target.clone(), options, cancel).await.map_err(Unattached::Connect)
}

/// What it means to have no credentials.
const UNSIGNED: &str = "the session goes on without credentials; it is over when its connection is lost, and a shell that \
     is left lives on until its idle timeout";

/// Which sessions a document leads to. Those of connections begin with a handshake, so that one that does not begin has a
/// deadline; a shell may be silent.
fn kinds(document: Option<&str>) -> SessionKinds {
    let connects = |name: &str| name == "AWS-StartSSHSession" || name.starts_with("AWS-StartPortForwarding");
    if document.is_some_and(connects) { SessionKinds::Connections } else { SessionKinds::Any }
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
    fn documents_of_connections_have_a_deadline() {
        for name in
            ["AWS-StartSSHSession", "AWS-StartPortForwardingSession", "AWS-StartPortForwardingSessionToRemoteHost"]
        {
            assert_eq!(kinds(Some(name)), SessionKinds::Connections, "{name}");
        }
        for name in [None, Some("AWS-StartInteractiveCommand"), Some("SSM-SessionManagerRunShell"), Some("Mine")] {
            assert_eq!(kinds(name), SessionKinds::Any, "{name:?}");
        }
    }

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
