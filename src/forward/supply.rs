//! Where the streams of a forward come from: a session for every connection that needs one, whatever became of the
//! sessions before it. This is the connections' side; what starts and ends sessions is the [`supervisor`].
//!
//! ```text
//! connections ── Demand: how many wait, that a session is unfit ──▶ Supervisor
//! connections ◀─ Offer: these sessions, wait, or give up ────────── Supervisor
//!      └──────── Lease ──▶ Member, Crowd: who uses which session ──▶ Supervisor, when it asked to be told
//! ```
//!
//! A connection looks at the health of the sessions that it is offered by itself, and takes the one that it shares with
//! the least ([`choice`]). One that reconnects, is stalled, or cannot carry another connection is passed over while
//! another one is ready. If none is: while sessions reconnect it waits; one that is stalled, or cannot carry another
//! connection, it reports as unfit, and waits for a fresh one.
//!
//! No wait in an outage outlasts the reconnect window, counted from the beginning of the outage: whoever comes after
//! that is refused at once. A start that connections have caused is no outage: they are held for as long as it may
//! take, also if the window is shorter.

mod choice;
mod crowd;
mod growth;
mod member;
mod rates;
mod supervisor;

use std::{sync::Arc, time::Duration};

use futures_util::future::select_all;
use tokio::{
    sync::{futures::Notified, watch},
    time::{Instant, timeout_at},
};

use self::{
    crowd::Crowd,
    member::{Member, MemberId},
};
pub(super) use self::{
    member::Lease,
    supervisor::{Source, Supervisor, supply},
};
use super::{Event, Observer, Tunnel};
use crate::{
    proto::Mode,
    session::{Health, OpenError},
};

/// What the supervisor has for new connections.
enum Offer<T> {
    /// Sessions; not necessarily healthy ones.
    Pool(Pool<T>),
    /// Nothing before somebody waits.
    OnDemand,
    /// A session is being started for those who wait.
    Starting {
        /// They are held until then; the end of time if it is missing.
        until: Option<Instant>,
    },
    /// A lost session is being replaced.
    Outage {
        /// The reconnect window counts from here.
        since: Instant,
    },
    /// Nothing any more.
    Over,
}

/// The sessions that serve new connections, at least one.
struct Pool<T> {
    /// In the order of their slots.
    members: Arc<[Arc<Member<T>>]>,
    /// Unfit ones are replaced, with nothing to wait for before.
    replaceable: bool,
    /// There could be more.
    short: bool,
    /// None can be used and one is missing: how long to wait for the one that is started in its place.
    vacancy: Option<Hold>,
    /// The others are being started for the first time: until then a connection waits for a session of its own.
    filling_until: Option<Instant>,
}

/// What connections tell the supervisor.
#[derive(Debug, Clone, Copy, Default)]
struct Demand {
    /// Connections that wait for a session.
    waiting: usize,
    /// New connections cannot use any session, and one of them will not change by itself.
    unfit: bool,
    /// The latest outage that outlasted the reconnect window, by its beginning.
    refused: Option<Instant>,
}

/// How long a connection may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// The supervisor answers at once.
    Briefly,
    /// Until a start should have succeeded; the end of time if it is missing.
    Until(Option<Instant>),
    /// Until the other sessions should have been started, then it takes what there is.
    Filling(Instant),
    /// Until an outage that began then is older than the reconnect window.
    Outage(Instant),
}

/// No session could be had in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoSession;

/// The connections' end of a forward's sessions.
pub(super) struct Supply<T> {
    offers: watch::Receiver<Offer<T>>,
    demand: Arc<watch::Sender<Demand>>,
    crowd: Arc<Crowd>,
    observer: Observer,
    reconnect_window: Duration,
}

/// A stream, and the right to use its session.
pub(super) struct Opened<S, T: Tunnel> {
    pub(super) stream: S,
    pub(super) lease: Lease<T>,
}

/// What a connection makes of a pool.
enum Pick<T> {
    /// This one, at such a place; shared with others (true) or not.
    Take(Lease<T>, usize, bool),
    /// None for now.
    Wait(Hold),
}

/// What became of an attempt to open a stream.
enum Attempt<T: Tunnel> {
    Opened(Opened<T::Stream, T>),
    /// Look again.
    Changed,
    /// Not on this session, at least not before something changes.
    Unfit,
    /// The session is over or ending; the supervisor will know in a moment.
    Ending,
}

