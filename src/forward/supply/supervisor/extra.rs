//! The sessions beside the one that a forward needs: how many there are to be, and when one is started or ended.
//!
//! ```text
//!   a fixed number  ── fills up at the start; what is missing later, when a connection has to share a session ──┐
//!   automatic       ── grows while all are saturated; ends what was idle for a minute                           ├─▶ openings
//!   both            ── a session that was lost in use ──────────────────────────────────────────────────────────┘
//! ```
//!
//! Nobody waits for an opening to be filled, and starts give way for long when the API throttles or denies them. A
//! session that the service has ended, or that ended while it was idle, leaves no opening.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Lost, Started, State, Supervisor, is_fulfilled};
use crate::{
    forward::{
        Connector, Event, SESSIONS_PER_TARGET, Sessions, Tunnel, event,
        retry::{ExtraPace, is_outage},
        sessions::Place,
        supply::{
            growth::{Growth, Sample},
            member::Member,
            rates::Rates,
        },
    },
    proto::{Cause, CloseReason, Initiator, Mode},
    session::ConnectError,
};

/// Extra sessions that are started at the same time: each costs the agent's host a process and 25 ms.
const AT_ONCE: usize = 8;
/// How long a connection waits for a session of its own while a fixed number of them is started for the first time.
const FILLING: Duration = Duration::from_secs(2);
/// An automatic pool ends a session that no connection has used for so long.
const IDLE: Duration = Duration::from_secs(60);
/// A session whose last connection ended so shortly before it was lost has most likely lost it.
const JUST_USED: Duration = Duration::from_secs(1);

/// What is known and wanted of extra sessions.
pub(super) struct Extra {
    sessions: Sessions,
    /// Of an automatic pool.
    growth: Growth,
    pace: ExtraPace,
    /// Sessions to be started, and which each replaces. No more than there may be sessions.
    openings: VecDeque<Option<Lost>>,
    /// The slots of those that are being started.
    starting: Vec<u32>,
    filling_until: Option<Instant>,
    /// What a fixed number asks for has been opened.
    filled: bool,
    /// Cancels every start, and the one made of it those of extra sessions that are under way.
    cancel_all: CancellationToken,
    cancel: CancellationToken,
    /// It was told that there are not as many as were asked for.
    limited: bool,
    rates: Rates,
}

/// How the start of an extra session ended.
pub(super) struct ExtraStart<T> {
    pub(super) slot: u32,
    lost: Option<Lost>,
    /// What cancels it: nobody wants it any more.
    cancel: CancellationToken,
    pub(super) result: Started<T>,
}

impl Extra {
    pub(super) fn new(sessions: Sessions, now: Instant, random: fastrand::Rng, cancel: &CancellationToken) -> Self {
        Self {
            sessions,
            growth: Growth::new(sessions.most()),
            pace: ExtraPace::new(now, random),
            openings: VecDeque::new(),
            starting: Vec::new(),
            filling_until: None,
            filled: false,
            cancel_all: cancel.clone(),
            cancel: cancel.child_token(),
            limited: false,
            rates: Rates::default(),
        }
    }

    /// There is to be one more.
    pub(super) fn open(&mut self, lost: Option<Lost>) {
        if self.openings.len() < SESSIONS_PER_TARGET {
            self.openings.push_back(lost);
        }
    }

    /// The session that one is to be opened for, if there is one: it is replaced otherwise.
    pub(super) fn take_opening(&mut self) -> Option<Lost> {
        self.openings.pop_front().flatten()
    }

    /// Nothing is started any more before a connection needs it, and what is under way is not wanted.
    pub(super) fn rest(&mut self) {
        self.openings.clear();
        self.starting.clear();
        self.filling_until = None;
        self.cancel.cancel();
        self.cancel = self.cancel_all.child_token();
        self.growth.rest();
    }

