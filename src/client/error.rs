//! What can go wrong for a user of the library.

use std::{convert::Infallible, io, sync::Arc};

use crate::{
    forward::{BindError, DestinationError, GrammarError},
    session::ConnectError,
};

/// Why there is no stream or no tunnel. Nothing that was begun is left behind.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A text that is no destination.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// A text that is no forward.
    #[error(transparent)]
    Forward(#[from] GrammarError),
    /// The forward has no target, and none was given.
    #[error("no target for {forward}")]
    NoTarget {
        /// The forward, as typed.
        forward: String,
    },
    /// A local address cannot be bound. No session was started.
    #[error("cannot bind a local address")]
    Bind(#[source] Arc<BindError>),
    /// No session could be started. Shared by all who waited for it.
    #[error("cannot start a session")]
    Start(#[source] Arc<ConnectError>),
    /// A session was lost, or ended by the service, and there was none in its place in time.
    #[error("no session could be had in time")]
    NoSession(#[source] Option<Arc<ConnectError>>),
    /// Sessions that were lost cannot be replaced any more: a tunnel is over.
    #[error("a lost session cannot be replaced")]
    Lost(#[source] Arc<ConnectError>),
    /// The client or the tunnel was closed, or its runtime shut down.
    #[error("the client is closed")]
    Closed,
}

impl From<Infallible> for ClientError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// For code that knows only IO: the kinds are those that a socket would give.
impl From<ClientError> for io::Error {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            ClientError::Destination(_) | ClientError::Forward(_) | ClientError::NoTarget { .. } => {
                io::ErrorKind::InvalidInput
            }
            ClientError::Bind(bind) => match &**bind {
                BindError::Tcp { source, .. } | BindError::Unix { source, .. } => source.kind(),
                _ => io::ErrorKind::AddrInUse,
            },
            ClientError::Start(start) if matches!(**start, ConnectError::TimedOut(_)) => io::ErrorKind::TimedOut,
            ClientError::Start(_) | ClientError::Lost(_) => io::ErrorKind::NotConnected,
            ClientError::NoSession(_) => io::ErrorKind::TimedOut,
            ClientError::Closed => io::ErrorKind::NotConnected,
        };
        Self::new(kind, error)
    }
}
