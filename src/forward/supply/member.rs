//! One session of a forward, and who uses it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{sync::watch, time::Instant};

use super::Tunnel;

/// Tells the sessions of a forward apart: each is greater than those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemberId(pub(super) u64);

/// A session that was ready once.
pub(super) struct Member<T> {
    pub(super) id: MemberId,
    pub(super) tunnel: T,
    /// When it became ready.
    pub(super) ready_at: Instant,
    leases: watch::Sender<usize>,
    carried: AtomicBool,
}

impl<T: Tunnel> Member<T> {
    pub(super) fn new(id: MemberId, tunnel: T, ready_at: Instant) -> Self {
        Self { id, tunnel, ready_at, leases: watch::Sender::new(0), carried: AtomicBool::new(false) }
    }

    /// Whether a stream was ever opened.
    pub(super) fn has_carried(&self) -> bool {
        self.carried.load(Ordering::Relaxed)
    }

    /// Completes when no connection uses the session.
    pub(super) async fn unused(&self) {
        let mut leases = self.leases.subscribe();
        // The sender is ours and outlives this.
        if leases.wait_for(|count| *count == 0).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Held by a connection from before its stream is opened until after it is dropped.
pub(in crate::forward) struct Lease<T> {
    member: Arc<Member<T>>,
}

impl<T: Tunnel> Lease<T> {
    pub(super) fn new(member: &Arc<Member<T>>) -> Self {
        member.leases.send_modify(|count| *count += 1);
        Self { member: member.clone() }
    }

    /// The stream is open.
    pub(super) fn opened(&self) {
        self.member.carried.store(true, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn tunnel(&self) -> &T {
        &self.member.tunnel
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        self.member.leases.send_modify(|count| *count -= 1);
    }
}
