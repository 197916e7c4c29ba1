//! The client's link as a bottleneck: messages leave it one after another, at its rate, and queue in front of it.
//!
//! A machine has one link for all of its sessions, so they share it. Pure: time comes from the caller.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

/// Both directions of the link, which do not disturb each other.
///
/// The queue has no bound here: whoever fills it is bounded by what a websocket may have under way. That is deep, as in
/// the modems this stands for.
#[derive(Debug, Default)]
pub(super) struct ClientLink {
    up: Mutex<Option<Instant>>,
    down: Mutex<Option<Instant>>,
}

impl ClientLink {
    /// Puts a message into the queue and says when its last byte will have left the link: at once without a rate
    /// (bytes per second; 0 is none).
    pub(super) fn pass(&self, now: Instant, direction: Direction, bytes: usize, rate: Option<u64>) -> Instant {
        let Some(rate) = rate.filter(|rate| *rate > 0) else { return now };
        let mut free = self.lock(direction);
        let nanos = (bytes as u128 * 1_000_000_000).div_ceil(u128::from(rate));
        let starts = free.map_or(now, |free| free.max(now));
        // What the clock cannot express does not happen in the lifetime of an emulator.
        let left = starts.checked_add(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        *free = left.or(*free);
        left.unwrap_or(starts)
    }

    fn lock(&self, direction: Direction) -> MutexGuard<'_, Option<Instant>> {
        let side = match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        };
        side.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Option<u64> = Some(1_000_000);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn messages_leave_one_after_another_at_the_rate() {
        let (start, link) = (super::super::clock::now(), ClientLink::default());
        assert_eq!(link.pass(start, Direction::Up, 10_000, RATE), start + ms(10));
        assert_eq!(link.pass(start + ms(5), Direction::Up, 20_000, RATE), start + ms(30), "behind the first");
        assert_eq!(link.pass(start + ms(50), Direction::Up, 1_000, RATE), start + ms(51), "the queue had drained");
    }

    #[test]
    fn directions_do_not_disturb_each_other() {
        let (start, link) = (super::super::clock::now(), ClientLink::default());
        link.pass(start, Direction::Up, 1_000_000, RATE);
        assert_eq!(link.pass(start, Direction::Down, 1_000, RATE), start + ms(1));
    }

    #[test]
    fn without_a_rate_nothing_waits_and_nothing_is_remembered() {
        let (start, link) = (super::super::clock::now(), ClientLink::default());
        for rate in [None, Some(0)] {
            assert_eq!(link.pass(start, Direction::Up, usize::MAX, rate), start);
        }
        assert_eq!(link.pass(start, Direction::Up, 1_000, RATE), start + ms(1));
    }

    #[test]
    fn the_lowest_rate_and_the_largest_message_do_not_overflow() {
        let (start, link) = (super::super::clock::now(), ClientLink::default());
        let left = link.pass(start, Direction::Up, usize::MAX, Some(1));
        assert!(left >= start && link.pass(start, Direction::Up, usize::MAX, Some(1)) >= start);
    }
}
