//! Settings of a session and what its owner is told.

use std::{fmt, sync::Arc, time::Duration};

use super::SessionId;
use crate::proto::ProcessBudget;

/// What an observer of a session is told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// StartSession succeeded.
    Started(SessionId),
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
    /// Reading of the websocket stopped (true) because local readers are slow, or goes on (false).
    Backpressure(bool),
    /// A stream was reset because its reader had held up the others.
    SlowReader,
    /// TerminateSession was needed and failed: the session may live on until its idle timeout.
    NotTerminated(String),
}

/// Called from the session's own task: must not block.
pub type Observer = Arc<dyn Fn(SessionEvent) + Send + Sync>;

/// Settings of a session. Clones share the process-wide bounds on buffers.
#[derive(Clone)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Between two websocket pings; the peer is given up after two silent intervals. Default 20 s.
    pub ping_interval: Duration,
    /// From StartSession to ready. Default 30 s.
    pub connect_timeout: Duration,
    /// Told what happens.
    pub observer: Option<Observer>,
    /// Bounds that all sessions with clones of these options share.
    pub budget: ProcessBudget,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(30),
            observer: None,
            budget: ProcessBudget::default(),
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
