//! What is told while the program runs: lines for people on stderr, events for programs on stdout.
//!
//! What happens in a single forward is told by its [`ForwardReporter`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::task::AbortOnDropHandle;

use super::{
    admin::{self, Admin},
    args::Format,
    board::Snapshot,
    console::{Console, To, printable},
    events::{Body, By, ReadyForward},
    forward_reporter::ForwardReporter,
    live::{self, View},
    plan::{Access, PlannedForward},
    report::{self, Report, Symptom},
    signals::Signal,
};
use crate::{aws::Identity, forward::LocalAddress, session::SessionId};

/// Tells people or programs what happens.
pub(super) struct Reporter {
    console: Console,
    format: Format,
    quiet: bool,
    /// People are told of warnings and errors only.
    says_little: bool,
    /// Where events go: stdout may be somebody else's.
    events: To,
    known: Mutex<Known>,
}

/// What is known of all forwards together.
#[derive(Default)]
struct Known {
    /// Sessions that were started and have not been ended.
    sessions: BTreeSet<String>,
    /// The profile and the region in use, by the name of the forward: not all of that is typed.
    accesses: BTreeMap<String, Access>,
    /// Of each choice of credentials.
    credentials: Vec<(Access, Expiries)>,
}

/// What is known of some credentials.
#[derive(Default)]
struct Expiries {
    /// They have expired, and nothing has succeeded with them since.
    expired: bool,
    /// So many times they have.
    count: u64,
}

impl Known {
    fn access(&self, forward: &PlannedForward) -> Access {
        self.accesses.get(forward.name()).unwrap_or(&forward.access).clone()
    }

    fn expiries(&mut self, access: &Access) -> &mut Expiries {
        let at = self.credentials.iter().position(|(of, _)| of == access).unwrap_or_else(|| {
            self.credentials.push((access.clone(), Expiries::default()));
            self.credentials.len() - 1
        });
        &mut self.credentials[at].1
    }
}

impl Reporter {
    pub(super) fn new(console: Console, format: Format, quiet: bool) -> Self {
        Self { console, format, quiet, says_little: false, events: To::Stdout, known: Mutex::default() }
    }

    /// The same with events on stderr, because stdout belongs to COMMAND.
    pub(super) fn leaving_stdout(self) -> Self {
        Self { events: To::Stderr, ..self }
    }

    /// The same with warnings and errors only.
    pub(super) fn saying_little(self) -> Self {
        Self { says_little: true, ..self }
    }

    /// What tells of one forward.
    pub(super) fn of(self: &Arc<Self>, forward: &PlannedForward) -> ForwardReporter {
        ForwardReporter::new(self.clone(), forward.clone())
    }

    /// The profile and the region that a forward uses are known now.
    pub(super) fn uses(&self, forward: &PlannedForward) {
        self.known().accesses.insert(forward.name().to_owned(), forward.access.clone());
    }

    /// Whether somebody wants to know who we are.
    pub(super) fn wants_identity(&self) -> bool {
        self.format == Format::Json || self.says()
    }

    /// Who we are.
    pub(super) fn identity(&self, identity: &Identity, access: &Access) {
        let profile = access.profile.as_ref().map(|profile| format!("profile {profile}"));
        let place: Vec<_> = [profile.as_deref(), access.region.as_deref()].into_iter().flatten().collect();
        self.say(&format!("{identity} ({})", place.join(", ")));
        self.emit(&Body::Identity {
            account: &identity.account,
            arn: &identity.arn,
            profile: access.profile.as_deref(),
            region: access.region.as_deref(),
        });
    }

    /// Where the admin endpoint listens.
    pub(super) fn admin(&self, admin: &Admin) {
        for address in admin.public_addresses() {
            self.warn(&format!("{address} can be reached from the network, which lets everybody there see the state"));
        }
        for address in admin.addresses() {
            self.say(&format!("admin at {}", admin::shown(address)));
            self.emit(&Body::Admin { address: address.to_string() });
        }
    }

    /// A forward has its session.
    pub(super) fn opened(&self, forward: &PlannedForward, addresses: &[LocalAddress], session: &SessionId) {
        let addresses: Vec<_> = addresses.iter().map(LocalAddress::to_string).collect();
        let (addresses, destination) = (addresses.join(", "), forward.destination());
        self.say(&format!("{addresses} -> {destination}   session {}", session.0));
    }

