//! How the program ends: the exit statuses of the interface.

use std::process::ExitCode;

/// An exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// A command has done its work.
    Success,
    /// Any failure without a status of its own: network, TLS, throttling, time-outs.
    Failure,
    /// The arguments, the region or the target are missing or not valid.
    Usage,
    /// A local address cannot be bound.
    Bind,
    /// No or expired credentials.
    Credentials,
    /// IAM says no.
    Denied,
    /// The target does not exist, is not connected, or cannot serve the document.
    Target,
    /// The service ended the SSM session before it was ready.
    Lost,
    /// The destination refused or did not answer.
    Destination,
    /// SIGHUP.
    HangUp,
    /// SIGINT.
    Interrupt,
    /// SIGQUIT.
    Quit,
    /// SIGUSR1.
    User1,
    /// SIGUSR2.
    User2,
    /// SIGALRM.
    Alarm,
    /// SIGTERM.
    Terminate,
    /// COMMAND's own status, in exec mode: 126 and 127 if it could not be run.
    Command(u8),
}

impl Exit {
    /// The number.
    pub(super) const fn status(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Bind => 3,
            Self::Credentials => 4,
            Self::Denied => 5,
            Self::Target => 6,
            Self::Lost => 7,
            Self::Destination => 8,
            Self::HangUp => 129,
            Self::Interrupt => 130,
            Self::Quit => 131,
            Self::User1 => 138,
            Self::User2 => 140,
            Self::Alarm => 142,
            Self::Terminate => 143,
            Self::Command(status) => status,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.status().into()
    }
}
