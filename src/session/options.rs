//! Settings of a session and what its owner is told.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{ControlErrorKind, SessionId};
use crate::{
    proto::{Config, PathState, ProcessBudget, SessionKinds, Slowdown, limits},
    wire::Size,
};

/// What an observer of a session is told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// StartSession succeeded.
    Started {
        /// The session.
        session: SessionId,
        /// What it was started on: the id, where the request has a name.
        target: String,
    },
    /// The session can carry data.
    Ready,
    /// Text that the administrator wants users to see.
    CustomerMessage(String),
    /// The gateway refused the signed upgrade and accepted an unsigned one: `ssmmessages:OpenDataChannel` is missing.
    UnsignedUpgrade,
    /// A destination was refused; the stream says so too.
    DestinationRefused,
    /// The peer is behind and new data is held (true), or flows again (false).
    Paused(bool),
    /// The agent has acknowledged nothing and said nothing for ten seconds (true), or does again (false): a destination
    /// that takes nothing, or an agent that is gone.
    Stalled(bool),
    /// The websocket was lost, or an attempt to replace it has failed. Attempts go on.
    Reconnecting {
        /// 0 at the loss, then one more for each attempt that failed.
        attempt: u32,
        /// Why the websocket was lost, or why the attempt failed.
        cause: String,
        /// What kind of failure, if the API or the signature failed.
        kind: Option<ControlErrorKind>,
        /// How long the next attempt waits; `None` if it is made at once.
        next: Option<Duration>,
    },
    /// Another websocket carries the session on: nothing was lost.
    Resumed {
        /// From the loss of the one before.
        outage: Duration,
    },
    /// So many connections have had no byte from the destination for ten seconds, although they wait for their first:
    /// the destination may not answer, and the agent dials one after another. Told once until one of them has.
    Unanswered(usize),
    /// Reading of the websocket stopped (true) because local readers are slow, or goes on (false).
    Backpressure(bool),
    /// A stream was reset because its reader had held up the others.
    SlowReader,
    /// TerminateSession was needed and failed: the session may live on until its idle timeout.
    NotTerminated(String),
}

/// Called from the session's own task: must not block.
pub type Observer = Arc<dyn Fn(SessionEvent) + Send + Sync>;

/// Settings of a session. Clones share the process-wide bounds on buffers, and what is learned of the path: sessions to
/// another endpoint need another `path`, and sessions of another pool another `slowdown`.
#[derive(Clone)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Between two websocket pings; the peer is given up after two silent intervals. Default 20 s.
    pub ping_interval: Duration,
    /// From StartSession to ready. Default 30 s. A shell without a handshake is ready when it has written something,
    /// and waits for that without limit.
    pub connect_timeout: Duration,
    /// Data that the agent has not acknowledged, and silence, for this long: the session is given up. Default 300 s,
    /// at least 10 s.
    pub stall_timeout: Duration,
    /// How often the idle timeout of the service is kept from ending the session; `None`: never, because an account's
    /// policy wants idle sessions to end.
    pub keep_alive: Option<Duration>,
    /// What kinds of session are served; another is refused, and ends. Default: those that carry connections.
    pub kinds: SessionKinds,
    /// Size of the terminal that a shell begins with, in characters. Default 300 columns and 100 rows, which is what a
    /// shell without a terminal is told.
    pub terminal: Size,
    /// Largest payload of a data message that is tried, bytes; up to 64 KiB, and nothing larger than 1024 is tried if
    /// it is no more. Default 32 KiB.
    pub max_payload: usize,
    /// Data messages a second; 0: no limit. Default 900.
    pub max_message_rate: u32,
    /// Tells that the machine or the network may have woken, as from [`watch_for_wake`](super::watch_for_wake).
    pub wake: Option<watch::Receiver<u64>>,
    /// Told what happens.
    pub observer: Option<Observer>,
    /// Bounds that all sessions with clones of these options share.
    pub budget: ProcessBudget,
    /// The largest payload that was found to pass, shared in the same way.
    pub path: PathState,
    /// How far the service has slowed sending down, shared in the same way.
    pub slowdown: Slowdown,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(30),
            stall_timeout: limits::STALL_TIMEOUT,
            keep_alive: None,
            kinds: SessionKinds::default(),
            terminal: Config::NO_TERMINAL,
            max_payload: limits::PAYLOAD_MAX,
            max_message_rate: limits::MESSAGE_RATE,
            wake: None,
            observer: None,
            budget: ProcessBudget::default(),
            path: PathState::default(),
            slowdown: Slowdown::default(),
        }
    }
}

impl SessionOptions {
    pub(super) fn tell(&self, event: SessionEvent) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }
}

impl fmt::Debug for SessionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionOptions")
            .field("ping_interval", &self.ping_interval)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}
