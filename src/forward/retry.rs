//! When the next session may be started. Pure: time comes in as `now`, randomness as a generator.
//!
//! Two things slow a forward down, and they are counted apart:
//!
//! - *starts that fail*: full jitter below a ceiling that doubles from 250 ms to 30 s, for ever;
//! - *sessions that start and do not last*: 0, 1, 2, 4 … 60 s, so that a policy that ends every session at once, or an
//!   agent that breaks every one, does not cost a StartSession per moment.
//!
//! Sessions beside the one that a forward needs have a pace of their own ([`ExtraPace`]): nobody waits for them, so they
//! give way sooner.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    proto::{CloseReason, Initiator},
    session::{ConnectError, ControlErrorKind},
};

/// The ceiling of the first pause after a failed start: a hiccup of the network is over by then.
const BASE: Duration = Duration::from_millis(250);
/// The ceiling of all pauses after failed starts: how much later than possible a tunnel may come back.
const CAP: Duration = Duration::from_secs(30);

/// A session that lived as long is no sign of trouble.
const LASTING: Duration = Duration::from_secs(60);
/// The longest pause between sessions that do not last.
const LADDER_CAP: Duration = Duration::from_secs(60);

/// A denied StartSession may be a policy in the course of being changed, or credentials of the wrong role that are
/// being replaced. When it was denied for as long, with nothing else in between, somebody has to act.
const DENIED_FOR_GOOD: Duration = Duration::from_secs(60);

/// The pause after so many starts (at least one) have failed in a row: anything up to a ceiling that doubles, so that
/// many programs that lost the same network do not come back at the same moment.
pub(super) fn back_off(failures: u32, random: &mut fastrand::Rng) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let ceiling = BASE.saturating_mul(1 << doublings).min(CAP);
    Duration::from_millis(random.u64(0..=u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX)))
}

/// The pause after so many sessions (at least one) in a row did not last.
fn ladder(short_lived: u32) -> Duration {
    match short_lived {
        0 | 1 => Duration::ZERO,
        more => Duration::from_secs(1 << (more - 2).min(16)).min(LADDER_CAP),
    }
}

/// Whether a session was lost, and not ended by somebody who may end it.
pub(super) fn is_outage(reason: &CloseReason) -> bool {
    match reason.initiator {
        Initiator::Transport | Initiator::Library => true,
        Initiator::Service | Initiator::Agent | Initiator::Us => false,
    }
}

/// What a failed start means for the forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may heal: so many starts have failed in a row.
    Again {
        /// From 1.
        attempt: u32,
    },
    /// It does not heal by itself.
    GiveUp,
}

/// The ceiling of the first pause after an extra session could not be started: a throttled API needs more than a moment.
const EXTRA_BASE: Duration = Duration::from_secs(2);
/// The ceiling of all such pauses.
const EXTRA_CAP: Duration = Duration::from_secs(300);
/// The pause after a failure that does not pass by itself: somebody may change a policy.
const EXTRA_DENIED: Duration = Duration::from_secs(600);

/// How fast sessions beside the one that a forward needs may follow one another: for those that fail or do not last,
/// pauses of half to all of a ceiling that doubles.
#[derive(Debug)]
pub(super) struct ExtraPace {
    random: fastrand::Rng,
    not_before: Instant,
    failures: u32,
    short_lived: u32,
    /// The last failure may pass by itself.
    passing: bool,
}

impl ExtraPace {
    /// The first start may come at once.
    pub(super) fn new(now: Instant, random: fastrand::Rng) -> Self {
        Self { random, not_before: now, failures: 0, short_lived: 0, passing: true }
    }

    /// The next start may not come before this.
    pub(super) fn not_before(&self) -> Instant {
        self.not_before
    }

    /// Whether the last start has failed: then one at a time is enough to find out whether others would too.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// A start has failed. Of several that were under way, the first counts. True if it is the first failure in a row.
    pub(super) fn failed(&mut self, now: Instant, error: &ConnectError) -> bool {
        let passing = match error {
            ConnectError::Control(error) => error.kind.heals(),
            _ => true,
        };
        if self.failures > 0 && now < self.not_before && (self.passing == passing || passing) {
            return false;
        }
        self.passing = passing;
        self.failures = self.failures.saturating_add(1);
        self.back_off(now, self.failures);
        self.failures == 1
    }