    /// A forward listens, and begins without a session.
    pub(super) fn sleeps(&self, forward: &PlannedForward, addresses: &[LocalAddress]) {
        let addresses: Vec<_> = addresses.iter().map(LocalAddress::to_string).collect();
        let (addresses, destination) = (addresses.join(", "), forward.destination());
        self.say(&format!("{addresses} -> {destination}   session at the first connection"));
    }

    /// A forward has a session of an agent that cannot multiplex.
    pub(super) fn carries_one(&self, forward: &PlannedForward) {
        let hint = self.hint(Symptom::OneConnection, forward);
        self.say(&format!("{}: the agent carries one connection at a time: {hint}", forward.name()));
    }

    /// What helps if a call was denied.
    pub(super) fn denied_hint(&self, said: &str, forward: &PlannedForward) -> Option<String> {
        report::denied_hint(said, forward, &self.known().access(forward))
    }

    /// What helps, as the error table has it.
    pub(super) fn hint(&self, symptom: Symptom, forward: &PlannedForward) -> String {
        report::hint(symptom, forward, &self.known().access(forward))
    }

    /// All forwards can carry data.
    pub(super) fn ready(&self, forwards: &[(PlannedForward, Vec<LocalAddress>)], elapsed: Duration) {
        self.say(&format!("ready in {:.1} s", elapsed.as_secs_f64()));
        let forward = |(forward, addresses): &(PlannedForward, Vec<LocalAddress>)| ReadyForward {
            forward: forward.name().to_owned(),
            addresses: addresses.iter().map(LocalAddress::to_string).collect(),
            member: (!forward.lazy).then_some(0),
        };
        self.emit(&Body::Ready { forwards: forwards.iter().map(forward).collect(), elapsed_ms: millis(elapsed) });
    }

    /// A connection that needs no listener has its session.
    pub(super) fn connected(&self, forward: &PlannedForward, session: &SessionId, elapsed: Duration) {
        self.say(&format!("stdin and stdout -> {}   session {}", forward.destination(), session.0));
        self.ready(&[(forward.clone(), Vec::new())], elapsed);
    }

