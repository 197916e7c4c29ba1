//! What is told while the program runs: lines for people, or one JSON object a line for programs.
//!
//! Fields and events are only ever added. Every `reason` comes from a closed list: those of connections from
//! [`ConnectionEnd`](crate::forward::ConnectionEnd), those of sessions from [`session_end`].

use std::time::Duration;

use serde::Serialize;

use super::{
    args::Format,
    clock::Timestamp,
    console::{Console, To, printable},
    exit::Exit,
    plan::PlannedForward,
    report::Report,
    signals::Signal,
};
use crate::{
    forward::{Event, Listen, LocalAddress},
    proto::{Cause, CloseReason, Initiator},
    session::{SessionEvent, SessionId},
};

/// Who or what ended the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum By {
    /// A signal.
    Signal,
    /// ssmfwd itself, because something failed.
    Ssmfwd,
}

/// One line of `--output json`, without event name and time.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Listening {
        forward: &'a str,
        address: String,
    },
    SessionStarted {
        forward: &'a str,
        session_id: &'a str,
        target: &'a str,
        member: u32,
    },
    Ready {
        forwards: Vec<ReadyForward>,
        elapsed_ms: u64,
    },
    ConnectionOpened {
        forward: &'a str,
        peer: String,
    },
    ConnectionClosed {
        forward: &'a str,
        peer: String,
        bytes_up: u64,
        bytes_down: u64,
        duration_ms: u64,
        reason: &'a str,
    },
    DestinationRefused {
        forward: &'a str,
        peer: String,
        destination: String,
    },
    Backpressure {
        forward: &'a str,
        active: bool,
    },
    Stalled {
        forward: &'a str,
        active: bool,
    },
    SessionEnded {
        forward: &'a str,
        reason: &'a str,
        by: &'a str,
        detail: String,
    },
    Error {
        status: u8,
        message: &'a str,
        causes: &'a [String],
        hint: Option<&'a str>,
    },
    Stopped {
        exit: u8,
        by: By,
    },
}