    /// A start has succeeded; one that was under way when another was denied says nothing about the next.
    pub(super) fn succeeded(&mut self, now: Instant) {
        if self.passing || now >= self.not_before {
            (self.failures, self.passing) = (0, true);
        }
    }

    /// A session has ended, or was lost, that was ready for so long.
    pub(super) fn ended(&mut self, now: Instant, lived: Duration) {
        self.short_lived = if lived < LASTING { self.short_lived.saturating_add(1) } else { 0 };
        // The first one in a row is no pattern.
        if self.short_lived > 1 {
            self.back_off(now, self.short_lived - 1);
        }
    }

    /// The machine or the network has woken.
    pub(super) fn encouraged(&mut self, now: Instant) {
        if self.passing {
            self.not_before = now;
        }
    }

    fn back_off(&mut self, now: Instant, times: u32) {
        let doublings = times.saturating_sub(1).min(16);
        let pause = match self.passing {
            true => EXTRA_BASE.saturating_mul(1 << doublings).min(EXTRA_CAP),
            false => EXTRA_DENIED,
        };
        self.not_before = self.not_before.max(now + pause.mul_f64(0.5 + self.random.f64() / 2.0));
    }
}

/// How fast sessions may follow one another.
#[derive(Debug)]
pub(super) struct Pace {
    random: fastrand::Rng,
    /// No start before this, because of starts that failed.
    retry_at: Instant,
    /// No start before this, because of sessions that did not last.
    step_at: Instant,
    failures: u32,
    short_lived: u32,
    denied: Denied,
    resting: Option<Instant>,
}

/// For how long every start has been denied. Only time in which starts were tried counts.
#[derive(Debug, Default)]
struct Denied {
    total: Duration,
    last: Option<Instant>,
}

impl Pace {
    /// The first start may come at once.
    pub(super) fn new(now: Instant, random: fastrand::Rng) -> Self {
        Self {
            random,
            retry_at: now,
            step_at: now,
            failures: 0,
            short_lived: 0,
            denied: Denied::default(),
            resting: None,
        }
    }

    /// The next start may not come before this.
    pub(super) fn not_before(&self) -> Instant {
        self.retry_at.max(self.step_at)
    }

    /// Whether the last start has failed, as far as that says something about the next.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// A start has failed. A session that was ended before it was ready is also one that did not last.
    pub(super) fn failed(&mut self, now: Instant, error: &ConnectError) -> Verdict {
        match error {
            ConnectError::Control(error) if error.kind == ControlErrorKind::InvalidDocument => return Verdict::GiveUp,
            ConnectError::Control(error) if error.kind == ControlErrorKind::AccessDenied => {
                if self.denied.add(now) >= DENIED_FOR_GOOD {
                    return Verdict::GiveUp;
                }
            }
            // The rest can heal, or nobody knows that it cannot: the same request has been granted before.
            _ => self.denied = Denied::default(),
        }
        self.failures = self.failures.saturating_add(1);
        if let ConnectError::Closed(reason) = error
            && !is_outage(reason)
        {
            self.ended(now, Duration::ZERO);
        } else {
            self.retry_at = now + back_off(self.failures, &mut self.random);
        }
        Verdict::Again { attempt: self.failures }
    }

    /// A start has failed while other sessions of the forward live: no reason to give up, whatever it was. Returns how
    /// many have failed in a row.
    pub(super) fn failed_beside(&mut self, now: Instant, error: &ConnectError) -> u32 {
        if self.failed(now, error) == Verdict::GiveUp {
            self.failures = self.failures.saturating_add(1);
            self.retry_at = now + back_off(self.failures, &mut self.random);
        }
        self.denied = Denied::default();
        self.failures
    }

    /// A start has succeeded.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.denied = Denied::default();
    }

    /// The machine or the network has woken: starts that failed before say nothing about the next one.
    pub(super) fn encouraged(&mut self, now: Instant) {
        if self.failures > 0 {
            self.failures = self.failures.min(1);
            self.retry_at = now;
        }
    }

    /// A session has ended that was ready for so long.
    pub(super) fn ended(&mut self, now: Instant, lived: Duration) {
        self.short_lived = if lived < LASTING { self.short_lived.saturating_add(1) } else { 0 };
        self.step_at = now + ladder(self.short_lived);
    }

    /// A session has ended because its work was done.
    pub(super) fn fulfilled(&mut self, now: Instant) {
        self.short_lived = 0;
        self.step_at = now;
    }

    /// Nobody needs a session from now on.
    pub(super) fn rest(&mut self, now: Instant) {
        self.denied.last = None;
        self.resting.get_or_insert(now);
    }

    /// Somebody needs one again.
    pub(super) fn wake(&mut self, now: Instant) {
        // Failures from before a long rest say nothing about now.
        if self.resting.take().is_some_and(|since| now.saturating_duration_since(since) > CAP) {
            self.failures = 0;
        }
    }
}

