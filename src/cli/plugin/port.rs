//! A forward in a session that somebody else has started.

use std::{
    num::NonZeroU8,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{invocation::Invocation, left, lost, words::Line};
use crate::{
    cli::{
        exit::Exit,
        plan::PlannedForward,
        report::Report,
        reporter::Reporter,
        run::{Over, finish},
        signals::Signals,
    },
    forward::{
        Bind, BindError, Connector, Event, ForwardSpec, Forwarder, ForwarderOptions, Listen, LocalAddress, Observer,
        Sessions, end_session,
    },
    session::{ConnectError, Mode, Session, SessionEvent, StartRequest},
};

/// Starts no sessions: ours was started by somebody else, for reasons that are theirs.
struct NoMore;

impl Connector for NoMore {
    type Tunnel = Session;

    async fn connect(
        &self,
        _: StartRequest,
        _: Arc<dyn Fn(SessionEvent) + Send + Sync>,
        _: CancellationToken,
    ) -> Result<Session, ConnectError> {
        Err(ConnectError::Cancelled)
    }

    fn connect_timeout(&self) -> Duration {
        Duration::ZERO
    }
}

/// Listens where the document says, and serves until the session is over or somebody wants no more.
pub(super) async fn serve(
    session: Session,
    invocation: &Invocation,
    forward: PlannedForward,
    observer: Observer,
    signals: &mut Signals,
    reporter: &Arc<Reporter>,
) -> Over {
    let id = session.id().clone();
    let declared = session.declared();
    let property = |name: &str| declared.as_ref().map(|declared| declared.property(name)).unwrap_or_default();
    let listening = listen(invocation, property)
        .and_then(|listen| bind(&session, listen, &forward, &observer, reporter).map_err(|error| Report::bind(&error)));
    let forwarder = match listening {
        Ok(forwarder) => forwarder,
        Err(report) => {
            finish(end_session(&session, &observer), signals, reporter).await;
            return Over::Failed(report);
        }
    };
    // One address of several: they have the port in common.
    let opened = match forwarder.addresses().first() {
        Some(LocalAddress::Tcp(address)) => Line::Port(address.port(), &id).to_string(),
        Some(LocalAddress::Unix(path)) => Line::UnixSocket(&path.display().to_string(), &id).to_string(),
        None => String::new(),
    };
    let waiting = if session.mode() == Mode::Mux { Line::Waiting.to_string() } else { String::new() };
    reporter.plain(&(opened + &waiting));
    let drain = CancellationToken::new();
    let ended = session.clone();
    let mut serving = std::pin::pin!(forwarder.run(Arc::new(NoMore), forward.request.clone(), session, drain.clone()));
    tokio::select! {
        _ = &mut serving => {}
        reason = ended.closed() => {
            drain.cancel();
            finish(serving, signals, reporter).await;
            return lost(&id, &reason, &forward, reporter);
        }
        signal = signals.next() => {
            drain.cancel();
            finish(serving, signals, reporter).await;
            let over = left(signal, reporter);
            if let Over::Done = over {
                reporter.plain(&Line::Exiting(&id).to_string());
            }
            return over;
        }
    }
    let reason = ended.closed().await;
    lost(&id, &reason, &forward, reporter)
}

/// Where the document wants us to listen. The agent tells, and may have its own ideas: where the caller chose, it is held
/// to that, and AWS's documents choose nothing by themselves.
fn listen<'a>(invocation: &Invocation, property: impl Fn(&str) -> &'a str) -> Result<Listen, Report> {
    let open = invocation.document.as_deref().is_none_or(|name| !name.starts_with("AWS-"));
    for (name, chosen) in [("localPortNumber", &invocation.local_port), ("localUnixSocket", &invocation.local_socket)] {
        let told = property(name);
        let agrees = match chosen {
            Some(chosen) => told == chosen,
            None => open || matches!(told, "" | "0"),
        };
        if !agrees {
            let what = format!("the agent wants another local address than was asked for: {name} {told:?}");
            return Err(Report::new(Exit::Target, what));
        }
    }
    if property("localConnectionType") == "unix" {
        let path = property("localUnixSocket");
        if path.is_empty() {
            return Err(Report::new(Exit::Usage, "the session document names no unix socket (localUnixSocket)"));
        }
        return Ok(Listen::Unix(PathBuf::from(path)));
    }
    let port = match property("localPortNumber") {
        "" => 0,
        text => text.parse().map_err(|_| {
            Report::new(Exit::Usage, format!("the local port of the session document is not a port: {text:?}"))
        })?,
    };
    Ok(Listen::Tcp { bind: Bind::Loopback, port })
}

