//! Where the parts of one forward write down what they are doing, and where anybody may ask.
//!
//! ```text
//! relays ───────── bytes ──────────────────────▶ Traffic of each connection ─┐
//! forwarder ────── connections, stopping ──────▶ Connections, Phase ─────────┼──▶ status()
//! supervisor ───── Phase, sessions that begin and end ──▶ Pool ──────────────┤
//! everybody's events ── counted on their way to the observer ────────────────┘
//! ```
//!
//! What a session is doing is not written down: it is asked when somebody asks.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    ForwardState, ForwardStatus, SessionStatus,
    connections::{Connection, Connections},
};
use crate::{
    forward::{Event, LocalAddress, Observer, Peer, Tunnel},
    session::{ConnectError, Health, SessionEvent},
};

/// Asks one forward what it is doing. All clones ask the same one; it can be asked after its end, too.
#[derive(Clone, Default)]
pub struct Monitor {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    addresses: Vec<LocalAddress>,
    pool: Mutex<Pool>,
    connections: Connections,
    start_failures: AtomicU64,
    replacements: AtomicU64,
    resumptions: AtomicU64,
    limited: AtomicU64,
}

#[derive(Default)]
struct Pool {
    phase: Phase,
    /// Sessions that have not ended.
    present: Vec<Arc<dyn Watched>>,
    /// Sessions that were ready once.
    sessions: u64,
    /// Of sessions that have ended.
    retransmissions: u64,
}

/// What the owner of the sessions is about. How the sessions are is another matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::forward) enum Phase {
    /// There was none yet.
    #[default]
    Starting,
    /// There are some for new connections.
    Serving {
        /// None of them can be used since one was lost that is being replaced, or since a connection waits for one that
        /// could not be started.
        lost_since: Option<Instant>,
        /// None of them can be used, and one is started because a connection waits.
        waking: bool,
        /// Those that cannot be used are replaced, as soon as a connection asks.
        replaceable: bool,
    },
    /// The last one was lost and is being replaced, or the one that a connection waits for cannot be started.
    Replacing {
        /// For as long as nothing could be carried.
        since: Instant,
    },
    /// None is wanted.
    Dormant,
    /// A connection waits for one, and nothing is known to be in its way.
    Waking,
    /// The forward was asked to stop.
    Stopping,
    /// Nothing is left.
    Stopped,
}

/// What a session means for new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::forward) enum Fitness {
    /// It can carry one.
    Usable,
    /// It cannot, at the moment: its websocket is lost.
    Down {
        /// Since then.
        since: Instant,
    },
    /// It cannot, at the moment: its agent is silent. What it carries is kept.
    Silent {
        /// Since then.
        since: Instant,
    },
    /// It takes no more of them.
    Full {
        /// Found then.
        since: Instant,
    },
    /// It is over, which its owner will know in a moment.
    Ended {
        /// It was lost, and will be replaced.
        lost: bool,
    },
}

impl Fitness {
    /// Since when it could carry no new connection, of one that lives.
    fn unusable_since(self) -> Option<Instant> {
        match self {
            Self::Down { since } | Self::Silent { since } | Self::Full { since } => Some(since),
            Self::Usable | Self::Ended { .. } => None,
        }
    }
}

/// A session of any kind.
pub(in crate::forward) trait Watched: Send + Sync {
    /// What it is doing.
    fn status(&self, now: Instant) -> SessionStatus;

    /// What it means for new connections, if it serves them.
    fn fitness(&self) -> Option<Fitness>;

    /// Messages that it has sent again.
    fn retransmissions(&self) -> u64;
}

impl Monitor {
    /// Of a forward that listens there.
    pub(in crate::forward) fn new(addresses: Vec<LocalAddress>) -> Self {
        Self { inner: Arc::new(Inner { addresses, ..Inner::default() }) }
    }

    /// Of a forward that could not be had: it is as if it were over.
    pub(crate) fn stopped() -> Self {
        let monitor = Self::default();
        monitor.set_phase(Phase::Stopped);
        monitor
    }

    /// The forward at this moment. Takes time in proportion to its connections; blocks for no IO.
    #[must_use]
    pub fn status(&self) -> ForwardStatus {
        let now = Instant::now();
        let (connections, mut totals) = self.inner.connections.look(now);
        let (state, mut sessions) = {
            let pool = self.pool();
            totals.sessions = pool.sessions;
            let sessions: Vec<_> = pool.present.iter().map(|session| session.status(now)).collect();
            let again = sessions.iter().map(|session| session.statistics.retransmissions);
            totals.retransmissions = pool.retransmissions + again.sum::<u64>();
            (pool.state(now), sessions)
        };
        // Of those with the same place, in the order in which they began.
        sessions.sort_by_key(|session| session.member);
        totals.start_failures = self.inner.start_failures.load(Ordering::Relaxed);
        totals.replacements = self.inner.replacements.load(Ordering::Relaxed);
        totals.resumptions = self.inner.resumptions.load(Ordering::Relaxed);
        totals.limited = self.inner.limited.load(Ordering::Relaxed);
        ForwardStatus { state, addresses: self.inner.addresses.clone(), sessions, connections, totals }
    }

