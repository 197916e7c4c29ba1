//! COMMAND: run when all forwards are ready, with its terminal, signals and status as a shell would handle them.
//!
//! ```text
//! bound addresses ─▶ Endpoints ─┬─▶ placeholders  arguments
//!                               └─▶ environment   variables
//! tunnels ── --wait ──▶ wait                                ╲
//! Signals ─▶ Job (which ones the child got already) ─▶ Child ─▶ Ended ─▶ Exit
//! ```
//!
//! Nothing here knows of sessions; that a tunnel was lost for good is the caller's to find, and [`Child::stop`] his to
//! call.

mod child;
mod endpoint;
mod environment;
mod invocation;
#[cfg(unix)]
mod job;
mod placeholders;
mod terminal;
mod wait;

pub(super) use self::{
    child::Child,
    endpoint::{Endpoint, Endpoints},
    environment::variable_prefix,
    invocation::Invocation,
    terminal::has_terminal,
    wait::until_accepted,
};