    /// Cancels a start when nothing is to be started any more.
    pub(super) fn cancel(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// The machine or the network has woken.
    pub(super) fn encouraged(&mut self, now: Instant) {
        self.pace.encouraged(now);
    }

    pub(super) fn filling_until(&self) -> Option<Instant> {
        self.filling_until
    }

    pub(super) fn starting(&self) -> &[u32] {
        &self.starting
    }

    fn at_once(&self) -> usize {
        if self.pace.is_failing() { 1 } else { AT_ONCE }
    }

    /// So many were asked for.
    fn fixed(&self) -> Option<usize> {
        matches!(self.sessions, Sessions::Fixed(_)).then(|| self.sessions.most())
    }
}

impl<C: Connector> Supervisor<C> {
    /// Opens what a fixed number asks for, beside the first session.
    pub(super) fn fill(&mut self, now: Instant) {
        self.extra.filled = true;
        if let Some(count @ 2..) = self.extra.fixed() {
            (1..count).for_each(|_| self.extra.open(None));
            self.extra.filling_until = Some(now + FILLING);
        }
    }

    /// The first session is back: whoever waits is not to share it if more were asked for.
    fn fill_for_those_who_wait(&mut self) {
        let waiting = self.demand.borrow().waiting;
        if let Some(count @ 2..) = self.extra.fixed()
            && waiting > 1
        {
            (1..count.min(waiting)).for_each(|_| self.extra.open(None));
            self.extra.filling_until = Some(Instant::now() + FILLING);
        }
    }

    /// Whether there are fewer sessions than were asked for, and nothing is done about it.
    pub(super) fn is_short(&self) -> bool {
        let promised = self.serving() + self.extra.starting.len() + self.extra.openings.len();
        self.extra.fixed().is_some_and(|count| promised < count)
    }

    pub(super) fn serving(&self) -> usize {
        if let State::Serving(members) = &self.state { members.len() } else { 0 }
    }

    /// Starts and ends extra sessions as they are needed; returns when to look again although nothing happens.
    pub(super) fn settle_extra(&mut self, now: Instant) -> Option<Instant> {
        if !matches!(self.state, State::Serving(_)) {
            self.extra.growth.rest();
            return None;
        }
        if self.crowd.had_to_share() && self.is_short() {
            self.extra.open(None);
        }
        let (shrinks_at, grows_at) = match self.extra.sessions {
            Sessions::Auto => (self.shrink(now), self.grow(now)),
            Sessions::Fixed(_) => (None, None),
        };
        let starts_at = self.start_extra(now);
        if self.extra.starting.is_empty() {
            self.extra.filling_until = None;
        }
        let tells_at = self.tell_rates(now);
        let wakes_at = match (tells_at, self.extra.sessions) {
            (None, _) => Some(1),
            (Some(_), Sessions::Auto) if self.crowd.connections() < 2 && self.has_room() => Some(2),
            _ => None,
        };
        self.crowd.wake_at(wakes_at);
        [shrinks_at, grows_at, starts_at, tells_at].into_iter().flatten().min()
    }

    pub(super) fn has_room(&self) -> bool {
        self.serving() < self.extra.sessions.most()
    }

    /// Looks whether an automatic pool has to grow.
    fn grow(&mut self, now: Instant) -> Option<Instant> {
        let extra = &mut self.extra;
        let State::Serving(members) = &self.state else { return None };
        let settled = extra.starting.is_empty() && extra.openings.is_empty();
        if members.len() >= extra.sessions.most() || !settled || self.crowd.connections() < 2 {
            extra.growth.rest();
            return None;
        }
        if now < extra.pace.not_before() {
            extra.growth.rest();
            return Some(extra.pace.not_before());
        }
        if now >= extra.growth.next_sample(now) {
            let samples: Vec<_> = members.iter().map(|member| sample(member)).collect();
            let more = extra.growth.observe(now, &samples);
            (0..more).for_each(|_| extra.open(None));
        }
        Some(extra.growth.next_sample(now))
    }

