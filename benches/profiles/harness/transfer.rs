//! Bytes on their way in one direction, as both ends of this process know them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

use tokio::{sync::Notify, time::timeout};

use super::{Outcome, PATIENCE, pattern};

/// The goal of a transfer that ends when it is told to.
const OPEN_END: u64 = u64::MAX;

/// One transfer. Its sender counts what it sent, its receiver checks and counts what came.
pub(crate) struct Transfer {
    pub(crate) id: u64,
    sent: AtomicU64,
    received: AtomicU64,
    /// Bytes in all, once that is known.
    goal: AtomicU64,
    stopped: AtomicBool,
    wrong: OnceLock<String>,
    changed: Notify,
}

impl Transfer {
    /// The next bytes to send; none at the end. `sent` must be told of those that were.
    pub(crate) fn next(&self) -> &'static [u8] {
        let sent = self.sent.load(Acquire);
        if self.stopped.load(Acquire) {
            self.end_at(sent);
        }
        let left = self.goal.load(Acquire).saturating_sub(sent);
        pattern::bytes(self.id, sent, usize::try_from(left).unwrap_or(usize::MAX))
    }

    pub(crate) fn sent(&self, count: usize) {
        self.sent.fetch_add(count as u64, AcqRel);
    }

    /// Bytes that were received. Says whether they were the right ones.
    pub(crate) fn received(&self, bytes: &[u8]) -> bool {
        let mut at = self.received.load(Relaxed);
        for piece in bytes.chunks(pattern::PIECE) {
            if piece != pattern::bytes(self.id, at, piece.len()) {
                self.fail(format!("transfer {}: wrong bytes at {at}", self.id));
                return false;
            }
            at += piece.len() as u64;
        }
        self.received.store(at, Release);
        if at >= self.goal.load(Acquire) {
            self.changed.notify_one();
        }
        true
    }

    /// Something went wrong at either end.
    pub(crate) fn fail(&self, what: String) {
        drop(self.wrong.set(what)); // the first is the one that is told
        self.changed.notify_one();
    }

    /// Bytes sent so far.
    pub(crate) fn sent_so_far(&self) -> u64 {
        self.sent.load(Acquire)
    }

    /// Bytes received so far.
    pub(crate) fn count(&self) -> u64 {
        self.received.load(Acquire)
    }

    /// Tells the sender to stop. It answers by [`next`](Self::next).
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Release);
    }

    /// So many bytes were, or are to be, sent in all.
    pub(crate) fn end_at(&self, goal: u64) {
        self.goal.store(goal, Release);
        self.changed.notify_one();
    }

    /// How many bytes were sent in all, once the sender has stopped.
    pub(crate) fn goal(&self) -> Option<u64> {
        Some(self.goal.load(Acquire)).filter(|goal| *goal != OPEN_END)
    }

    /// Waits until the sender has stopped; how many bytes it sent in all.
    pub(crate) async fn ended(&self) -> Outcome<u64> {
        let ended = async {
            loop {
                match self.goal() {
                    Some(goal) => return goal,
                    None => self.changed.notified().await,
                }
            }
        };
        Ok(timeout(PATIENCE, ended).await.map_err(|_| format!("transfer {}: its sender does not stop", self.id))?)
    }

    /// Waits until all has arrived, for as long as there is something that does.
    pub(crate) async fn complete(&self) -> Outcome<()> {
        let arrived = async {
            loop {
                if let Some(wrong) = self.wrong.get() {
                    return Err(wrong.clone().into());
                }
                let (received, goal) = (self.count(), self.goal.load(Acquire));
                if received > goal {
                    return Err(format!("transfer {}: {received} bytes arrived of {goal}", self.id).into());
                }
                if received == goal {
                    return Ok(());
                }
                self.changed.notified().await;
            }
        };
        tokio::pin!(arrived);
        let mut before = self.count();
        loop {
            if let Ok(done) = timeout(PATIENCE, &mut arrived).await {
                return done;
            }
            if self.count() == before {
                return Err(format!("transfer {}: {before} bytes arrived, {:?} sent", self.id, self.goal()).into());
            }
            before = self.count();
        }
    }
}

/// All transfers, by their number.
#[derive(Default)]
pub(crate) struct Transfers {
    known: Mutex<HashMap<u64, Arc<Transfer>>>,
    next: AtomicU64,
}

impl Transfers {
    /// A new one, of so many bytes or until it is stopped.
    pub(crate) fn add(&self, bytes: Option<u64>) -> Arc<Transfer> {
        let transfer = Arc::new(Transfer {
            id: self.next.fetch_add(1, Relaxed),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            goal: AtomicU64::new(bytes.unwrap_or(OPEN_END)),
            stopped: AtomicBool::new(false),
            wrong: OnceLock::new(),
            changed: Notify::new(),
        });
        self.lock().insert(transfer.id, Arc::clone(&transfer));
        transfer
    }

    pub(crate) fn find(&self, id: u64) -> Option<Arc<Transfer>> {
        self.lock().get(&id).cloned()
    }

    pub(crate) fn forget(&self, id: u64) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Transfer>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
