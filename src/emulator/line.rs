//! One direction between client and agent: delay, and faults on the way.
//!
//! Pure: time and randomness come from the caller.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{config::Faults, mailbox::cost};

/// How late a reordered message is.
const REORDER_BY: Duration = Duration::from_millis(5);

/// Messages under way, by arrival.
#[derive(Debug, Default)]
pub(super) struct Line {
    under_way: BTreeMap<(Instant, u64), Passenger>,
    next: u64,
    last_arrival: Option<Instant>,
    cost: usize,
}

#[derive(Debug)]
struct Passenger {
    message: Bytes,
    charge: usize,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fate {
    pub(super) dropped: bool,
    pub(super) duplicated: bool,
    pub(super) reordered: bool,
}

impl Line {
    /// Sends a message that is not subject to faults.
    pub(super) fn send(&mut self, now: Instant, delay: Duration, message: Bytes) {
        let charge = cost(&message);
        self.board(self.in_order(now + delay), message, charge);
    }

    /// Sends a message through the faults. If it is dropped, its charge is the caller's to release.
    pub(super) fn send_through(
        &mut self,
        now: Instant,
        delay: Duration,
        message: Bytes,
        faults: &Faults,
        rng: &mut fastrand::Rng,
    ) -> Fate {
        let mut strikes = |percent: f64| percent > 0.0 && rng.f64() * 100.0 < percent;
        if strikes(faults.drop) {
            return Fate { dropped: true, ..Fate::default() };
        }
        let fate = Fate { dropped: false, duplicated: strikes(faults.duplicate), reordered: strikes(faults.reorder) };
        let charge = cost(&message);
        let arrival = self.in_order(now + delay);
        if fate.duplicated {
            self.board(arrival, message.clone(), 0);
        }
        if fate.reordered {
            // Does not move the order of what comes after it.
            let last = self.last_arrival;
            self.board(arrival + REORDER_BY, message, charge);
            self.last_arrival = last.max(Some(arrival));
        } else {
            self.board(arrival, message, charge);
        }
        fate
    }

    /// The next message that has arrived, with its charge.
    pub(super) fn arrived(&mut self, now: Instant) -> Option<(Bytes, usize)> {
        let entry = self.under_way.first_entry().filter(|entry| entry.key().0 <= now)?;
        let Passenger { message, charge } = entry.remove();
        self.cost -= cost(&message);
        Some((message, charge))
    }

    /// When the next message arrives.
    pub(super) fn next_arrival(&self) -> Option<Instant> {
        self.under_way.first_key_value().map(|((arrival, _), _)| *arrival)
    }

    /// Loses all messages under way. Returns the sum of their charges.
    pub(super) fn lose_all(&mut self) -> usize {
        self.cost = 0;
        self.last_arrival = None;
        std::mem::take(&mut self.under_way).into_values().map(|passenger| passenger.charge).sum()
    }

    /// Cost of all messages under way.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// A websocket does not reorder, even when the delay was just lowered.
    fn in_order(&self, arrival: Instant) -> Instant {
        self.last_arrival.map_or(arrival, |last| last.max(arrival))
    }

    fn board(&mut self, arrival: Instant, message: Bytes, charge: usize) {
        self.cost += cost(&message);
        self.last_arrival = Some(arrival);
        self.under_way.insert((arrival, self.next), Passenger { message, charge });
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(25);

    fn drain(line: &mut Line, now: Instant) -> Vec<u8> {
        std::iter::from_fn(|| line.arrived(now)).map(|(message, _)| message[0]).collect()
    }

    fn message(number: u8) -> Bytes {
        Bytes::copy_from_slice(&[number])
    }

    #[test]
    fn messages_arrive_after_the_delay_and_in_order_when_it_shrinks() {
        let start = clock();
        let mut line = Line::default();
        line.send(start, DELAY, message(1));
        line.send(start + Duration::from_millis(1), Duration::ZERO, message(2));
        assert_eq!(line.next_arrival(), Some(start + DELAY));
        assert_eq!(drain(&mut line, start + DELAY - Duration::from_nanos(1)), [0u8; 0]);
        assert_eq!(drain(&mut line, start + DELAY), [1, 2]);
        assert_eq!(line.cost(), 0);
    }

    #[test]
    fn faults_strike_at_their_rate_and_lose_or_double_nothing_else() {
        let start = clock();
        let faults = Faults { drop: 10.0, duplicate: 5.0, reorder: 20.0, disconnect_every: None };
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut line, mut fates, mut charge) = (Line::default(), [0usize; 3], 0);
        for _ in 0..10_000 {
            let fate = line.send_through(start, DELAY, message(0), &faults, &mut rng);
            fates[0] += usize::from(fate.dropped);
            fates[1] += usize::from(fate.duplicated);
            fates[2] += usize::from(fate.reordered);
            charge += if fate.dropped { 0 } else { cost(&message(0)) };
        }
        assert!(
            (900..1100).contains(&fates[0]) && (380..530).contains(&fates[1]) && (1650..1950).contains(&fates[2]),
            "{fates:?}"
        );
        let mut arrived = 0;
        while let Some((_, released)) = line.arrived(start + DELAY + REORDER_BY) {
            arrived += 1;
            charge -= released;
        }
        assert_eq!((arrived, charge), (10_000 - fates[0] + fates[1], 0));
    }

    #[test]
    fn a_reordered_message_is_overtaken_by_the_next_ones_only() {
        let start = clock();
        let (always, never) = (Faults { reorder: 100.0, ..Faults::default() }, Faults::default());
        let mut rng = fastrand::Rng::with_seed(1);
        let mut line = Line::default();
        line.send_through(start, DELAY, message(1), &never, &mut rng);
        line.send_through(start, DELAY, message(2), &always, &mut rng);
        line.send_through(start, DELAY, message(3), &never, &mut rng);
        assert_eq!(drain(&mut line, start + DELAY), [1, 3]);
        assert_eq!(drain(&mut line, start + DELAY + REORDER_BY), [2]);
    }

    #[test]
    fn a_lost_line_gives_back_its_charges() {
        let start = clock();
        let mut line = Line::default();
        line.send(start, DELAY, message(1));
        line.send(start, DELAY, message(2));
        assert_eq!(line.lose_all(), 2 * cost(&message(1)));
        assert!(line.is_empty() && line.cost() == 0);
    }

    fn clock() -> Instant {
        super::super::clock::now()
    }
}
