//! Nonces that were seen: a sealed payload that comes a second time is a replay
//! (`proto-notes/handshake.md#encryption`).

use std::collections::BTreeMap;

use super::limits;
use crate::wire::NONCE_LEN;

/// A set of nonces, kept as ranges: the genuine agent counts, as a little-endian number, so that all of a session are
/// one range. Of an agent that draws each at random only the last are remembered.
#[derive(Debug, Default)]
pub(super) struct NonceSet {
    recent: Ranges,
    /// What was recent when there was no room for more.
    older: Ranges,
}

impl NonceSet {
    /// Takes a nonce. False if it was there before.
    pub(super) fn insert(&mut self, nonce: [u8; NONCE_LEN]) -> bool {
        let number = number(nonce);
        if self.recent.contains(number) || self.older.contains(number) {
            return false;
        }
        self.recent.insert(number);
        if self.recent.0.len() > limits::NONCE_RANGES {
            self.older = std::mem::take(&mut self.recent);
        }
        true
    }
}

/// The nonce as the number that the genuine agent counts.
fn number(nonce: [u8; NONCE_LEN]) -> u128 {
    nonce.iter().rev().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// First and last number of each range; ranges neither overlap nor touch.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<u128, u128>);

impl Ranges {
    fn contains(&self, number: u128) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// Takes a number that is in none of them. Numbers have 96 bits, so that there is one below and one above each.
    fn insert(&mut self, number: u128) {
        let last = self.0.remove(&(number + 1)).unwrap_or(number);
        match self.0.range_mut(..number).next_back() {
            Some((_, before)) if *before + 1 == number => *before = last,
            _ => drop(self.0.insert(number, last)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn nonce(number: u128) -> [u8; NONCE_LEN] {
        number.to_le_bytes()[..NONCE_LEN].try_into().expect("12 bytes")
    }

    #[test]
    fn behaves_like_a_set_in_any_order() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut set, mut model) = (NonceSet::default(), HashSet::new());
        for _ in 0..20_000 {
            let number = random.u128(..600);
            assert_eq!(set.insert(nonce(number)), model.insert(number), "{number}");
        }
        assert_eq!(set.recent.0.len(), 1, "all of them touch");
    }

    #[test]
    fn a_counting_agent_is_one_range_even_around_the_end_of_the_numbers() {
        let mut set = NonceSet::default();
        let end = 1 << 96;
        for number in (end - 1000..end).chain(0..1000) {
            assert!(set.insert(nonce(number)));
        }
        assert_eq!(set.recent.0.len(), 2);
        assert!(!set.insert(nonce(end - 1)) && !set.insert(nonce(0)) && !set.insert([0xff; NONCE_LEN]));
    }

    #[test]
    fn random_nonces_are_bounded_and_the_last_are_remembered() {
        let mut set = NonceSet::default();
        for number in 0..10 * limits::NONCE_RANGES as u128 {
            assert!(set.insert(nonce(2 * number)));
            assert!(set.recent.0.len() + set.older.0.len() <= 2 * limits::NONCE_RANGES + 1);
        }
        for back in 1..limits::NONCE_RANGES as u128 {
            assert!(!set.insert(nonce(2 * (10 * limits::NONCE_RANGES as u128 - back))), "{back}");
        }
    }
}
