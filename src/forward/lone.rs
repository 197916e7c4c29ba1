//! One session without a forward around it: nothing takes its place when it ends.

use tokio_util::sync::CancellationToken;

use super::{Connector, Monitor, Observer, Tunnel, event};
use crate::session::{ConnectError, StartRequest};

/// Starts a session and tells what happens in it. When `cancel` fires, or on an error, nothing is left behind.
pub(crate) async fn start_session<C: Connector>(
    connector: &C,
    request: StartRequest,
    observer: Observer,
    cancel: CancellationToken,
) -> Result<C::Tunnel, ConnectError> {
    // Nobody asks it: who has started the session sees it.
    let monitor = Monitor::new(Vec::new());
    event::start(connector, request, 0, (&observer, &monitor), cancel).await
}

/// Ends it, if it has not ended, and tells of its end.
pub(crate) async fn end_session<T: Tunnel>(tunnel: &T, observer: &Observer) {
    let reason = tunnel.close().await;
    observer(event::end_of(tunnel, 0, reason, false));
}