#[derive(Debug, Serialize)]
struct ReadyForward {
    forward: String,
    addresses: Vec<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    time: String,
    #[serde(flatten)]
    body: &'a Body<'a>,
    /// Events that were lost before this one, because nobody read them in time.
    #[serde(skip_serializing_if = "is_zero")]
    dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Body<'_> {
    const fn event(&self) -> &'static str {
        match self {
            Self::Listening { .. } => "listening",
            Self::SessionStarted { .. } => "session_started",
            Self::Ready { .. } => "ready",
            Self::ConnectionOpened { .. } => "connection_opened",
            Self::ConnectionClosed { .. } => "connection_closed",
            Self::DestinationRefused { .. } => "destination_refused",
            Self::Backpressure { .. } => "backpressure",
            Self::Stalled { .. } => "stalled",
            Self::SessionEnded { .. } => "session_ended",
            Self::Error { .. } => "error",
            Self::Stopped { .. } => "stopped",
        }
    }

    /// Whether there may be any number of them.
    const fn can_be_spared(&self) -> bool {
        matches!(
            self,
            Self::ConnectionOpened { .. }
                | Self::ConnectionClosed { .. }
                | Self::DestinationRefused { .. }
                | Self::Backpressure { .. }
        )
    }

    fn line(&self, dropped: u64) -> String {
        let line = Line { event: self.event(), time: Timestamp::now().to_string(), body: self, dropped };
        // Strings and numbers always serialise.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// Tells people or programs what happens.
pub(super) struct Reporter {
    console: Console,
    format: Format,
    quiet: bool,
}

impl Reporter {
    pub(super) fn new(console: Console, format: Format, quiet: bool) -> Self {
        Self { console, format, quiet }
    }

    /// Something happened in a forward.
    pub(super) fn forward(&self, forward: &PlannedForward, event: &Event) {
        let name = forward.name();
        match event {
            Event::Listening(address) => {
                self.emit(&Body::Listening { forward: name, address: address.to_string() });
                if matches!(forward.spec.listen, Listen::Tcp { bind, .. } if !bind.is_loopback()) {
                    self.warn(&format!(
                        "{address} can be reached from the network, which lets everybody there through"
                    ));
                }
            }
            Event::Session(event) => self.session(forward, event),
            Event::ConnectionOpened { peer } => {
                self.emit(&Body::ConnectionOpened { forward: name, peer: peer.to_string() });
            }
            Event::ConnectionClosed { peer, bytes_up, bytes_down, duration, end } => {
                self.emit(&Body::ConnectionClosed {
                    forward: name,
                    peer: peer.to_string(),
                    bytes_up: *bytes_up,
                    bytes_down: *bytes_down,
                    duration_ms: millis(*duration),
                    reason: end.name(),
                })
            }
            Event::DestinationRefused { peer } => {
                let destination = forward.destination();
                self.spare_warn(&format!("{destination} refused a connection (of {peer})"));
                self.emit(&Body::DestinationRefused { forward: name, peer: peer.to_string(), destination });
            }
            Event::AcceptFailed(error) => {
                self.spare_warn(&format!("{name} cannot accept connections for now: {error}"));
            }
            Event::SessionEnded(reason) => {
                let (reason, by, detail) = (session_end(reason), ended_by(reason), reason.to_string());
                self.emit(&Body::SessionEnded { forward: name, reason, by, detail });
            }
        }
    }

    fn session(&self, forward: &PlannedForward, event: &SessionEvent) {
        let name = forward.name();
        match event {
            SessionEvent::Started(SessionId(id)) => self.emit(&Body::SessionStarted {
                forward: name,
                session_id: id,
                target: &forward.request.target,
                member: 0,
            }),
            SessionEvent::CustomerMessage(text) => self.say(&printable(text)),
            SessionEvent::UnsignedUpgrade => {
                self.warn("the data channel was opened unsigned: the policy should allow ssmmessages:OpenDataChannel")
            }
            SessionEvent::Backpressure(active) => self.emit(&Body::Backpressure { forward: name, active: *active }),
            SessionEvent::NotTerminated(why) => {
                self.warn(&format!("the session of {name} was not ended and lives until its idle timeout: {why}"));
            }
            SessionEvent::Stalled(active) => self.emit(&Body::Stalled { forward: name, active: *active }),
            SessionEvent::SlowReader => self.warn(&format!(
                "a connection of {name} was reset: its program had read nothing for 30 s and held up the others"
            )),
            // The connection's own event tells which one it was; a pause of some seconds is the service's business.
            SessionEvent::DestinationRefused | SessionEvent::Paused(_) => {}
        }
    }

    /// A forward has its session.
    pub(super) fn opened(&self, forward: &PlannedForward, addresses: &[LocalAddress], session: &SessionId) {
        let addresses: Vec<_> = addresses.iter().map(LocalAddress::to_string).collect();
        let (addresses, destination) = (addresses.join(", "), forward.destination());
        self.say(&format!("{addresses} -> {destination}   session {}", printable(&session.0)));
    }

    /// All forwards can carry data.
    pub(super) fn ready(&self, forwards: &[(&PlannedForward, Vec<LocalAddress>)], elapsed: Duration) {
        self.say(&format!("ready in {:.1} s", elapsed.as_secs_f64()));
        let forward = |(forward, addresses): &(&PlannedForward, Vec<LocalAddress>)| ReadyForward {
            forward: forward.name().to_owned(),
            addresses: addresses.iter().map(LocalAddress::to_string).collect(),
        };
        self.emit(&Body::Ready { forwards: forwards.iter().map(forward).collect(), elapsed_ms: millis(elapsed) });
    }

    /// A signal has come.
    pub(super) fn stopping(&self, signal: Signal) {
        let again = if signal == Signal::Interrupt { "; Ctrl-C again leaves at once" } else { "" };
        self.say(&format!("{}: ending{again}", signal.name()));
    }

    /// Something failed for good.
    pub(super) fn failed(&self, report: &Report) {
        self.console.line(To::Stderr, report.to_string());
        self.emit(&Body::Error {
            status: report.exit.status(),
            message: &report.error,
            causes: &report.causes,
            hint: report.hint.as_deref(),
        });
    }

    /// The program ends. Waits until all is written.
    pub(super) fn stopped(&self, exit: Exit, by: By) {
        self.emit(&Body::Stopped { exit: exit.status(), by });
        self.console.flush();
    }

    /// For programs.
    fn emit(&self, body: &Body<'_>) {
        match self.format {
            Format::Text => {}
            Format::Json if body.can_be_spared() => self.console.spare_line(To::Stdout, |dropped| body.line(dropped)),
            Format::Json => self.console.line(To::Stdout, body.line(0)),
        }
    }

    /// For people, where there is no other output.
    fn say(&self, line: &str) {
        if self.format == Format::Text && !self.quiet {
            self.console.line(To::Stderr, format!("ssmfwd: {line}"));
        }
    }

    /// For people, in any case.
    fn warn(&self, line: &str) {
        if !self.quiet {
            self.console.line(To::Stderr, format!("warning: {}", printable(line)));
        }
    }

    /// A warning of which there may be any number.
    fn spare_warn(&self, line: &str) {
        if !self.quiet {
            self.console.spare_line(To::Stderr, |_| format!("warning: {}", printable(line)));
        }
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// The `reason` of `session_ended`.
const fn session_end(reason: &CloseReason) -> &'static str {
    match reason.cause {
        Cause::Requested => "requested",
        Cause::ChannelClosed(_) => "channel_closed",
        Cause::Handshake(_) => "handshake",
        Cause::Protocol(_) => "protocol",
        Cause::Limit(_) => "limit",
        Cause::ConnectionLost(_) => "connection_lost",
        Cause::Timeout(_) => "timeout",
    }
}

/// The `by` of `session_ended`.
const fn ended_by(reason: &CloseReason) -> &'static str {
    match reason.initiator {
        Initiator::Us => "user",
        Initiator::Library => "ssmfwd",
        Initiator::Agent => "agent",
        Initiator::Service => "service",
        Initiator::Transport => "network",
    }
}

#[cfg(test)]
mod tests {
    use std::{io, net::SocketAddr};

    use serde_json::Value;

    use super::*;
    use crate::{
        cli::{console::tests::Page, grammar},
        forward::{ConnectionEnd, Peer},
        session::StartRequest,
    };

    fn forward(text: &str) -> PlannedForward {
        let spec = grammar::parse(text, false).expect("a valid forward");
        PlannedForward { spec, request: StartRequest { target: "i-0a".into(), ..Default::default() } }
    }

    fn tcp(address: &str) -> LocalAddress {
        LocalAddress::Tcp(address.parse().expect("an address"))
    }

    fn lost() -> CloseReason {
        CloseReason::new(Initiator::Transport, Cause::ConnectionLost("gone".into()))
    }

    /// Everything that can be told.
    fn tell_all(reporter: &Reporter) {
        let forward = forward("*:13306:db:3306");
        let peer = Peer::Tcp(SocketAddr::from(([127, 0, 0, 1], 5)));
        let id = SessionId("me-0a".into());
        for event in [
            Event::Listening(tcp("0.0.0.0:13306")),
            Event::Listening(tcp("[::]:13306")),
            Event::Session(SessionEvent::Started(id.clone())),
            Event::Session(SessionEvent::CustomerMessage("be\u{1b} nice".into())),
            Event::Session(SessionEvent::UnsignedUpgrade),
            Event::ConnectionOpened { peer },
            Event::Session(SessionEvent::Backpressure(true)),
            Event::Session(SessionEvent::DestinationRefused),
            Event::DestinationRefused { peer },
            Event::ConnectionClosed {
                peer,
                bytes_up: 1,
                bytes_down: 2,
                duration: Duration::from_millis(3),
                end: ConnectionEnd::DestinationRefused,
            },
            Event::AcceptFailed("no descriptors".into()),
            Event::Session(SessionEvent::NotTerminated("denied".into())),
            Event::SessionEnded(lost()),
        ] {
            reporter.forward(&forward, &event);
        }
        let addresses = vec![tcp("0.0.0.0:13306"), tcp("[::]:13306")];
        reporter.opened(&forward, &addresses, &id);
        reporter.ready(&[(&forward, addresses)], Duration::from_millis(1449));
        reporter.stopping(Signal::Interrupt);
        reporter.failed(&Report::lost(&lost(), &forward));
        reporter.stopped(Exit::Lost, By::Ssmfwd);
    }

    fn told(format: Format, quiet: bool) -> (String, String) {
        let (stdout, stderr) = (Page::default(), Page::default());
        let console = Console::on(stdout.clone(), stderr.clone()).expect("a thread");
        tell_all(&Reporter::new(console, format, quiet));
        (stdout.text(), stderr.text())
    }

    #[test]
    fn people_get_lines_on_stderr() {
        let (stdout, stderr) = told(Format::Text, false);
        assert_eq!(stdout, "");
        let expected = [
            "warning: 0.0.0.0:13306 can be reached from the network, which lets everybody there through",
            "warning: [::]:13306 can be reached from the network, which lets everybody there through",
            "ssmfwd: be\\u{1b} nice",
            "warning: the data channel was opened unsigned: the policy should allow ssmmessages:OpenDataChannel",
            "warning: db:3306 refused a connection (of 127.0.0.1:5)",
            "warning: *:13306:db:3306 cannot accept connections for now: no descriptors",
            "warning: the session of *:13306:db:3306 was not ended and lives until its idle timeout: denied",
            "ssmfwd: 0.0.0.0:13306, [::]:13306 -> db:3306   session me-0a",
            "ssmfwd: ready in 1.4 s",
            "ssmfwd: SIGINT: ending; Ctrl-C again leaves at once",
            "error: the session of *:13306:db:3306 ended",
            "  caused by: connection lost: gone",
            "",
            "hint: start ssmfwd again when the network is back",
        ];
        assert_eq!(stderr.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn programs_get_an_object_a_line_on_stdout() {
        let (stdout, stderr) = told(Format::Json, false);
        assert!(!stderr.contains("ssmfwd: "), "only warnings and errors: {stderr}");
        let events: Vec<Value> =
            stdout.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
        let without_time = |mut event: Value| {
            let time = event.as_object_mut().and_then(|event| event.remove("time")).expect("a time");
            assert!(time.as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{time}");
            event.to_string()
        };
        let forward = r#""forward":"*:13306:db:3306""#;
        let expected: Vec<String> = [
            r#"{"event":"listening",F,"address":"0.0.0.0:13306"}"#,
            r#"{"event":"listening",F,"address":"[::]:13306"}"#,
            r#"{"event":"session_started",F,"session_id":"me-0a","target":"i-0a","member":0}"#,
            r#"{"event":"connection_opened",F,"peer":"127.0.0.1:5"}"#,
            r#"{"event":"backpressure",F,"active":true}"#,
            r#"{"event":"destination_refused",F,"peer":"127.0.0.1:5","destination":"db:3306"}"#,
            r#"{"event":"connection_closed",F,"peer":"127.0.0.1:5","bytes_up":1,"bytes_down":2,"duration_ms":3,
                "reason":"destination_refused"}"#,
            r#"{"event":"session_ended",F,"reason":"connection_lost","by":"network",
                "detail":"connection lost: gone"}"#,
            r#"{"event":"ready","forwards":[{F,"addresses":["0.0.0.0:13306","[::]:13306"]}],"elapsed_ms":1449}"#,
            r#"{"event":"error","status":7,"message":"the session of *:13306:db:3306 ended",
                "causes":["connection lost: gone"],
                "hint":"start ssmfwd again when the network is back"}"#,
            r#"{"event":"stopped","exit":7,"by":"ssmfwd"}"#,
        ]
        .iter()
        .map(|line| serde_json::from_str::<Value>(&line.replace('F', forward)).expect("valid JSON").to_string())
        .collect();
        assert_eq!(events.into_iter().map(without_time).collect::<Vec<_>>(), expected);
        assert!(stdout.starts_with(r#"{"event":"listening","time":""#), "{stdout}");
    }

    #[test]
    fn quiet_leaves_errors_only() {
        let (stdout, stderr) = told(Format::Text, true);
        assert_eq!(stdout, "");
        assert!(stderr.starts_with("error: "), "{stderr}");
        assert!(!stderr.contains("warning: ") && !stderr.contains("ssmfwd: "), "{stderr}");
    }

    #[test]
    fn lost_events_are_counted() {
        let line = Body::Stopped { exit: 0, by: By::Signal }.line(3);
        assert!(line.ends_with(r#","dropped":3}"#), "{line}");
    }

    #[test]
    fn loopback_needs_no_warning() {
        let stderr = Page::default();
        let console = Console::on(io::sink(), stderr.clone()).expect("a thread");
        let reporter = Reporter::new(console, Format::Text, false);
        reporter.forward(&forward("1:db:2"), &Event::Listening(tcp("127.0.0.1:1")));
        reporter.forward(&forward("127.0.0.2:1:db:2"), &Event::Listening(tcp("127.0.0.2:1")));
        reporter.stopped(Exit::Interrupt, By::Signal);
        assert_eq!(stderr.text(), "");
    }
}
