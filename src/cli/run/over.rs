//! How a run ends.

use crate::cli::{events::By, exit::Exit, report::Report, signals::Signal};

/// Why a run is over.
pub(in crate::cli) enum Over {
    /// A one-shot command has done its work.
    Done,
    /// COMMAND has ended so.
    Command(Exit),
    /// Somebody wanted it.
    Signal(Signal),
    /// A forward failed for good: the fleet knows why.
    Lost,
    /// Something failed for good.
    Failed(Report),
}

impl Over {
    /// The exit status of the program, and who decided it.
    pub(in crate::cli) fn status(&self) -> (u8, By) {
        match self {
            Self::Done => (Exit::Success.status(), By::Ssmfwd),
            Self::Command(exit) => (exit.status(), By::Command),
            Self::Signal(signal) => (signal.exit().status(), By::Signal),
            Self::Lost => (Exit::Lost.status(), By::Ssmfwd),
            Self::Failed(report) => (report.exit.status(), By::Ssmfwd),
        }
    }
}
