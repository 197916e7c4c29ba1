//! Starts, replaces, retires and ends the sessions of one forward. The single owner of that state; it never waits for a
//! connection, and connections never wait for it longer than one pass.
//!
//! ```text
//!            ┌───────────────────── a session is ready ──────────────────────┐
//!            ▼                                                               │
//!        Serving ── the last one is lost: network, gateway, ─▶ Replacing    starts until one succeeds, or
//!         │   │     protocol, stall timeout                    │            is ended before it is ready
//!         │   │                                                ▼            by the service or the agent
//!         │   └──── the last one is ended by the service ────▶ OnDemand     starts only while a connection
//!         │         or the agent                               ▲            waits
//!         ├──────── the last one is unfit, and fewer than ─────┤
//!         │         MAX_RETIRED are retired (lives on in `retired` until its last connection is over)
//!         └──────── nobody has used any for long ([`idle`]) ───┘
//!
//! Serving, Replacing, OnDemand ── stop ──▶ Stopped
//! ```
//!
//! A session that its owner, an administrator or a timeout has ended is not an outage: it is never started again behind
//! their back, but only for a connection that needs it. A lost one is replaced without being asked for, so that the
//! next connection finds it ready.
//!
//! *Serving* has one session or several. What becomes of those beside the last is the business of [`extra`]: they are
//! never waited for, and their failures harm nobody.

