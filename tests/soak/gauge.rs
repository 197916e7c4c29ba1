//! What ssmfwd has of memory and descriptors, sample by sample.

use std::{fs, time::Duration};

/// Memory that is no growth: what an allocator keeps, and buffers that happen to be full, KiB.
const MEMORY_SLACK: u64 = 3 << 10;
/// Samples that are needed before anything can be said about growth.
const ENOUGH: usize = 16;

/// One look into `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// KiB.
    pub(crate) resident: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: u64,
}

impl Sample {
    /// `None` if there is no such process, or no `/proc`.
    pub(crate) fn of(process: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        };
        let descriptors = fs::read_dir(format!("/proc/{process}/fd")).ok()?.count();
        Some(Self { resident: field("VmRSS:")?, descriptors, threads: field("Threads:")? })
    }
}

/// All samples.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauge(Vec<Sample>);

impl Gauge {
    pub(crate) const EVERY: Duration = Duration::from_secs(2);

    pub(crate) fn add(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// Smallest and largest of something.
    pub(crate) fn range<T: Ord + Copy + Default>(&self, of: impl Fn(&Sample) -> T) -> (T, T) {
        let values = || self.0.iter().map(&of);
        (values().min().unwrap_or_default(), values().max().unwrap_or_default())
    }

    /// The middle of something in each quarter of the run.
    pub(crate) fn quarters<T: Ord + Copy>(&self, of: impl Fn(&Sample) -> T) -> Vec<T> {
        let length = self.0.len().div_ceil(4).max(1);
        let middle = |samples: &[Sample]| {
            let mut values: Vec<T> = samples.iter().map(&of).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied()
        };
        self.0.chunks(length).filter_map(middle).collect()
    }

    /// What has grown from the second quarter to the last, in words. In the first everything is opened and filled.
    pub(crate) fn growth(&self) -> Vec<String> {
        let mut grown = Vec::new();
        if self.0.len() < ENOUGH {
            return grown;
        }
        let resident = self.quarters(|sample| sample.resident);
        if let (Some(before), Some(after)) = (resident.get(1), resident.last())
            && *after > before + before / 20 + MEMORY_SLACK
        {
            grown.push(format!("resident memory grew from {before} KiB to {after} KiB"));
        }
        let threads = self.quarters(|sample| sample.threads);
        if let (Some(before), Some(after)) = (threads.get(1), threads.last())
            && after > before
        {
            grown.push(format!("threads grew from {before} to {after}"));
        }
        grown
    }
}
