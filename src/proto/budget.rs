//! Bounds that all sessions of a process share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::limits;

/// Bytes that the sessions of a process hold together. Clones share one account.
#[derive(Debug, Clone, Default)]
pub struct ProcessBudget {
    in_flight: Arc<AtomicUsize>,
    parked: Arc<AtomicUsize>,
    unread: Arc<AtomicUsize>,
}

/// One session's share of an account: what it holds is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    total: Arc<AtomicUsize>,
    limit: usize,
    own: usize,
}

impl ProcessBudget {
    pub(super) fn in_flight(&self) -> Share {
        Share { total: Arc::clone(&self.in_flight), limit: limits::IN_FLIGHT_BYTES_PROCESS, own: 0 }
    }

    pub(super) fn parked(&self) -> Share {
        Share { total: Arc::clone(&self.parked), limit: limits::PARKED_BYTES_PROCESS, own: 0 }
    }

    pub(super) fn unread(&self) -> Share {
        Share { total: Arc::clone(&self.unread), limit: limits::UNREAD_PROCESS, own: 0 }
    }
}

impl Share {
    /// Says how much this session holds now.
    pub(super) fn set(&mut self, bytes: usize) {
        if bytes > self.own {
            self.total.fetch_add(bytes - self.own, Ordering::Relaxed);
        } else if bytes < self.own {
            self.total.fetch_sub(self.own - bytes, Ordering::Relaxed);
        }
        self.own = bytes;
    }

    pub(super) fn own(&self) -> usize {
        self.own
    }

    /// Whether others hold something too.
    pub(super) fn is_shared(&self) -> bool {
        self.total.load(Ordering::Relaxed) > self.own
    }

    /// How much this session may hold, if nothing is taken from the others.
    pub(super) fn allowance(&self) -> usize {
        (self.own + self.limit).saturating_sub(self.total.load(Ordering::Relaxed))
    }

    /// Whether the process has room. A session below the floor always has: nobody wakes a session that waits for
    /// room of others, so each must be able to go on by itself.
    pub(super) fn has_room(&self) -> bool {
        self.own < limits::PROCESS_BUDGET_FLOOR || self.total.load(Ordering::Relaxed) < self.limit
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_process_leaves_every_session_its_floor() {
        let budget = ProcessBudget::default();
        let (mut hog, mut modest) = (budget.in_flight(), budget.in_flight());
        hog.set(limits::IN_FLIGHT_BYTES_PROCESS);
        assert!(!hog.has_room() && modest.has_room());
        modest.set(limits::PROCESS_BUDGET_FLOOR);
        assert!(!modest.has_room());
        drop(hog);
        assert!(modest.has_room());
    }

    #[test]
    fn what_others_hold_is_not_allowed_here() {
        let limit = limits::UNREAD_PROCESS;
        let budget = ProcessBudget::default();
        let (mut one, mut other) = (budget.unread(), budget.unread());
        one.set(limit - 10);
        assert!(!one.is_shared() && other.is_shared());
        assert_eq!((one.allowance(), other.allowance()), (limit, 10));
        other.set(14);
        assert!(one.is_shared());
        assert_eq!((one.allowance(), other.allowance()), (limit - 14, 10));
        one.set(limit * 2);
        assert_eq!(other.allowance(), 0);
        drop(one);
        assert_eq!(other.allowance(), limit);
    }
}
