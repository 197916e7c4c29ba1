//! Which connections linger: ended on one side, waiting for the other. They do not count as connections, but they are
//! not free either, so only so many are kept.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// Lingering connections of one forward. Clients that open and close 50 connections a second fill it within the
/// default linger time of 5 s.
const KEPT: usize = 256;

/// The lingering connections of a forward, oldest first.
pub(super) struct Lingering {
    entries: Mutex<VecDeque<Arc<Entry>>>,
    /// Hurries all of them, those to come included.
    stopping: CancellationToken,
}

struct Entry {
    hurry: CancellationToken,
    /// Held while the connection counts again.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

/// A connection's place among the lingering; given up when dropped.
pub(super) struct Place {
    among: Arc<Lingering>,
    entry: Arc<Entry>,
}

impl Lingering {
    /// No connection lingers yet. Once `stopping` fires, none does for long.
    pub(super) fn new(stopping: CancellationToken) -> Self {
        Self { entries: Mutex::default(), stopping }
    }

    /// Exchanges a connection's permit for a place. When all places are taken, the oldest lingering connection is
    /// hurried and takes over the permit until it is over: connections and lingering ones together stay bounded.
    pub(super) fn enter(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Place {
        let entry = Arc::new(Entry { hurry: self.stopping.child_token(), permit: Mutex::new(None) });
        let oldest = {
            let mut entries = lock(&self.entries);
            let oldest = if entries.len() >= KEPT { entries.pop_front() } else { None };
            entries.push_back(entry.clone());
            oldest
        };
        if let Some(oldest) = oldest {
            *lock(&oldest.permit) = Some(permit);
            oldest.hurry.cancel();
        }
        Place { among: self.clone(), entry }
    }
}

impl Place {
    /// Fires when the connection must make room, or the forward stops.
    pub(super) fn hurry(&self) -> &CancellationToken {
        &self.entry.hurry
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.among.entries).retain(|entry| !Arc::ptr_eq(entry, &self.entry));
    }
}

/// What is behind these locks is whole between any two statements: a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn the_oldest_makes_room_and_counts_until_it_is_over() {
        let connections = Arc::new(Semaphore::new(1));
        let permit = || connections.clone().try_acquire_owned().expect("no connection counts");
        let lingering = Arc::new(Lingering::new(CancellationToken::new()));

        let mut places: Vec<_> = (0..KEPT).map(|_| lingering.enter(permit())).collect();
        assert!(places.iter().all(|place| !place.hurry().is_cancelled()));

        let newest = lingering.enter(permit());
        assert!(places[0].hurry().is_cancelled() && !places[1].hurry().is_cancelled());
        assert!(!newest.hurry().is_cancelled());
        assert_eq!(connections.available_permits(), 0, "the oldest has the permit now");

        places.remove(0);
        assert_eq!(connections.available_permits(), 1);
    }

    #[test]
    fn a_forward_that_stops_hurries_all() {
        let connections = Arc::new(Semaphore::new(2));
        let permit = || connections.clone().try_acquire_owned().expect("permits are left");
        let stopping = CancellationToken::new();
        let lingering = Arc::new(Lingering::new(stopping.clone()));
        let before = lingering.enter(permit());
        assert!(!before.hurry().is_cancelled());
        stopping.cancel();
        let after = lingering.enter(permit());
        assert!(before.hurry().is_cancelled() && after.hurry().is_cancelled());
    }

    #[test]
    fn a_place_that_was_given_up_is_free() {
        let connections = Arc::new(Semaphore::new(KEPT + 1));
        let permit = || connections.clone().try_acquire_owned().expect("permits are left");
        let lingering = Arc::new(Lingering::new(CancellationToken::new()));
        let mut places: Vec<_> = (0..KEPT).map(|_| lingering.enter(permit())).collect();
        places.truncate(KEPT - 1);
        places.push(lingering.enter(permit()));
        assert!(places.iter().all(|place| !place.hurry().is_cancelled()));
    }
}
