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
//! ```

mod event;
mod forwarder;
mod half_close;
mod lingering;
mod listener;
mod relay;
mod retry;
mod sessions;
mod spec;
mod supply;
mod tunnel;
#[cfg(unix)]
mod unix_socket;

#[cfg(test)]
mod test_tunnel;

pub use event::{ConnectionEnd, Event, Observer, Peer};
pub use forwarder::{ForwardEnd, Forwarder, ForwarderOptions};
pub use half_close::{Fin, HalfClose};
pub use listener::{Accepted, BindError, Listeners, LocalAddress};
pub use relay::{Carried, LocalSocket, Relay};
pub use sessions::{NotSessions, SESSIONS_PER_TARGET, SessionAccounts, Sessions};
pub use spec::{Bind, Destination, ForwardSpec, Listen};
pub use tunnel::{Connector, SessionConnector, Tunnel, TunnelStream};

#[cfg(test)]
pub(crate) use test_tunnel::{CONNECT_TIMEOUT, Script, TestConnector, TestStream, TestTunnel, start_failure};
