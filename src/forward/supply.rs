//! Where the streams of a forward come from: a session for every connection that needs one, whatever became of the
//! session before it. This is the connections' side; what starts and ends sessions is the [`supervisor`].
//!
//! ```text
//! connections ── Demand: how many wait, which session is unfit ──▶ Supervisor
//! connections ◀─ Offer: use this session, wait, or give up ─────── Supervisor
//! ```
//!
//! A connection looks at the health of the session that it is offered by itself. While the session reconnects it waits;
//! a session that is stalled, or cannot carry another connection, it reports as unfit, and waits for a fresh one.
//!
//! No wait in an outage outlasts the reconnect window, counted from the beginning of the outage: whoever comes after
//! that is refused at once. A start that connections have caused is no outage: they are held for as long as it may
//! take, also if the window is shorter.

mod member;
mod supervisor;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use self::member::{Lease, Member, MemberId};
pub(super) use self::supervisor::{Source, supply};
use super::{Event, Observer, Tunnel};
use crate::session::{Health, OpenError};

/// What the supervisor has for new connections.
enum Offer<T> {
    /// A session; not necessarily a healthy one.
    Session {
        /// Which.
        member: Arc<Member<T>>,
        /// If it is unfit, another one is started in its place, with nothing to wait for before.
        replaceable: bool,
    },
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

/// What connections tell the supervisor.
#[derive(Debug, Clone, Copy, Default)]
struct Demand {
    /// Connections that wait for a session.
    waiting: usize,
    /// The session that new connections cannot use.
    unfit: Option<Unfit>,
    /// The latest outage that outlasted the reconnect window, by its beginning.
    refused: Option<Instant>,
}

/// A session that new connections cannot use.
#[derive(Debug, Clone, Copy)]
struct Unfit {
    member: MemberId,
    since: Instant,
    /// Because the agent is silent, which may change.
    stalled: bool,
}

/// How long a connection may wait.
#[derive(Debug, Clone, Copy)]
enum Hold {
    /// The supervisor answers at once.
    Briefly,
    /// Until a start should have succeeded; the end of time if it is missing.
    Until(Option<Instant>),
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
    observer: Observer,
    reconnect_window: Duration,
}

/// A stream, and the right to use its session.
pub(super) struct Opened<S, T: Tunnel> {
    pub(super) stream: S,
    pub(super) lease: Lease<T>,
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
    /// Opens a stream on the session of the moment; waits for one if need be. Cancel-safe: whoever does not wait any
    /// more is not counted any more.
    pub(super) async fn open(&self) -> Result<Opened<T::Stream, T>, NoSession> {
        let mut offers = self.offers.clone();
        let mut waiting = None;
        loop {
            let offer = offers.borrow_and_update().clone();
            let mut health = None;
            let hold = match offer {
                Offer::Over => return Err(NoSession),
                Offer::OnDemand => Hold::Briefly,
                Offer::Starting { until } => Hold::Until(until),
                Offer::Outage { since } => Hold::Outage(since),
                Offer::Session { member, replaceable } => {
                    let health = health.insert(member.tunnel.health());
                    let state = health.borrow_and_update().clone();
                    match state {
                        Health::Ready => match self.open_on(&member, &mut offers, health).await {
                            Attempt::Opened(opened) => return Ok(opened),
                            Attempt::Changed => continue,
                            Attempt::Unfit => self.unfit(member.id, false, replaceable),
                            Attempt::Ending => Hold::Briefly,
                        },
                        Health::Reconnecting { since } => Hold::Outage(since),
                        Health::Stalled => self.unfit(member.id, true, replaceable),
                        Health::Ended(_) => Hold::Briefly,
                    }
                }
            };
            let until = match hold {
                Hold::Briefly => None,
                Hold::Until(until) => until,
                // A window beyond the end of time does not close.
                Hold::Outage(since) => since.checked_add(self.reconnect_window),
            };
            if until.is_some_and(|until| until <= Instant::now()) {
                if let Hold::Outage(since) = hold {
                    self.window_closed(since);
                }
                return Err(NoSession);
            }
            waiting.get_or_insert_with(|| Waiting::new(&self.demand));
            let change = changed(&mut offers, health.as_mut());
            match until {
                // What has changed is looked at above, and so is the time.
                Some(until) => {
                    timeout_at(until, change).await.ok();
                }
                None => change.await,
            }
        }
    }

    /// Opens a stream on a session that was ready a moment ago. In basic mode this waits for the session's turn; not
    /// longer than the session stays ready.
    async fn open_on(
        &self,
        member: &Arc<Member<T>>,
        offers: &mut watch::Receiver<Offer<T>>,
        health: &mut watch::Receiver<Health>,
    ) -> Attempt<T> {
        let lease = Lease::new(member);
        let opened = tokio::select! {
            biased;
            opened = member.tunnel.open() => opened,
            () = changed(offers, Some(health)) => return Attempt::Changed,
        };
        match opened {
            Ok(stream) => {
                lease.opened();
                Attempt::Opened(Opened { stream, lease })
            }
            Err(OpenError::Used | OpenError::Full(_)) => Attempt::Unfit,
            Err(OpenError::Closed(_) | OpenError::Ending) => Attempt::Ending,
        }
    }

    /// Reports a session as unfit.
    fn unfit(&self, member: MemberId, stalled: bool, replaceable: bool) -> Hold {
        let mut since = Instant::now();
        self.demand.send_if_modified(|demand| match demand.unfit {
            Some(known) if known.member == member => {
                since = known.since;
                false
            }
            // A newer one is: the offer has changed meanwhile.
            Some(newer) if newer.member > member => false,
            _ => {
                demand.unfit = Some(Unfit { member, since, stalled });
                true
            }
        });
        if replaceable { Hold::Briefly } else { Hold::Outage(since) }
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

/// Completes at a change of either. An end of the offers is a change too: it is found as [`Offer::Over`].
async fn changed<T>(offers: &mut watch::Receiver<Offer<T>>, health: Option<&mut watch::Receiver<Health>>) {
    let health = async {
        if let Some(health) = health
            && health.changed().await.is_ok()
        {
            return;
        }
        // No sender, no change: the session's end is told otherwise.
        std::future::pending().await
    };
    tokio::select! {
        _ = offers.changed() => {}
        () = health => {}
    }
}

impl<T> Clone for Offer<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Session { member, replaceable } => {
                Self::Session { member: member.clone(), replaceable: *replaceable }
            }
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
            (
                Self::Session { member: one, replaceable },
                Self::Session { member: other, replaceable: other_replaceable },
            ) => Arc::ptr_eq(one, other) && replaceable == other_replaceable,
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