impl<T: Tunnel> Supply<T> {
    /// Opens a stream on the best session of the moment; waits for one if need be. Cancel-safe: whoever does not wait any
    /// more is not counted any more.
    pub(super) async fn open(&self) -> Result<Opened<T::Stream, T>, NoSession> {
        let mut offers = self.offers.clone();
        let mut waiting = None;
        // Found to be ending since something has changed.
        let mut ending = Vec::new();
        loop {
            let offer = offers.borrow_and_update().clone();
            let mut healths = Vec::new();
            // Before a session is chosen: whoever leaves after that has not been seen to.
            let left = self.crowd.left();
            let hold = match offer {
                Offer::Over => return Err(NoSession),
                Offer::OnDemand => Hold::Briefly,
                Offer::Starting { until } => Hold::Until(until),
                Offer::Outage { since } => Hold::Outage(since),
                Offer::Pool(pool) => {
                    healths.extend(pool.members.iter().map(|member| member.tunnel.health()));
                    match self.pick(&pool, &mut healths, &ending) {
                        Pick::Take(lease, at, shared) => {
                            let (member, queues) = (lease.member().clone(), shared && pool.members.len() > 1);
                            let health = healths.get_mut(at..=at).unwrap_or_default();
                            match self.open_on(lease, queues.then_some(left), &mut offers, health).await {
                                Attempt::Opened(opened) => return Ok(opened),
                                Attempt::Changed => ending.clear(),
                                Attempt::Unfit => {
                                    member.set_unfit(false);
                                }
                                Attempt::Ending => ending.push(member.id),
                            }
                            continue;
                        }
                        Pick::Wait(hold) => hold,
                    }
                }
            };
            let until = match hold {
                Hold::Briefly => None,
                Hold::Until(until) => until,
                Hold::Filling(until) => Some(until),
                // A window beyond the end of time does not close.
                Hold::Outage(since) => since.checked_add(self.reconnect_window),
            };
            if until.is_some_and(|until| until <= Instant::now()) {
                match hold {
                    // That was just now.
                    Hold::Filling(_) => continue,
                    Hold::Outage(since) => self.window_closed(since),
                    Hold::Briefly | Hold::Until(_) => {}
                }
                return Err(NoSession);
            }
            waiting.get_or_insert_with(|| Waiting::new(&self.demand));
            let change = changed(&mut offers, &mut healths);
            match until {
                // What has changed is looked at above, and so is the time.
                Some(until) => {
                    timeout_at(until, change).await.ok();
                }
                None => change.await,
            }
            ending.clear();
        }
    }

    /// Takes the best session that is ready, or says what to wait for.
    fn pick(&self, pool: &Pool<T>, healths: &mut [watch::Receiver<Health>], ending: &[MemberId]) -> Pick<T> {
        let states: Vec<_> = healths.iter_mut().map(|health| health.borrow_and_update().clone()).collect();
        let each = || pool.members.iter().zip(&states);
        let ready = || each().filter(|(_, state)| **state == Health::Ready).map(|(member, _)| member);
        {
            let _choice = self.crowd.choose();
            let candidates = ready().filter(|member| !member.is_full() && !ending.contains(&member.id));
            if let Some((member, alone)) = choice::least_loaded(candidates) {
                if let Some(until) = pool.filling_until.filter(|until| !alone && *until > Instant::now()) {
                    return Pick::Wait(Hold::Filling(until));
                }
                let at = pool.members.iter().position(|other| other.id == member.id);
                if let (Some(lease), Some(at)) = (Lease::new(member), at) {
                    // In raw mode it will find that it cannot, and wait for a session for itself.
                    if !alone && pool.short && member.tunnel.mode() != Mode::Raw {
                        self.crowd.shares();
                    }
                    return Pick::Take(lease, at, !alone);
                }
                // It is being ended because it was idle: the offer has changed, or is about to.
                return Pick::Wait(Hold::Briefly);
            }
        }
        let (mut reconnecting, mut unfit, mut answered) = (None, None, false);
        for (member, state) in each() {
            match state {
                Health::Reconnecting { since } => reconnecting = reconnecting.max(Some(*since)),
                Health::Stalled => unfit = unfit.max(Some(member.set_unfit(true))),
                Health::Ready if member.is_full() => unfit = unfit.max(Some(member.set_unfit(false))),
                Health::Ready | Health::Ended(_) => answered = true,
            }
        }
        if unfit.is_some() {
            self.demand.send_if_modified(|demand| !std::mem::replace(&mut demand.unfit, true));
        }
        // The outage of all began with the last.
        let since = reconnecting.max(unfit);
        Pick::Wait(match (pool.vacancy, since) {
            _ if answered || (unfit.is_some() && pool.replaceable) => Hold::Briefly,
            (Some(Hold::Outage(vacant_since)), _) => {
                Hold::Outage(since.map_or(vacant_since, |at| at.max(vacant_since)))
            }
            (Some(hold), _) => hold,
            (None, Some(since)) => Hold::Outage(since),
            (None, None) => Hold::Briefly,
        })
    }

