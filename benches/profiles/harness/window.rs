//! The span of a row that is measured: after a warm-up, and before what is under way comes to its end.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Outcome, process::Usage};

/// How long a row warms up and is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

impl Timing {
    /// A fifth of the time is for warming up, but not more than two seconds: payload sizes and windows have been found
    /// by then.
    pub(crate) fn of(row: Duration) -> Self {
        let warm_up = (row / 5).min(Duration::from_secs(2));
        Self { warm_up, length: row - warm_up }
    }

    /// For what begins slowly.
    pub(crate) fn warmed_for(self, warm_up: Duration) -> Self {
        Self { warm_up: self.warm_up.max(warm_up), ..self }
    }
}

/// What happened in the span.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Span {
    pub(crate) elapsed: Duration,
    /// What was counted: bytes, or connections.
    pub(crate) count: u64,
    /// CPU time of the client.
    pub(crate) client: Duration,
    /// CPU time of the other end, where it is a process.
    pub(crate) other: Duration,
    /// Most memory that the client had until its end, KiB.
    pub(crate) peak: u64,
}

impl Span {
    /// Counted things per second.
    pub(crate) fn rate(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub(crate) fn mb_per_s(&self) -> f64 {
        self.rate() / 1e6
    }

    /// CPU seconds of the client for a gigabyte.
    pub(crate) fn cpu_per_gb(&self) -> f64 {
        self.client.as_secs_f64() / (self.count.max(1) as f64 / 1e9)
    }

    /// The share of the span that the client and the other end computed: 1 is one core.
    pub(crate) fn loads(&self) -> (f64, f64) {
        let elapsed = self.elapsed.as_secs_f64().max(1e-9);
        (self.client.as_secs_f64() / elapsed, self.other.as_secs_f64() / elapsed)
    }
}

/// Measures from the end of the warm-up. `begin` is called there.
pub(crate) async fn measure(
    timing: Timing,
    client: impl Fn() -> Outcome<Usage>,
    other: impl Fn() -> Outcome<Usage>,
    count: impl Fn() -> u64,
    begin: impl FnOnce(),
) -> Outcome<Span> {
    sleep_until(Instant::now() + timing.warm_up).await;
    begin();
    let (started, count_before, client_before, other_before) = (Instant::now(), count(), client()?, other()?);
    sleep_until(started + timing.length).await;
    let (elapsed, count_after, client_after, other_after) = (started.elapsed(), count(), client()?, other()?);
    Ok(Span {
        elapsed,
        count: count_after - count_before,
        client: client_after.cpu - client_before.cpu,
        other: other_after.cpu - other_before.cpu,
        peak: client_after.peak,
    })
}
