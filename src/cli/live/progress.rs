//! What each forward is waiting for, from what is told of its sessions: a start, the agent, the next attempt to resume.
//!
//! The status of a forward says whether it can carry anything; this says what has been done about it so far.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    forward::Event,
    session::{SessionEvent, SessionId},
};

/// Hears what happens in the forwards. Cheap to tell: from whichever task it happens in.
#[derive(Debug, Default)]
pub(in crate::cli) struct Progress {
    forwards: Mutex<HashMap<String, Known>>,
}

/// What is known of one forward.
#[derive(Debug)]
struct Known {
    /// Those that have not ended. The forward bounds their number.
    sessions: Vec<(SessionId, Stage)>,
    /// Starts that have failed in a row.
    failures: u32,
    /// When it last changed what is being done for want of any session.
    since: Instant,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Started: its agent is to answer.
    Starting(Instant),
    Ready,
    /// Its websocket is lost. The next attempt to replace it is made then, if it is not under way.
    Resuming(Option<Instant>),
}

/// What a forward is waiting for, as far as it waits for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Waiting {
    /// For so long, for the agent of a session that has been started.
    pub(super) agent: Option<Duration>,
    /// A session is being resumed.
    pub(super) resuming: bool,
    /// The next attempt to resume it is made then.
    pub(super) resumes_in: Option<Duration>,
    /// For so long it has no session at all.
    pub(super) none: Duration,
    /// So many starts have failed in a row.
    pub(super) failures: u32,
}

impl Progress {
    /// Something happened in a forward.
    pub(in crate::cli) fn note(&self, forward: &str, event: &Event) {
        self.note_at(forward, event, Instant::now());
    }

    fn note_at(&self, forward: &str, event: &Event, now: Instant) {
        let mut forwards = self.lock();
        let known = forwards.entry(forward.to_owned()).or_insert_with(|| Known::new(now));
        match event {
            Event::Session { session, event, .. } => match event {
                SessionEvent::Started { .. } => known.set(session, Stage::Starting(now)),
                SessionEvent::Ready => {
                    known.failures = 0;
                    known.set(session, Stage::Ready);
                }
                SessionEvent::Reconnecting { next, .. } => {
                    known.set(session, Stage::Resuming(next.map(|wait| now + wait)));
                }
                SessionEvent::Resumed { .. } => known.set(session, Stage::Ready),
                _ => {}
            },
            Event::SessionEnded { session, .. } => {
                known.sessions.retain(|(known, _)| known != session);
                known.since = now;
            }
            Event::StartFailed { attempt, .. } => (known.failures, known.since) = (*attempt, now),
            Event::Dormant { .. } => (known.failures, known.since) = (0, now),
            _ => {}
        }
    }

    /// A forward is over: nothing more is known of it.
    pub(in crate::cli) fn forget(&self, forward: &str) {
        self.lock().remove(forward);
    }

    /// What a forward is waiting for.
    pub(super) fn of(&self, forward: &str, now: Instant) -> Waiting {
        let mut forwards = self.lock();
        let known = forwards.entry(forward.to_owned()).or_insert_with(|| Known::new(now));
        let mut waiting = Waiting {
            none: now.saturating_duration_since(known.since),
            failures: known.failures,
            ..Waiting::default()
        };
        for (_, stage) in &known.sessions {
            match stage {
                Stage::Starting(since) => {
                    let longest = waiting.agent.unwrap_or_default().max(now.saturating_duration_since(*since));
                    waiting.agent = Some(longest);
                }
                Stage::Ready => {}
                Stage::Resuming(at) => {
                    let wait = at.map(|at| at.saturating_duration_since(now)).filter(|wait| !wait.is_zero());
                    // The one that comes first; one that is under way comes before all.
                    waiting.resumes_in = match (waiting.resuming, waiting.resumes_in) {
                        (false, _) => wait,
                        (true, known) => known.zip(wait).map(|(known, wait)| known.min(wait)),
                    };
                    waiting.resuming = true;
                }
            }
        }
        waiting
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.forwards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn new(now: Instant) -> Self {
        Self { sessions: Vec::new(), failures: 0, since: now }
    }

    fn set(&mut self, session: &SessionId, stage: Stage) {
        match self.sessions.iter_mut().find(|(known, _)| known == session) {
            Some((_, known)) => *known = stage,
            None => self.sessions.push((session.clone(), stage)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        forward::Event,
        proto::{Cause, CloseReason, Initiator},
    };

    fn id(text: &str) -> SessionId {
        SessionId(text.into())
    }

    fn of(session: &str, event: SessionEvent) -> Event {
        Event::Session { session: id(session), member: 0, event }
    }

    fn started(session: &str) -> Event {
        of(session, SessionEvent::Started { session: id(session), target: "i-0a".into() })
    }

    fn lost(session: &str, next: Option<Duration>) -> Event {
        of(session, SessionEvent::Reconnecting { attempt: 0, cause: "reset".into(), kind: None, next })
    }

    fn ended(session: &str) -> Event {
        let reason = CloseReason::new(Initiator::Us, Cause::Requested);
        Event::SessionEnded { session: id(session), member: 0, reason, idle: true, bytes_up: 0, bytes_down: 0 }
    }

    #[test]
    fn what_is_waited_for_follows_the_events() {
        let (progress, begin, s) = (Progress::default(), Instant::now(), Duration::from_secs);
        let at = |seconds: u64| begin + s(seconds);
        let idle = Waiting::default();
        assert_eq!(progress.of("db", at(0)), idle);
        assert_eq!(progress.of("db", at(3)), Waiting { none: s(3), ..idle });
        progress.note_at("db", &started("a"), at(4));
        assert_eq!(progress.of("db", at(9)), Waiting { none: s(9), agent: Some(s(5)), ..idle });
        progress.note_at("db", &of("a", SessionEvent::Ready), at(9));
        assert_eq!(progress.of("db", at(9)).agent, None);

        // The next attempt, and the one that is under way.
        progress.note_at("db", &lost("a", Some(s(8))), at(10));
        let waiting = progress.of("db", at(12));
        assert_eq!((waiting.resuming, waiting.resumes_in), (true, Some(s(6))));
        assert_eq!(progress.of("db", at(18)).resumes_in, None);
        // Of two, the one that comes first.
        progress.note_at("db", &lost("b", Some(s(3))), at(10));
        assert_eq!(progress.of("db", at(11)).resumes_in, Some(s(2)));
        progress.note_at("db", &lost("b", None), at(11));
        assert_eq!((progress.of("db", at(11)).resuming, progress.of("db", at(11)).resumes_in), (true, None));
        for session in ["a", "b"] {
            progress.note_at("db", &of(session, SessionEvent::Resumed { outage: s(1) }), at(12));
        }
        assert!(!progress.of("db", at(12)).resuming);

        // Sessions that are gone are waited for no more.
        progress.note_at("db", &lost("a", None), at(13));
        progress.note_at("db", &ended("a"), at(14));
        progress.note_at("db", &ended("b"), at(15));
        assert_eq!(progress.of("db", at(20)), Waiting { none: s(5), ..idle });
        assert_eq!(progress.of("other", at(20)), idle);
        progress.forget("db");
        assert_eq!(progress.of("db", at(30)), idle);
        progress.note("db", &started("c"));
        assert!(progress.of("db", Instant::now()).agent.is_some());
    }
}
