//! How many connections a forward's sessions have together, and what of it the supervisor has to be told. Most
//! connections come and go without anybody being told.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::{Notify, futures::Notified};

/// The connections of a forward.
pub(super) struct Crowd {
    connections: AtomicUsize,
    /// The supervisor is to be woken when there are so many.
    wake_at: AtomicUsize,
    /// A connection had to share a session although there could be more of them.
    shared: AtomicBool,
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
        self.connections.fetch_sub(1, Ordering::SeqCst);
        if had_stream {
            self.left.notify_waiters();
        }
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
