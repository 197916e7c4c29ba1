//! `ssmfwd stdio`: a session, one connection, and what is said when it ends.
//!
//! ```text
//! plan ─▶ AWS ─▶ session ─▶ ready ─▶ stdin and stdout carry the connection ─▶ the session is ended, whatever happened
//!  2      2, 4    1, 5, 6, 7, 8       0, or 7, 8
//! ```
//!
//! Nobody is asked for a login: stdin is somebody else's, and OpenSSH is waiting.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    args::{Args, StdioArgs},
    events::{Body, End},
    exit::Exit,
    plan::{PlannedForward, given},
    report::{Report, Symptom},
    reporter::Reporter,
    run::{Clouds, Connectors, explained},
};
use crate::{
    forward::{
        Bind, ConnectionEnd, Destination, Event, ForwardSpec, Listen, Observer,
        stdio::{self, Stdin, StdioEnd, StdioOptions},
    },
    proto::Cause,
    session::ConnectError,
};

/// The document for a server of the target's own that ends with its only connection
/// (`proto-notes/control-plane.md#documents`).
const TO_SERVER: &str = "AWS-StartSSHSession";

const NO_TARGET: &str =
    "name one with --target i-0123456789abcdef0 or --target name:NAME (or SSMFWD_TARGET); in ssh_config --target %h";

const CLOSED: &str = "try again: the destination may have ended the connection at once, as sshd does with too many \
     logins at a time (MaxStartups)";

const AGAIN: &str = "connect again; an idle session is ended by the service, unless something keeps it busy: \
     --keep-alive 60, or OpenSSH's own ServerAliveInterval";

/// Carries the connection. When `stop` is cancelled, what was started is ended before this returns.
///
/// # Errors
/// The report of what failed.
pub(super) async fn run(
    args: &StdioArgs,
    all: &Args,
    stdin: &Stdin,
    reporter: &Arc<Reporter>,
    stop: &CancellationToken,
) -> Result<(), Report> {
    let mut forward = plan(args, all)?;
    let started = Instant::now();
    let mut clouds = Clouds::new(reporter);
    let connector = tokio::select! {
        connector = clouds.connector(&mut forward) => connector?,
        () = stop.cancelled() => return Ok(()),
    };
    clouds.tell_names(std::iter::once(&forward));
    let observer = observer(&forward, reporter);
    let session = match stdio::start(&*connector, forward.request.clone(), observer, stop.clone()).await {
        Ok(session) => session,
        Err(ConnectError::Cancelled) => return Ok(()),
        Err(error) => {
            let report = not_connected(&error, &forward);
            return tokio::select! {
                report = explained(report.clone(), &clouds, std::iter::once(&forward)) => Err(report),
                // It has failed before the signal came.
                () = stop.cancelled() => Err(report),
            };
        }
    };
    reporter.connected(&forward, session.id(), started.elapsed());
    let options = StdioOptions {
        linger: forward.options.linger,
        connect_timeout: forward.session.connect_timeout,
        reconnect_window: forward.options.reconnect_window,
        stall_timeout: forward.session.stall_timeout,
    };
    over(session.carry(stdin, options, stop).await, &forward)
}

/// What is to be done. A forward that listens nowhere.
fn plan(args: &StdioArgs, all: &Args) -> Result<PlannedForward, Report> {
    let destination: Destination =
        args.destination.parse().map_err(|error: crate::forward::DestinationError| Report::usage(error.to_string()))?;
    let target = given(&all.session.target)
        .ok_or_else(|| Report::usage(format!("no target for {}", args.destination)).with_hint(NO_TARGET))?;
    let to_server = destination.host.is_none() && given(&all.session.document).is_none();
    let spec = ForwardSpec {
        text: destination.describe(&target),
        // Nothing is bound.
        listen: Listen::Tcp { bind: Bind::Loopback, port: 0 },
        destination,
        target: None,
    };
    let mut forward = PlannedForward::of(spec, all)?;
    if to_server {
        forward.request.document = Some(TO_SERVER.to_owned());
    }
    Ok(forward)
}

/// Tells what happens. What the final report says too is only an event.
fn observer(forward: &PlannedForward, reporter: &Arc<Reporter>) -> Observer {
    let (told, reporter, name) = (reporter.of(forward).alone(), reporter.clone(), forward.name().to_owned());
    let destination = forward.destination();
    Arc::new(move |event| match event {
        Event::SessionEnded { session, member, reason, bytes_up, bytes_down, .. } => {
            reporter.session_ended(&session);
            let end = End::from(&reason);
            let (forward, session_id) = (&name[..], &session.0[..]);
            reporter.emit(&Body::SessionEnded { forward, session_id, member, end, bytes_up, bytes_down });
        }
        Event::DestinationRefused { peer } => {
            let (peer, destination) = (peer.to_string(), destination.clone());
            reporter.emit(&Body::DestinationRefused { forward: &name, peer, destination });
        }
        event => told.tell(&event),
    })
}

/// A session that did not get ready. In raw mode the agent acknowledges nothing before its destination has accepted, so
/// that a destination may be why.
fn not_connected(error: &ConnectError, forward: &PlannedForward) -> Report {
    let report = Report::connect(error, forward, &forward.access);
    match report.symptom {
        Some(Symptom::DestinationUnacknowledged) => {
            Report { error: format!("{} did not answer", forward.destination()), ..report.for_destination() }
        }
        // The end of its only connection is the end of the session, which nobody explains.
        _ if forward.request.document.as_deref() == Some(TO_SERVER) && ended_without_a_word(error) => {
            nothing(forward).caused_by(error)
        }
        _ => report.for_destination(),
    }
}

fn ended_without_a_word(error: &ConnectError) -> bool {
    let ConnectError::Closed(reason) = error else { return false };
    matches!(&reason.cause, Cause::ChannelClosed(text) if text.is_empty())
}

/// The end came before a byte had passed: most likely the destination's.
fn nothing(forward: &PlannedForward) -> Report {
    let error = format!("the connection to {} ended before anything was said", forward.destination());
    Report::new(Exit::Destination, error).with_hint(CLOSED)
}

/// What became of the connection.
fn over(end: StdioEnd, forward: &PlannedForward) -> Result<(), Report> {
    let (access, name) = (&forward.access, forward.name());
    Err(match end {
        StdioEnd::Stopped => return Ok(()),
        StdioEnd::Connection(ConnectionEnd::DestinationRefused) => {
            Report::destination(Symptom::DestinationRefused, forward, access)
        }
        StdioEnd::Connection(ConnectionEnd::Unanswered) => {
            Report::destination(Symptom::DestinationSilent, forward, access)
        }
        StdioEnd::Connection(_) => return Ok(()),
        StdioEnd::Nothing => nothing(forward),
        StdioEnd::Local(error) => Report::new(Exit::Failure, "cannot go on").caused_by(&error),
        // In basic mode the agent connects once more if the destination has ended and there is more to be said.
        StdioEnd::Session(reason) if reason.is_destination_unreachable() => Report::over(&reason, forward),
        StdioEnd::Session(reason) => {
            Report::new(Exit::Lost, format!("the session of {name} is over")).caused_by(&reason).with_hint(AGAIN)
        }
        StdioEnd::Outage(outage) => {
            let seconds = outage.as_secs_f64();
            Report::new(Exit::Lost, format!("the session of {name} could not be brought back within {seconds:.0} s"))
                .with_hint(AGAIN)
        }
    })
}
