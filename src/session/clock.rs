//! The one place where time enters.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Tokio's clock, so that tests can pause it.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Milliseconds since the Unix epoch, for the date in message headers.
pub(super) fn epoch_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the date in message headers is wall time")]
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(1, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
