//! Copies between one local socket and one stream, in both directions at once, and ends them in order.
//!
//! One future polls both directions in every pass, so that neither ever waits for the other. Downwards the pieces of
//! messages go to the socket as they are; only what it did not take is copied. Upwards a little goes through a buffer on
//! the stack of that poll; in a bulk transfer buffers are filled and handed over. An idle connection holds no buffer.
//!
//! ```text
//! up    Open ─ local end ─▶ Held ─ policy ─▶ Closing ─ FIN sent ─▶ Closed        (towards the destination)
//!         └── agent's FIN ─▶ Discarding ─ local end or linger time ─▶ Over
//! down  Open ─ agent's FIN, all delivered ─▶ Ending ─ local shutdown ─▶ Over     (towards the local program)
//!         └── local write failed ─▶ Broken
//! ```
//!
//! The local socket is armed to be reset when dropped, and disarmed only where both directions ended in order. So
//! whatever else happens, a cancelled task and a panic included, a cut connection never looks like a complete one.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{self, Sleep},
};
use tokio_util::sync::CancellationToken;

use super::{ConnectionEnd, Fin, HalfClose, TunnelStream, status::Traffic};

/// Bytes moved upwards at once: a few segments of a loopback socket, and half of what a stream takes.
const CHUNK: usize = 32 * 1024;
/// Bytes moved downwards at once.
const CHUNK_DOWN: usize = 64 * 1024;
/// Pieces moved downwards at once: as many messages of the agent as that is.
const PIECES: usize = 64;

/// How long the agent may stay silent after our FIN before the connection is given up: what kernels allow a peer in
/// FIN-WAIT-2.
const FIN_WAIT: Duration = Duration::from_secs(60);

/// The local end of a connection. What is written to it needs no flush.
pub trait LocalSocket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether dropping the socket resets the connection, so that the local program sees a failure instead of the end
    /// of the data.
    fn set_reset_on_drop(&self, reset: bool) -> io::Result<()>;

    /// Completes when the local program is found to have given up before it was served: it ended without having sent
    /// anything, or its connection failed. Takes nothing of what it sent. Need not notice. Cancel-safe.
    fn gave_up(&self) -> impl Future<Output = ()> + Send;
}

impl LocalSocket for TcpStream {
    fn set_reset_on_drop(&self, reset: bool) -> io::Result<()> {
        SockRef::from(self).set_linger(reset.then_some(Duration::ZERO))
    }

    async fn gave_up(&self) {
        if matches!(self.peek(&mut [0]).await, Ok(1..)) {
            // Who sent something and ended may still wait for the answer. Only a failure counts from here, and it is
            // awaited as such: waiting for bytes would end at once, and reading would take them.
            self.ready(Interest::ERROR).await.ok();
        }
    }
}

/// Unix sockets know no reset: a cut connection ends like a complete one.
#[cfg(unix)]
impl LocalSocket for tokio::net::UnixStream {
    fn set_reset_on_drop(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    async fn gave_up(&self) {
        let peeked = self.async_io(Interest::READABLE, || SockRef::from(self).peek(&mut [MaybeUninit::uninit()]));
        if matches!(peeked.await, Ok(1..)) {
            self.ready(Interest::ERROR).await.ok();
        }
    }
}

/// What became of a connection for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// One side has ended, the other may still have something to say: no longer a connection that counts.
    Lingering,
    /// It is over.
    Ended(ConnectionEnd),
}

