//! Tells what happens in one forward, and remembers what it has told: an outage of a night is a few lines for people,
//! and a login is asked for once.
//!
//! ```text
//! Reconnecting 0 ──▶ Reconnecting 1, 2, ... ──▶ Resumed
//!   "lost"             each cause once     └──▶ SessionEnded ──▶ Dormant, or StartFailed 1, 2, ... ──▶ SessionReplaced
//!                                               "reset", now                each cause once
//! ```
//!
//! Whoever loses connections is told at that moment, not when there is a session again.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    events::{Body, words},
    plan::PlannedForward,
    report::{self, Symptom},
    reporter::{Reporter, millis},
};
use crate::{
    forward::{Event, Listen, SESSIONS_PER_TARGET},
    proto::{Cause, CloseReason, Initiator},
    session::{ConnectError, ControlErrorKind, DialError, SessionEvent, SessionId},
};

/// Causes of failed attempts that people are told in one outage.
const CAUSES_MAX: usize = 4;

/// Tells what happens in one forward.
pub(super) struct ForwardReporter {
    reporter: Arc<Reporter>,
    forward: PlannedForward,
    /// There is one session, and nothing takes its place: it carries all there is.
    alone: bool,
    told: Mutex<Told>,
}

/// What has been told.
#[derive(Debug, Default)]
struct Told {
    /// Of attempts that failed since a session could carry data, the causes.
    causes: Vec<String>,
    /// Of which expiry of the credentials.
    expiry: u64,
    /// That there is no session, and that none is being started.
    dormant: bool,
    /// What helps when the destination refuses.
    refused: bool,
    /// Sessions that have not ended, and how far they are. The forward bounds their number.
    sessions: Vec<Known>,
}

/// A session that has not ended.
#[derive(Debug)]
struct Known {
    session: SessionId,
    /// Its place in the pool.
    member: u32,
    stage: Stage,
    /// It has no websocket.
    offline: bool,
}

/// What is known of a session from the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not ready: it has no connections yet.
    Starting,
    /// Ready, and most likely one that serves new connections.
    Serving,
    /// Ready and silent: another one may serve them already.
    Stalled,
    /// Another one serves them, or is to.
    Retired,
}

impl Told {
    fn set_stage(&mut self, session: &SessionId, stage: Stage) {
        if let Some(known) = self.sessions.iter_mut().find(|known| known.session == *session) {
            // Nothing leads back from there.
            if known.stage != Stage::Retired {
                known.stage = stage;
            }
        }
    }

    /// A session is started for a place in the pool only when no other one serves from there.
    fn retire(&mut self, places: impl Fn(u32) -> bool) {
        let ready = self.sessions.iter_mut().filter(|known| known.stage != Stage::Starting && places(known.member));
        ready.for_each(|known| known.stage = Stage::Retired);
    }

    fn forget(&mut self, session: &SessionId) -> Option<Stage> {
        let at = self.sessions.iter().position(|known| known.session == *session)?;
        Some(self.sessions.swap_remove(at).stage)
    }

    /// A session has lost its websocket, or has another: true if that is true of no other.
    fn set_offline(&mut self, session: &SessionId, offline: bool) -> bool {
        if let Some(known) = self.sessions.iter_mut().find(|known| known.session == *session) {
            known.offline = offline;
        }
        !self.sessions.iter().any(|known| known.offline && known.session != *session)
    }

    /// Whether any session serves new connections.
    fn is_served(&self) -> bool {
        self.sessions.iter().any(|known| matches!(known.stage, Stage::Serving | Stage::Stalled))
    }

    /// Whether people should be told of this cause.
    fn is_news(&mut self, cause: &str) -> bool {
        if self.causes.len() >= CAUSES_MAX || self.causes.iter().any(|told| told == cause) {
            return false;
        }
        self.causes.push(cause.to_owned());
        true
    }
}

impl ForwardReporter {
    pub(super) fn new(reporter: Arc<Reporter>, forward: PlannedForward) -> Self {
        Self { reporter, forward, alone: false, told: Mutex::default() }
    }

