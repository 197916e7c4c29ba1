//! What a forward is doing, as it can be asked at any moment: for metrics, status pages and live views.
//!
//! A snapshot, where [`Event`](super::Event)s are the changes. Both come from the same places.

mod connections;
mod monitor;

use std::time::Duration;

pub use self::monitor::Monitor;
pub(super) use self::{
    connections::{Connection, Traffic},
    monitor::{Fitness, Life, Phase, Watched},
};
use super::{LocalAddress, Peer};
use crate::session::{Health, SessionId, Statistics};

/// A forward at one moment.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ForwardStatus {
    /// Whether it can carry a new connection, and what it waits for if not.
    pub state: ForwardState,
    /// Where it listens.
    pub addresses: Vec<LocalAddress>,
    /// Sessions that have not ended, in the order of their places in the pool.
    pub sessions: Vec<SessionStatus>,
    /// Open connections, those that wait for a session and those that linger included, the oldest first.
    pub connections: Vec<ConnectionStatus>,
    /// Sums since the start of the forward, of all that is over and all that is not.
    pub totals: Totals,
}

/// What new connections meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ForwardState {
    /// It listens; its first session is being started.
    #[default]
    Starting,
    /// A session can carry a new connection now.
    Ready,
    /// No session, and none is wanted: the next connection starts one. Nothing is wrong.
    Dormant,
    /// A session is started for the connection that asked for one, or will be for the next that comes: the agents of
    /// those that there are are silent, or they take no more. What these carry is kept; nothing is lost.
    Waking,
    /// No session can carry a new connection at the moment: it is being resumed or replaced, or the start of one that a
    /// connection waits for has failed and is tried again, or too many silent ones live already for another beside them.
    /// Connections are held until the reconnect window closes.
    Reconnecting {
        /// For so long; of several sessions, since the last one was lost.
        since: Duration,
    },
    /// It was asked to stop, and lets its connections end.
    Stopping,
    /// It is over.
    Stopped,
}

impl ForwardState {
    /// Whether a connection that came now would be carried, as far as is known: `/readyz` of the program.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Ready | Self::Dormant | Self::Waking)
    }

    /// The name in status pages and metrics. The list is closed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Dormant => "dormant",
            Self::Waking => "waking",
            Self::Reconnecting { .. } => "reconnecting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// One SSM session of a forward.
#[derive(Debug, Clone)]
pub struct SessionStatus {
    /// Which.
    pub session: SessionId,
    /// Its place in the pool, from 0.
    pub member: u32,
    /// Whether it can carry data.
    pub health: Health,
    /// Whether it serves new connections. One that does not lives on for those that it has.
    pub serves: bool,
    /// Open connections that use it, lingering ones included.
    pub connections: usize,
    /// Since it was ready.
    pub age: Duration,
    /// The smoothed round trip time to the agent; `None` before the first measurement.
    pub rtt: Option<Duration>,
    /// What it has carried, and how fast.
    pub statistics: Statistics,
}

/// One open connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionStatus {
    /// Its number among those that the forward has accepted, from 1: no other one of the forward has it, ever.
    pub id: u64,
    /// Whose it is.
    pub peer: Peer,
    /// Since it was accepted.
    pub age: Duration,
    /// The session that carries it; `None` while it waits for one.
    pub session: Option<SessionId>,
    /// Bytes given to the stream.
    pub bytes_up: u64,
    /// Bytes given to the local program.
    pub bytes_down: u64,
}

/// Sums since the start of a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Totals {
    /// Connections accepted.
    pub connections: u64,
    /// Bytes of connections given to streams.
    pub bytes_up: u64,
    /// Bytes given to local programs.
    pub bytes_down: u64,
    /// Connections that the destination refused.
    pub refused: u64,
    /// Connections refused by us, because no session could be had in time.
    pub unserved: u64,
    /// How often connections began to wait because there were as many as there may be.
    pub limited: u64,
    /// Sessions that became ready, those included that were not needed any more.
    pub sessions: u64,
    /// Attempts to start a session that failed, and were not given up by us.
    pub start_failures: u64,
    /// Sessions that took the place of a lost one.
    pub replacements: u64,
    /// Websockets that were lost under a session and replaced, its connections kept.
    pub resumptions: u64,
    /// Messages to the agent that were sent again.
    pub retransmissions: u64,
}