impl Denied {
    fn add(&mut self, now: Instant) -> Duration {
        if let Some(last) = self.last.replace(now) {
            self.total += now.saturating_duration_since(last);
        }
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{forward::start_failure, proto::Cause};

    fn pace() -> (Pace, Instant) {
        let now = Instant::now();
        (Pace::new(now, fastrand::Rng::with_seed(7)), now)
    }

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn pauses_use_the_whole_range_below_a_doubling_ceiling() {
        let mut random = fastrand::Rng::with_seed(1);
        for (failures, ceiling) in [(1, 250), (2, 500), (3, 1000), (7, 16_000), (8, 30_000), (1000, 30_000)] {
            let pauses: Vec<_> = (0..2000).map(|_| back_off(failures, &mut random).as_millis()).collect();
            let (least, most) = (pauses.iter().min().expect("some"), pauses.iter().max().expect("some"));
            assert!(*most <= ceiling, "{failures}: {most}");
            assert!(*most > ceiling * 9 / 10 && *least < ceiling / 10, "{failures}: {least} to {most}");
        }
        assert!(back_off(u32::MAX, &mut random) <= CAP);
    }

    #[test]
    fn sessions_that_do_not_last_climb_the_ladder_and_one_that_lasts_leaves_it() {
        let (mut pace, now) = pace();
        let mut pause = |lived| {
            pace.ended(now, lived);
            (pace.not_before() - now).as_secs()
        };
        let pauses: Vec<_> = (0..10).map(|_| pause(seconds(59))).collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause(seconds(60)), 0);
        assert_eq!([pause(seconds(1)), pause(seconds(1))], [0, 1]);
        pace.fulfilled(now);
        assert_eq!(pace.not_before(), now);
    }

    #[test]
    fn what_can_heal_is_tried_for_ever() {
        use ControlErrorKind as Kind;
        let errors: [fn() -> ConnectError; 10] = [
            || start_failure(Kind::Throttled),
            || start_failure(Kind::Service),
            || start_failure(Kind::Network),
            || start_failure(Kind::TargetNotConnected),
            || start_failure(Kind::ExpiredCredentials),
            || start_failure(Kind::NoCredentials),
            || start_failure(Kind::ClockSkew),
            || start_failure(Kind::BadAnswer),
            || ConnectError::TimedOut(seconds(30)),
            || ConnectError::Dial(crate::session::DialError::Refused { host: "h".into(), status: 403 }),
        ];
        for error in errors {
            let (mut pace, mut now) = pace();
            for attempt in 1..1000 {
                assert_eq!(pace.failed(now, &error()), Verdict::Again { attempt }, "{:?}", error());
                assert!(pace.not_before() - now <= CAP);
                now = pace.not_before();
            }
        }
    }

    #[test]
    fn sessions_that_are_ended_before_they_are_ready_climb_the_ladder_too() {
        let policy = ConnectError::Closed(CloseReason::new(Initiator::Service, Cause::ChannelClosed(String::new())));
        let lost = ConnectError::Closed(CloseReason::new(Initiator::Transport, Cause::ConnectionLost(String::new())));
        let (mut network, _) = pace();
        let (mut pace, now) = pace();
        let pauses: Vec<_> = (0..9)
            .map(|_| {
                assert!(matches!(pace.failed(now, &policy), Verdict::Again { .. }));
                // What wakes says nothing about a policy.
                pace.encouraged(now);
                (pace.not_before() - now).as_secs()
            })
            .collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        for _ in 0..20 {
            network.failed(now, &lost);
            assert!(network.not_before() - now <= CAP, "a failure like others");
        }
    }