mod extra;
mod idle;
mod phase;
mod vacancy;

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    extra::{Extra, ExtraStart},
    idle::Idle,
    vacancy::Vacancy,
};
use super::{
    Crowd, Demand, Offer, Pool, Supply,
    member::{Member, MemberId},
};
use crate::{
    forward::{
        Connector, Event, Monitor, Observer, SessionAccounts, Sessions, Tunnel, event,
        retry::{Pace, Verdict, is_outage},
        sessions::Place,
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
    pub(in crate::forward) monitor: Monitor,
    pub(in crate::forward) sessions: Sessions,
    /// After so long without connections they are ended.
    pub(in crate::forward) idle_close: Option<Duration>,
    pub(in crate::forward) accounts: SessionAccounts,
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
    /// The start of a session without which the forward cannot serve.
    start: Option<(u32, BoxFuture<'static, Started<C::Tunnel>>)>,
    /// What that session replaces, while others serve.
    replaces: Option<Lost>,
    vacancy: Option<Vacancy>,
    idle: Idle,
    pace: Pace,
    extra: Extra,
    extra_starts: FuturesUnordered<BoxFuture<'static, ExtraStart<C::Tunnel>>>,
    wake: Option<watch::Receiver<u64>>,
    newest: MemberId,
    offers: watch::Sender<Offer<C::Tunnel>>,
    demand: Arc<watch::Sender<Demand>>,
    demanded: watch::Receiver<Demand>,
    crowd: Arc<Crowd>,
    /// Cancels a start.
    cancel: CancellationToken,
    /// How long connections wait for a start that they caused.
    patience: Duration,
}

enum State<T> {
    /// At least one, in the order of their slots.
    Serving(Vec<Arc<Member<T>>>),
    Replacing {
        since: Instant,
        lost: Lost,
    },
    OnDemand {
        /// When the first connection that waits came; none waits if it is missing.
        woken: Option<Instant>,
    },
    Stopped,
}

/// A session that is to be replaced.
struct Lost {
    session: SessionId,
    /// Why it was lost.
    reason: CloseReason,
}

/// How a start ended, and the place that was kept for its session.
type Started<T> = Result<(T, Place), ConnectError>;

/// The end of a session.
struct End {
    member: MemberId,
    reason: CloseReason,
    /// Since when its websocket had been lost.
    offline_since: Option<Instant>,
}

/// A supply that begins with a session that is ready, and its place in the account; or with none, like one that has
/// none any more.
pub(in crate::forward) fn supply<C: Connector>(
    source: Source<C>,
    first: Option<(C::Tunnel, Place)>,
    reconnect_window: Duration,
    random: fastrand::Rng,
) -> (Supply<C::Tunnel>, Supervisor<C>) {
    let (demand, demanded) = watch::channel(Demand::default());
    let (offers, receiver) = watch::channel(Offer::OnDemand);
    let demand = Arc::new(demand);
    let observer = source.observer.clone();
    let crowd = Arc::new(Crowd::new());
    let now = Instant::now();
    let mut random = random;
    let cancel = CancellationToken::new();
    let mut supervisor = Supervisor {
        patience: source.connector.connect_timeout().max(reconnect_window),
        wake: source.connector.wake(),
        extra: Extra::new(source.sessions, now, random.fork(), &cancel),
        idle: Idle::new(source.idle_close, now),
        source,
        state: State::OnDemand { woken: None },
        retired: Vec::new(),
        ends: FuturesUnordered::new(),
        closing: FuturesUnordered::new(),
        start: None,
        replaces: None,
        vacancy: None,
        extra_starts: FuturesUnordered::new(),
        pace: Pace::new(now, random),
        newest: MemberId(0),
        offers,
        demand: demand.clone(),
        demanded,
        crowd: crowd.clone(),
        cancel,
    };
    if let Some((first, place)) = first {
        supervisor.serve(0, first, place);
        supervisor.fill(now);
    }
    supervisor.publish();
    (Supply { offers: receiver, demand, crowd, observer, reconnect_window }, supervisor)
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
                (slot, started) = finished(&mut self.start) => {
                    if let Err(error) = self.started(Instant::now(), slot, started) {
                        return error;
                    }
                }
                Some(started) = next(&mut self.extra_starts) => self.extra_started(Instant::now(), started),
                // Its sender is ours.
                _ = self.demanded.changed() => {}
                Some(()) = next(&mut self.closing) => {}
                () = woken(&mut self.wake) => {
                    self.pace.encouraged(Instant::now());
                    self.extra.encouraged(Instant::now());
                }
                () = self.crowd.woken() => {}
                () = until(wake) => {}
            }
        }
    }

    /// Offers nothing any more and cancels starts. What is open stays open.
    pub(in crate::forward) fn stop(&mut self) {
        self.cancel.cancel();
        if let State::Serving(members) = std::mem::replace(&mut self.state, State::Stopped) {
            members.iter().for_each(|member| member.stop_serving());
            self.retired.extend(members);
        }
        self.publish();
    }

    /// Pushes the ends of sessions that end by themselves, for ever. Only after [`Self::stop`]. Cancel-safe.
    pub(in crate::forward) async fn watch(&mut self, ends: &mut Vec<Event>) {
        loop {
            self.end_one(ends).await;
        }
    }

    /// Ends all sessions; pushes the ends of those that were used. Nothing is left of them when this returns, their
    /// connections apart. Only after [`Self::stop`].
    pub(in crate::forward) async fn close(&mut self, ends: &mut Vec<Event>) {
        for member in &self.retired {
            let member = member.clone();
            self.closing.push(Box::pin(async move { drop(member.tunnel.close().await) }));
        }
        while !(self.retired.is_empty()
            && self.closing.is_empty()
            && self.start.is_none()
            && self.extra_starts.is_empty())
        {
            self.end_one(ends).await;
        }
    }

    async fn end_one(&mut self, ends: &mut Vec<Event>) {
        tokio::select! {
            Some(end) = next(&mut self.ends) => ends.extend(self.left(&end)),
            (slot, started) = finished(&mut self.start) => self.unwanted(slot, started),
            Some(started) = next(&mut self.extra_starts) => self.unwanted(started.slot, started.result),
            Some(()) = next(&mut self.closing) => {}
        }
    }

    /// Does what state and demand ask for; returns when to look again although nothing happens.
    fn settle(&mut self, now: Instant) -> Option<Instant> {
        let demand = *self.demanded.borrow_and_update();
        self.retire_unfit();
        let idle = self.settle_idle(now, demand.waiting > 0);
        let needed = self.settle_needed(now, demand.waiting > 0);
        let extra = self.settle_extra(now);
        [idle, needed, extra].into_iter().flatten().min()
    }

    /// Starts the session without which the forward cannot serve.
    fn settle_needed(&mut self, now: Instant, somebody_waits: bool) -> Option<Instant> {
        let vacant = self.is_vacant(now, somebody_waits);
        match &mut self.state {
            State::Stopped => return None,
            State::Serving(_) if !vacant => return None,
            State::Serving(_) => {}
            State::Replacing { .. } => {}
            State::OnDemand { woken } if !somebody_waits => {
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
        // A start that is under way is brought to its end even if nobody waits any more: a session that was paid for
        // serves the next connection.
        let place = self.source.accounts.take(&self.source.request.target);
        let slot = self.free_slot();
        let mut cancel = self.cancel.clone();
        if matches!(self.state, State::Serving(_)) {
            self.replaces = self.extra.take_opening();
            cancel = self.extra.cancel();
        }
        self.start = Some((slot, self.starting(slot, place, cancel)));
        None
    }

    fn can_retire(&self) -> bool {
        self.retired.len() < MAX_RETIRED
    }

    /// Sessions that new connections cannot use are retired when there is no other.
    fn retire_unfit(&mut self) {
        self.demand.send_if_modified(|demand| {
            demand.unfit = false;
            false
        });
        let State::Serving(members) = &self.state else { return };
        if members.iter().any(|member| member.is_usable()) {
            return;
        }
        let unfit: Vec<_> = members.iter().filter(|member| member.is_unfit()).cloned().collect();
        for member in unfit.into_iter().take(MAX_RETIRED.saturating_sub(self.retired.len())) {
            tracing::debug!(session = %member.tunnel.id(), "new connections get a fresh session");
            self.retire(member);
            // If some are left they reconnect: a fresh one is quicker, if it succeeds.
            self.vacancy = Some(Vacancy::new(None));
        }
    }

    fn publish(&self) {
        let offer = match &self.state {
            State::Serving(members) => Offer::Pool(Pool {
                members: members.clone().into(),
                replaceable: self.can_retire(),
                short: self.is_short(),
                vacancy: self.vacancy_hold(),
                filling_until: self.extra.filling_until(),
            }),
            State::Replacing { since, .. } => Offer::Outage { since: *since },
            State::OnDemand { woken: Some(woken) } => Offer::Starting { until: woken.checked_add(self.patience) },
            State::OnDemand { woken: None } => Offer::OnDemand,
            State::Stopped => Offer::Over,
        };
        if let Some(phase) = self.phase() {
            self.source.monitor.set_phase(phase);
        }
        self.offers.send_if_modified(|offered| {
            let modified = *offered != offer;
            *offered = offer;
            modified
        });
    }

    /// Starts a session for a slot.
    fn starting(&self, slot: u32, place: Place, cancel: CancellationToken) -> BoxFuture<'static, Started<C::Tunnel>> {
        let (connector, request) = (self.source.connector.clone(), self.source.request.clone());
        let (observer, monitor) = (self.source.observer.clone(), self.source.monitor.clone());
        Box::pin(
            async move { Ok((event::start(&*connector, request, slot, (&observer, &monitor), cancel).await?, place)) },
        )
    }

    fn started(&mut self, now: Instant, slot: u32, result: Started<C::Tunnel>) -> Result<(), ConnectError> {
        let replaces = self.replaces.take();
        match result {
            Ok((tunnel, place)) => self.admit(slot, tunnel, place, replaces),
            // Others are left, or one came first: no reason to give up.
            Err(error) if matches!(self.state, State::Serving(_)) => self.vacancy_start_failed(now, error, replaces),
            Err(error) => match self.pace.failed(now, &error) {
                Verdict::Again { attempt } => {
                    tracing::debug!(%error, attempt, retry = ?(self.pace.not_before() - now), "cannot start a session");
                    match (&self.state, error) {
                        // Who has ended the replacement does not want one: a connection may ask for it, we do not.
                        (State::Replacing { .. }, ConnectError::Closed(reason)) if !is_outage(&reason) => {
                            self.rest(reason, false, None);
                        }
                        (_, error) => self.tell_start_failed(error, attempt),
                    }
                }
                Verdict::GiveUp => return Err(error),
            },
        }
        Ok(())
    }

    /// The start of a session that new connections depend on has failed.
    fn tell_start_failed(&self, error: ConnectError, attempt: u32) {
        self.tell(Event::StartFailed { error: Arc::new(error), attempt, present: self.serving() });
    }

    /// Serves new connections with one session more; returns what was before, if there was none.
    fn serve(&mut self, slot: u32, tunnel: C::Tunnel, place: Place) -> Option<State<C::Tunnel>> {
        self.newest = MemberId(self.newest.0 + 1);
        let member = Member::new(self.newest, slot, tunnel, Instant::now(), &self.crowd, Some(place));
        let member = Arc::new(member);
        self.idle.begin(member.ready_at);
        self.source.monitor.session_ready(member.clone());
        self.ends.push(Box::pin(watch_over(member.clone())));
        match &mut self.state {
            State::Serving(members) => {
                let at = members.partition_point(|other| other.slot < slot);
                members.insert(at, member);
                None
            }
            _ => Some(std::mem::replace(&mut self.state, State::Serving(vec![member]))),
        }
    }

    /// Ends a session after its last connection.
    fn retire(&mut self, member: Arc<Member<C::Tunnel>>) {
        self.drop_out(member.id);
        self.retired.push(member.clone());
        self.closing.push(Box::pin(async move {
            tokio::select! {
                () = member.unused() => drop(member.tunnel.close().await),
                // What is left to do is done for every session that ends.
                _ = member.tunnel.closed() => {}
            }
        }));
    }

    /// Takes a session out of those that serve new connections; true if it was the last one.
    fn drop_out(&mut self, id: MemberId) -> bool {
        let State::Serving(members) = &mut self.state else { return false };
        members.iter().filter(|member| member.id == id).for_each(|member| member.stop_serving());
        members.retain(|member| member.id != id);
        let last = members.is_empty();
        if last {
            self.state = State::OnDemand { woken: None };
            self.vacancy = None;
        }
        last
    }

    fn ended(&mut self, now: Instant, end: End) {
        let serving = match &self.state {
            State::Serving(members) => members.iter().find(|member| member.id == end.member).cloned(),
            _ => None,
        };
        let Some(member) = serving else {
            if let Some(event) = self.left(&end) {
                self.tell(event);
            }
            return;
        };
        let (session, reason) = (member.tunnel.id().clone(), end.reason);
        let lived = now.saturating_duration_since(member.ready_at);
        if !self.drop_out(member.id) {
            if !self.has_usable() {
                let lost = is_outage(&reason).then(|| end.offline_since.unwrap_or(now));
                self.vacancy = Some(Vacancy::new(lost));
            }
            self.extra_ended(now, &member, reason);
            return self.wind_up(member);
        }
        let fulfilled = is_fulfilled(&member, &reason);
        if fulfilled {
            self.pace.fulfilled(now);
        } else {
            self.pace.ended(now, lived);
        }
        self.tell(event::end_of(&member.tunnel, member.slot, reason.clone(), false));
        if is_outage(&reason) {
            let since = end.offline_since.unwrap_or(now);
            self.idle.begin(now);
            self.state = State::Replacing { since, lost: Lost { session, reason } };
        } else {
            self.rest(reason, fulfilled, None);
        }
        self.wind_up(member);
    }

    /// Starts nothing before a connection needs it.
    fn rest(&mut self, reason: CloseReason, fulfilled: bool, idle: Option<Duration>) {
        self.state = State::OnDemand { woken: None };
        self.extra.rest();
        self.replaces = None;
        if let Some((slot, start)) = self.start.take() {
            self.discard(slot, start);
        }
        self.tell(Event::Dormant { reason, fulfilled, idle });
    }

    /// Takes a session that has ended out of the retired ones.
    fn left(&mut self, end: &End) -> Option<Event> {
        let at = self.retired.iter().position(|member| member.id == end.member)?;
        let member = self.retired.swap_remove(at);
        let (reason, idle) = member.end_of(end.reason.clone());
        let event = event::end_of(&member.tunnel, member.slot, reason, idle);
        self.wind_up(member);
        Some(event)
    }

    /// The API may still have to be told of a session that ended by itself. Its connections are not waited for: their
    /// streams have come to an end too, and who takes long to read what came before a clean one may.
    fn wind_up(&mut self, member: Arc<Member<C::Tunnel>>) {
        self.source.monitor.session_ended(&member);
        self.closing.push(Box::pin(async move {
            drop(member.tunnel.close().await);
            member.give_place_back();
        }));
    }

    /// A start that could not be cancelled in time.
    fn unwanted(&mut self, slot: u32, started: Started<C::Tunnel>) {
        self.discard(slot, Box::pin(std::future::ready(started)));
    }

    /// A start whose session nobody wants any more.
    fn discard(&mut self, slot: u32, start: BoxFuture<'static, Started<C::Tunnel>>) {
        let (observer, monitor) = (self.source.observer.clone(), self.source.monitor.clone());
        self.closing.push(Box::pin(async move {
            if let Ok((tunnel, place)) = start.await {
                let reason = tunnel.close().await;
                monitor.session_unused(&tunnel);
                observer(event::end_of(&tunnel, slot, reason, true));
                drop(place);
            }
        }));
    }

    fn tell(&self, event: Event) {
        (self.source.observer)(event);
    }
}

/// Connections that outlive their forward must not wait for it.
impl<C: Connector> Drop for Supervisor<C> {
    fn drop(&mut self) {
        self.stop();
        self.source.monitor.abandon();
    }
}

/// Waits for the end of a session.
async fn watch_over<T: Tunnel>(member: Arc<Member<T>>) -> End {
    let mut offline_since = None;
    let mut health = member.tunnel.health();
    let mut closed = std::pin::pin!(member.tunnel.closed());
    let reason = loop {
        match *health.borrow_and_update() {
            Health::Reconnecting { since } => offline_since = Some(since),
            Health::Ready => {
                offline_since = None;
                member.recover();
            }
            Health::Stalled => {
                offline_since = None;
                member.stall();
            }
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

/// The slot and the result of a start, once.
async fn finished<T>(start: &mut Option<(u32, BoxFuture<'static, T>)>) -> (u32, T) {
    poll_fn(|cx| {
        let Some((slot, future)) = start else { return Poll::Pending };
        let result = (*slot, std::task::ready!(future.as_mut().poll(cx)));
        *start = None;
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