    /// Ends sessions of an automatic pool that have been idle for long, but not the last one; and not the last spare one
    /// while connections share another one: the next of them will take it. One that new connections could not use goes
    /// first, and never the only one that they can.
    fn shrink(&mut self, now: Instant) -> Option<Instant> {
        let State::Serving(members) = &self.state else { return None };
        if members.len() < 2 {
            return None;
        }
        let is_over = |member: &&Arc<Member<C::Tunnel>>| member.idle_since().is_some_and(|since| since + IDLE <= now);
        let idle = members.iter().filter(is_over).count();
        let mut kept = usize::from(idle == members.len());
        if idle > 0 && members.iter().any(|member| sample(member).wanted() > 1) {
            kept = kept.max(1);
        }
        let mut over: Vec<_> = members.iter().filter(is_over).cloned().collect();
        over.sort_by_key(|member| (!member.is_usable(), member.slot));
        for member in over.into_iter().skip(kept).rev() {
            if self.has_usable_beside(&member) && member.close_if_unused() {
                tracing::debug!(session = %member.tunnel.id(), "no longer needed: one session less");
                let reason = CloseReason::new(Initiator::Library, Cause::Timeout("no connection used the session"));
                member.set_unused(reason);
                self.retire(member);
            }
        }
        let State::Serving(members) = &self.state else { return None };
        if members.len() < 2 {
            return None;
        }
        // One that is in use cannot be due before that, and what is kept is looked at again.
        let due = |since: Instant| if since + IDLE <= now { now + IDLE } else { since + IDLE };
        members.iter().map(|member| due(member.idle_since().unwrap_or(now))).min()
    }

    fn has_usable_beside(&self, member: &Member<C::Tunnel>) -> bool {
        let State::Serving(members) = &self.state else { return false };
        members.iter().any(|other| other.id != member.id && other.is_usable())
    }

    /// Starts sessions for openings.
    fn start_extra(&mut self, now: Instant) -> Option<Instant> {
        while let Some(lost) = self.extra.openings.pop_front() {
            let promised = self.serving() + self.extra.starting.len() + usize::from(self.start.is_some());
            if promised >= self.extra.sessions.most() {
                continue;
            }
            if self.extra.starting.len() >= self.extra.at_once() || now < self.extra.pace.not_before() {
                self.extra.openings.push_front(lost);
                break;
            }
            let Some(place) = self.source.accounts.try_take(&self.source.request.target) else {
                self.limited(promised);
                break;
            };
            self.start_one(lost, place);
        }
        let waits = !self.extra.openings.is_empty() && self.extra.starting.len() < self.extra.at_once();
        waits.then(|| self.extra.pace.not_before())
    }

    fn start_one(&mut self, lost: Option<Lost>, place: Place) {
        let slot = self.free_slot();
        let cancel = self.extra.cancel.clone();
        let start = self.starting(slot, place, cancel.clone());
        self.extra.starting.push(slot);
        self.extra_starts.push(Box::pin(async move { ExtraStart { slot, lost, cancel, result: start.await } }));
    }

    /// The process has as many sessions to the target as it may have.
    fn limited(&mut self, allowed: usize) {
        self.extra.openings.clear();
        tracing::debug!(allowed, "no more sessions to this target");
        if let Some(wanted) = self.extra.fixed()
            && !std::mem::replace(&mut self.extra.limited, true)
        {
            self.tell(Event::SessionsLimited { wanted, allowed });
        }
    }

    /// The lowest slot that no session has or is being started for.
    pub(super) fn free_slot(&self) -> u32 {
        let members = if let State::Serving(members) = &self.state { &members[..] } else { &[] };
        let is_taken = |slot: &u32| {
            members.iter().any(|member| member.slot == *slot)
                || self.extra.starting().contains(slot)
                || self.start.as_ref().is_some_and(|(taken, _)| taken == slot)
        };
        (0..).find(|slot| !is_taken(slot)).unwrap_or_default()
    }

