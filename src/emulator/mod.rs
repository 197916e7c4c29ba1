//! An emulated AWS on loopback: SSM API, message gateway and agent, and the IAM Identity Center to log in to. Feature
//! `emulator`, never in the shipped program.
//!
//! For tests, benches, the demo, and other people's clients: anything that reads the usual AWS variables and speaks
//! the data channel can use it. It verifies signatures, takes tokens once, plays the agent with its quirks, dials real
//! TCP destinations and runs real shells; every fault is a field of [`EmulatorConfig`]. What it never does: import
//! [`crate::proto`], because a shared state machine would agree with itself while both were wrong
//! (`proto-notes/emulator.md`).
//!
//! ```text
//!            ┌ api, sso ──┐
//!  client ──▶│ server     │──▶ service: sessions, tokens, state
//!            └ gateway ───┘          │ one thread per session
//!                 ▲  websocket       ▼
//!                 └──── mailbox ──▶ worker: line, relay, agent::AgentCore ──▶ destination (TCP), program (pty)
//! ```
//!
//! [`Emulator`] is the Rust face, `ssmfwd-emulator` the program, and the control path the face for everything else.

pub mod agent;

mod actions;
mod api;
mod clock;
mod config;
mod conn;
mod control;
mod destination;
mod documents;
mod ecs;
mod failure;
mod gateway;
mod identities;
mod instance;
mod interval;
mod inventory;
mod kms;
mod line;
mod link_rate;
mod mailbox;
mod meter;
mod network;
#[cfg_attr(not(unix), path = "no_programs.rs")]
mod program;
mod relay;
mod roles;
mod server;
mod service;
mod sigv4;
mod sso;
mod state;
mod sts;
mod tally;
mod tls;
mod worker;

#[cfg(test)]
mod tests;

pub use actions::Action;
pub use agent::{SealFault, SealFaultKind, SessionType};
pub use config::{
    AgentKind, ConfigPatchError, Counting, EmulatorConfig, Faults, Oversize, PayloadCap, RateCap, UpgradePolicy,
};
pub use documents::{AllowedValue, DocumentParameter, SessionDocument};
pub use ecs::{EcsCluster, EcsContainer, EcsService, EcsTask};
pub use failure::{ApiFailure, FailureKind, Operation};
pub use instance::Emulator;
pub use interval::Interval;
pub use inventory::{Node, NodePing};
pub use roles::Role;
pub use sigv4::Credentials;
pub use sso::{SsoAccount, SsoConfig};
pub use state::{ChannelState, EmulatorState, EndedBy, SessionState, Traffic};
