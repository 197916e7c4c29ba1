//! What is asked of the forwards, and how often.

use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use crate::cli::board::Snapshot;

/// For each unit of time that a snapshot took, so many pass before the next: whoever asks without end gets a fifth of the
/// forwards' time at most.
const PAUSE: u32 = 4;

/// The program, whenever it is asked for: never older than the question.
pub(super) struct Snapshots {
    take: Box<dyn Fn() -> Snapshot + Send + Sync>,
    /// When the next may be taken. Questions wait in order.
    allowed: Mutex<Option<Instant>>,
}

impl Snapshots {
    pub(super) fn new(take: impl Fn() -> Snapshot + Send + Sync + 'static) -> Self {
        Self { take: Box::new(take), allowed: Mutex::new(None) }
    }

    pub(super) async fn next(&self) -> Snapshot {
        let mut allowed = self.allowed.lock().await;
        if let Some(allowed) = *allowed {
            sleep_until(allowed).await;
        }
        let start = Instant::now();
        let snapshot = (self.take)();
        *allowed = Some(next_after(start, Instant::now()));
        snapshot
    }
}

fn next_after(start: Instant, end: Instant) -> Instant {
    end + (end - start) * PAUSE
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::admin::samples;

    #[tokio::test(start_paused = true)]
    async fn snapshots_that_take_long_are_taken_seldom() {
        let start = Instant::now();
        let allowed = next_after(start, start + Duration::from_millis(10));
        assert_eq!((allowed - start).as_millis(), 50);
        let snapshots = Snapshots::new(samples::snapshot);
        *snapshots.allowed.lock().await = Some(allowed);
        snapshots.next().await;
        assert_eq!(start.elapsed().as_millis(), 50);
    }
}
