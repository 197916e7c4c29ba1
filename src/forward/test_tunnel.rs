//! A tunnel for tests: every stream is one end of an in-memory duplex, the test plays the agent at the other.

use std::{
    collections::{HashMap, VecDeque},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    sync::{mpsc, watch},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{Connector, Tunnel, TunnelStream};
use crate::{
    proto::{Cause, CloseReason, Initiator},
    session::{
        ConnectError, ControlError, ControlErrorKind, Health, Mode, OpenError, SessionEvent, SessionId, StartRequest,
        Statistics,
    },
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
struct Fate(Mutex<Doom>);

#[derive(Default)]
struct Doom {
    error: Option<io::ErrorKind>,
    waker: Option<Waker>,
    /// The agent's FIN is in: the end of the session changes nothing any more.
    complete: bool,
}

impl Fate {
    fn fail(&self, kind: io::ErrorKind) {
        let mut doom = self.0.lock().expect("no panic under the lock");
        if !doom.complete {
            doom.error.get_or_insert(kind);
        }
        if let Some(waker) = doom.waker.take() {
            waker.wake();
        }
    }

    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        let mut doom = self.0.lock().expect("no panic under the lock");
        doom.waker = Some(cx.waker().clone());
        doom.error.map_or(Ok(()), |kind| Err(kind.into()))
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

    /// The agent's FIN, which the session has received before anything else becomes of it.
    pub(crate) async fn complete(&mut self) {
        self.io.shutdown().await.expect("in-memory streams can be ended");
        self.fate.0.lock().expect("no panic under the lock").complete = true;
    }

    pub(crate) fn lose(&self) {
        self.fate.fail(io::ErrorKind::ConnectionReset);
    }
}

impl TunnelStream for TestStream {
    fn rtt(&self) -> Duration {
        Duration::from_millis(20)
    }

    fn poll_read_pieces(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let mut space = vec![0; limit];
        let mut chunk = ReadBuf::new(&mut space);
        ready!(Pin::new(self).poll_read(cx, &mut chunk))?;
        let mut filled = Bytes::copy_from_slice(chunk.filled());
        // Into more than one piece if there is enough for it.
        let count = filled.len().min(2).min(pieces.len());
        for (place, left) in pieces.iter_mut().zip((1..=count).rev()) {
            *place = filled.split_to(filled.len() / left);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write_buffer(&mut self, cx: &mut Context<'_>, buffer: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(self).poll_write(cx, buffer))?;
        buffer.drain(..count);
        Poll::Ready(Ok(count))
    }

    fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.fate.check(cx) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => Poll::Ready(error),
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
    health: Arc<watch::Sender<Health>>,
    finished: Arc<AtomicBool>,
    id: Arc<SessionId>,
    mode: Mode,
    open_error: Arc<Mutex<Option<OpenError>>>,
    busy: Arc<AtomicBool>,
    opens: Arc<AtomicUsize>,
    statistics: Arc<Mutex<Statistics>>,
}

impl TestTunnel {
    pub(crate) fn new() -> (Self, mpsc::Receiver<TestPeer>) {
        Self::with("test-0a", Mode::Mux)
    }

    /// With an identity and a mode. In raw mode a second stream is refused.
    pub(crate) fn with(id: &str, mode: Mode) -> (Self, mpsc::Receiver<TestPeer>) {
        let (peers, arrivals) = mpsc::channel(1024);
        let tunnel = Self {
            peers,
            fates: Arc::default(),
            end: Arc::new(watch::Sender::new(None)),
            health: Arc::new(watch::Sender::new(Health::Ready)),
            finished: Arc::default(),
            id: Arc::new(SessionId(id.into())),
            mode,
            open_error: Arc::default(),
            busy: Arc::default(),
            opens: Arc::default(),
            statistics: Arc::default(),
        };
        (tunnel, arrivals)
    }

    /// What new connections find.
    pub(crate) fn set_health(&self, health: Health) {
        self.health.send_replace(health);
    }

    /// From now on no stream can be opened.
    pub(crate) fn refuse_streams(&self, error: OpenError) {
        *self.open_error.lock().expect("no panic under the lock") = Some(error);
    }

    /// What it says that it carries.
    pub(crate) fn carry(&self, change: impl FnOnce(&mut Statistics)) {
        change(&mut self.statistics.lock().expect("no panic under the lock"));
    }

    /// From now on streams wait for a turn that does not come.
    pub(crate) fn take_turns(&self) {
        self.busy.store(true, Ordering::SeqCst);
    }

    /// So many times a stream was asked for.
    pub(crate) fn opens(&self) -> usize {
        self.opens.load(Ordering::SeqCst)
    }

    /// Ends the session, its streams with it.
    pub(crate) fn end(&self, reason: CloseReason) {
        self.end.send_modify(|end| {
            end.get_or_insert(reason.clone());
        });
        self.health.send_replace(Health::Ended(reason));
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

    fn mode(&self) -> Mode {
        self.mode
    }

    async fn open(&self) -> Result<TestStream, OpenError> {
        self.opens.fetch_add(1, Ordering::SeqCst);
        if let Some(error) = self.open_error.lock().expect("no panic under the lock").clone() {
            return Err(error);
        }
        if self.busy.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let (stream, peer) = TestStream::pair(64 * 1024);
        self.fates.lock().expect("no panic under the lock").push(peer.fate.clone());
        if let Some(reason) = self.end.borrow().clone() {
            return Err(OpenError::Closed(reason));
        }
        if self.mode == Mode::Raw {
            self.refuse_streams(OpenError::Used);
        }
        self.peers.send(peer).await.expect("the test takes the streams");
        Ok(stream)
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn rtt(&self) -> Option<Duration> {
        Some(Duration::from_millis(20))
    }

    fn statistics(&self) -> Statistics {
        *self.statistics.lock().expect("no panic under the lock")
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

/// A StartSession that has failed.
pub(crate) fn start_failure(kind: ControlErrorKind) -> ConnectError {
    ConnectError::Control(ControlError {
        kind,
        operation: "StartSession",
        resource: "i-0a".into(),
        message: "no".into(),
        source: None,
    })
}

/// What becomes of a session that a test starts.
pub(crate) enum Script {
    /// Ready at once.
    Ready(TestTunnel),
    /// Fails like that.
    Fails(fn() -> ConnectError),
    /// Never gets ready.
    Hangs,
    /// Ready after a while.
    ReadyAfter(Duration, TestTunnel),
    /// Ready when it is cancelled, which was too late for it.
    ReadyWhenCancelled(TestTunnel),
}

/// Said, not kept: scripts may take longer.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts sessions by script: for each target one after another. What follows the last one hangs; a last one that
/// fails goes on failing.
#[derive(Default)]
pub(crate) struct TestConnector {
    scripts: Mutex<HashMap<String, VecDeque<Script>>>,
    pub(crate) started: Mutex<Vec<StartRequest>>,
    /// Starts that are under way.
    pending: Arc<AtomicUsize>,
    /// The machine or the network wakes at each change.
    pub(crate) wakes: watch::Sender<u64>,
}

impl TestConnector {
    /// Adds to what becomes of the sessions to a target.
    pub(crate) fn script(&self, target: &str, scripts: impl IntoIterator<Item = Script>) {
        let mut all = self.scripts.lock().expect("no panic under the lock");
        all.entry(target.to_owned()).or_default().extend(scripts);
    }

    /// So many sessions were started, or tried to.
    pub(crate) fn starts(&self) -> usize {
        self.started.lock().expect("no panic under the lock").len()
    }

    /// So many starts are under way.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }

    fn next(&self, target: &str) -> Script {
        let mut scripts = self.scripts.lock().expect("no panic under the lock");
        let Some(scripts) = scripts.get_mut(target) else { return Script::Hangs };
        match scripts.front() {
            Some(Script::Fails(error)) if scripts.len() == 1 => Script::Fails(*error),
            _ => scripts.pop_front().unwrap_or(Script::Hangs),
        }
    }
}

/// Counts a start while it is under way.
struct Pending(Arc<AtomicUsize>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Connector for TestConnector {
    type Tunnel = TestTunnel;

    fn connect_timeout(&self) -> Duration {
        CONNECT_TIMEOUT
    }

    fn wake(&self) -> Option<watch::Receiver<u64>> {
        Some(self.wakes.subscribe())
    }

    async fn connect(
        &self,
        request: StartRequest,
        observer: Arc<dyn Fn(SessionEvent) + Send + Sync>,
        cancel: CancellationToken,
    ) -> Result<TestTunnel, ConnectError> {
        self.pending.fetch_add(1, Ordering::SeqCst);
        let _pending = Pending(self.pending.clone());
        let script = self.next(&request.target);
        let target = request.target.clone();
        let number = {
            let mut started = self.started.lock().expect("no panic under the lock");
            started.push(request);
            started.len()
        };
        let id = match &script {
            Script::Ready(tunnel) | Script::ReadyAfter(_, tunnel) | Script::ReadyWhenCancelled(tunnel) => {
                Some(tunnel.id().clone())
            }
            Script::Fails(error) if matches!(error(), ConnectError::Control(_)) => None,
            Script::Fails(_) | Script::Hangs => Some(SessionId(format!("start-{number}"))),
        };
        if let Some(id) = id {
            observer(SessionEvent::Started { session: id, target });
        }
        match script {
            Script::Ready(tunnel) => Ok(tunnel),
            Script::Fails(error) => Err(error()),
            Script::Hangs => {
                cancel.cancelled().await;
                Err(ConnectError::Cancelled)
            }
            Script::ReadyAfter(time, tunnel) => {
                time::sleep_until(time::Instant::now() + time).await;
                Ok(tunnel)
            }
            Script::ReadyWhenCancelled(tunnel) => {
                cancel.cancelled().await;
                Ok(tunnel)
            }
        }
    }
}
