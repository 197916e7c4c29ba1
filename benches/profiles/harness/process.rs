//! What a process has used, from `/proc`: so Linux only.

use std::{fs, time::Duration};

use super::Outcome;

/// Length of the kernel's tick in this file: 100 a second on all Linux there is, whatever the kernel's own.
const TICK: Duration = Duration::from_millis(10);

/// A look at a process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User and system time of all its threads.
    pub(crate) cpu: Duration,
    /// Resident memory, KiB.
    pub(crate) resident: u64,
    /// The most there ever was of it, KiB.
    pub(crate) peak: u64,
}

impl Usage {
    pub(crate) fn of(process: u32) -> Outcome<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name may contain anything; after its closing parenthesis come numbers.
        let (_, numbers) = stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?;
        let fields: Vec<&str> = numbers.split_whitespace().collect();
        let ticks =
            |at: usize| -> Outcome<u32> { Ok(fields.get(at).ok_or("too few fields in /proc/PID/stat")?.parse()?) };
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let kib = |name: &str| -> Outcome<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            Ok(number.ok_or_else(|| format!("no {name} in /proc/PID/status"))?.parse()?)
        };
        Ok(Self { cpu: TICK * (ticks(11)? + ticks(12)?), resident: kib("VmRSS:")?, peak: kib("VmHWM:")? })
    }
}
