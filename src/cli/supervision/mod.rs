//! What supervisors are told and give: --ready-fd, NOTIFY_SOCKET, LISTEN_FDS.
//!
//! ```text
//! start: ReadyFd::take, Activation::from_env   before anything is bound; what is wrong is a usage error
//! ready: ReadyFd::announce, Notifier::ready    and COMMAND, if there is one
//! reload, end: Notifier::reloading, stopping
//! ```
//!
//! What comes in is taken once and is inherited by nobody; what goes out never blocks and never fails the program.

mod activation;
mod notify;
mod ready_fd;

pub(super) use self::{
    activation::{Activation, Wanted},
    notify::Notifier,
    ready_fd::ReadyFd,
};