    pub(super) fn extra_started(&mut self, now: Instant, started: ExtraStart<C::Tunnel>) {
        let ExtraStart { slot, lost, cancel, result } = started;
        if cancel.is_cancelled() {
            return self.unwanted(slot, result);
        }
        self.extra.starting.retain(|starting| *starting != slot);
        let error = match result {
            Ok((tunnel, place)) => {
                self.extra.pace.succeeded(now);
                return self.admit(slot, tunnel, place, lost);
            }
            Err(error) => error,
        };
        let is_first = self.extra.pace.failed(now, &error);
        tracing::debug!(%error, retry = ?(self.extra.pace.not_before() - now), "cannot start another session");
        let again = match &error {
            // Who has ended it does not want one.
            ConnectError::Closed(reason) => is_outage(reason),
            ConnectError::Control(error) => error.kind.heals(),
            _ => true,
        };
        let wanted = self.extra.fixed();
        if wanted.is_none() {
            // An automatic pool asks again if it still wants to grow then.
            self.extra.openings.retain(Option::is_some);
        }
        if again && (wanted.is_some() || lost.is_some()) {
            self.extra.openings.push_front(lost);
        }
        if is_first {
            self.tell(Event::NotGrown { error: Arc::new(error), present: self.serving(), wanted });
        }
    }

    /// Serves new connections with a session that is ready.
    pub(super) fn admit(&mut self, slot: u32, tunnel: C::Tunnel, place: Place, lost: Option<Lost>) {
        if !self.has_room() {
            // Started for a forward that had none, while another one came first.
            return self.unwanted(slot, Ok((tunnel, place)));
        }
        let session = tunnel.id().clone();
        // Whichever start it was that succeeded: those that failed before say nothing about the next.
        self.pace.succeeded();
        let was = self.serve(slot, tunnel, place);
        match was {
            Some(_) if !self.extra.filled => self.fill(Instant::now()),
            Some(_) => self.fill_for_those_who_wait(),
            None => {}
        }
        let lost = match was {
            Some(State::Replacing { lost: last, .. }) => {
                if lost.is_some() {
                    self.extra.open(lost);
                }
                Some(last)
            }
            _ => lost,
        };
        let sessions = self.serving();
        if sessions > 1 {
            tracing::debug!(%session, sessions, "one session more");
        }
        if let Some(Lost { session: replaces, reason }) = lost {
            self.tell(Event::SessionReplaced { session, member: slot, replaces, reason });
        }
    }

    /// A session has ended, and others are left.
    pub(super) fn extra_ended(&mut self, now: Instant, member: &Member<C::Tunnel>, reason: CloseReason) {
        if !is_fulfilled(member, &reason) {
            self.extra.pace.ended(now, now.saturating_duration_since(member.ready_at));
        }
        let idle = member.idle_since().is_some_and(|since| since + JUST_USED <= now);
        self.tell(event::end_of(&member.tunnel, member.slot, reason.clone(), idle));
        if is_outage(&reason) && !idle {
            self.extra.open(Some(Lost { session: member.tunnel.id().clone(), reason }));
        }
    }

    fn tell_rates(&mut self, now: Instant) -> Option<Instant> {
        let State::Serving(members) = &self.state else { return None };
        let connections = self.crowd.connections();
        let (events, at) = self.extra.rates.look(now, connections, members.iter().chain(&self.retired));
        events.into_iter().for_each(|event| self.tell(event));
        at
    }
}

fn sample<T: Tunnel>(member: &Member<T>) -> Sample {
    Sample {
        id: member.id,
        statistics: member.tunnel.statistics(),
        connections: member.leases(),
        one_at_a_time: member.tunnel.mode() == Mode::Basic,
        usable: member.is_usable(),
    }
}
