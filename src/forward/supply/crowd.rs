//! How many connections a forward's sessions have together, and what of it the supervisor has to be told. Most
//! connections come and go without anybody being told.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

/// The connections of a forward.
pub(super) struct Crowd {
    connections: AtomicUsize,
    /// The supervisor is to be woken when there are so many.
    wake_at: AtomicUsize,
    /// A connection had to share a session although there could be more of them.
    shared: AtomicBool,
    /// The supervisor is to be woken when there is none.
    tells_when_empty: AtomicBool,
    /// When the latest connection left.
    empty_since: Mutex<Instant>,
    wake: Notify,
    left: Notify,
    choice: Mutex<()>,
}

impl Crowd {
    pub(super) fn new() -> Self {
        Self {
            connections: AtomicUsize::new(0),
            wake_at: AtomicUsize::new(usize::MAX),
            shared: AtomicBool::new(false),
            tells_when_empty: AtomicBool::new(false),
            empty_since: Mutex::new(Instant::now()),
            wake: Notify::new(),
            left: Notify::new(),
            choice: Mutex::new(()),
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Held from the look at the sessions until one of them is taken, so that two connections do not take the same for
    /// its being idle. For microseconds.
    pub(super) fn choose(&self) -> MutexGuard<'_, ()> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self) {
        let connections = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
        self.wake_if(connections);
    }

    /// A connection leaves. One that had no stream was in nobody's way: if those that wait woke one another by giving up
    /// their places, they would do so for ever.
    pub(super) fn leave(&self, had_stream: bool) {
        // Before the number: whoever finds that there is none finds since when.
        *self.empty_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if self.connections.fetch_sub(1, Ordering::SeqCst) == 1 && self.tells_when_empty.swap(false, Ordering::SeqCst) {
            self.wake.notify_one();
        }
        if had_stream {
            self.left.notify_waiters();
        }
    }

    /// Whether there is no connection; if there is one, the supervisor will be woken, once, when there is none.
    pub(super) fn is_empty_or_tells(&self) -> bool {
        self.tells_when_empty.store(true, Ordering::SeqCst);
        let is_empty = self.connections() == 0;
        if is_empty {
            self.tells_when_empty.store(false, Ordering::SeqCst);
        }
        is_empty
    }

    /// Since when there is no connection, if there is none.
    pub(super) fn empty_since(&self) -> Instant {
        *self.empty_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes when a connection with a stream leaves after this call, polled by then or not.
    pub(super) fn left(&self) -> Notified<'_> {
        self.left.notified()
    }

    /// A connection has to share a session although there could be more of them.
    pub(super) fn shares(&self) {
        if !self.shared.swap(true, Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Whether one had to since the last call.
    pub(super) fn had_to_share(&self) -> bool {
        self.shared.swap(false, Ordering::SeqCst)
    }

    /// Wakes the supervisor, once, when there are so many connections; at once if there are. `None`: never.
    pub(super) fn wake_at(&self, connections: Option<usize>) {
        self.wake_at.store(connections.unwrap_or(usize::MAX), Ordering::SeqCst);
        self.wake_if(self.connections());
    }

    fn wake_if(&self, connections: usize) {
        if connections >= self.wake_at.load(Ordering::SeqCst) {
            self.wake_at.store(usize::MAX, Ordering::SeqCst);
            self.wake.notify_one();
        }
    }

    /// Completes when the supervisor has to look.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}