/// One connection.
pub struct Relay<L, S> {
    local: L,
    /// Given up at the agent's FIN: the agent takes no bytes after it.
    stream: Option<S>,
    up: Up,
    down: Down,
    /// Read from the local socket, not yet taken by the stream.
    up_rest: Vec<u8>,
    /// The local program sends more than a little at a time.
    bulk: bool,
    /// Read from the stream, not yet taken by the local socket.
    down_rest: Rest,
    unflushed: bool,
    policy: HalfClose,
    /// Our FIN went out although a reply was due.
    gave_up: bool,
    linger: Duration,
    fin_wait: Duration,
    last_heard: Instant,
    timer: Pin<Box<Sleep>>,
    traffic: Arc<Traffic>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Up {
    Open,
    /// The local program has ended; our FIN waits for the policy.
    Held,
    /// Our FIN is on its way.
    Closing,
    /// Our FIN is out. What comes downwards is still delivered.
    Closed,
    /// The agent has ended: local bytes have no destination, but must be read. Closing a socket with unread bytes
    /// resets it, and that would destroy delivered data that the local program has not read yet.
    Discarding,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Down {
    Open,
    /// The agent has ended: deliver the rest, then shut down writing.
    Ending,
    /// The local socket takes nothing any more.
    Broken,
    Over {
        at: Instant,
    },
}

impl<L: LocalSocket, S: TunnelStream> Relay<L, S> {
    /// A relay between a local socket and a new stream, with the linger time of its half-close policy.
    #[must_use]
    pub fn new(local: L, stream: S, linger: Duration) -> Self {
        Self::counted(local, stream, linger, Arc::default())
    }

    /// The same; its bytes are counted where others can see them.
    pub(super) fn counted(local: L, stream: S, linger: Duration, traffic: Arc<Traffic>) -> Self {
        set_reset_on_drop(&local, true);
        let now = time::Instant::now();
        Self {
            local,
            stream: Some(stream),
            up: Up::Open,
            down: Down::Open,
            up_rest: Vec::new(),
            bulk: false,
            down_rest: Rest::default(),
            unflushed: false,
            policy: HalfClose::new(linger),
            gave_up: false,
            linger,
            fin_wait: FIN_WAIT,
            last_heard: now.into_std(),
            timer: Box::pin(time::sleep_until(now)),
            traffic,
        }
    }

    /// Waits for the destination's first words as for a reply, where nobody connects only to see whether that is possible.
    pub(super) fn awaiting_greeting(self) -> Self {
        Self { policy: self.policy.awaiting_greeting(), ..self }
    }

    /// Lets the agent be silent for so long after our FIN, where that is not to be bounded like a connection among many.
    pub(super) fn waiting_for_fin(self, fin_wait: Duration) -> Self {
        Self { fin_wait, ..self }
    }

    /// Carries bytes until one side has ended. Cancel-safe.
    pub async fn carry(&mut self) -> Carried {
        poll_fn(|cx| match self.poll_ended(cx) {
            Poll::Ready(end) => Poll::Ready(Carried::Ended(end)),
            Poll::Pending if self.is_lingering() => Poll::Ready(Carried::Lingering),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Carries bytes to the end. When `hurry` fires, nothing is waited for that may never come. Cancel-safe.
    pub async fn finish(&mut self, hurry: &CancellationToken) -> ConnectionEnd {
        if let Some(end) = hurry.run_until_cancelled(poll_fn(|cx| self.poll_ended(cx))).await {
            return end;
        }
        self.linger = Duration::ZERO;
        self.policy.hurry(self.rtt());
        poll_fn(|cx| self.poll_ended(cx)).await
    }

    /// Bytes given to the stream.
    #[must_use]
    pub fn bytes_up(&self) -> u64 {
        self.traffic.up()
    }

    /// Bytes given to the local program.
    #[must_use]
    pub fn bytes_down(&self) -> u64 {
        self.traffic.down()
    }

    fn is_lingering(&self) -> bool {
        match self.up {
            Up::Open => false,
            Up::Discarding => matches!(self.down, Down::Over { .. }),
            Up::Held | Up::Closing | Up::Closed | Up::Over => true,
        }
    }

    fn rtt(&self) -> Duration {
        self.stream.as_ref().map_or(Duration::ZERO, S::rtt)
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionEnd> {
        loop {
            let now = time::Instant::now().into_std();
            // One step of each direction in turn: a busy direction must not use up the task's share of the other.
            let moved = match (self.step_down(cx, now), self.step_up(cx, now)) {
                (Err(end), _) | (_, Err(end)) => return Poll::Ready(end),
                (Ok(down), Ok(up)) => down || up,
            };
            if let Some(end) = self.end(now) {
                if !matches!(end, ConnectionEnd::LocalReset | ConnectionEnd::Unanswered) {
                    set_reset_on_drop(&self.local, false);
                }
                return Poll::Ready(end);
            }
            if moved {
                continue;
            }
            let Some(deadline) = self.deadline(now) else { return Poll::Pending };
            let deadline = time::Instant::from_std(deadline);
            if self.timer.deadline() != deadline {
                self.timer.as_mut().reset(deadline);
            }
            ready!(self.timer.as_mut().poll(cx));
        }
    }

    /// Whether both directions have come to their end, and how.
    fn end(&self, now: Instant) -> Option<ConnectionEnd> {
        match (self.up, self.down) {
            (Up::Over, Down::Over { .. }) if !self.policy.has_local_ended() => Some(ConnectionEnd::DestinationClosed),
            (Up::Over, Down::Over { .. }) if self.gave_up => Some(ConnectionEnd::LingerExpired),
            (Up::Over, Down::Over { .. }) => Some(ConnectionEnd::LocalClosed),
            (Up::Discarding, Down::Over { at }) if reached(at, self.linger, now) => {
                Some(ConnectionEnd::DestinationClosed)
            }
            (_, Down::Broken) if self.stream.is_none() || self.up == Up::Closed => Some(ConnectionEnd::LocalReset),
            (Up::Closed, Down::Open) if self.down_rest.is_empty() && reached(self.last_heard, self.fin_wait, now) => {
                Some(ConnectionEnd::Unanswered)
            }
            _ => None,
        }
    }

    /// When something is due although nothing moves.
    fn deadline(&self, now: Instant) -> Option<Instant> {
        match (self.up, self.down) {
            // A local program that takes its time is not a silent destination.
            (Up::Held | Up::Closed, Down::Open) if !self.down_rest.is_empty() => None,
            (Up::Held, _) => match self.policy.fin(now) {
                Fin::NotDue => None,
                Fin::Now => Some(now),
                Fin::At(due) => Some(due),
            },
            (Up::Closed, Down::Open) => self.last_heard.checked_add(self.fin_wait),
            (Up::Discarding, Down::Over { at }) => at.checked_add(self.linger),
            _ => None,
        }
    }

    /// Towards the local program: passes on at most one chunk. `Ok(false)`: nothing can move now.
    fn step_down(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, ConnectionEnd> {
        match self.down {
            Down::Open | Down::Ending if !self.down_rest.is_empty() => {
                let written = taken(Pin::new(&mut self.local).poll_write(cx, self.down_rest.bytes()));
                // A local program that does not read keeps us from reading too, where we would learn of the cut. What
                // was cut is not worth waiting for; a stream with an end is, whatever becomes of its session.
                if let (Poll::Pending, Some(stream)) = (&written, &self.stream)
                    && let Poll::Ready(error) = stream.poll_cut(cx)
                {
                    return Err(stream_failed(&error));
                }
                Ok(self.delivered(written, now).map(|count| self.down_rest.advance(count)).is_some())
            }
            Down::Open | Down::Broken => {
                let Some(stream) = &mut self.stream else { return Ok(false) };
                let mut pieces = [const { Bytes::new() }; PIECES];
                let pieces = match stream.poll_read_pieces(cx, &mut pieces, CHUNK_DOWN) {
                    Poll::Pending => {
                        self.down_rest.release();
                        return Ok(false);
                    }
                    Poll::Ready(Err(error)) => return Err(stream_failed(&error)),
                    Poll::Ready(Ok(0)) => {
                        self.agent_ended();
                        return Ok(true);
                    }
                    Poll::Ready(Ok(count)) => &pieces[..count],
                };
                self.last_heard = now;
                self.policy.heard(now);
                if self.down == Down::Open {
                    let written = poll_write_pieces(&mut self.local, cx, pieces);
                    let count = self.delivered(written, now).unwrap_or(0);
                    if self.down == Down::Open {
                        self.down_rest.keep(pieces, count);
                    }
                }
                Ok(true)
            }
            Down::Ending => match Pin::new(&mut self.local).poll_shutdown(cx) {
                Poll::Pending => Ok(false),
                // A local program that is gone has no use for our end.
                Poll::Ready(_) => {
                    self.down = Down::Over { at: now };
                    Ok(true)
                }
            },
            Down::Over { .. } => Ok(false),
        }
    }

    /// Towards the destination: passes on at most one chunk. `Ok(false)`: nothing can move now.
    fn step_up(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, ConnectionEnd> {
        match self.up {
            Up::Open if !self.up_rest.is_empty() => {
                let Some(stream) = &mut self.stream else { return Ok(false) };
                let written = taken(stream.poll_write_buffer(cx, &mut self.up_rest));
                Ok(self.sent(written)?.is_some())
            }
            Up::Open if self.bulk => {
                self.up_rest.reserve_exact(CHUNK);
                match pin!(self.local.read_buf(&mut self.up_rest)).poll(cx) {
                    Poll::Pending => {
                        self.bulk = false;
                        self.up_rest = Vec::new();
                        self.flush(cx);
                        Ok(false)
                    }
                    Poll::Ready(Ok(1..)) => Ok(true),
                    Poll::Ready(read) => self.local_ended(read.map(|_| ()), now).map(|()| true),
                }
            }
            Up::Open | Up::Discarding => {
                let mut space = [MaybeUninit::uninit(); CHUNK];
                let mut chunk = ReadBuf::uninit(&mut space);
                match Pin::new(&mut self.local).poll_read(cx, &mut chunk) {
                    Poll::Pending => {
                        self.up_rest = Vec::new();
                        self.flush(cx);
                        return Ok(false);
                    }
                    Poll::Ready(read) if read.is_err() || chunk.filled().is_empty() => {
                        return self.local_ended(read, now).map(|()| true);
                    }
                    Poll::Ready(_) => {}
                }
                if let (Up::Open, Some(stream)) = (self.up, &mut self.stream) {
                    let written = taken(Pin::new(stream).poll_write(cx, chunk.filled()));
                    let count = self.sent(written)?.unwrap_or(0);
                    if self.up == Up::Open {
                        self.bulk = chunk.filled().len() == CHUNK;
                        self.up_rest.extend_from_slice(&chunk.filled()[count..]);
                    }
                }
                Ok(true)
            }
            Up::Held if self.policy.fin(now) == Fin::Now && self.down_rest.is_empty() => {
                self.gave_up = self.policy.is_reply_due();
                self.up = Up::Closing;
                Ok(true)
            }
            Up::Held => {
                self.flush(cx);
                Ok(false)
            }
            Up::Closing => {
                let Some(stream) = &mut self.stream else { return Ok(false) };
                match Pin::new(stream).poll_shutdown(cx) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(Err(error)) if is_fatal(&error) => return Err(stream_failed(&error)),
                    Poll::Ready(_) => {}
                }
                self.up = Up::Closed;
                self.last_heard = now;
                Ok(true)
            }
            Up::Closed | Up::Over => Ok(false),
        }
    }

    /// The result of a write to the local socket: `Some` bytes were taken, or its failure noted.
    fn delivered(&mut self, written: Poll<io::Result<usize>>, now: Instant) -> Option<usize> {
        match written {
            Poll::Pending => None,
            Poll::Ready(Ok(count)) => {
                self.traffic.delivered(count);
                self.last_heard = now;
                self.policy.delivered(now);
                Some(count)
            }
            Poll::Ready(Err(_)) => {
                // What the local program sent before it left may still wait to be read: upwards goes on to its end.
                self.down_rest = Rest::default();
                self.policy.local_failed();
                self.down = Down::Broken;
                Some(0)
            }
        }
    }

    /// The result of a write to the stream: `Some` bytes were taken, or the destination takes no more.
    fn sent(&mut self, written: Poll<io::Result<usize>>) -> Result<Option<usize>, ConnectionEnd> {
        match written {
            Poll::Pending => Ok(None),
            Poll::Ready(Ok(count)) => {
                self.traffic.sent(count);
                self.unflushed = true;
                self.policy.sent();
                Ok(Some(count))
            }
            Poll::Ready(Err(error)) if is_fatal(&error) => Err(stream_failed(&error)),
            // The agent's FIN is here but not read yet: reading tells.
            Poll::Ready(Err(_)) => {
                self.up_rest = Vec::new();
                self.up = Up::Discarding;
                Ok(Some(0))
            }
        }
    }

    /// The agent's FIN: nothing more comes, and nothing more is taken.
    fn agent_ended(&mut self) {
        self.stream = None;
        self.up_rest = Vec::new();
        self.down_rest.release();
        self.up = match self.up {
            Up::Open | Up::Discarding => Up::Discarding,
            Up::Held | Up::Closing | Up::Closed | Up::Over => Up::Over,
        };
        if self.down == Down::Open {
            self.down = Down::Ending;
        }
    }

    /// The local program has ended its direction, or its socket failed.
    fn local_ended(&mut self, read: io::Result<()>, now: Instant) -> Result<(), ConnectionEnd> {
        if self.up == Up::Discarding {
            self.up = Up::Over;
            return Ok(());
        }
        if read.is_err() && self.down != Down::Broken {
            // Dropping the stream discards what was not sent yet, as a reset does.
            return Err(ConnectionEnd::LocalReset);
        }
        self.policy.local_ended(now, self.rtt());
        self.up_rest = Vec::new();
        self.up = Up::Held;
        Ok(())
    }

    /// Pushes out what was written. Nobody waits for it: a pending flush only has to be polled again.
    fn flush(&mut self, cx: &mut Context<'_>) {
        if let (true, Some(stream)) = (self.unflushed, &mut self.stream) {
            // An error shows at the next read.
            self.unflushed = Pin::new(stream).poll_flush(cx).is_pending();
        }
    }
}

/// Writes pieces with one call of the system, or as many of them as it takes.
fn poll_write_pieces<W: AsyncWrite + Unpin>(
    writer: &mut W,
    cx: &mut Context<'_>,
    pieces: &[Bytes],
) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); PIECES];
    for (slice, piece) in slices.iter_mut().zip(pieces) {
        *slice = IoSlice::new(piece);
    }
    taken(Pin::new(writer).poll_write_vectored(cx, &slices[..pieces.len().min(PIECES)]))
}

/// The result of a write of at least one byte; a writer that takes none has failed.
fn taken(written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    match ready!(written) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(written),
    }
}

fn reached(since: Instant, wait: Duration, now: Instant) -> bool {
    now.saturating_duration_since(since) >= wait
}

/// Whether an error of the stream's writing side is the end of the whole stream.
fn is_fatal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
}

fn stream_failed(error: &io::Error) -> ConnectionEnd {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectionEnd::DestinationRefused,
        io::ErrorKind::TimedOut => ConnectionEnd::SlowReader,
        _ => ConnectionEnd::SessionEnded,
    }
}

/// Best effort: some systems refuse options on sockets whose peer is gone.
fn set_reset_on_drop(local: &impl LocalSocket, reset: bool) {
    if let Err(error) = local.set_reset_on_drop(reset) {
        tracing::debug!(%error, reset, "cannot set the linger option of a local socket");
    }
}

/// Bytes that were read and could not be passed on yet: at most one chunk.
#[derive(Default)]
struct Rest {
    bytes: Vec<u8>,
    start: usize,
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Copies what lies behind the first `skip` bytes of the pieces, which may be slices of something much larger.
    fn keep(&mut self, pieces: &[Bytes], mut skip: usize) {
        self.bytes.clear();
        self.start = 0;
        for piece in pieces {
            let from = skip.min(piece.len());
            skip -= from;
            self.bytes.extend_from_slice(&piece[from..]);
        }
    }

    fn advance(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
    }

    /// Gives the memory back while nothing is to be kept.
    fn release(&mut self) {
        if self.is_empty() && self.bytes.capacity() != 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests;
