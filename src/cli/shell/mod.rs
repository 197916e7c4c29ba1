//! `ssmfwd shell`: a session, a shell, and what is said when it ends.
//!
//! ```text
//! plan ─▶ asked for a target? ─▶ AWS ─▶ session ─▶ ready ─▶ the terminal is the shell's ─▶ the session is ended
//!  2                              2, 4   1, 5, 6, 7             its status, or 7
//!                                 └ 4: a login is offered once, then from AWS on again
//! ```
//!
//! Questions are asked before the terminal is the shell's, and on a terminal only.

mod carry;
mod escape;
mod raw_terminal;

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub(super) use self::carry::{ShellEnd, ShellOptions, carry};
use super::{
    args::{Args, ShellArgs},
    exit::Exit,
    plan::{PlannedForward, given},
    report::Report,
    reporter::Reporter,
    run::{Clouds, Connectors, Loaded, LoginOffer, Over, explained, finish, planned},
    signals::Signals,
};
use crate::{
    forward::{Bind, Destination, ForwardSpec, Listen, Observer, end_session, start_session, stdio::Stdin},
    session::{Session, SessionKinds, SessionOptions, Size},
};

/// A shell that is silent for so long says why.
const SILENT: Duration = Duration::from_secs(5);

const NO_TARGET: &str = "name one with --target i-0123456789abcdef0 or --target name:NAME (or SSMFWD_TARGET)";

/// The size of the terminal, for a session to begin with.
pub(super) fn terminal_size(options: &mut SessionOptions) {
    if let Some((cols, rows)) = raw_terminal::size() {
        options.terminal = Size { cols, rows };
    }
}

/// The whole command.
pub(super) async fn run(args: &ShellArgs, mut all: Args, stdin: &Stdin, reporter: &Arc<Reporter>) -> Over {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return Over::Failed(Report::new(Exit::Failure, "cannot handle signals").caused_by(&error)),
    };
    let (plan, asked) = match planned(&mut all, plan, std::slice::from_ref, &mut signals, reporter).await {
        Ok(planned) => planned,
        Err(over) => return over,
    };
    let mut loaded = asked.map(|asked| asked.loaded);
    let mut login = LoginOffer::default();
    loop {
        // From the start, and without what was found out the first time.
        let mut forward = plan.clone();
        let begun = match begin(&mut forward, loaded.take(), &mut signals, reporter).await {
            Ok(begun) => begun,
            Err(Over::Failed(report)) => match login.after(report, &forward.access, &mut signals, reporter).await {
                Ok(()) => continue,
                Err(over) => return over,
            },
            Err(over) => return over,
        };
        let Begun { session, observer } = begun;
        let shell = ShellOptions { escape: args.escape, reconnect_window: forward.options.reconnect_window };
        // Before the screen is the shell's.
        reporter.flush();
        let end = carry(&session, stdin, shell, &mut signals, reporter).await;
        end.forget(&mut signals);
        finish(end_session(&session, &observer), &mut signals, reporter).await;
        return over(end, &forward);
    }
}

/// A session that carries the shell.
struct Begun {
    session: Session,
    observer: Observer,
}

/// Starts the session. Nothing is left of it on an error.
async fn begin(
    forward: &mut PlannedForward,
    loaded: Option<Loaded>,
    signals: &mut Signals,
    reporter: &Arc<Reporter>,
) -> Result<Begun, Over> {
    let started = Instant::now();
    let mut clouds = Clouds::new(reporter);
    let connector = async {
        if let Some(loaded) = loaded {
            clouds.adopt(loaded).await?;
        }
        clouds.connector(forward).await
    };
    let connector = tokio::select! {
        connector = connector => connector.map_err(Over::Failed)?,
        signal = signals.next() => return Err(Over::Signal(signal)),
    };
    let forward = &*forward;
    clouds.tell_names(std::iter::once(forward));
    let mut options = connector.options.clone();
    options.kinds = SessionKinds::Shell;
    terminal_size(&mut options);
    let connector = connector.with_options(options);

    let told = reporter.of(forward).alone();
    let observer: Observer = Arc::new(move |event| told.tell(&event));
    let cancel = CancellationToken::new();
    let session = {
        let mut starting = pin!(start_session(&connector, forward.request.clone(), observer.clone(), cancel.clone()));
        let mut hint = pin!(sleep_until(started + SILENT));
        let mut is_told = false;
        loop {
            tokio::select! {
                session = &mut starting => break session,
                () = &mut hint, if !is_told => {
                    is_told = true;
                    reporter.say(&format!("{}: waiting for its first output; what is typed is sent after it", forward.name()));
                }
                signal = signals.next() => {
                    reporter.stopping(signal);
                    cancel.cancel();
                    if let Some(Ok(session)) = finish(starting, signals, reporter).await {
                        finish(end_session(&session, &observer), signals, reporter).await;
                    }
                    return Err(Over::Signal(signal));
                }
            }
        }
    };
    match session {
        Ok(session) => {
            reporter.begun(forward, session.id(), started.elapsed());
            Ok(Begun { session, observer })
        }
        Err(error) => {
            let report = Report::connect(&error, forward, &forward.access);
            Err(Over::Failed(tokio::select! {
                report = explained(report.clone(), &clouds, std::iter::once(forward)) => report,
                // It has failed before the signal came.
                _ = signals.next() => report,
            }))
        }
    }
}

/// What is to be done. A forward that listens nowhere and leads nowhere but to the target.
fn plan(all: &Args) -> Result<PlannedForward, Report> {
    let target =
        given(&all.session.target).ok_or_else(|| Report::usage("no target for the shell").with_hint(NO_TARGET))?;
    let spec = ForwardSpec {
        text: format!("a shell on {target}"),
        listen: Listen::Tcp { bind: Bind::Loopback, port: 0 },
        destination: Destination::default(),
        target: None,
    };
    let mut forward = PlannedForward::of(spec, all)?;
    forward.request.document = given(&all.session.document);
    Ok(forward)
}

/// What became of the shell.
pub(super) fn over(end: ShellEnd, forward: &PlannedForward) -> Over {
    let name = forward.name();
    Over::Failed(match end {
        ShellEnd::Ended(None | Some(0)) | ShellEnd::Left => return Over::Done,
        ShellEnd::Ended(Some(code)) => return Over::Command(Exit::Command(status(code))),
        ShellEnd::Signal(signal) => return Over::Signal(signal),
        ShellEnd::Local(error) => Report::new(Exit::Failure, "cannot go on").caused_by(&error),
        ShellEnd::Session(reason) => Report::over(&reason, forward),
        ShellEnd::Outage(outage) => Report::new(
            Exit::Lost,
            format!("{name}: the session could not be brought back within {:.0} s", outage.as_secs_f64()),
        ),
    })
}

/// What a shell would make of an exit code. One below zero says that a signal ended the command, and not which.
fn status(code: i32) -> u8 {
    match u8::try_from(code & 0xff) {
        // Of more bits than a status has; what has failed must not look like success.
        Ok(0) | Err(_) => 1,
        Ok(status) => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_failed_has_a_status() {
        for (code, expected) in [(3, 3), (255, 255), (256, 1), (-1, 255), (-1_073_741_819, 5), (i32::MIN, 1)] {
            assert_eq!(status(code), expected, "{code}");
        }
    }
}
