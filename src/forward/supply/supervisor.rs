//! Starts, replaces, retires and ends the sessions of one forward. The single owner of that state; it never waits for a
//! connection, and connections never wait for it longer than one pass.
//!
//! ```text
//!            ┌───────────────────── a session is ready ──────────────────────┐
//!            ▼                                                               │
//!        Serving ── lost: network, gateway, protocol, stall timeout ──▶ Replacing    starts until one succeeds, or
//!         │   │                                                         │           is ended before it is ready
//!         │   │                                                         ▼           by the service or the agent
//!         │   └──── ended by the service or the agent ──────────────▶ OnDemand       starts only while a connection
//!         └──────── unfit, and fewer than MAX_RETIRED retired ──────▶ OnDemand       waits
//!                   (lives on in `retired` until its last connection is over)
//!
//! Serving, Replacing, OnDemand ── stop ──▶ Stopped
//! ```
//!
//! A session that its owner, an administrator or a timeout has ended is not an outage: it is never started again behind
//! their back, but only for a connection that needs it. A lost one is replaced without being asked for, so that the
//! next connection finds it ready.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Demand, Offer, Supply,
    member::{Member, MemberId},
};
use crate::{
    forward::{
        Connector, Event, Observer, Tunnel, event,
        retry::{Pace, Verdict, is_outage},
    },
    proto::{CloseReason, Mode},
    session::{BoxFuture, ConnectError, Health, SessionId, StartRequest, woken},
};

/// Sessions that new connections cannot use and old ones still do. Each costs the target's agent a process.
const MAX_RETIRED: usize = 4;

/// How a forward's sessions are started.
pub(in crate::forward) struct Source<C> {
    pub(in crate::forward) connector: Arc<C>,
    pub(in crate::forward) request: StartRequest,
    pub(in crate::forward) observer: Observer,
}

/// Keeps a forward supplied with sessions.
pub(in crate::forward) struct Supervisor<C: Connector> {
    source: Source<C>,
    state: State<C::Tunnel>,
    retired: Vec<Arc<Member<C::Tunnel>>>,
    /// One for each session that has not ended.
    ends: FuturesUnordered<BoxFuture<'static, End>>,
    /// What is still to be done for sessions that have ended or are not needed any more.
    closing: FuturesUnordered<BoxFuture<'static, ()>>,
    start: Option<BoxFuture<'static, Result<C::Tunnel, ConnectError>>>,
    pace: Pace,
    wake: Option<watch::Receiver<u64>>,
    newest: MemberId,
    offers: watch::Sender<Offer<C::Tunnel>>,
    demand: Arc<watch::Sender<Demand>>,
    demanded: watch::Receiver<Demand>,
    /// Cancels a start.
    cancel: CancellationToken,
    /// How long connections wait for a start that they caused.
    patience: Duration,
}

enum State<T> {
    Serving(Arc<Member<T>>),
    Replacing {
        since: Instant,
        /// The session that is to be replaced.
        lost: SessionId,
        /// Why it was lost.
        reason: CloseReason,
    },
    OnDemand {
        /// When the first connection that waits came; none waits if it is missing.
        woken: Option<Instant>,
    },
    Stopped,
}

/// The end of a session.
struct End {
    member: MemberId,
    reason: CloseReason,
    /// Since when its websocket had been lost.
    offline_since: Option<Instant>,
}

/// A supply that begins with a session that is ready.
pub(in crate::forward) fn supply<C: Connector>(
    source: Source<C>,
    first: C::Tunnel,
    reconnect_window: Duration,
    random: fastrand::Rng,
) -> (Supply<C::Tunnel>, Supervisor<C>) {
    let (demand, demanded) = watch::channel(Demand::default());
    let (offers, receiver) = watch::channel(Offer::OnDemand);
    let demand = Arc::new(demand);
    let observer = source.observer.clone();
    let mut supervisor = Supervisor {
        patience: source.connector.connect_timeout().max(reconnect_window),
        wake: source.connector.wake(),
        source,
        state: State::OnDemand { woken: None },
        retired: Vec::new(),
        ends: FuturesUnordered::new(),
        closing: FuturesUnordered::new(),
        start: None,
        pace: Pace::new(Instant::now(), random),
        newest: MemberId(0),
        offers,
        demand: demand.clone(),
        demanded,
        cancel: CancellationToken::new(),
    };
    supervisor.serve(first);
    supervisor.publish();
    (Supply { offers: receiver, demand, observer, reconnect_window }, supervisor)
}

impl<C: Connector> Supervisor<C> {
    /// Supplies sessions. Completes only when none can be had any more, with the failure that says why. Cancel-safe.
    pub(in crate::forward) async fn supply(&mut self) -> ConnectError {
        loop {
            let now = Instant::now();
            let wake = self.settle(now);
            self.publish();
            tokio::select! {
                biased;
                Some(end) = next(&mut self.ends) => self.ended(Instant::now(), end),
                started = finished(&mut self.start) => {
                    if let Err(error) = self.started(Instant::now(), started) {
                        return error;
                    }
                }
                // Its sender is ours.
                _ = self.demanded.changed() => {}
                Some(()) = next(&mut self.closing) => {}
                () = woken(&mut self.wake) => self.pace.encouraged(Instant::now()),
                () = until(wake) => {}
            }
        }
    }

