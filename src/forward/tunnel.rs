//! What the local side needs of a session: two small traits, so that relays and forwarders run on anything that
//! has streams. The genuine implementations are at the end.

use std::{
    collections::HashMap,
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use crate::{
    proto::{CloseReason, Slowdown},
    session::{
        ConnectError, ControlPlane, Dialer, Health, Mode, OpenError, Session, SessionEvent, SessionId, SessionOptions,
        StartRequest, Statistics, Stream,
    },
};

/// Something that opens streams to a destination. All clones are the same tunnel.
pub trait Tunnel: Clone + Send + Sync + 'static {
    /// One connection to the destination.
    type Stream: TunnelStream;

    /// The identity of the session.
    fn id(&self) -> &SessionId;

    /// How connections are carried.
    fn mode(&self) -> Mode;

    /// A new stream; may wait until there is room for one. Cancel-safe.
    fn open(&self) -> impl Future<Output = Result<Self::Stream, OpenError>> + Send;

    /// Whether the tunnel can carry data at the moment, and every change of that.
    fn health(&self) -> watch::Receiver<Health>;

    /// The smoothed round trip time to the agent; `None` before the first measurement.
    fn rtt(&self) -> Option<Duration>;

    /// What was carried, and how fast.
    fn statistics(&self) -> Statistics;

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

    /// Reads without a copy: fills places with pieces of up to `limit` bytes together, and returns how many; 0 is the
    /// agent's FIN.
    fn poll_read_pieces(&mut self, cx: &mut Context<'_>, pieces: &mut [Bytes], limit: usize)
    -> Poll<io::Result<usize>>;

    /// Writes without a copy: takes the buffer and leaves another, empty one in its place, or takes a part from its
    /// front. Returns how much it took.
    fn poll_write_buffer(&mut self, cx: &mut Context<'_>, buffer: &mut Vec<u8>) -> Poll<io::Result<usize>>;

    /// Completes when the stream is cut although nobody reads it, with the error that reading would come to. One that
    /// ended with the agent's FIN is not cut by the end of its session.
    fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<io::Error>;
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

    /// How long a start may take before it fails.
    fn connect_timeout(&self) -> Duration;

    /// Tells that the machine or the network may have woken: what failed before says nothing about now.
    fn wake(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

impl Tunnel for Session {
    type Stream = Stream;

    fn id(&self) -> &SessionId {
        Self::id(self)
    }

    fn mode(&self) -> Mode {
        Self::mode(self)
    }

    async fn open(&self) -> Result<Stream, OpenError> {
        Self::open(self).await
    }

    fn health(&self) -> watch::Receiver<Health> {
        Self::health(self)
    }

    fn rtt(&self) -> Option<Duration> {
        self.srtt()
    }

    fn statistics(&self) -> Statistics {
        Self::statistics(self)
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

    fn poll_read_pieces(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        Self::poll_read_pieces(self, cx, pieces, limit)
    }

    fn poll_write_buffer(&mut self, cx: &mut Context<'_>, buffer: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        Self::poll_write_buffer(self, cx, buffer)
    }

    fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        Self::poll_cut(self, cx)
    }
}

/// Makes SSM sessions.
pub struct SessionConnector {
    /// The AWS API.
    pub control: Arc<dyn ControlPlane>,
    /// Opens the websockets.
    pub dialer: Arc<Dialer>,
    /// Settings of each session; the observer is replaced, and `slowdown` too: a pause is about one target's agent.
    pub options: SessionOptions,
    slowdowns: Arc<Mutex<HashMap<String, Slowdown>>>,
}

impl SessionConnector {
    /// A connector for sessions of any targets.
    #[must_use]
    pub fn new(control: Arc<dyn ControlPlane>, dialer: Arc<Dialer>, options: SessionOptions) -> Self {
        Self { control, dialer, options, slowdowns: Arc::default() }
    }

    /// One with other options, that shares everything else.
    #[must_use]
    pub fn with_options(&self, options: SessionOptions) -> Self {
        let (control, dialer) = (self.control.clone(), self.dialer.clone());
        Self { control, dialer, options, slowdowns: self.slowdowns.clone() }
    }

    /// What the sessions of a target share.
    fn slowdown(&self, target: &str) -> Slowdown {
        let mut slowdowns = self.slowdowns.lock().unwrap_or_else(PoisonError::into_inner);
        slowdowns.entry(target.to_owned()).or_default().clone()
    }
}

impl Connector for SessionConnector {
    type Tunnel = Session;

    async fn connect(
        &self,
        request: StartRequest,
        observer: Arc<dyn Fn(SessionEvent) + Send + Sync>,
        cancel: CancellationToken,
    ) -> Result<Session, ConnectError> {
        let slowdown = self.slowdown(&request.target);
        let options = SessionOptions { observer: Some(observer), slowdown, ..self.options.clone() };
        Session::connect(self.control.clone(), self.dialer.clone(), request, options, cancel).await
    }

    fn connect_timeout(&self) -> Duration {
        self.options.connect_timeout
    }

    fn wake(&self) -> Option<watch::Receiver<u64>> {
        self.options.wake.clone()
    }
}
