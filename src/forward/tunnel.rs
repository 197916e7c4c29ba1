//! What the local side needs of a session: two small traits, so that relays and forwarders run on anything that
//! has streams. The genuine implementations are at the end.

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::{
    proto::CloseReason,
    session::{
        ConnectError, ControlPlane, Dialer, OpenError, Session, SessionEvent, SessionId, SessionOptions, StartRequest,
        Stream,
    },
};

/// Something that opens streams to a destination. All clones are the same tunnel.
pub trait Tunnel: Clone + Send + Sync + 'static {
    /// One connection to the destination.
    type Stream: TunnelStream;

    /// The identity of the session.
    fn id(&self) -> &SessionId;

    /// A new stream; may wait until there is room for one.
    fn open(&self) -> impl Future<Output = Result<Self::Stream, OpenError>> + Send;

    /// Completes when the tunnel has ended, at once if it has.
    fn closed(&self) -> impl Future<Output = CloseReason> + Send;

    /// Ends the tunnel, its streams with it.
    fn close(&self) -> impl Future<Output = CloseReason> + Send;
}

/// A stream with the semantics of [`session::Stream`](Stream): `Ok(0)` is the agent's FIN, a refused destination is
/// `ConnectionRefused`, a reader that was too slow `TimedOut`, every other error means that the session is lost; `shutdown` sends our FIN, dropping
/// discards.
pub trait TunnelStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The smoothed round trip time to the agent.
    fn rtt(&self) -> Duration;

    /// Completes when the stream is reset although nobody reads it.
    fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Something that makes tunnels.
pub trait Connector: Send + Sync + 'static {
    /// What it makes.
    type Tunnel: Tunnel;

    /// Starts a session and waits until it can carry data. When `cancel` fires, or on an error, nothing is left
    /// behind when this returns.
    fn connect(
        &self,
        request: StartRequest,
        observer: Arc<dyn Fn(SessionEvent) + Send + Sync>,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<Self::Tunnel, ConnectError>> + Send;
}

impl Tunnel for Session {
    type Stream = Stream;

    fn id(&self) -> &SessionId {
        Self::id(self)
    }

    async fn open(&self) -> Result<Stream, OpenError> {
        Self::open(self).await
    }

    async fn closed(&self) -> CloseReason {
        Self::closed(self).await
    }

    async fn close(&self) -> CloseReason {
        Self::close(self).await
    }
}

impl TunnelStream for Stream {
    fn rtt(&self) -> Duration {
        Self::rtt(self)
    }

    fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_reset(self, cx)
    }
}

/// Makes SSM sessions.
pub struct SessionConnector {
    /// The AWS API.
    pub control: Arc<dyn ControlPlane>,
    /// Opens the websockets.
    pub dialer: Arc<Dialer>,
    /// Settings of each session; the observer is replaced.
    pub options: SessionOptions,
}

impl Connector for SessionConnector {
    type Tunnel = Session;

    async fn connect(
        &self,
        request: StartRequest,
        observer: Arc<dyn Fn(SessionEvent) + Send + Sync>,
        cancel: CancellationToken,
    ) -> Result<Session, ConnectError> {
        let options = SessionOptions { observer: Some(observer), ..self.options.clone() };
        Session::connect(self.control.clone(), self.dialer.clone(), request, options, cancel).await
    }
}