    /// Offers nothing any more and cancels a start. What is open stays open.
    pub(in crate::forward) fn stop(&mut self) {
        self.cancel.cancel();
        if let State::Serving(current) = std::mem::replace(&mut self.state, State::Stopped) {
            self.retired.push(current);
        }
        self.publish();
    }

    /// Pushes the ends of sessions that end by themselves, for ever. Only after [`Self::stop`]. Cancel-safe.
    pub(in crate::forward) async fn watch(&mut self, ends: &mut Vec<(SessionId, CloseReason)>) {
        loop {
            tokio::select! {
                Some(end) = next(&mut self.ends) => ends.extend(self.left(&end)),
                started = finished(&mut self.start) => self.unwanted(started),
                Some(()) = next(&mut self.closing) => {}
            }
        }
    }

    /// Ends all sessions; pushes the ends of those that were used. Nothing is left of them when this returns, their
    /// connections apart. Only after [`Self::stop`].
    pub(in crate::forward) async fn close(&mut self, ends: &mut Vec<(SessionId, CloseReason)>) {
        for member in &self.retired {
            let member = member.clone();
            self.closing.push(Box::pin(async move { drop(member.tunnel.close().await) }));
        }
        while !(self.retired.is_empty() && self.closing.is_empty() && self.start.is_none()) {
            tokio::select! {
                Some(end) = next(&mut self.ends) => ends.extend(self.left(&end)),
                started = finished(&mut self.start) => self.unwanted(started),
                Some(()) = next(&mut self.closing) => {}
            }
        }
    }

    /// Does what state and demand ask for; returns when to look again although nothing happens.
    fn settle(&mut self, now: Instant) -> Option<Instant> {
        let demand = *self.demanded.borrow_and_update();
        if let State::Serving(current) = &self.state
            && demand.unfit.is_some_and(|unfit| unfit.member == current.id)
            && self.can_retire()
        {
            let current = current.clone();
            self.retire(current);
        }
        match &mut self.state {
            State::Serving(_) | State::Stopped => return None,
            State::Replacing { .. } => {}
            State::OnDemand { woken } if demand.waiting == 0 => {
                *woken = None;
                self.pace.rest(now);
                return None;
            }
            State::OnDemand { woken } => {
                woken.get_or_insert(now);
                self.pace.wake(now);
            }
        }
        if self.start.is_some() {
            return None;
        }
        if now < self.pace.not_before() {
            return Some(self.pace.not_before());
        }
        self.start();
        None
    }

    fn can_retire(&self) -> bool {
        self.retired.len() < MAX_RETIRED
    }

    fn publish(&self) {
        let offer = match &self.state {
            State::Serving(current) => Offer::Session { member: current.clone(), replaceable: self.can_retire() },
            State::Replacing { since, .. } => Offer::Outage { since: *since },
            State::OnDemand { woken: Some(woken) } => Offer::Starting { until: woken.checked_add(self.patience) },
            State::OnDemand { woken: None } => Offer::OnDemand,
            State::Stopped => Offer::Over,
        };
        self.offers.send_if_modified(|offered| {
            let modified = *offered != offer;
            *offered = offer;
            modified
        });
    }

    /// A start that is under way is brought to its end even if nobody waits any more: a session that was paid for
    /// serves the next connection.
    fn start(&mut self) {
        let (connector, request) = (self.source.connector.clone(), self.source.request.clone());
        let (observer, cancel) = (self.source.observer.clone(), self.cancel.clone());
        self.start = Some(Box::pin(async move { event::start(&*connector, request, &observer, cancel).await }));
    }

    fn started(&mut self, now: Instant, result: Result<C::Tunnel, ConnectError>) -> Result<(), ConnectError> {
        match result {
            Ok(tunnel) => {
                self.pace.succeeded();
                let session = tunnel.id().clone();
                if let State::Replacing { lost, reason, .. } = self.serve(tunnel) {
                    self.tell(Event::SessionReplaced { session, replaces: lost, reason });
                }
            }
            Err(error) => match self.pace.failed(now, &error) {
                Verdict::Again { attempt } => {
                    tracing::debug!(%error, attempt, retry = ?(self.pace.not_before() - now), "cannot start a session");
                    match (&self.state, error) {
                        // Who has ended the replacement does not want one: a connection may ask for it, we do not.
                        (State::Replacing { .. }, ConnectError::Closed(reason)) if !is_outage(&reason) => {
                            self.rest(reason, false);
                        }
                        (_, error) => self.tell(Event::StartFailed { error: Arc::new(error), attempt }),
                    }
                }
                Verdict::GiveUp => return Err(error),
            },
        }
        Ok(())
    }

    /// Serves new connections with a session; returns what was before.
    fn serve(&mut self, tunnel: C::Tunnel) -> State<C::Tunnel> {
        self.newest = MemberId(self.newest.0 + 1);
        let member = Arc::new(Member::new(self.newest, tunnel, Instant::now()));
        self.ends.push(Box::pin(watch_over(member.clone(), self.demand.clone())));
        std::mem::replace(&mut self.state, State::Serving(member))
    }

