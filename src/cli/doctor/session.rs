//! The checks that take a session: it is started as a forward starts it, watched, used once, and ended.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    PATIENCE, Patient, check_of,
    checklist::{Check, Checklist},
};
use crate::{
    aws::{Aws, Preferences},
    cli::{
        exit::Exit,
        report::{Report, Symptom, hint},
    },
    forward::{ProbeResult, probe},
    proto::Config,
    session::{
        ConnectError, ControlErrorKind, DialStep, Dialer, Mode, Session, SessionEvent, SessionId, SessionOptions,
    },
};

/// Steps that wait to be told. There are few, and each is told once.
const STEPS: usize = 64;

/// How long a destination may take to accept, if there is time for it.
const ANSWER: Duration = Duration::from_secs(10);

/// What happens while a session is started.
#[derive(Debug)]
enum Step {
    /// With the id of the target.
    Started(SessionId, String),
    Dialled(DialStep, Duration),
    NotTerminated(String),
    Message(String),
}

/// Starts a session, and whatever happens ends it.
pub(super) async fn check(
    patient: &Patient,
    aws: &Arc<Aws>,
    checks: &mut Checklist,
    stop: &CancellationToken,
) -> Result<(), Report> {
    let begun = Instant::now();
    let (sender, mut steps) = mpsc::channel(STEPS);
    let dialler = sender.clone();
    if let Err(error) = aws.outbound().ready().await {
        let report = Report::new(Exit::Failure, "cannot load the trusted roots of this machine").caused_by(&error);
        return Err(checks.failed(Check::Permission, begun, report));
    }
    let dialer = Dialer::over(Arc::clone(aws.outbound())).observed(Arc::new(move |step, took| {
        drop(dialler.try_send((Instant::now(), Step::Dialled(step, took))));
    }));
    let options = SessionOptions {
        observer: Some(Arc::new(move |event| {
            let step = match event {
                SessionEvent::Started { session, target } => Step::Started(session, target),
                SessionEvent::NotTerminated(why) => Step::NotTerminated(why),
                SessionEvent::CustomerMessage(text) => Step::Message(text),
                _ => return,
            };
            drop(sender.try_send((Instant::now(), step)));
        })),
        ..patient.forward.session.options()
    };
    let request = patient.forward.request.clone();
    let mut visit = Visit { patient, aws, checks, stop, begun, since: begun, session: None, dialled: Vec::new() };
    let connect = Session::connect(aws.clone(), Arc::new(dialer), request, options, stop.clone());
    // A task of its own: what is told meanwhile takes its time.
    let mut connecting = tokio::spawn(async move { (connect.await, Instant::now()) });
    let connected = loop {
        tokio::select! {
            biased;
            Some((at, step)) = steps.recv() => visit.step(at, step).await,
            connected = &mut connecting => break connected,
        }
    };
    while let Ok((at, step)) = steps.try_recv() {
        visit.step(at, step).await;
    }
    let result = match connected {
        Ok((Ok(session), ready)) => {
            let examined = tokio::select! {
                biased;
                () = stop.cancelled() => Ok(()),
                examined = visit.examine(&session, ready) => examined,
            };
            session.close().await;
            examined
        }
        Ok((Err(ConnectError::Cancelled), _)) => Ok(()),
        Ok((Err(error), _)) => Err(visit.failed(&error).await),
        // A panic: its message is on stderr already.
        Err(_) => Err(Report::new(Exit::Failure, "the check failed: this is a bug in ssmfwd")),
    };
    while let Ok((at, step)) = steps.try_recv() {
        visit.step(at, step).await;
    }
    visit.left();
    result
}

/// A session in the course of being checked.
struct Visit<'a> {
    patient: &'a Patient,
    aws: &'a Aws,
    checks: &'a mut Checklist,
    /// Once it is cancelled nothing more is asked or told of the checks.
    stop: &'a CancellationToken,
    begun: Instant,
    /// When the last step was taken.
    since: Instant,
    session: Option<SessionId>,
    /// Steps of the websocket, some of them ahead of the session.
    dialled: Vec<(DialStep, Duration)>,
}

