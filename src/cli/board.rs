//! All forwards of the program at a moment: what the admin endpoint, the live view and SIGUSR1 show.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{clock::Timestamp, plan::PlannedForward};
use crate::forward::{ForwardState, ForwardStatus, Monitor};

/// The forwards that run. Reloading the configuration adds and removes some.
pub(super) struct Board {
    started: Instant,
    started_at: Timestamp,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    forwards: Vec<Entry>,
    next_id: u64,
}

/// A forward's place on the board, which it has until this is dropped.
pub(super) struct Posted {
    board: Arc<Board>,
    id: u64,
}

struct Entry {
    id: u64,
    name: String,
    destination: String,
    target: String,
    monitor: Monitor,
}

/// The program at a moment.
pub(super) struct Snapshot {
    pub(super) uptime: Duration,
    pub(super) started_at: Timestamp,
    /// In command order.
    pub(super) forwards: Vec<ForwardSnapshot>,
}

/// One forward at a moment.
pub(super) struct ForwardSnapshot {
    /// The name of the tunnel, or FORWARD as typed.
    pub(super) name: String,
    /// What the target connects to, for people.
    pub(super) destination: String,
    /// The target as given.
    pub(super) target: String,
    pub(super) status: ForwardStatus,
}

/// For people, in one line.
impl fmt::Display for ForwardSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, destination, target, status } = self;
        let addresses: Vec<_> = status.addresses.iter().map(ToString::to_string).collect();
        write!(f, "{name}: {} -> {destination} through {target}: {}", addresses.join(", "), status.state.name())?;
        if let ForwardState::Reconnecting { since } = status.state {
            write!(f, " for {} s", since.as_secs())?;
        }
        let totals = status.totals;
        write!(f, "; connections: {} now, {} in all", status.connections.len(), totals.connections)?;
        write!(f, "; sessions: {}", status.sessions.len())?;
        write!(f, "; bytes: {} up, {} down", totals.bytes_up, totals.bytes_down)?;
        match status.sessions.iter().find_map(|session| session.rtt) {
            Some(rtt) => write!(f, "; round trip: {} ms", rtt.as_millis()),
            None => Ok(()),
        }
    }
}

impl Snapshot {
    /// Whether every forward can carry a connection.
    pub(super) fn is_ready(&self) -> bool {
        !self.forwards.is_empty() && self.forwards.iter().all(|forward| forward.status.state.is_ready())
    }
}

impl Default for Board {
    fn default() -> Self {
        Self { started: Instant::now(), started_at: Timestamp::now(), entries: Mutex::default() }
    }
}

impl Board {
    /// A forward listens from now on.
    pub(super) fn post(self: &Arc<Self>, forward: &PlannedForward, monitor: Monitor) -> Posted {
        let mut entries = self.lock();
        let id = entries.next_id;
        entries.next_id += 1;
        entries.forwards.push(Entry {
            id,
            name: forward.name().to_owned(),
            destination: forward.destination(),
            target: forward.request.target.clone(),
            monitor,
        });
        Posted { board: self.clone(), id }
    }

    /// Everything now. Blocks for no IO.
    pub(super) fn snapshot(&self) -> Snapshot {
        let of = |entry: &Entry| ForwardSnapshot {
            name: entry.name.clone(),
            destination: entry.destination.clone(),
            target: entry.target.clone(),
            status: entry.monitor.status(),
        };
        Snapshot {
            uptime: self.started.elapsed(),
            started_at: self.started_at,
            forwards: self.lock().forwards.iter().map(of).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        self.board.lock().forwards.retain(|entry| entry.id != self.id);
    }
}
