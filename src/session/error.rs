//! Why a session or a stream could not be had.

use std::time::Duration;

use super::{ControlError, DialError};
use crate::proto::{self, CloseReason};

/// Why a session could not be made ready. Whatever was started has been ended when this is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A call of the AWS API failed.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The websocket could not be opened.
    #[error("cannot open the data channel")]
    Dial(#[from] DialError),
    /// The session ended before it was ready.
    #[error("the session ended before it was ready: {0}")]
    Closed(CloseReason),
    /// Not ready in time.
    #[error("not ready within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The session has ended.
    #[error("the session has ended: {0}")]
    Closed(CloseReason),
    /// The session is ending.
    #[error("the session is ending")]
    Ending,
    /// This mode carries one connection, and it has been used.
    #[error("the session carries a single connection, and it has been used")]
    Used,
    /// The session carries connections and no shell, or a shell and no connections.
    #[error("the session is of another kind")]
    WrongKind,
    /// Too many streams are open, or all ids have been used.
    #[error("the session cannot carry another connection: {0}")]
    Full(proto::OpenError),
}

impl From<proto::OpenError> for OpenError {
    fn from(error: proto::OpenError) -> Self {
        match error {
            proto::OpenError::Closed(reason) => Self::Closed(reason),
            proto::OpenError::NotReady => Self::Ending,
            proto::OpenError::Used => Self::Used,
            other => Self::Full(other),
        }
    }
}
