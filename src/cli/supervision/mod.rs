//! What supervisors are told and give: --ready-fd, NOTIFY_SOCKET, LISTEN_FDS.
//!
//! ```text
//! start: ReadyFd::take, Activation::of         before anything is bound; what is wrong is a usage error
//! ready: ReadyFd::announce, Notifier::ready    and COMMAND, if there is one
//! reload, end: Notifier::reloading, stopping
//! ```
//!
//! What comes in is taken once and is inherited by nobody, variables included
//! ([`own_variables`](super::own_variables)); what goes out never blocks and never fails the program.

#[cfg(unix)]
mod activation;
mod notify;
mod ready_fd;

pub(super) use self::{activation::Activation, notify::Notifier, ready_fd::ReadyFd};

/// Programs are not started with sockets here.
#[cfg(not(unix))]
mod activation {
    use crate::{
        cli::{own_variables::OwnVariables, plan::PlannedForward, report::Report},
        forward::AdoptedListener,
    };

    #[derive(Debug, Default)]
    pub(in crate::cli) struct Activation;

    impl Activation {
        pub(in crate::cli) fn of(_: &OwnVariables) -> Result<Self, Report> {
            Ok(Self)
        }

        pub(in crate::cli) fn assign(self, forwards: &[PlannedForward]) -> Result<Vec<Vec<AdoptedListener>>, Report> {
            Ok(forwards.iter().map(|_| Vec::new()).collect())
        }
    }
}
