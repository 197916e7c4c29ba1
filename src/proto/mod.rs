//! The state machine of a session's data channel: both directions, the handshake, streams, the end.
//!
//! Sans-IO and deterministic. What is not here: tokio, sockets, a clock (time comes in as `now`), randomness of the
//! operating system (a seed comes in), waiting of any kind.
//!
//! # The contract
//!
//! ```text
//!              Input                                    Output
//!   websocket ───────▶ Session::handle ─┐      ┌──────▶ Transmit, Ping   to the websocket
//!   application ─────▶ open, write, … ──┼─────▶┤ drain  Event            to the application
//!   clock ───────────▶ Input::Timeout ──┘      └──────▶ Timeout          to one timer
//! ```
//!
//! After *every* mutation, [`Session::poll_output`] is called until it returns [`Output::Timeout`]. Deadlines that are
//! returned lie in the future; calling with [`Input::Timeout`] early or late is harmless.

mod budget;
mod ceiling;
mod close;
mod config;
mod handshake;
mod incoming;
mod io;
pub mod limits;
mod mux;
mod nonces;
mod outgoing;
mod pacing;
mod path;
mod payload_size;
mod port;
mod receive_buffer;
mod reconnect;
mod rto;
mod sealing;
mod send_buffer;
mod session;
mod shell;
mod single;
mod slab;
mod statistics;
mod stream;
mod timer;
mod token;
mod window;

pub use budget::ProcessBudget;
pub use close::{Cause, CloseReason, Initiator};
pub use config::{Config, SessionKinds};
pub use io::{Event, Frame, Inbound, Input, Output, Transmit};
pub use pacing::Slowdown;
pub use path::PathState;
pub use port::{Mode, OpenError};
pub use sealing::SealedKey;
pub use session::{Occupancy, Session};
pub use shell::{OutputRead, ShellChannel};
pub use statistics::Statistics;
pub use stream::{Read, StreamError};
pub use token::Token;

pub use crate::wire::smux::StreamId;
