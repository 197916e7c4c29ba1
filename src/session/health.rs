//! Whether a session can carry data at the moment.

use tokio::time::Instant;

use crate::proto::CloseReason;

/// What a new connection can expect of a session.
///
/// ```text
/// Ready ◀──▶ Reconnecting      a websocket lost, another found
///   ▲ └────▶ Stalled           the agent silent, or heard again
///   └─────────┘
/// any ─────▶ Ended
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Its websocket is open and the agent is not known to be silent.
    Ready,
    /// Its websocket is lost and being replaced: streams are kept, what is written to them waits.
    Reconnecting {
        /// When it was lost.
        since: Instant,
    },
    /// The agent has acknowledged nothing and said nothing for ten seconds: a destination that takes nothing, or an
    /// agent that is gone. Streams are kept; a new one would wait behind them.
    Stalled,
    /// Over, its streams with it.
    Ended(CloseReason),
}
