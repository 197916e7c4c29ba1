//! Variables that are meant for this process alone. They are taken out of the environment before anything else is done:
//! no child inherits them, neither COMMAND nor a `credential_process`, a browser or whatever else a library starts.
//!
//! What is in the environment that the kernel shows of a running program (`/proc/PID/environ`) stays there, for whoever
//! may look: the same user.

use std::ffi::{OsStr, OsString};

use super::sys::take_variable;

/// What they hold. Not for logs: one is a secret.
#[derive(Clone, Default)]
pub(super) struct OwnVariables {
    taken: Vec<(&'static str, OsString)>,
}

impl OwnVariables {
    /// A code that is good for one use, as `--mfa-code` takes it.
    pub(super) const MFA_CODE: &'static str = "SSMFWD_MFA_CODE";

    /// A code of an MFA device is a secret. The rest is what a service manager tells its direct child: whoever inherits it
    /// would report to the manager in our name. Names that only look like these (`LISTEN_PORT`) are somebody's own.
    pub(super) const NAMES: [&'static str; 8] = [
        Self::MFA_CODE,
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        "LISTEN_FDNAMES",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    ];

    /// Takes them out of the environment. For `main`, once, before there is any other thread.
    pub(super) fn take() -> Self {
        Self { taken: Self::NAMES.into_iter().filter_map(|name| Some((name, take_variable(name)?))).collect() }
    }

    /// The value of one of them.
    pub(super) fn get(&self, name: impl AsRef<OsStr>) -> Option<OsString> {
        let name = name.as_ref();
        self.taken.iter().find(|(taken, _)| *taken == name).map(|(_, value)| value.clone())
    }
}
