//! What a forwarder tells: typed, without text for people.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use super::LocalAddress;
use crate::{proto::CloseReason, session::SessionEvent};

/// Told everything that happens, from whichever task it happens in: must not block.
pub type Observer = Arc<dyn Fn(Event) + Send + Sync>;

/// Something that happened in a forward.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A local address is bound. One event per address.
    Listening(LocalAddress),
    /// Something happened in the SSM session.
    Session(SessionEvent),
    /// A local program connected.
    ConnectionOpened {
        /// Who.
        peer: Peer,
    },
    /// A local connection is over, and so is its stream.
    ConnectionClosed {
        /// Who.
        peer: Peer,
        /// Bytes given to the stream.
        bytes_up: u64,
        /// Bytes given to the local program.
        bytes_down: u64,
        /// From accept to close.
        duration: Duration,
        /// How it ended.
        end: ConnectionEnd,
    },
    /// The destination refused a connection; its `ConnectionClosed` follows.
    DestinationRefused {
        /// Whose connection it was.
        peer: Peer,
    },
    /// A connection could not be accepted for want of descriptors or memory: tried again a little later.
    AcceptFailed(String),
    /// The session is over. Always the last event.
    SessionEnded(CloseReason),
}

/// The local end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An address.
    Tcp(SocketAddr),
    /// Clients of unix sockets have no address.
    Unix,
}

/// `127.0.0.1:50000`, or `unix`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// How a connection ended. The list is closed; its names are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionEnd {
    /// The local program ended first, then the destination.
    LocalClosed,
    /// The destination ended first.
    DestinationClosed,
    /// The local program ended, and the destination was silent for the linger time: it was cut off.
    LingerExpired,
    /// The local socket failed: the local program gave up or died.
    LocalReset,
    /// The destination refused the connection.
    DestinationRefused,
    /// The agent did not answer our FIN.
    Unanswered,
    /// The SSM session was lost under the connection.
    SessionEnded,
    /// The local program had stopped reading and held up the other connections of the session.
    SlowReader,
    /// The forward was stopped under the connection.
    Stopped,
}

impl ConnectionEnd {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::LocalClosed,
        Self::DestinationClosed,
        Self::LingerExpired,
        Self::LocalReset,
        Self::DestinationRefused,
        Self::Unanswered,
        Self::SessionEnded,
        Self::SlowReader,
        Self::Stopped,
    ];

    /// The name in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalClosed => "local_closed",
            Self::DestinationClosed => "destination_closed",
            Self::LingerExpired => "linger_expired",
            Self::LocalReset => "local_reset",
            Self::DestinationRefused => "destination_refused",
            Self::Unanswered => "unanswered",
            Self::SessionEnded => "session_ended",
            Self::SlowReader => "slow_reader",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for ConnectionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
