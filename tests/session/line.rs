//! The client's end of a websocket's transport, and how it fails.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, Weak},
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// How a transport fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Reading and writing fail, as TLS does on a damaged record; what was under way is lost, both ways.
    Broken,
    /// What is written is swallowed, and nothing comes.
    Hole,
    /// Nothing is taken, and nothing comes.
    Wedged,
}

/// When a transport fails by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failing {
    /// After that many bytes.
    pub(crate) after: usize,
    /// Only those that were read count.
    pub(crate) read: bool,
    pub(crate) fault: Fault,
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    failing: Option<Failing>,
    wakers: [Option<Waker>; 2],
}

/// Called when a transport, or an attempt to open one, is dropped.
pub(crate) type Hook = Arc<Mutex<Option<Box<dyn Fn() + Send>>>>;

pub(crate) struct Dropped(pub(crate) Hook);

impl Drop for Dropped {
    fn drop(&mut self) {
        if let Some(hook) = &*self.0.lock().expect("no test panics with it") {
            hook();
        }
    }
}

pub(crate) struct Line {
    io: DuplexStream,
    state: Arc<Mutex<State>>,
    _dropped: Dropped,
    _alive: Arc<()>,
}

/// Makes a [`Line`] fail.
#[derive(Clone)]
pub(crate) struct Breaker {
    state: Arc<Mutex<State>>,
    alive: Weak<()>,
}

impl Line {
    pub(crate) fn new(io: DuplexStream, failing: Option<Failing>, hook: Hook) -> (Self, Breaker) {
        let state = Arc::new(Mutex::new(State { failing, ..State::default() }));
        let alive = Arc::new(());
        let breaker = Breaker { state: Arc::clone(&state), alive: Arc::downgrade(&alive) };
        (Self { io, state, _dropped: Dropped(hook), _alive: alive }, breaker)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with it")
    }

    /// What a call comes to without asking the transport; otherwise how much may move.
    fn check(&self, writing: bool, len: usize, cx: &Context<'_>) -> Result<usize, Poll<io::Result<usize>>> {
        let mut state = self.state();
        if let Some(Failing { after: 0, fault, .. }) = state.failing {
            state.fault = Some(fault);
        }
        match state.fault {
            Some(Fault::Broken) => {
                Err(Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a damaged record"))))
            }
            Some(Fault::Hole) if writing => Err(Poll::Ready(Ok(len))),
            Some(_) => Err(Poll::Pending),
            None => {
                state.wakers[usize::from(writing)] = Some(cx.waker().clone());
                let counting = state.failing.filter(|failing| !writing || !failing.read);
                Ok(counting.map_or(len, |failing| failing.after.min(len)))
            }
        }
    }

    fn moved(&self, writing: bool, count: usize) {
        if let Some(failing) = &mut self.state().failing
            && !(writing && failing.read)
        {
            failing.after -= count;
        }
    }
}

impl Breaker {
    pub(crate) fn trip(&self, fault: Fault) {
        let mut state = self.state.lock().expect("no test panics with it");
        state.fault = Some(fault);
        state.wakers.iter_mut().filter_map(Option::take).for_each(Waker::wake);
    }

    /// Whether the client has let go of the transport.
    pub(crate) fn is_dropped(&self) -> bool {
        self.alive.strong_count() == 0
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.check(false, buffer.remaining(), cx) {
            Err(poll) => poll.map_ok(drop),
            Ok(limit) => {
                let mut part = ReadBuf::new(buffer.initialize_unfilled_to(limit));
                let poll = Pin::new(&mut this.io).poll_read(cx, &mut part);
                let count = part.filled().len();
                buffer.advance(count);
                this.moved(false, count);
                poll
            }
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.check(true, bytes.len(), cx) {
            Err(poll) => poll,
            Ok(limit) => {
                let poll = Pin::new(&mut this.io).poll_write(cx, &bytes[..limit]);
                if let Poll::Ready(Ok(count)) = poll {
                    this.moved(true, count);
                }
                poll
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