    /// A shell has its session.
    pub(super) fn begun(&self, forward: &PlannedForward, session: &SessionId, elapsed: Duration) {
        self.say(&format!("{}   session {}", forward.name(), session.0));
        self.ready(&[(forward.clone(), Vec::new())], elapsed);
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
            symptom: report.symptom.map(|symptom| symptom.row().name),
        });
    }

    /// What the program is doing, because somebody has asked.
    pub(super) fn state(&self, snapshot: &Snapshot) {
        self.show(&format!("up for {} s", snapshot.uptime.as_secs()));
        snapshot.forwards.iter().for_each(|forward| self.show(&forward.to_string()));
    }

    /// The configuration was read again; what is new is being started.
    pub(super) fn reloading(&self, added: &[String], removed: &[String], unchanged: usize) {
        let named = |names: &[String], what| (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")));
        let count = (unchanged > 0).then(|| format!("{unchanged} unchanged"));
        let changes = [named(added, "starting"), named(removed, "stopping"), count];
        let changes: Vec<_> = changes.into_iter().flatten().collect();
        self.say(&format!("configuration read again: {}", changes.join("; ")));
        self.emit(&Body::Reloaded { added, removed, unchanged });
    }

    /// The configuration could not be read again.
    pub(super) fn not_reloaded(&self, report: &Report) {
        self.console.line(To::Stderr, format!("{report}\nwarning: everything goes on as it was"));
        self.emit(&Body::ReloadFailed { message: &report.error, causes: &report.causes, hint: report.hint.as_deref() });
    }

    /// The program ends. Waits until all is written.
    pub(super) fn stopped(&self, status: u8, by: By) {
        self.emit(&Body::Stopped { exit: status, by });
        self.console.flush();
    }

    /// The credentials have expired, as a forward finds that was last told of the expiry `last`: 0 for none. Returns
    /// which one this is. Most forwards use the same credentials: people are told by the first that finds out.
    pub(super) fn credentials_expired(&self, forward: &PlannedForward, message: &str, last: u64) -> u64 {
        let (access, is_new, expiry) = {
            let mut known = self.known();
            let access = known.access(forward);
            let expiries = known.expiries(&access);
            let is_new = !std::mem::replace(&mut expiries.expired, true);
            expiries.count += u64::from(is_new);
            let expiry = expiries.count;
            (access, is_new, expiry)
        };
        if expiry != last {
            let hint = report::renewal_hint(&access);
            if is_new {
                self.warn(&format!("the credentials cannot be used any more: {message}"));
                self.warn(&hint);
            }
            self.emit(&Body::CredentialsExpired { forward: forward.name(), message, hint: &hint });
        }
        expiry
    }

    /// For people or for programs.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Data for stdout, as it is: what a command was asked for.
    pub(super) fn data(&self, line: String) {
        self.console.line(To::Stdout, line);
    }

    /// Whether people are told what is not a warning.
    pub(super) fn says(&self) -> bool {
        self.format == Format::Text && !self.quiet && !self.says_little
    }

    /// Waits until all data is written, however slow its reader.
    pub(super) async fn written(self: &Arc<Self>) {
        let reporter = self.clone();
        // It fails only if it panics, and then there is nothing to wait for.
        drop(tokio::task::spawn_blocking(move || reporter.console.drain()).await);
    }

    /// Shows a view below everything that is said, until it is dropped. Must run inside a tokio runtime.
    pub(super) fn view(self: &Arc<Self>, view: impl View + 'static) -> Shown {
        self.console.show(view);
        let reporter = self.clone();
        let continued = live::on_continue(move || reporter.console.redraw());
        Shown { reporter: self.clone(), _continued: continued }
    }

    /// Waits until all is written.
    pub(super) fn flush(&self) {
        self.console.flush();
    }

    /// Something has succeeded that takes the credentials of a forward.
    pub(super) fn credentials_work(&self, forward: &PlannedForward) {
        let expired = {
            let mut known = self.known();
            let access = known.access(forward);
            std::mem::take(&mut known.expiries(&access).expired)
        };
        if expired {
            self.say("the credentials can be used again");
        }
    }

    /// A session has been started.
    pub(super) fn session_started(&self, SessionId(id): &SessionId) {
        self.known().sessions.insert(id.clone());
    }

    /// A session is over.
    pub(super) fn session_ended(&self, SessionId(id): &SessionId) {
        self.known().sessions.remove(id);
    }

    /// The program leaves without having ended all sessions.
    pub(super) fn leaving(&self) {
        let sessions: Vec<_> = std::mem::take(&mut self.known().sessions).into_iter().collect();
        if !sessions.is_empty() {
            self.warn(&format!("not ended, and may live until their idle timeout: {}", sessions.join(", ")));
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For programs.
    pub(super) fn emit(&self, body: &Body<'_>) {
        match self.format {
            Format::Text => {}
            Format::Json if body.can_be_spared() => self.console.spare_line(self.events, |dropped| body.line(dropped)),
            Format::Json => self.console.line(self.events, body.line(0)),
        }
    }

    /// For people, where there is no other output.
    pub(super) fn say(&self, line: &str) {
        if self.says() {
            self.console.spare_line(To::Stderr, |_| format!("ssmfwd: {}", printable(line)));
        }
    }

    /// A text for stdout, for programs that know it. It ends with a newline.
    pub(super) fn plain(&self, text: &str) {
        let line = text.strip_suffix('\n').unwrap_or(text).to_owned();
        self.console.spare_line(To::Stdout, |_| line);
    }

    /// For people who have to do something now: whatever the output, however quiet.
    pub(super) fn show(&self, line: &str) {
        self.console.line(To::Stderr, format!("ssmfwd: {}", printable(line)));
    }

    /// Whether nothing but errors is wanted.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// For people, in any case.
    pub(super) fn warn(&self, line: &str) {
        if !self.quiet {
            self.console.spare_line(To::Stderr, |_| format!("warning: {}", printable(line)));
        }
    }
}

/// A view that is shown.
pub(super) struct Shown {
    reporter: Arc<Reporter>,
    /// Draws it again after the program was stopped.
    _continued: Option<AbortOnDropHandle<()>>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.reporter.console.hide();
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use std::{io, net::SocketAddr};

    use serde_json::Value;

    use super::*;
    use crate::{
        cli::{console::tests::Page, exit::Exit, plan::tests::planned},
        forward::{ConnectionEnd, Event, Peer},
        proto::{Cause, CloseReason, Initiator},
        session::SessionEvent,
    };

    pub(in super::super) fn forward(text: &str) -> PlannedForward {
        planned(&[text, "-t", "i-0a"])
    }

    pub(in super::super) fn session(id: &str) -> SessionId {
        SessionId(id.into())
    }

    /// The end of a session that had been in use.
    pub(in super::super) fn ended(id: &str, reason: CloseReason) -> Event {
        Event::SessionEnded { session: session(id), member: 0, reason, idle: false, bytes_up: 3, bytes_down: 4 }
    }

    pub(in super::super) fn lost() -> CloseReason {
        CloseReason::new(Initiator::Transport, Cause::ConnectionLost("gone".into()))
    }

    pub(in super::super) fn ended_as_asked() -> CloseReason {
        CloseReason::new(Initiator::Us, Cause::Requested)
    }

    /// What is written to stdout and to stderr.
    pub(in super::super) fn told(format: Format, quiet: bool, tell: impl FnOnce(&Arc<Reporter>)) -> (String, String) {
        let (stdout, stderr) = (Page::default(), Page::default());
        let console = Console::on(stdout.clone(), stderr.clone()).expect("a thread");
        let reporter = Arc::new(Reporter::new(console, format, quiet));
        tell(&reporter);
        reporter.console.flush();
        (stdout.text(), stderr.text())
    }

    /// The objects on stdout, without their times.
    pub(in super::super) fn without_times(stdout: &str) -> Vec<String> {
        let without_time = |line: &str| {
            let mut event: Value = serde_json::from_str(line).expect("an object a line");
            let time = event.as_object_mut().and_then(|event| event.remove("time")).expect("a time");
            assert!(time.as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{time}");
            event.to_string()
        };
        stdout.lines().map(without_time).collect()
    }

    /// JSON with `F` for a forward, as [`without_times`] writes it.
    pub(in super::super) fn events(forward: &str, lines: &[&str]) -> Vec<String> {
        let forward = format!(r#""forward":"{forward}""#);
        let event = |line: &&str| serde_json::from_str::<Value>(&line.replace('F', &forward)).expect("valid JSON");
        lines.iter().map(|line| event(line).to_string()).collect()
    }

    fn tcp(address: &str) -> LocalAddress {
        LocalAddress::Tcp(address.parse().expect("an address"))
    }

    /// A life in which nothing goes well.
    fn tell_all(reporter: &Arc<Reporter>) {
        let forward = forward("*:13306:db:3306");
        let peer = Peer::Tcp(SocketAddr::from(([127, 0, 0, 1], 5)));
        let id = session("me-0a");
        let of_session = |event| Event::Session { session: session("me-0a"), member: 0, event };
        let told = reporter.of(&forward);
        for event in [
            Event::Listening(tcp("0.0.0.0:13306")),
            Event::Listening(tcp("[::]:13306")),
            of_session(SessionEvent::Started { session: id.clone(), target: "i-0b".into() }),
            of_session(SessionEvent::CustomerMessage("be\u{1b} nice".into())),
            of_session(SessionEvent::UnsignedUpgrade),
            Event::ConnectionOpened { peer },
            of_session(SessionEvent::Backpressure(true)),
            of_session(SessionEvent::DestinationRefused),
            Event::DestinationRefused { peer },
            Event::ConnectionClosed {
                peer,
                bytes_up: 1,
                bytes_down: 2,
                duration: Duration::from_millis(3),
                end: ConnectionEnd::DestinationRefused,
            },
            Event::AcceptFailed("no descriptors".into()),
            of_session(SessionEvent::NotTerminated("denied".into())),
            ended("me-0a", lost()),
        ] {
            told.tell(&event);
        }
        let addresses = vec![tcp("0.0.0.0:13306"), tcp("[::]:13306")];
        let access = Access { profile: Some("dev".into()), region: Some("eu-west-1".into()), ..Access::default() };
        let arn = "arn:aws:sts::123456789012:assumed-role/Dev/alice";
        reporter.identity(&Identity::new("123456789012", arn), &access);
        reporter.opened(&forward, &addresses, &id);
        reporter.ready(&[(forward.clone(), addresses)], Duration::from_millis(1449));
        reporter.stopping(Signal::Interrupt);
        reporter.failed(&Report::new(Exit::Denied, "denied").caused_by(&lost()).with_hint("ask"));
        reporter.stopped(Exit::Denied.status(), By::Ssmfwd);
    }

    #[test]
    fn people_get_lines_on_stderr() {
        let (stdout, stderr) = told(Format::Text, false, tell_all);
        assert_eq!(stdout, "");
        let expected = [
            "warning: 0.0.0.0:13306 can be reached from the network, which lets everybody there through",
            "warning: [::]:13306 can be reached from the network, which lets everybody there through",
            "ssmfwd: be\\u{1b} nice",
            "warning: the data channel was opened unsigned: the policy should allow ssmmessages:OpenDataChannel on \
             arn:aws:ssm:*:*:session/*: AWS may stop accepting unsigned ones",
            "warning: db:3306 refused a connection (of 127.0.0.1:5)",
            "ssmfwd: check on the target that db:3306 listens and that its name resolves there: agents do not say which \
             it is",
            "warning: *:13306:db:3306 cannot accept connections for now: no descriptors",
            "warning: the session of *:13306:db:3306 was not ended and lives until its idle timeout: denied",
            "ssmfwd: 123456789012 as role/Dev (profile dev, eu-west-1)",
            "ssmfwd: 0.0.0.0:13306, [::]:13306 -> db:3306   session me-0a",
            "ssmfwd: ready in 1.4 s",
            "ssmfwd: SIGINT: ending; Ctrl-C again leaves at once",
            "error: denied",
            "  caused by: connection lost: gone",
            "",
            "hint: ask",
        ];
        assert_eq!(stderr.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn programs_get_an_object_a_line_on_stdout() {
        let (stdout, stderr) = told(Format::Json, false, tell_all);
        assert!(!stderr.contains("ssmfwd: "), "only warnings and errors: {stderr}");
        let expected = events(
            "*:13306:db:3306",
            &[
                r#"{"event":"listening",F,"address":"0.0.0.0:13306"}"#,
                r#"{"event":"listening",F,"address":"[::]:13306"}"#,
                r#"{"event":"session_started",F,"session_id":"me-0a","target":"i-0b","member":0}"#,
                r#"{"event":"connection_opened",F,"peer":"127.0.0.1:5"}"#,
                r#"{"event":"backpressure",F,"active":true}"#,
                r#"{"event":"destination_refused",F,"peer":"127.0.0.1:5","destination":"db:3306"}"#,
                r#"{"event":"connection_closed",F,"peer":"127.0.0.1:5","bytes_up":1,"bytes_down":2,"duration_ms":3,
                    "reason":"destination_refused"}"#,
                r#"{"event":"not_terminated",F,"session_id":"me-0a","detail":"denied"}"#,
                r#"{"event":"session_ended",F,"session_id":"me-0a","member":0,"reason":"connection_lost",
                    "by":"network","detail":"connection lost: gone","bytes_up":3,"bytes_down":4}"#,
                r#"{"event":"identity","account":"123456789012","arn":"arn:aws:sts::123456789012:assumed-role/Dev/alice",
                    "profile":"dev","region":"eu-west-1"}"#,
                r#"{"event":"ready","forwards":[{F,"addresses":["0.0.0.0:13306","[::]:13306"],"member":0}],
                    "elapsed_ms":1449}"#,
                r#"{"event":"error","status":5,"message":"denied","causes":["connection lost: gone"],"hint":"ask"}"#,
                r#"{"event":"stopped","exit":5,"by":"ssmfwd"}"#,
            ],
        );
        assert_eq!(without_times(&stdout), expected);
        assert!(stdout.starts_with(r#"{"event":"listening","time":""#), "{stdout}");
    }

    #[test]
    fn who_leaves_sessions_behind_says_which() {
        let (_, stderr) = told(Format::Text, false, |reporter| {
            let forward = reporter.of(&forward("1:db:2"));
            for id in ["me-0a", "me-0b", "me-0c"] {
                let event = SessionEvent::Started { session: session(id), target: "i-0a".into() };
                forward.tell(&Event::Session { session: session(id), member: 0, event });
            }
            forward.tell(&ended("me-0b", ended_as_asked()));
            reporter.leaving();
            reporter.leaving();
        });
        assert_eq!(stderr, "warning: not ended, and may live until their idle timeout: me-0a, me-0c\n");
    }

    #[test]
    fn quiet_leaves_errors_only() {
        let (stdout, stderr) = told(Format::Text, true, tell_all);
        assert_eq!(stdout, "");
        assert!(stderr.starts_with("error: "), "{stderr}");
        assert!(!stderr.contains("warning: ") && !stderr.contains("ssmfwd: "), "{stderr}");
    }

    #[test]
    fn loopback_needs_no_warning() {
        let stderr = Page::default();
        let console = Console::on(io::sink(), stderr.clone()).expect("a thread");
        let reporter = Arc::new(Reporter::new(console, Format::Text, false));
        reporter.of(&forward("1:db:2")).tell(&Event::Listening(tcp("127.0.0.1:1")));
        reporter.of(&forward("127.0.0.2:1:db:2")).tell(&Event::Listening(tcp("127.0.0.2:1")));
        reporter.stopped(Exit::Interrupt.status(), By::Signal);
        assert_eq!(stderr.text(), "");
    }
}
