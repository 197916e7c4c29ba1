//! The two websockets of a session, as the gateway sees them.

use std::{sync::Arc, time::Instant};

use crate::emulator::{EmulatorConfig, Interval, mailbox::Link};

/// Where the agent's websocket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AgentSide {
    /// Not open before this time.
    Away(Instant),
    Connected(Life),
    /// The agent's process died; nobody is told.
    Dead,
}

/// The client's websocket.
pub(super) struct Client {
    pub(super) link: Arc<Link>,
    pub(super) life: Life,
    /// It was told to pause and not told to start since.
    pub(super) paused: bool,
}

/// How long a websocket lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    opened: Instant,
    /// The gateway resets it then.
    pub(super) cut: Option<Instant>,
}

impl Life {
    pub(super) fn new(now: Instant, cut_every: Option<Interval>, rng: &mut fastrand::Rng) -> Self {
        Self { opened: now, cut: cut_every.map(|interval| now + interval.draw(rng)) }
    }

    /// When the gateway says `1000 Bye`.
    pub(super) fn bye(&self, config: &EmulatorConfig) -> Option<Instant> {
        config.bye_every.map(|after| self.opened + after)
    }
}
