//! What a session is told when it is made.

use std::time::Duration;

use uuid::Uuid;

use super::{PathState, ProcessBudget, Slowdown, limits};
use crate::wire::Size;

/// What kinds of session the client serves. Another kind is refused in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SessionKinds {
    /// Those that carry connections: type `Port`.
    #[default]
    Connections,
    /// A shell or a command: types `Standard_Stream`, `InteractiveCommands` and `NonInteractiveCommands`.
    Shell,
    /// Either, as the document wants it.
    Any,
}

impl SessionKinds {
    /// Whether connections are served.
    pub(super) fn include_connections(self) -> bool {
        self != Self::Shell
    }

    /// Whether shells are.
    pub(super) fn include_shells(self) -> bool {
        self != Self::Connections
    }
}

/// Settings of one session.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Stays the same for all websockets of the session.
    pub client_id: Uuid,
    /// The plugin version we claim. At least 1.2.764.0: below 1.1.70 agents fall out of mux mode, at or below 1.2.331.0
    /// they cut idle sessions (`proto-notes/handshake.md#version-thresholds`).
    pub client_version: String,
    /// Seed of message identities. Two sessions with the same seed and inputs do the same.
    pub seed: u64,
    /// Wall clock at the `now` of construction, milliseconds since the Unix epoch.
    pub epoch_ms: u64,
    /// Between two websocket pings.
    pub ping_interval: Duration,
    /// Largest payload of a data message, bytes; 64 to 65,536. What is above 1024 is used once a probe has shown that
    /// it passes; 1024 or less: nothing is probed.
    pub max_payload: usize,
    /// Data messages a second, on average; 0: no limit.
    pub max_message_rate: u32,
    /// How long the whole handshake may take.
    pub handshake_timeout: Duration,
    /// Unacknowledged data and silence of the agent for this long: the session is given up.
    pub stall_timeout: Duration,
    /// What kinds of session are served.
    pub kinds: SessionKinds,
    /// Size of the terminal that a shell begins with, in characters.
    pub terminal: Size,
    /// How often something harmless is sent so that the service does not take the session for idle; never if `None`.
    pub keep_alive: Option<Duration>,
    /// Shared by all sessions of the process.
    pub budget: ProcessBudget,
    /// Shared by all sessions of the process to the same endpoint.
    pub path: PathState,
    /// Shared by the sessions of a pool.
    pub slowdown: Slowdown,
}

impl Config {
    /// The version that AWS names as the oldest supported one.
    pub const CLIENT_VERSION: &str = "1.2.764.0";

    /// What a shell is told where there is no terminal: wide enough that few lines are folded. The genuine client's.
    pub const NO_TERMINAL: Size = Size { cols: 300, rows: 100 };

    /// Without values that would spin, overflow the clock, or leave no room for a frame.
    pub(super) fn clamped(mut self) -> Self {
        let times = Duration::from_millis(10)..=Duration::from_secs(86_400);
        self.ping_interval = self.ping_interval.clamp(*times.start(), *times.end());
        self.handshake_timeout = self.handshake_timeout.min(*times.end());
        self.stall_timeout = self.stall_timeout.clamp(limits::STALLED, *times.end());
        self.keep_alive = self.keep_alive.map(|interval| interval.clamp(*times.start(), *times.end()));
        self.max_payload = self.max_payload.clamp(64, limits::PAYLOAD_LIMIT);
        self
    }

    /// The defaults, with what must differ from session to session.
    #[must_use]
    pub fn new(client_id: Uuid, seed: u64, epoch_ms: u64) -> Self {
        Self {
            client_id,
            client_version: Self::CLIENT_VERSION.to_owned(),
            seed,
            epoch_ms,
            ping_interval: Duration::from_secs(20),
            max_payload: limits::PAYLOAD_MAX,
            max_message_rate: limits::MESSAGE_RATE,
            handshake_timeout: limits::HANDSHAKE,
            stall_timeout: limits::STALL_TIMEOUT,
            kinds: SessionKinds::default(),
            terminal: Self::NO_TERMINAL,
            keep_alive: None,
            budget: ProcessBudget::default(),
            path: PathState::default(),
            slowdown: Slowdown::default(),
        }
    }
}