fn bind(
    session: &Session,
    listen: Listen,
    forward: &PlannedForward,
    observer: &Observer,
    reporter: &Arc<Reporter>,
) -> Result<Forwarder, BindError> {
    let spec = ForwardSpec { listen, ..forward.spec.clone() };
    let options =
        ForwarderOptions { sessions: Sessions::Fixed(NonZeroU8::MIN), idle_close: None, ..forward.options.clone() };
    let (id, streams) = (session.id().clone(), session.mode() == Mode::Mux);
    let (observer, reporter) = (observer.clone(), reporter.clone());
    let first = AtomicBool::new(true);
    let observer: Observer = Arc::new(move |event| {
        if let Event::ConnectionOpened { .. } = event {
            if !streams {
                reporter.plain(&Line::Connection(&id).to_string());
            } else if first.swap(false, Ordering::Relaxed) {
                reporter.plain(&Line::FirstConnection(&id).to_string());
            }
        }
        observer(event);
    });
    Forwarder::bind(&spec, options, observer)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::plugin::invocation::Wanted;

    fn invocation(request: &str) -> Invocation {
        let answer = r#"{"SessionId":"alice-1","TokenValue":"secret","StreamUrl":"wss://x"}"#;
        let arguments = [answer, "eu-west-1", "StartSession", "", request, ""].map(OsString::from);
        match Wanted::read(arguments, |_| None) {
            Ok(Wanted::Session(invocation)) => *invocation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_agent_does_not_choose_where_to_listen() {
        const FORWARD: &str = r#"{"DocumentName":"AWS-StartPortForwardingSession","Parameters":{"portNumber":["80"]}}"#;
        const CHOSEN: &str = r#"{"DocumentName":"Mine","Parameters":{"localPortNumber":["8080"]}}"#;
        const SOCKET: &str = r#"{"DocumentName":"Mine","Parameters":{"localUnixSocket":["/run/a"]}}"#;
        let port = |port| Some(Listen::Tcp { bind: Bind::Loopback, port });
        for (request, told, expected) in [
            (FORWARD, &[("localPortNumber", "0")][..], port(0)),
            (FORWARD, &[], port(0)),
            (FORWARD, &[("localPortNumber", "5432")], None),
            (FORWARD, &[("localConnectionType", "unix"), ("localUnixSocket", "/run/b")], None),
            (CHOSEN, &[("localPortNumber", "8080")], port(8080)),
            (CHOSEN, &[("localPortNumber", "8081")], None),
            (
                SOCKET,
                &[("localConnectionType", "unix"), ("localUnixSocket", "/run/a")],
                Some(Listen::Unix("/run/a".into())),
            ),
            (SOCKET, &[("localConnectionType", "unix"), ("localUnixSocket", "/run/b")], None),
            // A document of the account's own may say it all, and old callers pass no request.
            (r#"{"DocumentName":"Mine"}"#, &[("localPortNumber", "5432")], port(5432)),
            ("", &[("localPortNumber", "5432")], port(5432)),
        ] {
            let property =
                |name: &str| told.iter().find(|(key, _)| *key == name).map(|(_, value)| *value).unwrap_or_default();
            assert_eq!(listen(&invocation(request), property).ok(), expected, "{request} {told:?}");
        }
    }
}
