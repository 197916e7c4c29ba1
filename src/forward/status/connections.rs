//! The connections of one forward: which are open, and what all of them have carried.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{ConnectionStatus, Monitor, Totals};
use crate::{
    forward::{ConnectionEnd, Peer},
    session::SessionId,
};

/// What one connection has carried. Written by one task, read by any: nothing is locked, and nothing is added up at
/// once, for a byte.
#[derive(Debug, Default)]
pub(in crate::forward) struct Traffic {
    up: AtomicU64,
    down: AtomicU64,
}

impl Traffic {
    /// Bytes given to the stream.
    pub(in crate::forward) fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes given to the local program.
    pub(in crate::forward) fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// So many more were given to the stream.
    pub(in crate::forward) fn sent(&self, bytes: usize) {
        add(&self.up, bytes);
    }

    /// So many more were given to the local program.
    pub(in crate::forward) fn delivered(&self, bytes: usize) {
        add(&self.down, bytes);
    }
}

/// There is one writer, so that this loses nothing, and costs no more than adding to a plain number.
fn add(sum: &AtomicU64, bytes: usize) {
    sum.store(sum.load(Ordering::Relaxed).wrapping_add(bytes as u64), Ordering::Relaxed);
}

/// The connections of a forward. What is behind the lock is touched at their begin and end, and for a snapshot.
#[derive(Debug, Default)]
pub(super) struct Connections {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    /// By number, and so by age.
    open: BTreeMap<u64, Arc<Entry>>,
    /// Connections accepted, and the number of the latest.
    accepted: u64,
    /// Of those that are over.
    bytes_up: u64,
    bytes_down: u64,
    refused: u64,
    unserved: u64,
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    accepted_at: Instant,
    session: OnceLock<SessionId>,
    traffic: Arc<Traffic>,
}

/// An open connection's place in the book, given up when dropped.
pub(in crate::forward) struct Connection {
    monitor: Monitor,
    number: u64,
    entry: Arc<Entry>,
}

impl Connections {
    /// A connection was accepted.
    pub(super) fn open(&self, monitor: &Monitor, peer: Peer) -> Connection {
        let traffic = Arc::default();
        let entry = Arc::new(Entry { peer, accepted_at: Instant::now(), session: OnceLock::new(), traffic });
        let number = {
            let mut book = self.lock();
            book.accepted += 1;
            let number = book.accepted;
            book.open.insert(number, entry.clone());
            number
        };
        Connection { monitor: monitor.clone(), number, entry }
    }

    /// The open ones, the oldest first, and the part of the totals that connections add up to. Both are of one moment, but
    /// for bytes that move meanwhile.
    pub(super) fn look(&self, now: Instant) -> (Vec<ConnectionStatus>, Totals) {
        // Nothing is built under the lock, for which every connection waits that begins or ends.
        let (entries, mut totals) = {
            let book = self.lock();
            let totals = Totals {
                connections: book.accepted,
                bytes_up: book.bytes_up,
                bytes_down: book.bytes_down,
                refused: book.refused,
                unserved: book.unserved,
                ..Totals::default()
            };
            (book.open.iter().map(|(id, entry)| (*id, entry.clone())).collect::<Vec<_>>(), totals)
        };
        let status = |(id, entry): &(u64, Arc<Entry>)| ConnectionStatus {
            id: *id,
            peer: entry.peer,
            age: now.saturating_duration_since(entry.accepted_at),
            session: entry.session.get().cloned(),
            bytes_up: entry.traffic.up(),
            bytes_down: entry.traffic.down(),
        };
        let open: Vec<_> = entries.iter().map(status).collect();
        totals.bytes_up += open.iter().map(|connection| connection.bytes_up).sum::<u64>();
        totals.bytes_down += open.iter().map(|connection| connection.bytes_down).sum::<u64>();
        (open, totals)
    }

    /// A connection is over. In one step, or its bytes would be missed or counted twice in between.
    fn close(&self, number: u64, end: Option<ConnectionEnd>) {
        let mut book = self.lock();
        let Some(entry) = book.open.remove(&number) else { return };
        book.bytes_up += entry.traffic.up();
        book.bytes_down += entry.traffic.down();
        match end {
            Some(ConnectionEnd::DestinationRefused) => book.refused += 1,
            Some(ConnectionEnd::NoSession) => book.unserved += 1,
            _ => {}
        }
    }

    /// What is behind the lock is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// What counts its bytes.
    pub(in crate::forward) fn traffic(&self) -> &Arc<Traffic> {
        &self.entry.traffic
    }

    /// It has got a stream of this session.
    pub(in crate::forward) fn carried_by(&self, session: &SessionId) {
        self.entry.session.get_or_init(|| session.clone());
    }

    /// It is over; nothing moves any more. Returns the bytes up and down, and how long it was open.
    pub(in crate::forward) fn end(&self, end: ConnectionEnd) -> (u64, u64, Duration) {
        self.monitor.connections().close(self.number, Some(end));
        (self.entry.traffic.up(), self.entry.traffic.down(), self.entry.accepted_at.elapsed())
    }
}

/// If it has not come to an end that could be told.
impl Drop for Connection {
    fn drop(&mut self) {
        self.monitor.connections().close(self.number, None);
    }
}
