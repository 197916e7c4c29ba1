//! How fast bulk data may go to a destination that is slower than the path to it (`proto-notes/sending.md#ceiling`).
//!
//! The agent acknowledges what its shared 4 MiB bucket has room for. A destination that takes less than the path brings
//! fills it; from then on the agent reads nothing, for any stream, until the destination's socket has room for a lot
//! again. Between two such moments the bucket has taken in what the destination has taken out: that is its rate. Held
//! to it, the bucket does not fill, and what is sent beside the bulk data passes at once.
//!
//! What it is not: a bound. It is learned only where the path stands still again and again, and given up after a while;
//! at once, and for longer, where it turns out that something else makes the path stand still.

use std::time::{Duration, Instant};

/// Nothing acknowledged for so long, or for two round trips, with data in flight: the path stands still. Shorter ones
/// are hardly felt, and machines and radios make them too.
const STILL: Duration = Duration::from_millis(100);
/// Least time between two such moments whose mean is believed.
const MEASURED: Duration = Duration::from_secs(1);
/// Two means in a row that differ by less than this share are of a destination with a pace, as a divisor.
const STEADY_SHARE: u64 = 8;
/// In between, there was nothing to send for this share of the time at most, as a divisor.
const IDLE_SHARE: u32 = 8;
/// How much faster than the mean the path has to be at its best, in halves, or it is the path that limits.
const UNEVEN: u64 = 3;
/// A slower destination is not held back any further, bytes a second.
const LEAST: u64 = 32 << 10;
/// How much is to be drained from the bucket first, bytes: half of it.
const DRAIN: u64 = 2 << 20;
/// While it drains, the rate is less by this share, as a divisor.
const DRAIN_SHARE: u64 = 4;
/// But no longer than this.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// How long the mean is believed after that. Destinations change.
const HOLD: Duration = Duration::from_secs(5);
/// And after that, in how long the ceiling doubles.
const DOUBLING: Duration = Duration::from_secs(1);
/// So many doublings, and it is none any more.
const DOUBLINGS: u32 = 10;
/// What a timer may be late by without loss, and a path that stumbles.
const CREDIT: Duration = Duration::from_millis(250);
/// For how long none is set after one that was wrong; doubles, up to sixteen times as long.
const DISTRUST: Duration = Duration::from_secs(60);
const DISTRUST_MAX: Duration = Duration::from_secs(960);

/// The ceiling of one session.
#[derive(Debug, Default)]
pub(super) struct Ceiling {
    still: Option<Still>,
    /// The mean before the last standstill.
    before: Option<u64>,
    /// Since when there is nothing to send.
    idle_since: Option<Instant>,
    limit: Option<Limit>,
    /// When all that was sent would have been sent at the limit.
    spent_until: Option<Instant>,
    /// No limit until then.
    distrusted_until: Option<Instant>,
    /// And so long the next time.
    distrust: Duration,
}

/// The path stood still until then.
#[derive(Debug)]
struct Still {
    at: Instant,
    delivered: u64,
    /// For how long there was nothing to send since.
    idle: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    mean: u64,
    since: Instant,
}

impl Limit {
    fn drains(self) -> Duration {
        Duration::from_micros(DRAIN * DRAIN_SHARE * 1_000_000 / self.mean.max(1)).min(DRAIN_MAX)
    }

    fn is_growing(self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= self.drains() + HOLD
    }

    /// Bytes a second; `None` if it has been given up.
    fn rate(self, now: Instant) -> Option<u64> {
        let (age, drains) = (now.saturating_duration_since(self.since), self.drains());
        let grows = age.saturating_sub(drains + HOLD).as_micros();
        let doublings = u32::try_from(grows / DOUBLING.as_micros()).unwrap_or(u32::MAX);
        match doublings {
            _ if age < drains => Some(self.mean - self.mean / DRAIN_SHARE),
            DOUBLINGS.. => None,
            _ => {
                let base = u128::from(self.mean) << doublings;
                let more = base * (grows % DOUBLING.as_micros()) / DOUBLING.as_micros();
                u64::try_from(base + more).ok()
            }
        }
    }
}

impl Ceiling {
    /// Nothing is known any more.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    /// There is nothing to send.
    pub(super) fn idle(&mut self, now: Instant) {
        self.idle_since.get_or_insert(now);
    }

    /// When more may be sent: `None` if now.
    pub(super) fn ready_at(&self, now: Instant) -> Option<Instant> {
        self.limit?;
        self.spent_until.filter(|at| *at > now)
    }