    /// For one session without a forward around it.
    pub(super) fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// Something happened.
    pub(super) fn tell(&self, event: &Event) {
        let (name, reporter) = (self.forward.name(), &*self.reporter);
        match event {
            Event::Listening(address) => {
                reporter.emit(&Body::Listening { forward: name, address: address.to_string() });
                if matches!(self.forward.spec.listen, Listen::Tcp { bind, .. } if !bind.is_loopback()) {
                    reporter.warn(&format!(
                        "{address} can be reached from the network, which lets everybody there through"
                    ));
                }
            }
            Event::Session { session, member, event } => self.session(session, *member, event),
            Event::ConnectionOpened { peer } => {
                reporter.emit(&Body::ConnectionOpened { forward: name, peer: peer.to_string() });
            }
            Event::ConnectionClosed { peer, bytes_up, bytes_down, duration, end } => {
                reporter.emit(&Body::ConnectionClosed {
                    forward: name,
                    peer: peer.to_string(),
                    bytes_up: *bytes_up,
                    bytes_down: *bytes_down,
                    duration_ms: millis(*duration),
                    reason: end.name(),
                })
            }
            Event::DestinationRefused { peer } => {
                let destination = self.forward.destination();
                reporter.warn(&format!("{destination} refused a connection (of {peer})"));
                if !std::mem::replace(&mut self.told().refused, true) {
                    reporter.say(&reporter.hint(Symptom::DestinationRefused, &self.forward));
                }
                reporter.emit(&Body::DestinationRefused { forward: name, peer: peer.to_string(), destination });
            }
            Event::AcceptFailed(error) => {
                reporter.warn(&format!("{name} cannot accept connections for now: {error}"));
            }
            Event::SessionReplaced { session, member, replaces, reason } => {
                self.replaced(session, *member, replaces, reason);
            }
            Event::SessionRates { session, member, bytes_up_per_s, bytes_down_per_s, connections } => {
                reporter.emit(&Body::SessionRates {
                    forward: name,
                    session_id: &session.0,
                    member: *member,
                    bytes_up_per_s: *bytes_up_per_s,
                    bytes_down_per_s: *bytes_down_per_s,
                    connections: *connections,
                });
            }
            Event::ConnectionsLimited { limit } => {
                reporter.warn(&format!(
                    "{name}: {limit} connections are open, others wait until one ends: --max-connections allows more"
                ));
                reporter.emit(&Body::ConnectionsLimited { forward: name, limit: *limit });
            }
            Event::SessionsLimited { wanted, allowed } => reporter.warn(&format!(
                "{name}: {allowed} of {wanted} sessions: one program has {SESSIONS_PER_TARGET} to a target at most"
            )),
            Event::NotGrown { error, present, wanted } => self.not_grown(error, *present, *wanted),
            Event::Dormant { reason, fulfilled, idle } => self.dormant(reason, *fulfilled, *idle),
            Event::WindowClosed { outage } => {
                tracing::info!(forward = name, ?outage, "new connections are refused");
                let seconds = outage.as_secs_f64();
                reporter.say(&format!(
                    "{name}: no session for {seconds:.0} s: new connections are refused until it is back"
                ));
            }
            Event::StartFailed { error, attempt, present } => {
                if *present == 0 {
                    self.told().retire(|_| true);
                }
                let cause = report::in_one_line(&**error);
                self.attempt_failed(None, *attempt, &cause, kind_of(error));
            }
            Event::SessionEnded { session, member, reason, idle, bytes_up, bytes_down } => {
                self.reporter.emit(&Body::SessionEnded {
                    forward: name,
                    session_id: &session.0,
                    member: *member,
                    end: reason.into(),
                    bytes_up: *bytes_up,
                    bytes_down: *bytes_down,
                });
                self.ended(session, reason, *idle);
            }
        }
    }

