//! How fast each forward is, from what it has carried until now and until a moment ago; and the words for it.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::cli::board::Snapshot;

/// What rates are averages of. Short enough to follow what happens, long enough for numbers that can be read.
const WINDOW: Duration = Duration::from_secs(2);

/// Bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rate {
    pub(super) up: u64,
    pub(super) down: u64,
}

/// What each forward had carried at some moments.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// By name, and which one of that name it is.
    samples: HashMap<(String, usize), VecDeque<Sample>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Since the start of the program.
    at: Duration,
    up: u64,
    down: u64,
}

impl Rates {
    /// The rates of the forwards of a snapshot, in its order.
    pub(super) fn note(&mut self, snapshot: &Snapshot) -> Vec<Rate> {
        let mut of_name = HashMap::<&str, usize>::new();
        let mut known = std::mem::take(&mut self.samples);
        let rates = snapshot.forwards.iter().map(|forward| {
            let nth = of_name.entry(&forward.name).or_default();
            let key = (forward.name.clone(), *nth);
            *nth += 1;
            let totals = &forward.status.totals;
            let mut samples = known.remove(&key).unwrap_or_default();
            let rate = add(&mut samples, Sample { at: snapshot.uptime, up: totals.bytes_up, down: totals.bytes_down });
            self.samples.insert(key, samples);
            rate
        });
        rates.collect()
    }
}

fn add(samples: &mut VecDeque<Sample>, sample: Sample) -> Rate {
    // Less than before: another forward has the name now.
    if samples.back().is_some_and(|last| last.up > sample.up || last.down > sample.down || last.at > sample.at) {
        samples.clear();
    }
    samples.push_back(sample);
    // One of the window's age stays.
    while samples.get(1).is_some_and(|second| sample.at.saturating_sub(second.at) >= WINDOW) {
        samples.pop_front();
    }
    let Some(first) = samples.front() else { return Rate::default() };
    let nanos = sample.at.saturating_sub(first.at).as_nanos();
    let of = |then: u64, now: u64| {
        let bytes = u128::from(now.saturating_sub(then));
        u64::try_from(bytes.saturating_mul(1_000_000_000).checked_div(nanos).unwrap_or_default()).unwrap_or(u64::MAX)
    };
    Rate { up: of(first.up, sample.up), down: of(first.down, sample.down) }
}

/// Columns that a rate takes at most.
pub(super) const RATE: usize = 9;

/// `999 B/s`, `1.23 MB/s`, `-` for nothing.
pub(super) fn in_words(bytes_per_s: u64) -> String {
    if bytes_per_s < 1000 {
        return if bytes_per_s == 0 { "-".to_owned() } else { format!("{bytes_per_s} B/s") };
    }
    // Enough digits for what is shown: three.
    let mut value = bytes_per_s as f64;
    for unit in ["kB/s", "MB/s", "GB/s", "TB/s", "PB/s", "EB/s"] {
        value /= 1000.0;
        // What would be rounded up to the next unit is said in it.
        if value < 999.5 {
            let decimals = if value < 9.995 {
                2
            } else if value < 99.95 {
                1
            } else {
                0
            };
            return format!("{value:.decimals$} {unit}");
        }
    }
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::{super::tests::snapshot, *};

    #[test]
    fn rates_are_in_three_digits_and_one_width() {
        for (rate, expected) in [
            (0, "-"),
            (1, "1 B/s"),
            (999, "999 B/s"),
            (1000, "1.00 kB/s"),
            (9_994, "9.99 kB/s"),
            (9_996, "10.0 kB/s"),
            (99_940, "99.9 kB/s"),
            (99_960, "100 kB/s"),
            (999_499, "999 kB/s"),
            (999_501, "1.00 MB/s"),
            (12_345_678, "12.3 MB/s"),
            (u64::MAX, "18.4 EB/s"),
        ] {
            assert_eq!(in_words(rate), expected);
            assert!(expected.len() <= RATE);
        }
    }

    #[test]
    fn a_rate_is_what_the_last_two_seconds_have_carried() {
        let mut rates = Rates::default();
        let mut note = |millis: u64, totals: [u64; 2]| {
            let mut snapshot = snapshot(&["one", "one"]);
            snapshot.uptime = Duration::from_millis(millis);
            for (forward, total) in snapshot.forwards.iter_mut().zip(totals) {
                forward.status.totals.bytes_up = total;
                forward.status.totals.bytes_down = 2 * total;
            }
            rates.note(&snapshot)
        };
        let both = |one: u64, other: u64| [one, other].map(|up| Rate { up, down: 2 * up }).to_vec();
        assert_eq!(note(0, [500, 0]), both(0, 0));
        assert_eq!(note(500, [1500, 10]), both(2000, 20));
        assert_eq!(note(1000, [1500, 10]), both(1000, 10));
        assert_eq!(note(2000, [1500, 10]), both(500, 5));
        assert_eq!(note(2500, [1500, 10]), both(0, 0));
        // A pause of the program.
        assert_eq!(note(12_500, [11_500, 10]), both(1000, 0));
        // It was taken away and added again.
        assert_eq!(note(13_000, [5, 10]), both(0, 0));
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut rates = Rates::default();
        rates.note(&snapshot(&["one", "two"]));
        rates.note(&snapshot(&["two"]));
        assert_eq!(rates.samples.len(), 1);
        for millis in 0..1000 {
            let mut snapshot = snapshot(&["two"]);
            snapshot.uptime = Duration::from_millis(250 * millis);
            rates.note(&snapshot);
        }
        assert!(rates.samples.values().all(|samples| samples.len() <= 10));
    }
}
