//! One session of a forward, and who uses it.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::{sync::watch, time::Instant};

use super::{Tunnel, crowd::Crowd};
use crate::{
    forward::{
        SessionStatus,
        retry::is_outage,
        sessions::Place,
        status::{Fitness, Watched},
    },
    proto::{Cause, CloseReason, Initiator},
    session::{Health, SessionId},
};

/// Tells the sessions of a forward apart: each is greater than those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MemberId(pub(super) u64);

/// A session that was ready once.
pub(super) struct Member<T> {
    pub(super) id: MemberId,
    /// Its place in the pool, from 0; the next one in that place has the same.
    pub(super) slot: u32,
    pub(super) tunnel: T,
    /// When it became ready.
    pub(super) ready_at: Instant,
    uses: watch::Sender<Uses>,
    carried: AtomicBool,
    unfit: Mutex<Option<Unfit>>,
    crowd: Arc<Crowd>,
    /// New connections may get it.
    serves: AtomicBool,
    /// Since when its agent is silent, if it is.
    stalled_since: Mutex<Option<Instant>>,
    /// Why we end it, if it is because nobody uses it: the session itself only knows that it was asked to end.
    unused: OnceLock<CloseReason>,
    /// Given back when nothing is left of the session, although a connection that outlives it may hold the member.
    place: Mutex<Option<Place>>,
}

/// Who uses a session.
#[derive(Debug, Clone, Copy)]
struct Uses {
    /// Connections, also those that wait for their stream.
    leases: usize,
    /// Those of them that have ended on one side.
    lingering: usize,
    /// Since when there is none, if there is none.
    idle_since: Instant,
    /// No more are taken: it is ended because it was unused.
    closed: bool,
}

/// Why new connections cannot use a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unfit {
    pub(super) since: Instant,
    /// Because the agent is silent, which may change.
    pub(super) stalled: bool,
}

impl<T: Tunnel> Member<T> {
    pub(super) fn new(
        id: MemberId,
        slot: u32,
        tunnel: T,
        ready_at: Instant,
        crowd: &Arc<Crowd>,
        place: Option<Place>,
    ) -> Self {
        Self {
            id,
            slot,
            tunnel,
            ready_at,
            uses: watch::Sender::new(Uses { leases: 0, lingering: 0, idle_since: ready_at, closed: false }),
            carried: AtomicBool::new(false),
            unfit: Mutex::default(),
            crowd: crowd.clone(),
            serves: AtomicBool::new(true),
            stalled_since: Mutex::default(),
            unused: OnceLock::new(),
            place: Mutex::new(place),
        }
    }

    /// Whether a stream was ever opened.
    pub(super) fn has_carried(&self) -> bool {
        self.carried.load(Ordering::Relaxed)
    }

    /// Connections that use it, lingering ones included.
    pub(super) fn leases(&self) -> usize {
        self.uses.borrow().leases
    }

    /// Connections that have not ended on either side.
    pub(super) fn connections(&self) -> usize {
        let uses = *self.uses.borrow();
        uses.leases.saturating_sub(uses.lingering)
    }