    fn session(&self, session: &SessionId, member: u32, event: &SessionEvent) {
        let (name, reporter, session_id) = (self.forward.name(), &*self.reporter, &session.0[..]);
        match event {
            SessionEvent::Started { target, .. } => self.started(session, target, member),
            SessionEvent::Ready => self.ready(session),
            SessionEvent::CustomerMessage(text) => reporter.say(text),
            SessionEvent::UnsignedUpgrade => {
                let hint = reporter.hint(Symptom::UnsignedUpgrade, &self.forward);
                reporter.warn(&format!("the data channel was opened unsigned: {hint}"));
            }
            SessionEvent::Backpressure(active) => reporter.emit(&Body::Backpressure { forward: name, active: *active }),
            SessionEvent::NotTerminated(why) => {
                reporter.warn(&format!("the session of {name} was not ended and lives until its idle timeout: {why}"));
                if let Some(hint) = reporter.denied_hint(why, &self.forward) {
                    reporter.say(&format!("{name}: {hint}"));
                }
                reporter.emit(&Body::NotTerminated { forward: name, session_id, detail: why });
            }
            SessionEvent::Stalled(active) => self.stalled(session, *active),
            SessionEvent::SlowReader => reporter.warn(&format!(
                "a connection of {name} was reset: its program had read nothing for 30 s and held up the others"
            )),
            SessionEvent::Reconnecting { attempt: 0, cause, .. } => {
                tracing::info!(forward = name, session = session_id, cause, "connection lost");
                let loss = in_short(cause);
                let is_first = {
                    let mut told = self.told();
                    told.is_news(loss);
                    told.set_offline(session, true)
                };
                // What several sessions lose they most often lose together.
                if is_first {
                    let kept = if self.alone { "" } else { "; connections are kept" };
                    reporter.say(&format!("{name}: websocket lost ({loss}): reconnecting{kept}"));
                }
                reporter.emit(&Body::Reconnecting { forward: name, session_id: Some(session_id), attempt: 0, cause });
            }
            SessionEvent::Reconnecting { attempt, cause, kind, .. } => {
                self.attempt_failed(Some(session_id), *attempt, cause, *kind);
            }
            SessionEvent::Resumed { outage } => {
                tracing::info!(forward = name, session = session_id, ?outage, "resumed");
                let is_last = self.told().set_offline(session, false);
                if is_last {
                    reporter.say(&format!("{name}: resumed after {:.1} s: nothing was lost", outage.as_secs_f64()));
                }
                reporter.emit(&Body::Resumed { forward: name, session_id, outage_ms: millis(*outage) });
                if is_last {
                    self.healed();
                } else {
                    reporter.credentials_work(&self.forward);
                }
            }
            SessionEvent::Unanswered(connections) => {
                let destination = self.forward.destination();
                let those = if *connections == 1 { "connection" } else { "connections" };
                reporter.say(&format!(
                    "{name}: {destination} has sent nothing for 10 s on {connections} {those}: it may be busy, or not \
                     answer (the agent dials one after another, so others may wait behind it)"
                ));
                let connections = *connections;
                reporter.emit(&Body::DestinationSilent { forward: name, destination, connections });
            }
            // The connection's own event tells which one it was; a pause of some seconds is the service's business.
            SessionEvent::DestinationRefused | SessionEvent::Paused(_) => {}
        }
    }

    fn started(&self, session: &SessionId, target: &str, member: u32) {
        let name = self.forward.name();
        {
            let mut told = self.told();
            told.retire(|place| place == member);
            told.sessions.push(Known { session: session.clone(), member, stage: Stage::Starting, offline: false });
        }
        self.reporter.session_started(session);
        self.reporter.emit(&Body::SessionStarted { forward: name, session_id: &session.0, target, member });
    }

    fn ready(&self, session: &SessionId) {
        let woken = {
            let mut told = self.told();
            told.set_stage(session, Stage::Serving);
            std::mem::take(&mut told.dormant)
        };
        self.healed();
        if woken {
            self.reporter.say(&format!("{}: a connection came: session {session}", self.forward.name()));
        }
    }

    fn ended(&self, session: &SessionId, reason: &CloseReason, idle: bool) {
        let (name, reporter) = (self.forward.name(), &*self.reporter);
        tracing::debug!(forward = name, %session, %reason, "session ended");
        let (stage, is_served) = {
            let mut told = self.told();
            (told.forget(session), told.is_served())
        };
        reporter.session_ended(session);
        if idle && is_served {
            // Nobody has lost anything.
            return;
        }
        let how = match (reason.initiator, &reason.cause) {
            (Initiator::Us, _) => return,
            // The end of the only connection of a session in raw mode.
            (Initiator::Agent, Cause::ChannelClosed(text)) if text.is_empty() => return,
            // What follows says it: for the last session that serves, that the forward is dormant.
            (Initiator::Agent | Initiator::Service, _) if stage == Some(Stage::Serving) && !is_served => return,
            (Initiator::Agent | Initiator::Service, _) => "was ended",
            _ => "was lost",
        };
        // One that was not ready had no connections, and that it failed is told as such; one that nobody used was there
        // for nobody.
        if !idle && !matches!(stage, None | Some(Stage::Starting)) {
            reporter.warn(&format!("{name}: session {session} {how}, its connections are reset: {}", words(reason)));
        }
        if let Cause::NotResumable(why) = &reason.cause
            && let Some(hint) = reporter.denied_hint(why, &self.forward)
        {
            reporter.say(&format!("{name}: {hint}"));
        }
    }

