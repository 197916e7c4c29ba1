//! A range of durations that something random is drawn from.

use std::{str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// From the shortest to the longest, both included. In JSON `[MIN, MAX]` in whole milliseconds, as text `MIN..MAX` or
/// just `N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(u64, u64)", into = "(u64, u64)")]
pub struct Interval {
    min_ms: u64,
    max_ms: u64,
}

impl Interval {
    /// The interval between two durations, in whichever order; parts of a millisecond do not count.
    #[must_use]
    pub fn between(one: Duration, other: Duration) -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (one, other) = (millis(one), millis(other));
        Self { min_ms: one.min(other), max_ms: one.max(other) }
    }

    pub(super) fn draw(self, rng: &mut fastrand::Rng) -> Duration {
        Duration::from_millis(rng.u64(self.min_ms..=self.max_ms))
    }
}

impl TryFrom<(u64, u64)> for Interval {
    type Error = String;

    fn try_from((min_ms, max_ms): (u64, u64)) -> Result<Self, Self::Error> {
        if min_ms > max_ms {
            return Err(format!("an interval from {min_ms} ms to {max_ms} ms is empty"));
        }
        Ok(Self { min_ms, max_ms })
    }
}

impl From<Interval> for (u64, u64) {
    fn from(interval: Interval) -> Self {
        (interval.min_ms, interval.max_ms)
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        let millis = |text: &str| text.parse().map_err(|_| format!("`{text}` is not a number of milliseconds"));
        Self::try_from((millis(min)?, millis(max)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_an_interval_is_drawn_and_no_other() {
        let interval: Interval = "3..5".parse().expect("an interval");
        let mut rng = fastrand::Rng::with_seed(1);
        let mut drawn: Vec<_> = (0..100).map(|_| interval.draw(&mut rng).as_millis()).collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, [3, 4, 5]);
    }

    #[test]
    fn an_interval_is_read_as_it_is_written() {
        let interval = Interval::between(Duration::from_millis(20), Duration::from_millis(10));
        assert_eq!(serde_json::to_value(interval).expect("JSON"), serde_json::json!([10, 20]));
        assert_eq!(serde_json::from_str("[10, 20]").ok(), Some(interval));
        assert_eq!("10..20".parse(), Ok(interval));
        assert_eq!("7".parse(), Interval::try_from((7, 7)));
        assert!(serde_json::from_str::<Interval>("[2, 1]").is_err() && "2..1".parse::<Interval>().is_err());
        assert!("x".parse::<Interval>().is_err() && "1..".parse::<Interval>().is_err());
    }
}
