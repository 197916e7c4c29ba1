//! The genuine programs' estimate of the retransmission timeout (`proto-notes/reliability.md#retransmission`).

use std::time::Duration;

/// Largest timeout, milliseconds.
const MAX_RTO_MS: f64 = 1000.0;
/// Least distance of the timeout from the smoothed round trip, milliseconds.
const GRANULARITY_MS: f64 = 10.0;

/// Smoothed round trip, its variation, and the timeout that follows from them. All in milliseconds.
///
/// Unlike RFC 6298 it starts from a guess instead of the first sample, has no minimum, does not back off, and takes
/// samples of retransmitted messages too.
#[derive(Debug, Clone, Copy)]
pub(super) struct RtoEstimator {
    srtt_ms: f64,
    variation_ms: f64,
    rto_ms: f64,
}

impl RtoEstimator {
    pub(super) fn new() -> Self {
        Self { srtt_ms: 100.0, variation_ms: 0.0, rto_ms: 200.0 }
    }

    /// Takes the time between the last sending of a message and its acknowledgement.
    pub(super) fn sample(&mut self, round_trip: Duration) {
        let sample_ms = round_trip.as_secs_f64() * 1000.0;
        self.variation_ms = 0.75 * self.variation_ms + 0.25 * (self.srtt_ms - sample_ms).abs();
        self.srtt_ms = 0.875 * self.srtt_ms + 0.125 * sample_ms;
        self.rto_ms = (self.srtt_ms + (4.0 * self.variation_ms).max(GRANULARITY_MS)).min(MAX_RTO_MS);
    }

    pub(super) fn rto(&self) -> Duration {
        Duration::from_secs_f64(self.rto_ms / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden vector D: sample, SRTT, variation, RTO, all in milliseconds.
    const VECTOR: [(u64, f64, f64, f64); 7] = [
        (40, 92.5, 15.0, 152.5),
        (40, 85.9375, 24.375, 183.4375),
        (40, 80.1953, 29.7656, 199.2578),
        (250, 101.4209, 64.7754, 360.5225),
        (40, 93.7433, 63.9368, 349.4904),
        (2000, 332.0254, 524.5168, 1000.0),
        (40, 295.5222, 466.3939, 1000.0),
    ];

    #[test]
    fn golden_vector_d() {
        let mut estimator = RtoEstimator::new();
        assert_eq!(estimator.rto(), Duration::from_millis(200));
        let near = |got: f64, want: f64| (got - want).abs() < 0.000_06;
        for (sample_ms, srtt, variation, rto) in VECTOR {
            estimator.sample(Duration::from_millis(sample_ms));
            assert!(near(estimator.srtt_ms, srtt), "{estimator:?} after {sample_ms}, expected SRTT {srtt}");
            assert!(near(estimator.variation_ms, variation), "{estimator:?} after {sample_ms}, expected {variation}");
            assert!(near(estimator.rto().as_secs_f64() * 1000.0, rto), "{estimator:?}, expected RTO {rto}");
        }
    }

    #[test]
    fn steady_round_trips_come_to_rest_just_above_themselves() {
        let mut estimator = RtoEstimator::new();
        for _ in 0..200 {
            estimator.sample(Duration::from_millis(50));
        }
        let rto = estimator.rto();
        assert!((59..=61).contains(&rto.as_millis()), "{rto:?}");
    }
}