    /// An attempt to bring a session back, or to start another in its place, has failed.
    fn attempt_failed(&self, session_id: Option<&str>, attempt: u32, cause: &str, kind: Option<ControlErrorKind>) {
        let name = self.forward.name();
        tracing::debug!(forward = name, session = session_id, attempt, cause, "attempt failed");
        let wants_login = matches!(kind, Some(ControlErrorKind::ExpiredCredentials | ControlErrorKind::NoCredentials));
        self.reporter.emit(&Body::Reconnecting { forward: name, session_id, attempt, cause });
        if wants_login {
            // The request for a login says it in other words.
            let expiry = self.told().expiry;
            let expiry = self.reporter.credentials_expired(&self.forward, cause, expiry);
            self.told().expiry = expiry;
        } else if self.told().is_news(in_short(cause)) {
            let what = if session_id.is_some() { "still reconnecting" } else { "no new session yet" };
            self.reporter.say(&format!("{name}: {what}: {}", in_short(cause)));
        }
    }

    fn replaced(&self, session: &SessionId, member: u32, replaces: &SessionId, reason: &CloseReason) {
        let name = self.forward.name();
        tracing::info!(forward = name, %session, %replaces, %reason, "session replaced");
        self.reporter.say(&format!("{name}: session {session} takes its place"));
        let (session_id, replaces) = (&session.0[..], &replaces.0[..]);
        self.reporter.emit(&Body::SessionReplaced { forward: name, session_id, replaces, member, lost: reason.into() });
        self.healed();
    }

    /// Nobody waits for it. Who has asked for a number of sessions is told that there are fewer.
    fn not_grown(&self, error: &ConnectError, present: usize, wanted: Option<usize>) {
        let cause = report::in_one_line(error);
        let name = self.forward.name();
        tracing::debug!(forward = name, present, wanted, cause, "no more sessions for now");
        if let Some(wanted) = wanted {
            let cause = in_short(&cause);
            self.reporter.say(&format!("{name}: {present} of {wanted} sessions, more later: {cause}"));
        }
    }

    fn dormant(&self, reason: &CloseReason, fulfilled: bool, idle: Option<Duration>) {
        let name = self.forward.name();
        tracing::info!(forward = name, %reason, fulfilled, "dormant");
        let symptom = report::of_end(reason);
        {
            let mut told = self.told();
            // The outage is over, if it began as one.
            told.causes.clear();
            told.dormant = !fulfilled;
            // No session that is left serves new connections: the next one is the first again.
            told.retire(|_| true);
        }
        if let Some(idle) = idle {
            self.reporter.say(&format!(
                "{name}: idle for {} s, session ended; the next connection starts another",
                idle.as_secs()
            ));
        } else if !fulfilled {
            let hint = self.reporter.hint(symptom.unwrap_or(Symptom::SessionOver), &self.forward);
            let reason = words(reason);
            self.reporter.say(&format!("{name}: {reason}; open connections were reset, {hint}"));
        }
        let symptom = symptom.map(|symptom| symptom.row().name);
        self.reporter.emit(&Body::Dormant { forward: name, end: reason.into(), symptom });
        if reason.cause == Cause::SessionOver {
            // ResumeSession said so.
            self.reporter.credentials_work(&self.forward);
        }
    }

    fn stalled(&self, session: &SessionId, active: bool) {
        let (name, SessionId(id)) = (self.forward.name(), session);
        tracing::info!(forward = name, session = id, active, "stalled");
        self.told().set_stage(session, if active { Stage::Stalled } else { Stage::Serving });
        if active {
            let waiting = if self.alone { "" } else { ": connections wait, new ones get another session" };
            self.reporter.warn(&format!("{name}: nothing heard from the agent for 10 s{waiting}"));
        } else {
            self.reporter.say(&format!("{name}: the agent is heard again"));
        }
        self.reporter.emit(&Body::Stalled { forward: name, active, session_id: id });
    }

    /// A session can carry data: what was told before is over.
    fn healed(&self) {
        self.told().causes.clear();
        self.reporter.credentials_work(&self.forward);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cause without what an SDK makes of an answer that is not the service's, such as a page of a proxy in HTML.
fn in_short(cause: &str) -> &str {
    const STATUS: &str = " answered with status ";
    let Some(at) = cause.find(STATUS).map(|at| at + STATUS.len()) else { return cause };
    let digits = cause[at..].bytes().take_while(u8::is_ascii_digit).count();
    match cause[at + digits..].starts_with(": ") {
        true => &cause[..at + digits],
        false => cause,
    }
}

fn kind_of(error: &ConnectError) -> Option<ControlErrorKind> {
    match error {
        ConnectError::Control(error) | ConnectError::Dial(DialError::Sign(error)) => Some(error.kind),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