    /// Opens a stream on a session that was ready a moment ago. In basic mode this waits for the session's turn; not
    /// longer than the session stays ready, and if it is one of several, than until another one may be free.
    async fn open_on(
        &self,
        lease: Lease<T>,
        left: Option<Notified<'_>>,
        offers: &mut watch::Receiver<Offer<T>>,
        health: &mut [watch::Receiver<Health>],
    ) -> Attempt<T> {
        let tunnel = &lease.member().tunnel;
        let left = left.filter(|_| tunnel.mode() == Mode::Basic);
        let left = async {
            match left {
                Some(left) => left.await,
                None => std::future::pending().await,
            }
        };
        let opened = tokio::select! {
            biased;
            opened = tunnel.open() => opened,
            () = changed(offers, health) => return Attempt::Changed,
            () = left => return Attempt::Changed,
        };
        match opened {
            Ok(stream) => {
                lease.opened();
                Attempt::Opened(Opened { stream, lease })
            }
            Err(OpenError::Used | OpenError::Full(_) | OpenError::WrongKind) => Attempt::Unfit,
            Err(OpenError::Closed(_) | OpenError::Ending) => Attempt::Ending,
        }
    }

    /// A connection is refused because of an outage: told at the first.
    fn window_closed(&self, since: Instant) {
        let mut first = false;
        self.demand.send_if_modified(|demand| {
            first = demand.refused.replace(since) != Some(since);
            // Nothing that the supervisor has to know.
            false
        });
        if first {
            (self.observer)(Event::WindowClosed { outage: since.elapsed() });
        }
    }
}

/// Completes at a change of any. An end of the offers is a change too: it is found as [`Offer::Over`].
async fn changed<T>(offers: &mut watch::Receiver<Offer<T>>, healths: &mut [watch::Receiver<Health>]) {
    let health = async {
        match healths {
            [] => std::future::pending().await,
            [one] => health_changed(one).await,
            several => drop(select_all(several.iter_mut().map(|health| Box::pin(health_changed(health)))).await),
        }
    };
    tokio::select! {
        _ = offers.changed() => {}
        () = health => {}
    }
}

async fn health_changed(health: &mut watch::Receiver<Health>) {
    if health.changed().await.is_err() {
        // No sender, no change: the session's end is told otherwise.
        std::future::pending::<()>().await;
    }
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self { members: self.members.clone(), ..*self }
    }
}

impl<T> PartialEq for Pool<T> {
    fn eq(&self, other: &Self) -> bool {
        self.members.iter().map(|member| member.id).eq(other.members.iter().map(|member| member.id))
            && self.replaceable == other.replaceable
            && self.short == other.short
            && self.vacancy == other.vacancy
            && self.filling_until == other.filling_until
    }
}

impl<T> Clone for Offer<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Pool(pool) => Self::Pool(pool.clone()),
            Self::OnDemand => Self::OnDemand,
            Self::Starting { until } => Self::Starting { until: *until },
            Self::Outage { since } => Self::Outage { since: *since },
            Self::Over => Self::Over,
        }
    }
}

impl<T> PartialEq for Offer<T> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pool(one), Self::Pool(other)) => one == other,
            (Self::Starting { until: one }, Self::Starting { until: other }) => one == other,
            (Self::Outage { since: one }, Self::Outage { since: other }) => one == other,
            (Self::OnDemand, Self::OnDemand) | (Self::Over, Self::Over) => true,
            _ => false,
        }
    }
}

/// A connection that waits for a session.
struct Waiting {
    demand: Arc<watch::Sender<Demand>>,
}

impl Waiting {
    fn new(demand: &Arc<watch::Sender<Demand>>) -> Self {
        demand.send_modify(|demand| demand.waiting += 1);
        Self { demand: demand.clone() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.demand.send_modify(|demand| demand.waiting -= 1);
    }
}

#[cfg(test)]
mod tests;