    #[test]
    fn failures_before_a_long_rest_are_forgotten() {
        let (mut pace, mut now) = pace();
        for _ in 0..20 {
            pace.failed(now, &start_failure(ControlErrorKind::Network));
            now = pace.not_before();
        }
        for (rest, attempt) in [(CAP, 21), (CAP + seconds(1), 1)] {
            pace.rest(now);
            pace.rest(now + seconds(20)); // still the same rest
            now += rest;
            pace.wake(now);
            assert_eq!(pace.failed(now, &start_failure(ControlErrorKind::Network)), Verdict::Again { attempt });
        }
        assert!(pace.not_before() - now <= BASE);
        pace.succeeded();
        assert_eq!(pace.failed(now, &start_failure(ControlErrorKind::Network)), Verdict::Again { attempt: 1 });
    }

    #[test]
    fn denied_for_a_minute_is_for_good() {
        let denied = start_failure(ControlErrorKind::AccessDenied);
        let (mut pace, now) = pace();
        assert!(matches!(pace.failed(now, &denied), Verdict::Again { .. }));
        assert!(matches!(pace.failed(now + seconds(59), &denied), Verdict::Again { .. }));
        assert_eq!(pace.failed(now + seconds(60), &denied), Verdict::GiveUp);
    }

    #[test]
    fn another_failure_in_between_or_time_without_a_start_does_not_count_as_denied() {
        let denied = start_failure(ControlErrorKind::AccessDenied);
        let (mut pace, now) = pace();
        pace.failed(now, &denied);
        pace.failed(now + seconds(30), &start_failure(ControlErrorKind::Network));
        assert!(matches!(pace.failed(now + seconds(61), &denied), Verdict::Again { .. }));
        // Dormant for an hour.
        pace.rest(now + seconds(61));
        pace.wake(now + seconds(3700));
        assert!(matches!(pace.failed(now + seconds(3700), &denied), Verdict::Again { .. }));
        assert_eq!(pace.failed(now + seconds(3760), &denied), Verdict::GiveUp);
    }

    #[test]
    fn extra_sessions_give_way_to_a_throttled_api() {
        let now = Instant::now();
        let mut pace = ExtraPace::new(now, fastrand::Rng::with_seed(7));
        let mut at = now;
        for ceiling in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            pace.failed(at, &start_failure(ControlErrorKind::Throttled));
            let pause = (pace.not_before() - at).as_secs_f64();
            assert!(pause <= f64::from(ceiling) && pause >= f64::from(ceiling) / 2.0, "{pause} of {ceiling}");
            at = pace.not_before();
        }
        pace.succeeded(at);
        assert!(pace.failed(at, &start_failure(ControlErrorKind::Throttled)), "the first in a row again");
        let first = pace.not_before();
        assert!(first - at <= EXTRA_BASE);
        // Others that were under way with it.
        assert!(!pace.failed(at, &start_failure(ControlErrorKind::Throttled)));
        assert_eq!(pace.not_before(), first);
        pace.encouraged(at);
        assert_eq!(pace.not_before(), at);
    }

    #[test]
    fn extra_sessions_that_are_denied_are_left_alone_for_long() {
        let now = Instant::now();
        let mut pace = ExtraPace::new(now, fastrand::Rng::with_seed(7));
        pace.failed(now, &start_failure(ControlErrorKind::AccessDenied));
        assert!(pace.not_before() - now >= EXTRA_DENIED / 2);
        let denied = pace.not_before();
        pace.encouraged(now);
        pace.failed(now, &start_failure(ControlErrorKind::Throttled));
        pace.succeeded(now);
        assert!(pace.not_before() == denied && pace.is_failing());
        pace.succeeded(denied);
        assert!(!pace.is_failing() && pace.failed(denied, &start_failure(ControlErrorKind::AccessDenied)));
    }

    #[test]
    fn extra_sessions_that_do_not_last_are_started_ever_more_slowly() {
        let now = Instant::now();
        let mut pace = ExtraPace::new(now, fastrand::Rng::with_seed(7));
        let mut pause = |lived| {
            pace.ended(now, lived);
            pace.not_before().saturating_duration_since(now)
        };
        let pauses = [pause(seconds(59)), pause(seconds(1)), pause(seconds(1)), pause(seconds(1))];
        assert!(pauses[0].is_zero() && pauses[1] >= seconds(1) && pauses[2] >= seconds(2), "{pauses:?}");
        assert!(pauses[3] >= seconds(4), "{pauses:?}");
    }

    #[test]
    fn a_document_that_is_gone_is_for_good() {
        let (mut pace, now) = pace();
        assert_eq!(pace.failed(now, &start_failure(ControlErrorKind::InvalidDocument)), Verdict::GiveUp);
    }
}