    /// Its state alone, as in [`Self::status`]: cheap, however many connections there are.
    #[must_use]
    pub fn state(&self) -> ForwardState {
        self.pool().state(Instant::now())
    }

    /// For how long the forward has been lost: nothing can be carried, and no session lives that would carry on what it
    /// has. One whose agent is silent is kept until the stall timeout, and one that takes no more connections serves those
    /// that it has: neither is lost, whatever new connections meet.
    pub(crate) fn lost_for(&self) -> Option<Duration> {
        self.pool().lost_for(Instant::now())
    }

    /// An observer that counts what it passes on.
    pub(in crate::forward) fn observe(&self, observer: Observer) -> Observer {
        let monitor = self.clone();
        Arc::new(move |event| {
            let count = match &event {
                Event::SessionReplaced { .. } => Some(&monitor.inner.replacements),
                Event::Session { event: SessionEvent::Resumed { .. }, .. } => Some(&monitor.inner.resumptions),
                Event::ConnectionsLimited { .. } => Some(&monitor.inner.limited),
                _ => None,
            };
            if let Some(count) = count {
                count.fetch_add(1, Ordering::Relaxed);
            }
            observer(event);
        })
    }

    /// A connection was accepted.
    pub(in crate::forward) fn connection(&self, peer: Peer) -> Connection {
        self.inner.connections.open(self, peer)
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.inner.connections
    }

    /// A session could not be started. One that was not wanted any more has not failed.
    pub(in crate::forward) fn start_failed(&self, error: &ConnectError) {
        if !matches!(error, ConnectError::Cancelled) {
            self.inner.start_failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A session is ready.
    pub(in crate::forward) fn session_ready(&self, session: Arc<dyn Watched>) {
        let mut pool = self.pool();
        pool.sessions += 1;
        pool.present.push(session);
    }

    /// It has ended: in one step, or what it has done would be missed or counted twice in between.
    pub(in crate::forward) fn session_ended(&self, session: &Arc<impl Watched + 'static>) {
        let mut pool = self.pool();
        if let Some(at) =
            pool.present.iter().position(|other| std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(session)))
        {
            let session = pool.present.remove(at);
            pool.retransmissions += session.retransmissions();
        }
    }

    /// A session was ready, and ended without having served.
    pub(in crate::forward) fn session_unused(&self, tunnel: &impl Tunnel) {
        let retransmissions = tunnel.statistics().retransmissions;
        let mut pool = self.pool();
        pool.sessions += 1;
        pool.retransmissions += retransmissions;
    }

    /// Nobody looks after the sessions any more.
    pub(in crate::forward) fn abandon(&self) {
        let sessions = {
            let mut pool = self.pool();
            let sessions = std::mem::take(&mut pool.present);
            pool.retransmissions += sessions.iter().map(|session| session.retransmissions()).sum::<u64>();
            sessions
        };
        // The last of a session may end it: not under the lock.
        drop(sessions);
    }

    pub(in crate::forward) fn set_phase(&self, phase: Phase) {
        self.pool().phase = phase;
    }

    /// What is behind the lock is whole between any two statements.
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.inner.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Its state, and no more: the rest is long.
impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Pool {
    fn state(&self, now: Instant) -> ForwardState {
        let reconnecting = |since| ForwardState::Reconnecting { since: now.saturating_duration_since(since) };
        match self.phase {
            Phase::Starting => ForwardState::Starting,
            Phase::Serving { lost_since, waking, replaceable } => {
                let each: Vec<_> = self.present.iter().filter_map(|session| session.fitness()).collect();
                if each.contains(&Fitness::Usable) {
                    return ForwardState::Ready;
                }
                // The outage of all began with the last.
                let last = each.iter().filter_map(|fitness| fitness.unusable_since()).chain(lost_since).max();
                let is_outage =
                    lost_since.is_some() || each.iter().any(|fitness| matches!(fitness, Fitness::Down { .. }));
                match last {
                    Some(since) if is_outage => reconnecting(since),
                    _ if waking => ForwardState::Waking,
                    // Nothing is lost, and the next connection gets a session of its own.
                    Some(_) if replaceable => ForwardState::Waking,
                    Some(since) => reconnecting(since),
                    None if each.contains(&Fitness::Ended { lost: true }) => reconnecting(now),
                    None => ForwardState::Dormant,
                }
            }
            Phase::Replacing { since } => reconnecting(since),
            Phase::Dormant => ForwardState::Dormant,
            Phase::Waking => ForwardState::Waking,
            Phase::Stopping => ForwardState::Stopping,
            Phase::Stopped => ForwardState::Stopped,
        }
    }

    fn lost_for(&self, now: Instant) -> Option<Duration> {
        let ForwardState::Reconnecting { since } = self.state(now) else { return None };
        // Those that serve no new connections live on for the ones that they have.
        let mut healths = self.present.iter().map(|session| session.status(now).health);
        (!healths.any(|health| matches!(health, Health::Ready | Health::Stalled))).then_some(since)
    }
}

/// Says that the forward is over when it is dropped, however that comes.
pub(in crate::forward) struct Life(pub(in crate::forward) Monitor);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.abandon();
        self.0.set_phase(Phase::Stopped);
    }
}