    /// Since when no connection has used it; `None` if one does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let uses = *self.uses.borrow();
        (uses.leases == 0).then_some(uses.idle_since)
    }

    /// Takes no more connections, if there is none. False if there is one.
    pub(super) fn close_if_unused(&self) -> bool {
        let mut closed = false;
        self.uses.send_if_modified(|uses| {
            uses.closed |= uses.leases == 0;
            closed = uses.closed;
            false
        });
        closed
    }

    /// Notes why it is ended now that [`Self::close_if_unused`] has said that nobody uses it.
    pub(super) fn set_unused(&self, reason: CloseReason) {
        self.unused.get_or_init(|| reason);
    }

    /// Why it has ended, of what its end was told to be, and whether that was because nobody used it. What comes before
    /// the end that we want, such as a network that is lost, is told as it is.
    pub(super) fn end_of(&self, end: CloseReason) -> (CloseReason, bool) {
        let unused = self.unused.get();
        let asked = end.initiator == Initiator::Us && end.cause == Cause::Requested;
        (unused.filter(|_| asked).cloned().unwrap_or(end), unused.is_some())
    }

    /// Completes when no connection uses the session.
    pub(super) async fn unused(&self) {
        let mut uses = self.uses.subscribe();
        // The sender is ours and outlives this.
        if uses.wait_for(|uses| uses.leases == 0).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Notes that new connections cannot use it; the first time counts. Returns since when.
    pub(super) fn set_unfit(&self, stalled: bool) -> Instant {
        let unfit = Unfit { since: Instant::now(), stalled };
        self.unfit().get_or_insert(unfit).since
    }

    /// New connections do not get it any more.
    pub(super) fn stop_serving(&self) {
        self.serves.store(false, Ordering::Relaxed);
    }

    /// Its agent is silent; the first time since [`Self::recover`] counts.
    pub(super) fn stall(&self) {
        self.stalled_since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    /// A session that was stalled has recovered; the next time counts afresh. One that takes no more streams is as full
    /// as before.
    pub(super) fn recover(&self) {
        *self.stalled_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut unfit = self.unfit();
        if unfit.is_some_and(|unfit| unfit.stalled) {
            *unfit = None;
        }
    }

    /// Whether it takes no more streams.
    pub(super) fn is_full(&self) -> bool {
        self.unfit().is_some_and(|unfit| !unfit.stalled)
    }

    /// Whether a connection has found that it cannot use it, and still could not.
    pub(super) fn is_unfit(&self) -> bool {
        let unfit = *self.unfit();
        unfit.is_some_and(|unfit| !unfit.stalled || *self.tunnel.health().borrow() == Health::Stalled)
    }

    /// Whether a new connection can use it at the moment.
    pub(super) fn is_usable(&self) -> bool {
        !self.is_full() && *self.tunnel.health().borrow() == Health::Ready
    }

    /// Nothing is left of the session: another one may have its place in the account.
    pub(super) fn give_place_back(&self) {
        drop(self.place.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn unfit(&self) -> MutexGuard<'_, Option<Unfit>> {
        self.unfit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Tunnel> Watched for Member<T> {
    fn status(&self, now: Instant) -> SessionStatus {
        SessionStatus {
            session: self.tunnel.id().clone(),
            member: self.slot,
            health: self.tunnel.health().borrow().clone(),
            serves: self.serves.load(Ordering::Relaxed),
            connections: self.leases(),
            age: now.saturating_duration_since(self.ready_at),
            rtt: self.tunnel.rtt(),
            statistics: self.tunnel.statistics(),
        }
    }

    fn fitness(&self) -> Option<Fitness> {
        if !self.serves.load(Ordering::Relaxed) {
            return None;
        }
        let full = self.unfit().filter(|unfit| !unfit.stalled).map(|unfit| unfit.since);
        Some(match &*self.tunnel.health().borrow() {
            Health::Ready => full.map_or(Fitness::Usable, |since| Fitness::Full { since }),
            Health::Reconnecting { since } => Fitness::Down { since: *since },
            Health::Stalled => {
                let since = *self.stalled_since.lock().unwrap_or_else(PoisonError::into_inner);
                // Whoever watches its health will know in a moment.
                Fitness::Silent { since: since.unwrap_or_else(Instant::now) }
            }
            Health::Ended(reason) => Fitness::Ended { lost: is_outage(reason) },
        })
    }

    fn retransmissions(&self) -> u64 {
        self.tunnel.statistics().retransmissions
    }
}

/// Held by a connection from before its stream is opened until after it is dropped.
pub(in crate::forward) struct Lease<T> {
    member: Arc<Member<T>>,
    opened: AtomicBool,
    lingering: AtomicBool,
}

impl<T: Tunnel> Lease<T> {
    /// `None` if the session is being ended.
    pub(super) fn new(member: &Arc<Member<T>>) -> Option<Self> {
        let entered = member.uses.send_if_modified(|uses| {
            uses.leases += usize::from(!uses.closed);
            !uses.closed
        });
        if !entered {
            return None;
        }
        member.crowd.enter();
        Some(Self { member: member.clone(), opened: AtomicBool::new(false), lingering: AtomicBool::new(false) })
    }

    pub(super) fn member(&self) -> &Arc<Member<T>> {
        &self.member
    }

    /// The stream is open.
    pub(super) fn opened(&self) {
        self.opened.store(true, Ordering::Relaxed);
        self.member.carried.store(true, Ordering::Relaxed);
    }

    /// The connection has ended on one side: it will not be in the way of others.
    pub(in crate::forward) fn linger(&self) {
        if !self.lingering.swap(true, Ordering::Relaxed) {
            self.member.uses.send_modify(|uses| uses.lingering += 1);
        }
    }

    /// The session.
    pub(in crate::forward) fn session(&self) -> &SessionId {
        self.member.tunnel.id()
    }

    #[cfg(test)]
    pub(super) fn tunnel(&self) -> &T {
        &self.member.tunnel
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        let lingering = usize::from(*self.lingering.get_mut());
        self.member.uses.send_modify(|uses| {
            uses.leases -= 1;
            uses.lingering -= lingering;
            if uses.leases == 0 {
                uses.idle_since = Instant::now();
            }
        });
        self.member.crowd.leave(*self.opened.get_mut());
    }
}
