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

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    events::{Body, words},
    plan::PlannedForward,
    report,
    reporter::{Reporter, millis},
};
use crate::{
    forward::{Event, Listen},
    proto::{Cause, CloseReason, Initiator},
    session::{ConnectError, ControlErrorKind, DialError, SessionEvent, SessionId},
};

/// Causes of failed attempts that people are told in one outage.
const CAUSES_MAX: usize = 4;

/// Tells what happens in one forward.
pub(super) struct ForwardReporter {
    reporter: Arc<Reporter>,
    forward: PlannedForward,
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
    /// Sessions that have not ended, and how far they are. The forward bounds their number.
    sessions: Vec<(SessionId, Stage)>,
}

/// What is known of a session from the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not ready: it has no connections yet.
    Starting,
    /// Ready, and most likely the one that serves new connections.
    Serving,
    /// Ready and silent: another one may serve them already.
    Stalled,
    /// Another one serves them, or is to.
    Retired,
}

impl Told {
    fn set_stage(&mut self, session: &SessionId, stage: Stage) {
        if let Some((_, known)) = self.sessions.iter_mut().find(|(id, _)| id == session) {
            // Nothing leads back from there.
            if *known != Stage::Retired {
                *known = stage;
            }
        }
    }

    /// A session is started only when no other one serves.
    fn retire_all(&mut self) {
        self.sessions.iter_mut().filter(|(_, stage)| *stage != Stage::Starting).for_each(|(_, stage)| {
            *stage = Stage::Retired;
        });
    }

