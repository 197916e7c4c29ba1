//! The local side: listeners, relays between local sockets and streams, limits, drain.
//!
//! Nothing here parses arguments or talks to people: what happens is told to an [`Observer`] as typed [`Event`]s.
//!
//! ```text
//! Forwarder ── owns ──▶ Listeners (TCP, unix)            bound before StartSession
//!     │       └─ owns ──▶ Supervisor ── starts, replaces, retires ──▶ a pool of Tunnels (SSM sessions)
//!     │                       └─ Supply ──────┐ chooses one
//!     └─ per connection: local socket ◀─ Relay ─▶ stream of a Tunnel
//!                                          └─ HalfClose decides when our FIN goes out
//! stdio ── the same for the only connection of this process, without a Forwarder
//! ```

mod adopted;
pub(crate) mod direct;
mod event;
mod forwarder;
pub(crate) mod grammar;
mod half_close;
mod lingering;
mod listener;
mod lone;
mod probe;
mod relay;
mod retry;
mod sessions;
mod spec;
mod status;
pub(crate) mod stdio;
mod supply;
mod tunnel;
#[cfg(unix)]
mod unix_socket;

#[cfg(test)]
mod test_socket;
#[cfg(test)]
mod test_tunnel;

pub use adopted::AdoptedListener;
pub use event::{ConnectionEnd, Event, Observer, Peer};
pub use forwarder::{ForwardEnd, Forwarder, ForwarderOptions};
pub use grammar::{DestinationError, GrammarError};
pub use half_close::{Fin, HalfClose};
pub use listener::{Accepted, BindError, Listeners, LocalAddress};
pub(crate) use lone::{end_session, start_session};
pub use probe::{ProbeResult, probe};
pub use relay::{Carried, LocalSocket, Relay};
pub use sessions::{NotSessions, SESSIONS_PER_TARGET, SessionAccounts, Sessions};
pub use spec::{Bind, Destination, ForwardSpec, Listen};
pub use status::{ConnectionStatus, ForwardState, ForwardStatus, Monitor, SessionStatus, Totals};
pub use tunnel::{Connector, SessionConnector, Tunnel, TunnelStream};

#[cfg(test)]
pub(crate) use test_tunnel::{CONNECT_TIMEOUT, Script, TestConnector, TestPeer, TestStream, TestTunnel, start_failure};
