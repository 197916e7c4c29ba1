//! What the agent has sent and not seen acknowledged, and the timer that sends the oldest of it again
//! (`proto-notes/reliability.md#retransmission`).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::rto::RtoEstimator;

/// Most messages kept for retransmission. Those sent beyond it are not kept: lost once means lost.
pub(super) const OUTGOING_LIMIT: usize = 100_000;
/// How often the agent looks at its oldest message, milliseconds.
const TICK_MS: u64 = 100;

struct Sent {
    message: Bytes,
    /// When it was put into the buffer: after it was sent for the first time.
    stored: Instant,
    last_sent: Instant,
}

/// The outgoing buffer.
///
/// The genuine agent wakes every 100 ms for its whole life. Here the wake-ups stay on that grid, but only those that
/// would send something are asked for.
pub(super) struct Outgoing {
    unacked: BTreeMap<i64, Sent>,
    estimator: RtoEstimator,
    store_delay: Duration,
    grid: Instant,
    /// Ticks of the grid that have passed.
    ticks: u64,
}

impl Outgoing {
    pub(super) fn new(store_delay: Duration, grid: Instant) -> Self {
        Self { unacked: BTreeMap::new(), estimator: RtoEstimator::new(), store_delay, grid, ticks: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.unacked.len()
    }

    pub(super) fn rto(&self) -> Duration {
        self.estimator.rto()
    }

    /// Keeps a message that was sent at `now`.
    pub(super) fn store(&mut self, now: Instant, sequence: i64, message: Bytes) {
        if self.unacked.len() < OUTGOING_LIMIT {
            self.unacked.insert(sequence, Sent { message, stored: now + self.store_delay, last_sent: now });
        }
    }

    /// An acknowledgement came. Unknown numbers, such as those of repeated acknowledgements, change nothing.
    pub(super) fn acknowledged(&mut self, now: Instant, sequence: i64) {
        let Some(sent) = self.unacked.get(&sequence) else { return };
        if now >= sent.stored {
            self.estimator.sample(now.saturating_duration_since(sent.last_sent));
            self.unacked.remove(&sequence);
        }
    }

    /// Lets the ticks up to `now` pass; returns the oldest message if one of them found it overdue. With `active`
    /// false (paused, or no websocket) ticks pass without effect.
    pub(super) fn tick(&mut self, now: Instant, active: bool) -> Option<Bytes> {
        let reached = self.ticks_between(self.grid, now);
        let due = self.due_tick().filter(|due| active && *due <= reached);
        self.ticks = self.ticks.max(reached);
        due?;
        let mut head = self.unacked.first_entry()?;
        head.get_mut().last_sent = now;
        Some(head.get().message.clone())
    }

    /// When [`tick`](Self::tick) will have something to send.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due_tick().map(|due| self.grid + Duration::from_millis(due.saturating_mul(TICK_MS)))
    }

    /// The first tick to come that is *later* than the last sending of the oldest message plus the timeout.
    fn due_tick(&self) -> Option<u64> {
        let (_, head) = self.unacked.first_key_value()?;
        let overdue = self.ticks_between(self.grid, head.last_sent + self.estimator.rto()) + 1;
        Some(overdue.max(self.ticks + 1))
    }

    fn ticks_between(&self, from: Instant, to: Instant) -> u64 {
        let ms = u64::try_from(to.saturating_duration_since(from).as_millis()).unwrap_or(u64::MAX);
        ms / TICK_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::agent::tests::start;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn only_the_oldest_message_is_sent_again_and_only_on_ticks() {
        let t0 = start();
        let mut outgoing = Outgoing::new(Duration::ZERO, t0);
        outgoing.store(t0 + ms(10), 0, Bytes::from_static(b"first"));
        outgoing.store(t0 + ms(20), 1, Bytes::from_static(b"second"));
        // 10 + 200 = 210: the tick at 200 is too early.
        assert_eq!(outgoing.deadline(), Some(t0 + ms(300)));
        assert_eq!(outgoing.tick(t0 + ms(299), true), None);
        assert_eq!(outgoing.tick(t0 + ms(300), true).as_deref(), Some(&b"first"[..]));
        // 300 + 200 = 500, and the tick has to be later than that.
        assert_eq!(outgoing.deadline(), Some(t0 + ms(600)));
        outgoing.acknowledged(t0 + ms(310), 0);
        // The sample of 10 ms lowers the timeout to 180: `second`, sent at 20, is overdue, and the next tick is at 400.
        assert_eq!(outgoing.deadline(), Some(t0 + ms(400)));
        assert_eq!(outgoing.tick(t0 + ms(399), true), None);
        assert_eq!(outgoing.tick(t0 + ms(400), true).as_deref(), Some(&b"second"[..]));
    }

    #[test]
    fn ticks_pass_without_effect_while_inactive() {
        let t0 = start();
        let mut outgoing = Outgoing::new(Duration::ZERO, t0);
        outgoing.store(t0, 0, Bytes::from_static(b"first"));
        assert_eq!(outgoing.tick(t0 + ms(5000), false), None);
        assert_eq!(outgoing.deadline(), Some(t0 + ms(5100)));
        assert!(outgoing.tick(t0 + ms(5100), true).is_some());
    }

    #[test]
    fn an_acknowledgement_that_is_too_quick_is_lost() {
        let t0 = start();
        let mut outgoing = Outgoing::new(Duration::from_micros(200), t0);
        outgoing.store(t0, 0, Bytes::from_static(b"first"));
        outgoing.acknowledged(t0 + Duration::from_micros(199), 0);
        assert_eq!(outgoing.len(), 1);
        assert!(outgoing.tick(t0 + ms(300), true).is_some());
        outgoing.acknowledged(t0 + ms(301), 0);
        assert_eq!(outgoing.len(), 0);
    }

    #[test]
    fn beyond_the_limit_nothing_is_kept() {
        let t0 = start();
        let mut outgoing = Outgoing::new(Duration::ZERO, t0);
        for sequence in 0..=OUTGOING_LIMIT as i64 {
            outgoing.store(t0, sequence, Bytes::new());
        }
        assert_eq!(outgoing.len(), OUTGOING_LIMIT);
    }
}
