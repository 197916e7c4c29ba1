//! A tunnel for tests: every stream is one end of an in-memory duplex, the test plays the agent at the other.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use super::{Connector, Tunnel, TunnelStream};
use crate::{
    proto::{Cause, CloseReason, Initiator},
    session::{ConnectError, OpenError, SessionEvent, SessionId, StartRequest},
};

/// The relay's end.
pub(crate) struct TestStream {
    io: DuplexStream,
    fate: Arc<Fate>,
}

/// The agent's end: read what went up, write what shall come down, `shutdown` is the agent's FIN.
pub(crate) struct TestPeer {
    pub(crate) io: DuplexStream,
    fate: Arc<Fate>,
}

#[derive(Default)]
struct Fate(Mutex<(Option<io::ErrorKind>, Option<Waker>)>);

impl Fate {
    fn fail(&self, kind: io::ErrorKind) {
        let mut fate = self.0.lock().expect("no panic under the lock");
        fate.0.get_or_insert(kind);
        if let Some(waker) = fate.1.take() {
            waker.wake();
        }
    }

    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        let mut fate = self.0.lock().expect("no panic under the lock");
        fate.1 = Some(cx.waker().clone());
        fate.0.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl TestStream {
    /// A stream whose buffers take `capacity` bytes each way.
    pub(crate) fn pair(capacity: usize) -> (Self, TestPeer) {
        let (ours, theirs) = duplex(capacity);
        let fate = Arc::<Fate>::default();
        (Self { io: ours, fate: fate.clone() }, TestPeer { io: theirs, fate })
    }
}

impl TestPeer {
    pub(crate) fn refuse(&self) {
        self.fate.fail(io::ErrorKind::ConnectionRefused);
    }

    /// As a session does to a stream whose reader held up the others.
    pub(crate) fn reset_slow_reader(&self) {
        self.fate.fail(io::ErrorKind::TimedOut);
    }

    pub(crate) fn lose(&self) {
        self.fate.fail(io::ErrorKind::ConnectionReset);
    }
}

impl TunnelStream for TestStream {
    fn rtt(&self) -> Duration {
        Duration::from_millis(20)
    }

    fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.fate.check(cx) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

impl AsyncRead for TestStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.fate.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for TestStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.fate.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fate.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A session whose streams come out of a channel at the other end.
#[derive(Clone)]
pub(crate) struct TestTunnel {
    peers: mpsc::Sender<TestPeer>,
    fates: Arc<Mutex<Vec<Arc<Fate>>>>,
    end: Arc<watch::Sender<Option<CloseReason>>>,
    finished: Arc<AtomicBool>,
    id: Arc<SessionId>,
}

impl TestTunnel {
    pub(crate) fn new() -> (Self, mpsc::Receiver<TestPeer>) {
        let (peers, arrivals) = mpsc::channel(1024);
        let end = Arc::new(watch::Sender::new(None));
        let id = Arc::new(SessionId("test-0a".into()));
        (Self { peers, fates: Arc::default(), end, finished: Arc::default(), id }, arrivals)
    }

    /// Ends the session, its streams with it.
    pub(crate) fn end(&self, reason: CloseReason) {
        self.end.send_modify(|end| {
            end.get_or_insert(reason);
        });
        for fate in self.fates.lock().expect("no panic under the lock").iter() {
            fate.fail(io::ErrorKind::ConnectionReset);
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Whether somebody has waited until nothing is left to be done.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }
}

impl Tunnel for TestTunnel {
    type Stream = TestStream;

    fn id(&self) -> &SessionId {
        &self.id
    }

    async fn open(&self) -> Result<TestStream, OpenError> {
        let (stream, peer) = TestStream::pair(64 * 1024);
        self.fates.lock().expect("no panic under the lock").push(peer.fate.clone());
        if let Some(reason) = self.end.borrow().clone() {
            return Err(OpenError::Closed(reason));
        }
        self.peers.send(peer).await.expect("the test takes the streams");
        Ok(stream)
    }

    async fn closed(&self) -> CloseReason {
        let mut end = self.end.subscribe();
        let reason = end.wait_for(Option::is_some).await.expect("the sender is ours");
        reason.clone().expect("just checked")
    }

    async fn close(&self) -> CloseReason {
        self.end(CloseReason::new(Initiator::Us, Cause::Requested));
        let reason = self.closed().await;
        self.finished.store(true, Ordering::Relaxed);
        reason
    }
}

/// What becomes of a session that a test starts.
pub(crate) enum Script {
    /// Ready at once.
    Ready(TestTunnel),
    /// Fails like that.
    Fails(fn() -> ConnectError),
    /// Never gets ready.
    Hangs,
}

/// Starts sessions by script, one for each target.
#[derive(Default)]
pub(crate) struct TestConnector {
    pub(crate) scripts: HashMap<String, Script>,
    pub(crate) started: Mutex<Vec<StartRequest>>,
}

impl Connector for TestConnector {
    type Tunnel = TestTunnel;

    async fn connect(
        &self,
        request: StartRequest,
        observer: Arc<dyn Fn(SessionEvent) + Send + Sync>,
        cancel: CancellationToken,
    ) -> Result<TestTunnel, ConnectError> {
        let outcome = match self.scripts.get(&request.target) {
            Some(Script::Ready(tunnel)) => Some(Ok(tunnel.clone())),
            Some(Script::Fails(error)) => Some(Err(error())),
            Some(Script::Hangs) | None => None,
        };
        let id = SessionId(format!("test-{}", request.target));
        self.started.lock().expect("no panic under the lock").push(request);
        observer(SessionEvent::Started(id));
        match outcome {
            Some(outcome) => outcome,
            None => {
                cancel.cancelled().await;
                Err(ConnectError::Cancelled)
            }
        }
    }
}
