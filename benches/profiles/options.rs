//! What can be asked of the bench.

use std::time::Duration;

use clap::Parser;

use crate::harness::window::Timing;

/// The built ssmfwd and its library over link profiles, beside the limits of this machine.
#[derive(Debug, Parser)]
#[command(name = "profiles")]
pub(crate) struct Options {
    /// Only the rows whose name contains one of these, and what they are compared with.
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// How long each row takes.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    seconds: f64,
    /// Each row for a moment, and fewer of them: does it still work?
    #[arg(long)]
    pub(crate) quick: bool,
    /// Given by `cargo bench`; without it rows are quick.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// As `cargo bench` or `cargo test` start it.
    pub(crate) fn read() -> Self {
        let mut options = Self::parse();
        options.quick |= !options.bench;
        options
    }

    pub(crate) fn wants(&self, row: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| row.contains(filter.as_str()))
    }

    pub(crate) fn timing(&self) -> Timing {
        let row = if self.quick { Duration::from_millis(100) } else { Duration::from_secs_f64(self.seconds) };
        Timing::of(row)
    }
}