    fn forget(&mut self, session: &SessionId) -> Option<Stage> {
        let at = self.sessions.iter().position(|(id, _)| id == session)?;
        Some(self.sessions.swap_remove(at).1)
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
        Self { reporter, forward, told: Mutex::default() }
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
            Event::Session { session, event } => self.session(session, event),
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
                reporter.emit(&Body::DestinationRefused { forward: name, peer: peer.to_string(), destination });
            }
            Event::AcceptFailed(error) => {
                reporter.warn(&format!("{name} cannot accept connections for now: {error}"));
            }
            Event::SessionReplaced { session, replaces, reason } => self.replaced(session, replaces, reason),
            Event::Dormant { reason, fulfilled } => self.dormant(reason, *fulfilled),
            Event::WindowClosed { outage } => {
                tracing::info!(forward = name, ?outage, "new connections are refused");
                let seconds = outage.as_secs_f64();
                reporter.say(&format!(
                    "{name}: no session for {seconds:.0} s: new connections are refused until it is back"
                ));
            }
            Event::StartFailed { error, attempt } => {
                self.told().retire_all();
                let cause = report::in_one_line(&**error);
                self.attempt_failed(None, *attempt, &cause, kind_of(error));
            }
            Event::SessionEnded { session, reason } => self.ended(session, reason),
        }
    }

    fn session(&self, session: &SessionId, event: &SessionEvent) {
        let (name, reporter, session_id) = (self.forward.name(), &*self.reporter, &session.0[..]);
        match event {
            SessionEvent::Started(_) => self.started(session),
            SessionEvent::Ready => self.ready(session),
            SessionEvent::CustomerMessage(text) => reporter.say(text),
            SessionEvent::UnsignedUpgrade => reporter
                .warn("the data channel was opened unsigned: the policy should allow ssmmessages:OpenDataChannel"),
            SessionEvent::Backpressure(active) => reporter.emit(&Body::Backpressure { forward: name, active: *active }),
            SessionEvent::NotTerminated(why) => {
                reporter.warn(&format!("the session of {name} was not ended and lives until its idle timeout: {why}"));
                reporter.emit(&Body::NotTerminated { forward: name, session_id, detail: why });
            }
            SessionEvent::Stalled(active) => self.stalled(session, *active),
            SessionEvent::SlowReader => reporter.warn(&format!(
                "a connection of {name} was reset: its program had read nothing for 30 s and held up the others"
            )),
            SessionEvent::Reconnecting { attempt: 0, cause, .. } => {
                tracing::info!(forward = name, session = session_id, cause, "connection lost");
                self.told().is_news(in_short(cause));
                let loss = in_short(cause);
                reporter.say(&format!("{name}: websocket lost ({loss}): reconnecting; connections are kept"));
                reporter.emit(&Body::Reconnecting { forward: name, session_id: Some(session_id), attempt: 0, cause });
            }
            SessionEvent::Reconnecting { attempt, cause, kind } => {
                self.attempt_failed(Some(session_id), *attempt, cause, *kind);
            }
            SessionEvent::Resumed { outage } => {
                tracing::info!(forward = name, session = session_id, ?outage, "resumed");
                reporter.say(&format!("{name}: resumed after {:.1} s: nothing was lost", outage.as_secs_f64()));
                reporter.emit(&Body::Resumed { forward: name, session_id, outage_ms: millis(*outage) });
                self.healed();
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

    fn started(&self, session: &SessionId) {
        let (name, target) = (self.forward.name(), &self.forward.request.target[..]);
        {
            let mut told = self.told();
            told.retire_all();
            told.sessions.push((session.clone(), Stage::Starting));
        }
        self.reporter.session_started(session);
        self.reporter.emit(&Body::SessionStarted { forward: name, session_id: &session.0, target, member: 0 });
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

    fn ended(&self, session: &SessionId, reason: &CloseReason) {
        let (name, reporter) = (self.forward.name(), &*self.reporter);
        tracing::debug!(forward = name, %session, %reason, "session ended");
        let stage = self.told().forget(session);
        reporter.session_ended(session);
        reporter.emit(&Body::SessionEnded { forward: name, session_id: &session.0, end: reason.into() });
        let how = match (reason.initiator, &reason.cause) {
            (Initiator::Us, _) => return,
            // The end of the only connection of a session in raw mode.
            (Initiator::Agent, Cause::ChannelClosed(text)) if text.is_empty() => return,
            // What follows says it: for the session that serves, that the forward is dormant.
            (Initiator::Agent | Initiator::Service, _) if stage == Some(Stage::Serving) => return,
            (Initiator::Agent | Initiator::Service, _) => "was ended",
            _ => "was lost",
        };
        // One that was not ready had no connections; that it failed is told as such.
        if !matches!(stage, None | Some(Stage::Starting)) {
            reporter.warn(&format!("{name}: session {session} {how}, its connections are reset: {}", words(reason)));
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
            let expiry = self.reporter.credentials_expired(name, cause, expiry);
            self.told().expiry = expiry;
        } else if self.told().is_news(in_short(cause)) {
            let what = if session_id.is_some() { "still reconnecting" } else { "no new session yet" };
            self.reporter.say(&format!("{name}: {what}: {}", in_short(cause)));
        }
    }

    fn replaced(&self, session: &SessionId, replaces: &SessionId, reason: &CloseReason) {
        let name = self.forward.name();
        tracing::info!(forward = name, %session, %replaces, %reason, "session replaced");
        self.reporter.say(&format!("{name}: session {session} takes its place"));
        let (session_id, replaces) = (&session.0[..], &replaces.0[..]);
        self.reporter.emit(&Body::SessionReplaced { forward: name, session_id, replaces, lost: reason.into() });
        self.healed();
    }

    fn dormant(&self, reason: &CloseReason, fulfilled: bool) {
        let name = self.forward.name();
        tracing::info!(forward = name, %reason, fulfilled, "dormant");
        {
            let mut told = self.told();
            // The outage is over, if it began as one.
            told.causes.clear();
            told.dormant = !fulfilled;
        }
        if !fulfilled {
            let reason = words(reason);
            self.reporter.say(&format!(
                "{name}: {reason}; open connections were reset, the next connection starts a new session"
            ));
        }
        self.reporter.emit(&Body::Dormant { forward: name, end: reason.into() });
        if reason.cause == Cause::SessionOver {
            // ResumeSession said so.
            self.reporter.credentials_work();
        }
    }

    fn stalled(&self, session: &SessionId, active: bool) {
        let (name, SessionId(id)) = (self.forward.name(), session);
        tracing::info!(forward = name, session = id, active, "stalled");
        self.told().set_stage(session, if active { Stage::Stalled } else { Stage::Serving });
        if active {
            self.reporter.warn(&format!(
                "{name}: nothing heard from the agent for 10 s: connections wait, new ones get another session"
            ));
        } else {
            self.reporter.say(&format!("{name}: the agent is heard again"));
        }
        self.reporter.emit(&Body::Stalled { forward: name, active, session_id: id });
    }

    /// A session can carry data: what was told before is over.
    fn healed(&self) {
        self.told().causes.clear();
        self.reporter.credentials_work();
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