impl Visit<'_> {
    async fn step(&mut self, at: Instant, step: Step) {
        match step {
            Step::Started(session, target) => {
                let took = at - self.begun;
                self.checks.reporter().session_started(&session);
                self.checks.ok(Check::Permission, took, format!("ssm:StartSession on {target}, session {session}"));
                self.session = Some(session);
                let stop = self.stop;
                tokio::select! {
                    () = self.target(&target) => self.document(),
                    () = stop.cancelled() => {}
                }
                self.since = at;
            }
            Step::Dialled(step, took) => {
                let upgraded = matches!(step, DialStep::Upgraded { .. });
                self.dialled.push((step, took));
                if upgraded && !self.stop.is_cancelled() {
                    self.websocket(None);
                    self.since = at;
                }
            }
            Step::NotTerminated(why) => self
                .checks
                .reporter()
                .warn(&format!("the session of this check was not ended and lives until its idle timeout: {why}")),
            Step::Message(text) => self.checks.reporter().say(&text),
        }
    }

    /// StartSession has succeeded, so it is connected.
    async fn target(&mut self, id: &str) {
        let named = self.patient.forward.request.target.as_str();
        let begun = Instant::now();
        let known = match &self.checks.survey {
            Some(survey) if named == id => survey.registration().await,
            // It was looked up, so its id is new.
            _ if named != id && id.starts_with(['i', 'm']) => {
                let asked = timeout(PATIENCE, self.aws.describe(id)).await.ok();
                asked.map(|asked| (asked, begun.elapsed()))
            }
            _ => None,
        };
        match known {
            Some((Ok(Some(node)), took)) => {
                let version = node.agent_version.as_deref().unwrap_or("of an unknown version");
                let heard = node.last_heard().map_or_else(String::new, |heard| format!(", last heard {heard}"));
                self.checks.ok(Check::Target, took, format!("connected, agent {version}{heard}"));
            }
            Some((Err(error), took)) if error.kind == ControlErrorKind::AccessDenied => {
                let detail = "connected; no more is readable (ssm:DescribeInstanceInformation is denied)";
                self.checks.ok(Check::Target, took, detail);
            }
            Some((_, took)) => self.checks.ok(Check::Target, took, "connected; no more is known"),
            None => self.checks.ok(Check::Target, None, "connected"),
        }
    }

    fn document(&mut self) {
        let document = self.patient.forward.request.document.as_deref();
        self.checks.ok(Check::Document, None, document.unwrap_or("the default one of this account"));
    }

    /// The steps of the websocket that have succeeded: of each the last, which is that of the connection in use. Those
    /// from `failed` on were of another one, which was opened ahead in vain.
    fn websocket(&mut self, failed: Option<Check>) {
        let mut last = [const { None }; 5];
        for (step, took) in &self.dialled {
            let (check, detail) = told_as(step);
            let at = DIALLING.iter().position(|dialling| *dialling == check);
            if let Some(place) = at.and_then(|at| last.get_mut(at)) {
                *place = Some((detail, *took, step));
            }
        }
        let proxied = matches!(&last[2], Some((.., DialStep::Tunnelled(_))));
        let beyond_tls = failed.map_or_else(|| last[4].is_some(), |failed| failed as usize > Check::Tls as usize);
        for (check, found) in DIALLING.into_iter().zip(last) {
            if failed.is_some_and(|failed| check as usize >= failed as usize) {
                break;
            }
            match found {
                Some((detail, took, DialStep::Upgraded { signed: false })) => {
                    let hint = hint(Symptom::UnsignedUpgrade, &self.patient.forward, self.patient.access());
                    self.checks.ok(check, took, format!("{detail}: {hint}"));
                }
                Some((detail, took, _)) => self.checks.ok(check, took, detail),
                None if check == Check::Proxy && !proxied => self.checks.ok(check, None, "none"),
                None if check == Check::Tls && beyond_tls => {
                    self.checks.ok(check, None, "none: the gateway is on this machine");
                }
                None => break,
            }
        }
        self.dialled.clear();
    }

    /// A session that is ready.
    async fn examine(&mut self, session: &Session, ready: Instant) -> Result<(), Report> {
        let carries = match session.mode() {
            Mode::Mux => "many connections",
            Mode::Basic => "one connection at a time",
            Mode::Raw => "one connection",
            Mode::Shell => "a shell",
        };
        let version = session.agent_version().unwrap_or_else(|| "of an unknown version".to_owned());
        let detail = format!("agent {version}, client {}, type Port, {carries}", Config::CLIENT_VERSION);
        self.checks.ok(Check::Handshake, ready - self.since, detail);

        let begun = Instant::now();
        let limit = ANSWER.min(self.patient.forward.session.connect_timeout);
        let symptom = match probe(session, limit).await {
            ProbeResult::Accepted => None,
            ProbeResult::Refused => Some(Symptom::DestinationRefused),
            ProbeResult::NoAnswer => Some(Symptom::DestinationSilent),
            ProbeResult::Lost => {
                let reason = session.close().await;
                let report = self.patient.failed(&ConnectError::Closed(reason));
                return Err(self.checks.failed(Check::Destination, begun, report));
            }
        };
        let destination = self.patient.forward.destination();
        if let Some(symptom) = symptom {
            let report = Report::destination(symptom, &self.patient.forward, self.patient.access());
            return Err(self.checks.failed(Check::Destination, begun, report));
        }
        self.checks.ok(Check::Destination, begun.elapsed(), format!("{destination} accepts connections"));
        self.timeouts().await;
        Ok(())
    }

    async fn timeouts(&mut self) {
        let Some(survey) = &self.checks.survey else { return };
        let (preferences, took) = survey.preferences().await;
        match preferences {
            Ok(preferences) => self.checks.ok(Check::Timeouts, took, in_words(preferences)),
            Err(error) if error.kind == ControlErrorKind::InvalidDocument => {
                self.checks.ok(Check::Timeouts, took, in_words(Preferences::default()));
            }
            Err(error) if error.kind == ControlErrorKind::AccessDenied => {
                self.checks.unknown(Check::Timeouts, took, "not readable (ssm:GetDocument is denied)");
            }
            Err(error) => self.checks.unknown(Check::Timeouts, took, &error.message),
        }
    }

    /// The session did not get ready: which check that was.
    async fn failed(&mut self, error: &ConnectError) -> Report {
        let mut report = self.patient.failed(error);
        let mut check = check_of(report.symptom);
        if self.session.is_some() {
            self.websocket(Some(check).filter(|check| DIALLING.contains(check)));
            if matches!(error, ConnectError::TimedOut(_)) {
                check = DIALLING.into_iter().find(|check| !self.checks.is_told(*check)).unwrap_or(Check::Handshake);
            }
        } else if report.symptom.is_some_and(Symptom::is_of_lookup) {
            // No session was asked for.
            self.checks.unknown(Check::Permission, None, "the target is looked up first");
        } else if matches!(check, Check::Target | Check::Document) {
            let target = &self.patient.forward.request.target;
            self.checks.ok(Check::Permission, self.begun.elapsed(), format!("ssm:StartSession on {target}"));
            let known = match &self.checks.survey {
                Some(survey) => tokio::select! {
                    known = survey.registration() => known,
                    () = self.stop.cancelled() => None,
                },
                None => None,
            };
            match (check, known) {
                (Check::Target, Some((Ok(node), _))) => {
                    report = report.knowing(node, &self.patient.forward, self.patient.access());
                }
                (Check::Document, _) => self.checks.unknown(Check::Target, None, "the document is looked at first"),
                _ => {}
            }
        }
        if check == Check::Destination && report.symptom != Some(Symptom::ForbiddenAddress) {
            // The agent had an answer for us, the destination none for it.
            report.exit = Exit::Destination;
        }
        if check == Check::Destination {
            self.checks.ok(Check::Handshake, self.since.elapsed(), "the agent answers");
        }
        self.checks.failed(check, self.since, report)
    }

    /// Nothing is left of the session.
    fn left(&self) {
        if let Some(session) = &self.session {
            self.checks.reporter().session_ended(session);
        }
    }
}

