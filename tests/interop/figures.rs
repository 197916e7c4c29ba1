//! How long things took: information, never an assertion.

use std::time::{Duration, Instant};

/// Time since its start.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "real time of real programs")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Prints how fast so many bytes went.
    pub(crate) fn report(&self, what: &str, bytes: u64) -> Rate {
        let seconds = self.elapsed().as_secs_f64();
        let megabytes = bytes as f64 / 1e6;
        eprintln!("{what}: {megabytes:.1} MB in {seconds:.2} s, {:.2} MB/s", megabytes / seconds);
        Rate(megabytes / seconds)
    }
}

/// Megabytes a second.
#[derive(Clone, Copy)]
pub(crate) struct Rate(f64);

impl Rate {
    /// Prints which part of a direct connection's rate the tunnel gave.
    pub(crate) fn compare(self, what: &str, direct: Self) {
        eprintln!("{what}: {:.0} % of the direct rate", 100.0 * self.0 / direct.0);
    }
}
