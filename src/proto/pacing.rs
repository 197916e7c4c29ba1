//! How many data messages a second: a token bucket, and what pauses do to its rate (`proto-notes/sending.md#rate`).
//!
//! What it is not: a reason to delay acknowledgements, retransmissions of the oldest message or control messages, which
//! take no tokens.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use super::limits;

/// How many tokens a full bucket holds, as the time in which they come: longer than a scheduler or a timer is ever
/// late, so that no rate is lost to them; shorter than people notice; at the default rate 27 and one more.
const BURST: Duration = Duration::from_millis(30);
/// Thousandths of the rate that come back per minute after a pause.
const RECOVERY_PER_MINUTE: u32 = 100;
/// The least that pauses leave of the rate, in thousandths: they also come when the agent is away, which has nothing
/// to do with the rate. With large messages this is still more than the genuine client sends.
const LEAST: u32 = 62;
/// Pauses within this time are one: each member of a pool gets its own, and what is under way meets another.
const ONE_PAUSE: Duration = Duration::from_secs(1);
/// Over how long the rate is measured that a session without a limit is slowed down from.
const MEASURED: Duration = Duration::from_secs(1);
/// The whole rate.
const FULL: u32 = 1000;

/// How far `pause_publication` has slowed sending down. Clones share it: give all sessions of a pool a clone of one,
/// and a pause of one of them slows all.
#[derive(Debug, Clone, Default)]
pub struct Slowdown(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Grows with every change.
    version: AtomicU32,
    slow: Mutex<Option<Slow>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slow {
    /// Thousandths of the rate that were left.
    left: u32,
    since: Instant,
}

impl Slow {
    fn share(self, now: Instant) -> u32 {
        let back = now.saturating_duration_since(self.since).as_millis() * u128::from(RECOVERY_PER_MINUTE) / 60_000;
        self.left.saturating_add(u32::try_from(back).unwrap_or(FULL)).min(FULL)
    }
}

impl Slowdown {
    /// Halves the rate.
    fn halve(&self, now: Instant) {
        let mut slow = self.0.slow.lock().unwrap_or_else(PoisonError::into_inner);
        if slow.is_some_and(|slow| now.saturating_duration_since(slow.since) < ONE_PAUSE) {
            return;
        }
        let share = slow.map_or(FULL, |slow| slow.share(now));
        *slow = Some(Slow { left: (share / 2).max(LEAST), since: now });
        self.0.version.fetch_add(1, Ordering::Release);
    }

    fn version(&self) -> u32 {
        self.0.version.load(Ordering::Acquire)
    }

    fn get(&self) -> Option<Slow> {
        *self.0.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The share of the rate that is allowed at the moment, in thousandths.
    #[must_use]
    pub fn share(&self, now: Instant) -> u32 {
        self.get().map_or(FULL, |slow| slow.share(now))
    }
}

/// One session's bucket.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Messages a second; 0: no limit.
    rate: u32,
    slowdown: Slowdown,
    seen: u32,
    slow: Option<Slow>,
    /// The rate of a session without a limit at the time of the pause.
    found: u32,
    /// When the bucket is full again.
    full_at: Option<Instant>,
    measured: Measured,
}

/// Messages a second over about [`MEASURED`].
#[derive(Debug, Default)]
struct Measured {
    since: Option<Instant>,
    count: u32,
    before: u32,
}

impl Measured {
    fn count(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        if passed >= MEASURED {
            self.before = if passed < MEASURED * 2 { self.count } else { 0 };
            self.count = 0;
            self.since = Some(now);
        }
        self.count += 1;
    }

    fn rate(&self) -> u32 {
        self.count.max(self.before)
    }
}

impl Pacer {
    pub(super) fn new(rate: u32, slowdown: Slowdown) -> Self {
        let mut pacer =
            Self { rate, seen: 0, slow: None, found: 0, slowdown, full_at: None, measured: Measured::default() };
        pacer.look();
        pacer
    }

    /// What others of the pool have met meanwhile.
    fn look(&mut self) {
        let version = self.slowdown.version();
        if version != self.seen {
            self.seen = version;
            self.slow = self.slowdown.get();
            self.found = self.measured.rate().max(limits::MESSAGE_RATE);
        }
    }

    /// The peer is behind: the rate is halved, for all members of the pool.
    pub(super) fn pause(&mut self, now: Instant) {
        self.slowdown.halve(now);
    }

    /// Messages a second at the moment, in thousandths; `None`: no limit.
    fn millirate(&mut self, now: Instant) -> Option<u64> {
        self.look();
        let share = self.slow.map_or(FULL, |slow| slow.share(now));
        if share == FULL {
            self.slow = None;
        }
        match (self.rate, share) {
            (0, FULL) => None,
            (0, share) => Some(u64::from(self.found) * u64::from(share)),
            (rate, share) => Some(u64::from(rate) * u64::from(share)),
        }
    }

    /// Messages a second at the moment; `None`: no limit.
    pub(super) fn rate(&mut self, now: Instant) -> Option<u64> {
        self.millirate(now).map(|millirate| millirate.div_ceil(1000))
    }

    /// When there is a token: `None` if now.
    pub(super) fn ready_at(&self, now: Instant) -> Option<Instant> {
        self.full_at?.checked_sub(BURST).filter(|at| *at > now)
    }

    /// Whether there are tokens to spare, so that what is urgent need not share a message.
    pub(super) fn is_half_full(&self, now: Instant) -> bool {
        self.half_full_at(now).is_none()
    }

    /// When there are tokens to spare: `None` if now.
    pub(super) fn half_full_at(&self, now: Instant) -> Option<Instant> {
        self.full_at?.checked_sub(BURST / 2).filter(|at| *at > now)
    }

    /// Takes a token.
    pub(super) fn take(&mut self, now: Instant) {
        self.measured.count(now);
        self.full_at = self.millirate(now).map(|millirate| {
            let interval = Duration::from_nanos(1_000_000_000_000 / millirate.max(1));
            self.full_at.map_or(now, |full| full.max(now)) + interval
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    /// Takes what there is, for so long; returns how many.
    fn take(pacer: &mut Pacer, now: &mut Instant, time: Duration) -> u32 {
        let (end, mut count) = (*now + time, 0);
        loop {
            match pacer.ready_at(*now) {
                None if *now < end => pacer.take(*now),
                Some(at) if at < end => {
                    *now = at;
                    pacer.take(at);
                }
                _ => break,
            }
            count += 1;
            assert!(count < 1_000_000, "no limit");
        }
        *now = end;
        count
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let (mut pacer, mut now) = (Pacer::new(900, Slowdown::default()), start());
        assert_eq!(take(&mut pacer, &mut now, Duration::from_nanos(1)), 28);
        let in_ten = take(&mut pacer, &mut now, SECOND * 10);
        assert!((8999..=9001).contains(&in_ten), "{in_ten}");
        now += SECOND;
        assert_eq!(take(&mut pacer, &mut now, Duration::from_nanos(1)), 28, "full again, and no more");
    }

    #[test]
    fn the_slowest_bucket_lets_a_lone_message_through() {
        let (mut pacer, now) = (Pacer::new(1, Slowdown::default()), start());
        assert_eq!(pacer.ready_at(now), None);
        pacer.take(now);
        assert_eq!(pacer.ready_at(now), Some(now + SECOND - BURST));
    }

    #[test]
    fn a_pause_halves_the_rate_of_all_members_and_it_comes_back_in_minutes() {
        let slowdown = Slowdown::default();
        let (mut one, mut other) = (Pacer::new(1000, slowdown.clone()), Pacer::new(1000, slowdown.clone()));
        let mut now = start();
        one.pause(now);
        // The other member meets the same trouble: one pause, not two.
        other.pause(now + ONE_PAUSE / 2);
        let rates = |one: &mut Pacer, other: &mut Pacer, now| (one.rate(now), other.rate(now));
        assert_eq!(rates(&mut one, &mut other, now), (Some(500), Some(500)));
        now += SECOND * 60;
        assert_eq!(rates(&mut one, &mut other, now), (Some(600), Some(600)));
        other.pause(now);
        assert_eq!(rates(&mut one, &mut other, now), (Some(300), Some(300)));
        let mut late = Pacer::new(1000, slowdown);
        assert_eq!(late.rate(now), Some(300), "a member that comes later too");
        now += SECOND * 60 * 7;
        assert_eq!(rates(&mut one, &mut other, now), (Some(1000), Some(1000)));
    }

    #[test]
    fn pauses_without_end_leave_a_sixteenth() {
        let (mut pacer, mut now) = (Pacer::new(1000, Slowdown::default()), start());
        for _ in 0..100 {
            pacer.pause(now);
            now += ONE_PAUSE;
        }
        let rate = pacer.rate(now).expect("a limit");
        assert!((62..70).contains(&rate), "{rate}");
    }

    #[test]
    fn without_a_limit_a_pause_makes_one_from_what_was_sent() {
        let (mut pacer, mut now) = (Pacer::new(0, Slowdown::default()), start());
        assert_eq!(pacer.rate(now), None);
        for _ in 0..3000 {
            assert_eq!(pacer.ready_at(now), None);
            pacer.take(now);
            now += SECOND / 3000;
        }
        pacer.pause(now);
        assert_eq!(pacer.rate(now), Some(1500));
        now += SECOND * 60 * 5;
        assert_eq!(pacer.rate(now), None, "and it is gone when the rate has come back");
        let mut idle = Pacer::new(0, Slowdown::default());
        idle.pause(now);
        assert_eq!(idle.rate(now), Some(450), "as with the default");
    }
}