/// The checks that are the steps of a websocket.
const DIALLING: [Check; 5] = [Check::Dns, Check::Tcp, Check::Proxy, Check::Tls, Check::Signature];

/// The check that a step belongs to, and what is said of it.
fn told_as(step: &DialStep) -> (Check, String) {
    match step {
        DialStep::Resolved { addresses: 1 } => (Check::Dns, "1 address".to_owned()),
        DialStep::Resolved { addresses } => (Check::Dns, format!("{addresses} addresses")),
        DialStep::Connected(address) => (Check::Tcp, address.to_string()),
        DialStep::Tunnelled(proxy) => (Check::Proxy, format!("{proxy} has opened a tunnel")),
        DialStep::Secured => (Check::Tls, String::new()),
        DialStep::Upgraded { signed: true } => (Check::Signature, "accepted".to_owned()),
        DialStep::Upgraded { signed: false } => (Check::Signature, "accepted without one only".to_owned()),
    }
}

/// `idle timeout 20 min, no maximum duration`.
fn in_words(preferences: Preferences) -> String {
    let minutes = |limit: Duration| limit.as_secs() / 60;
    let idle = match preferences.idle_timeout {
        Some(limit) => format!("idle timeout {} min", minutes(limit)),
        None => "idle timeout 20 min (the default)".to_owned(),
    };
    match preferences.max_duration {
        Some(limit) => format!("{idle}, maximum duration {} min", minutes(limit)),
        None => format!("{idle}, no maximum duration"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_sessions_are_told_in_minutes() {
        let minutes = |count: u64| Some(Duration::from_secs(count * 60));
        for (idle_timeout, max_duration, text) in [
            (None, None, "idle timeout 20 min (the default), no maximum duration"),
            (minutes(5), minutes(60), "idle timeout 5 min, maximum duration 60 min"),
        ] {
            assert_eq!(in_words(Preferences { idle_timeout, max_duration }), text);
        }
    }
}