    /// So many bytes are sent.
    pub(super) fn sent(&mut self, now: Instant, size: usize) {
        if let Some(since) = self.idle_since.take()
            && let Some(still) = &mut self.still
        {
            still.idle += now.saturating_duration_since(since);
        }
        let Some(rate) = self.limit.and_then(|limit| limit.rate(now)) else {
            self.limit = None;
            return;
        };
        let time = Duration::from_micros((size as u64).saturating_mul(1_000_000) / rate.max(1));
        let credit = now.checked_sub(CREDIT).unwrap_or(now);
        self.spent_until = Some(self.spent_until.map_or(now, |until| until.max(credit)) + time);
    }

    /// Something was acknowledged, `silence` after what was acknowledged before it; so many bytes in all until then. At
    /// its best the path brings `best` bytes a second, and a round trip takes `round_trip` at least.
    pub(super) fn acknowledged(
        &mut self,
        now: Instant,
        silence: Duration,
        round_trip: Duration,
        delivered: u64,
        best: u64,
    ) {
        if silence < STILL.max(round_trip * 2) {
            return;
        }
        let next = Still { at: now, delivered, idle: Duration::ZERO };
        let Some(still) = &self.still else {
            self.idle_since = self.idle_since.map(|_| now);
            self.still = Some(next);
            return;
        };
        let time = now.saturating_duration_since(still.at);
        if time < MEASURED {
            return;
        }
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mean = (delivered - still.delivered).saturating_mul(1_000_000) / micros;
        let (busy, before) = (still.idle <= time / IDLE_SHARE, self.before.replace(mean));
        let is_about = |other: u64| mean.abs_diff(other) <= mean / STEADY_SHARE;
        match self.limit {
            // An idle time explains nothing.
            _ if !busy || mean < LEAST => self.before = None,
            None => {
                let is_paced = before.is_some_and(is_about);
                let is_uneven = best.saturating_mul(2) >= mean.saturating_mul(UNEVEN);
                let is_trusted = self.distrusted_until.is_none_or(|until| until <= now);
                if is_paced && is_uneven && is_trusted {
                    self.limit = Some(Limit { mean, since: now });
                    self.spent_until = None;
                }
            }
            Some(limit) if limit.is_growing(now) && (mean >= limit.mean || is_about(limit.mean)) => {
                self.limit = Some(Limit { mean, since: now });
                self.spent_until = None;
                self.distrust = DISTRUST;
            }
            // It stands still although its destination cannot be behind: a network that stumbles. Held to its mean, it
            // would lose what it stands still for, again and again.
            Some(limit) if now.saturating_duration_since(limit.since) >= limit.drains() => {
                self.limit = None;
                self.before = None;
                let distrust = self.distrust.max(DISTRUST);
                self.distrusted_until = Some(now + distrust);
                self.distrust = (distrust * 2).min(DISTRUST_MAX);
            }
            Some(_) => {}
        }
        self.idle_since = self.idle_since.map(|_| now);
        self.still = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(40);
    const MEAN: u64 = 2_000_000;
    const SECOND: Duration = Duration::from_secs(1);

    /// Sends as much as it may, all the time, and tells how much that is.
    struct World {
        ceiling: Ceiling,
        now: Instant,
        delivered: u64,
    }

    impl World {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
        fn new() -> Self {
            Self { ceiling: Ceiling::default(), now: Instant::now(), delivered: 0 }
        }

        /// The path stands still, after a time in which so many bytes a second were delivered; at its best it is
        /// faster.
        fn still_after(&mut self, time: Duration, mean: u64, best: u64) {
            self.ceiling.sent(self.now, 1);
            self.now += time;
            self.delivered += mean * time.as_millis() as u64 / 1000;
            self.ceiling.acknowledged(self.now, 2 * STILL, ROUND_TRIP, self.delivered, best);
        }

        /// A ceiling of [`MEAN`].
        fn held() -> Self {
            let mut world = Self::new();
            for mean in [50 * MEAN, MEAN, MEAN] {
                world.still_after(SECOND, mean, 50 * MEAN);
            }
            world
        }

        /// Bytes a second that may be sent, over a time; `None` without a ceiling.
        fn rate(&mut self, time: Duration) -> Option<u64> {
            let (start, mut sent) = (self.now, 0);
            while self.now < start + time {
                match self.ceiling.ready_at(self.now) {
                    Some(at) => self.now = at,
                    None => {
                        self.ceiling.sent(self.now, 4096);
                        sent += 4096;
                    }
                }
                self.ceiling.limit?;
            }
            Some(sent * 1000 / time.as_millis() as u64)
        }
    }

    fn is_about(rate: Option<u64>, expected: u64) -> bool {
        rate.is_some_and(|rate| rate.abs_diff(expected) <= expected / 50)
    }

    #[test]
    fn what_is_delivered_between_two_stops_is_the_ceiling() {
        let mut world = World::new();
        assert_eq!(world.rate(SECOND), None);
        world.still_after(SECOND, MEAN, 50 * MEAN);
        assert_eq!(world.rate(SECOND), None, "one stop shows nothing");
        let mut world = World::new();
        for _ in 0..2 {
            world.still_after(SECOND, MEAN, 50 * MEAN);
        }
        assert_eq!(world.rate(SECOND), None, "and one mean not much");
        let mut world = World::held();
        // 2 MiB are a quarter of what is sent in this time.
        assert!(is_about(world.rate(4 * SECOND), MEAN / 4 * 3), "it drains");
        world.rate(SECOND);
        assert!(is_about(world.rate(4 * SECOND), MEAN), "it holds");
    }

    #[test]
    fn a_ceiling_grows_and_is_given_up() {
        let mut world = World::held();
        world.rate(Duration::from_secs(11));
        let rate = world.rate(SECOND).expect("not yet");
        assert!(rate > 3 * MEAN, "{rate}");
        world.now += DOUBLING * DOUBLINGS;
        assert_eq!(world.rate(SECOND), None);
    }

    #[test]
    fn a_stop_while_it_grows_begins_again() {
        for mean in [MEAN, MEAN - MEAN / 9, 2 * MEAN] {
            let mut world = World::held();
            world.rate(9 * SECOND);
            world.ceiling.still.as_mut().expect("there were stops").at = world.now;
            // Under a ceiling nothing is faster than it.
            world.still_after(SECOND, mean, mean);
            assert!(is_about(world.rate(SECOND), mean / 4 * 3), "it drains");
        }
    }

    #[test]
    fn a_stop_that_cannot_be_the_buckets_gives_it_up_for_a_while_and_then_for_longer() {
        let mut world = World::held();
        let mut distrust = DISTRUST;
        for _ in 0..6 {
            // While it drains, the bucket may still be full.
            world.still_after(2 * SECOND, MEAN, MEAN);
            assert!(world.ceiling.limit.is_some());
            world.still_after(3 * SECOND, MEAN, MEAN);
            assert!(world.ceiling.limit.is_none(), "it held");
            let until = world.now + distrust;
            while world.ceiling.limit.is_none() {
                world.still_after(SECOND, MEAN, 50 * MEAN);
            }
            assert!(world.now >= until && world.now <= until + 2 * SECOND, "{distrust:?}");
            distrust = (distrust * 2).min(DISTRUST_MAX);
        }
    }

    #[test]
    fn a_lower_mean_than_the_ceiling_is_of_a_network_that_stumbles() {
        let mut world = World::held();
        world.rate(9 * SECOND);
        world.ceiling.still.as_mut().expect("there were stops").at = world.now;
        world.still_after(SECOND, MEAN / 2, MEAN);
        assert_eq!(world.rate(SECOND), None);
    }

    #[test]
    fn a_path_that_is_even_idle_unsteady_or_very_slow_has_no_ceiling() {
        let stops = |means: [u64; 3], best: u64, idle: Duration| {
            let mut world = World::new();
            for mean in means {
                world.still_after(SECOND, mean, best);
                world.ceiling.idle(world.now);
                world.now += idle;
            }
            world.ceiling.limit.is_some()
        };
        assert!(stops([MEAN; 3], 2 * MEAN, Duration::ZERO));
        assert!(stops([MEAN, MEAN, MEAN + MEAN / 8], 2 * MEAN, Duration::ZERO));
        assert!(!stops([MEAN; 3], MEAN / 2 * 3 - 1, Duration::ZERO), "even");
        assert!(!stops([MEAN; 3], 50 * MEAN, SECOND), "idle");
        assert!(!stops([MEAN, MEAN, MEAN + MEAN / 6], 50 * MEAN, Duration::ZERO), "unsteady");
        assert!(!stops([LEAST - 1; 3], 50 * MEAN, Duration::ZERO), "very slow");
    }

    #[test]
    fn short_silences_and_those_of_a_long_way_are_no_stops() {
        for (silence, round_trip) in [(ms(99), ms(1)), (ms(500), ms(300))] {
            let mut world = World::new();
            for _ in 0..5 {
                world.ceiling.sent(world.now, 1);
                world.now += SECOND;
                world.delivered += MEAN;
                world.ceiling.acknowledged(world.now, silence, round_trip, world.delivered, 50 * MEAN);
            }
            assert!(world.ceiling.still.is_none(), "{silence:?}");
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
}
