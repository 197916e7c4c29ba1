//! When to send a message again: RFC 6298 with Karn's rule.
//!
//! *differs from the plugin:* its estimator starts at 100 ms, has no lower bound worth the name, never backs off, and
//! takes samples from retransmitted messages.

use std::time::Duration;

/// Also the first timeout. RFC 6298 asks for 1 s; the carrier is TCP, which repairs losses itself, so what gets lost
/// here was refused by an agent that was not ready.
pub(super) const MIN: Duration = Duration::from_millis(200);
/// No wait between two transmissions of a message is longer.
pub(super) const MAX: Duration = Duration::from_secs(10);

/// Round trip estimator.
#[derive(Debug, Default)]
pub(super) struct Rto {
    smoothed: Option<(Duration, Duration)>,
}

impl Rto {
    /// Takes the round trip of a message that was sent once (Karn's rule: never of one sent again).
    pub(super) fn sample(&mut self, rtt: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (rtt, rtt / 2),
            Some((srtt, rttvar)) => ((srtt * 7 + rtt) / 8, (rttvar * 3 + srtt.abs_diff(rtt)) / 4),
        });
    }

    /// The smoothed round trip, once there is a sample.
    pub(super) fn srtt(&self) -> Option<Duration> {
        self.smoothed.map(|(srtt, _)| srtt)
    }

    /// How long to wait for the acknowledgement of a message sent `transmissions` times.
    pub(super) fn timeout(&self, transmissions: u32) -> Duration {
        let base = self.smoothed.map_or(MIN, |(srtt, rttvar)| srtt.saturating_add(rttvar.saturating_mul(4)));
        let doublings = transmissions.saturating_sub(1).min(16);
        base.clamp(MIN, MAX).saturating_mul(1 << doublings).min(MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn follows_rfc_6298_within_its_limits() {
        let mut rto = Rto::default();
        assert_eq!((rto.srtt(), rto.timeout(1)), (None, MIN));
        rto.sample(ms(300));
        // First sample: SRTT = R, RTTVAR = R/2, so the timeout is 3 R.
        assert_eq!((rto.srtt(), rto.timeout(1)), (Some(ms(300)), ms(900)));
        rto.sample(ms(500));
        // SRTT = 7/8 300 + 1/8 500 = 325; RTTVAR = 3/4 150 + 1/4 200 = 162.5.
        assert_eq!((rto.srtt(), rto.timeout(1)), (Some(ms(325)), Duration::from_micros(975_000)));
        for _ in 0..200 {
            rto.sample(Duration::from_micros(50));
        }
        assert_eq!(rto.timeout(1), MIN);
    }

    #[test]
    fn backs_off_up_to_ten_seconds() {
        let rto = Rto::default();
        let waits: Vec<_> = (1..=8).map(|sent| rto.timeout(sent).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(rto.timeout(u32::MAX), MAX);
        let mut slow = Rto::default();
        slow.sample(Duration::from_secs(3600));
        assert_eq!(slow.timeout(1), MAX);
    }
}