    fn retire(&mut self, member: Arc<Member<C::Tunnel>>) {
        tracing::debug!(session = %member.tunnel.id(), "new connections get a fresh session");
        self.retired.push(member.clone());
        self.state = State::OnDemand { woken: None };
        self.closing.push(Box::pin(async move {
            tokio::select! {
                () = member.unused() => drop(member.tunnel.close().await),
                // What is left to do is done for every session that ends.
                _ = member.tunnel.closed() => {}
            }
        }));
    }

    fn ended(&mut self, now: Instant, end: End) {
        let current = match &self.state {
            State::Serving(current) if current.id == end.member => Some(current.clone()),
            _ => None,
        };
        let Some(current) = current else {
            if let Some((session, reason)) = self.left(&end) {
                self.tell(Event::SessionEnded { session, reason });
            }
            return;
        };
        let (session, reason) = (current.tunnel.id().clone(), end.reason);
        let fulfilled = is_fulfilled(&current, &reason);
        if fulfilled {
            self.pace.fulfilled(now);
        } else {
            self.pace.ended(now, now.saturating_duration_since(current.ready_at));
        }
        self.tell(Event::SessionEnded { session: session.clone(), reason: reason.clone() });
        if is_outage(&reason) {
            self.state = State::Replacing { since: end.offline_since.unwrap_or(now), lost: session, reason };
        } else {
            self.rest(reason, fulfilled);
        }
        self.wind_up(current);
    }

    /// Starts nothing before a connection needs it.
    fn rest(&mut self, reason: CloseReason, fulfilled: bool) {
        self.state = State::OnDemand { woken: None };
        self.tell(Event::Dormant { reason, fulfilled });
    }

    /// Takes a session that has ended out of the retired ones.
    fn left(&mut self, end: &End) -> Option<(SessionId, CloseReason)> {
        let at = self.retired.iter().position(|member| member.id == end.member)?;
        let member = self.retired.swap_remove(at);
        let session = member.tunnel.id().clone();
        self.wind_up(member);
        Some((session, end.reason.clone()))
    }

    /// The API may still have to be told of a session that ended by itself. Its connections are not waited for: their
    /// streams have come to an end too, and who takes long to read what came before a clean one may.
    fn wind_up(&mut self, member: Arc<Member<C::Tunnel>>) {
        self.closing.push(Box::pin(async move { drop(member.tunnel.close().await) }));
    }

    /// A start that could not be cancelled in time.
    fn unwanted(&mut self, started: Result<C::Tunnel, ConnectError>) {
        if let Ok(tunnel) = started {
            let observer = self.source.observer.clone();
            self.closing.push(Box::pin(async move {
                let reason = tunnel.close().await;
                observer(Event::SessionEnded { session: tunnel.id().clone(), reason });
            }));
        }
    }

    fn tell(&self, event: Event) {
        (self.source.observer)(event);
    }
}

/// Connections that outlive their forward must not wait for it.
impl<C: Connector> Drop for Supervisor<C> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for the end of a session.
async fn watch_over<T: Tunnel>(member: Arc<Member<T>>, demand: Arc<watch::Sender<Demand>>) -> End {
    let mut offline_since = None;
    let mut health = member.tunnel.health();
    let mut closed = std::pin::pin!(member.tunnel.closed());
    let reason = loop {
        match *health.borrow_and_update() {
            Health::Reconnecting { since } => offline_since = Some(since),
            Health::Ready => {
                offline_since = None;
                fit(&demand, member.id);
            }
            Health::Stalled => offline_since = None,
            // Keeps what was before it.
            Health::Ended(_) => {}
        }
        tokio::select! {
            reason = &mut closed => break reason,
            Ok(()) = health.changed() => {}
        }
    };
    End { member: member.id, reason, offline_since }
}

/// A session that was stalled has recovered; the next time counts afresh. One that takes no more streams is as full as
/// before.
fn fit(demand: &watch::Sender<Demand>, member: MemberId) {
    demand.send_if_modified(|demand| {
        let unfit = demand.unfit.is_some_and(|unfit| unfit.member == member && unfit.stalled);
        if unfit {
            demand.unfit = None;
        }
        unfit
    });
}

/// In raw mode a session ends with its only connection. Who ended it is not always known: the wire does not tell the
/// end of the data from an administrator.
fn is_fulfilled<T: Tunnel>(member: &Member<T>, reason: &CloseReason) -> bool {
    member.tunnel.mode() == Mode::Raw && member.has_carried() && !is_outage(reason)
}

/// The next completed future; pending while there is none.
async fn next<T>(futures: &mut FuturesUnordered<BoxFuture<'static, T>>) -> Option<T> {
    if futures.is_empty() {
        return std::future::pending().await;
    }
    futures.next().await
}

/// The result of a future, once.
async fn finished<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    poll_fn(|cx| {
        let Some(future) = slot else { return Poll::Pending };
        let result = std::task::ready!(future.as_mut().poll(cx));
        *slot = None;
        Poll::Ready(result)
    })
    .await
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
