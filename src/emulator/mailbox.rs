//! Between the async side (websocket and destination tasks) and a session's thread.
//!
//! The thread sleeps on its [`Inbox`] and is woken at most once per batch. Towards the client it fills a [`Link`],
//! one per websocket, which the websocket's task empties. Both directions are bounded by bytes: whoever fills them
//! asks first, and is woken when there is room again.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Waker,
    time::Instant,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use super::{actions::Action, agent::ConnectionId, clock, destination::DestinationEvent, state::EndedBy};

/// Bytes that may wait in one direction of a websocket without delay.
const BASE_BUDGET: usize = 1 << 20;
/// More bytes for each millisecond of one-way delay: room for 128 MB/s in flight.
const BUDGET_PER_MS: usize = 128 << 10;
const MAX_BUDGET: usize = 32 << 20;
/// What a message costs beside its bytes: bounds the number of small messages.
pub(super) const MESSAGE_COST: usize = 64;

/// Bytes that may wait in one direction at this delay.
pub(super) fn budget(one_way: std::time::Duration) -> usize {
    let millis = usize::try_from(one_way.as_millis()).unwrap_or(usize::MAX);
    millis.saturating_mul(BUDGET_PER_MS).saturating_add(BASE_BUDGET).min(MAX_BUDGET)
}

/// What reaches a session's thread.
pub(super) enum Event {
    /// A client proved that it may open this session's data channel.
    Attached(Arc<Link>),
    /// Messages of the client, in order.
    Messages(Arc<Link>, Vec<Bytes>),
    /// The client's websocket is gone; with what it did wrong, if that is why.
    Lost(Arc<Link>, Option<String>),
    /// Something happened to a connection to a destination.
    Destination(ConnectionId, DestinationEvent),
    /// Somebody pulls a lever.
    Act(Action),
    /// The session is over; the text for the client.
    End(EndedBy, String),
    /// The emulator stops.
    Stop,
}

/// The events of one session.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<InboxState>,
    ready: Condvar,
}

#[derive(Default)]
struct InboxState {
    /// Bounded by its producers: messages by [`Link::may_receive`], one read and one write report per connection.
    events: VecDeque<Event>,
    woken: bool,
    sleeping: bool,
    closed: bool,
}

impl Inbox {
    /// Adds an event; dropped if the session's thread has ended.
    pub(super) fn push(&self, event: Event) {
        let mut state = self.lock();
        if !state.closed {
            state.events.push_back(event);
            self.rouse(state);
        }
    }

    /// Makes the thread look again, without an event.
    pub(super) fn wake(&self) {
        let mut state = self.lock();
        state.woken = true;
        self.rouse(state);
    }

    /// Moves all events into an empty queue.
    pub(super) fn drain(&self, into: &mut VecDeque<Event>) {
        debug_assert!(into.is_empty());
        let mut state = self.lock();
        std::mem::swap(&mut state.events, into);
        state.woken = false;
    }

    /// Sleeps until there is an event, somebody wakes the thread, or the deadline comes.
    pub(super) fn wait(&self, deadline: Option<Instant>) {
        let mut state = self.lock();
        while state.events.is_empty() && !state.woken {
            let left = match deadline {
                Some(deadline) => match deadline.checked_duration_since(clock::now()) {
                    Some(left) if !left.is_zero() => Some(left),
                    _ => return,
                },
                None => None,
            };
            state.sleeping = true;
            state = match left {
                Some(left) => self.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.sleeping = false;
        }
    }

    /// Refuses and forgets all events from now on.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.events.clear();
    }

    fn rouse(&self, state: MutexGuard<'_, InboxState>) {
        if state.sleeping {
            drop(state);
            self.ready.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the websocket's task is to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// A message.
    Message(Bytes),
    /// Close with this code and reason.
    Close(u16, &'static str),
    /// Nothing more will come: close when the client has had a while to do so itself.
    Farewell,
    /// Reset the connection.
    Reset,
}

/// One websocket of a client.
pub(super) struct Link {
    outgoing: Mutex<VecDeque<Outgoing>>,
    /// Cost of what was received and has not reached the agent.
    received: AtomicUsize,
    /// Cost of what waits to be written to the websocket.
    unsent: AtomicUsize,
    /// How much may wait in either direction.
    budget: AtomicUsize,
    /// The session's thread waits for room.
    stalled: AtomicBool,
    waker: AtomicWaker,
}

impl Link {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            outgoing: Mutex::default(),
            received: AtomicUsize::new(0),
            unsent: AtomicUsize::new(0),
            budget: AtomicUsize::new(budget),
            stalled: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// Thread side: the delay has changed.
    pub(super) fn set_budget(&self, budget: usize) {
        self.budget.store(budget, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Websocket side: called first in every pass, so that no wakeup is lost.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Websocket side: whether there is room for messages.
    pub(super) fn may_receive(&self) -> bool {
        self.received.load(Ordering::Acquire) < self.budget.load(Ordering::Relaxed)
    }

    /// Websocket side: messages of this cost go to the thread.
    pub(super) fn charge(&self, cost: usize) {
        self.received.fetch_add(cost, Ordering::AcqRel);
    }

    /// Thread side: messages of this cost are done with.
    pub(super) fn release(&self, cost: usize) {
        let before = self.received.fetch_sub(cost, Ordering::AcqRel);
        let budget = self.budget.load(Ordering::Relaxed);
        if before >= budget && before.saturating_sub(cost) < budget {
            self.waker.wake();
        }
    }

    /// Thread side: sends all of these, with one wakeup.
    pub(super) fn send(&self, items: impl IntoIterator<Item = Outgoing>) {
        let mut cost = 0;
        let mut queue = self.lock();
        for item in items {
            cost += outgoing_cost(&item);
            queue.push_back(item);
        }
        self.unsent.fetch_add(cost, Ordering::AcqRel);
        drop(queue);
        self.waker.wake();
    }

    /// Thread side: whether so much more, beside what waits, is too much. If so, [`Inbox::wake`] will follow.
    pub(super) fn is_full(&self, more: usize) -> bool {
        let over = || self.unsent.load(Ordering::Acquire).saturating_add(more) > self.budget.load(Ordering::Relaxed);
        if !over() {
            return false;
        }
        self.stalled.store(true, Ordering::SeqCst);
        over()
    }

    /// Websocket side: takes all that is to be sent.
    pub(super) fn take(&self, into: &mut VecDeque<Outgoing>) {
        if into.is_empty() {
            std::mem::swap(&mut *self.lock(), into);
        }
    }

    /// Websocket side: an item was written. Says whether the thread waits for it.
    pub(super) fn sent(&self, item_cost: usize) -> bool {
        let before = self.unsent.fetch_sub(item_cost, Ordering::AcqRel);
        let half = self.budget.load(Ordering::Relaxed) / 2;
        before.saturating_sub(item_cost) <= half && self.stalled.swap(false, Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Outgoing>> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a message costs in a queue.
pub(super) fn cost(message: &Bytes) -> usize {
    message.len() + MESSAGE_COST
}

/// What an item costs in a queue.
pub(super) fn outgoing_cost(item: &Outgoing) -> usize {
    match item {
        Outgoing::Message(message) => cost(message),
        Outgoing::Close(..) | Outgoing::Farewell | Outgoing::Reset => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_link_pushes_back_in_both_directions_and_says_when_there_is_room() {
        let link = Link::new(1000);
        assert!(link.may_receive());
        link.charge(1000);
        assert!(!link.may_receive());
        link.release(1);
        assert!(link.may_receive());

        let message = || Outgoing::Message(Bytes::from_static(&[0; 536]));
        link.send([message()]);
        assert!(!link.is_full(0) && link.is_full(401));
        link.send([message()]);
        assert!(link.is_full(0));
        let mut queue = VecDeque::new();
        link.take(&mut queue);
        assert_eq!(queue.len(), 2);
        assert!(!link.sent(outgoing_cost(&queue[0])), "600 of 1000 still wait");
        assert!(link.sent(outgoing_cost(&queue[1])), "the thread waits and there is room");
        assert!(!link.is_full(0));
    }

    #[test]
    fn a_closed_inbox_forgets_events() {
        let inbox = Inbox::default();
        inbox.push(Event::Stop);
        let mut events = VecDeque::new();
        inbox.drain(&mut events);
        assert_eq!(events.len(), 1);
        inbox.close();
        inbox.push(Event::Stop);
        events.clear();
        inbox.drain(&mut events);
        assert!(events.is_empty());
        inbox.wake();
        inbox.wait(None); // returns: somebody woke the thread
    }

    #[test]
    fn budgets_grow_with_the_delay_up_to_a_limit() {
        assert_eq!(budget(Duration::ZERO), BASE_BUDGET);
        assert_eq!(budget(Duration::from_millis(25)), BASE_BUDGET + 25 * BUDGET_PER_MS);
        assert_eq!(budget(Duration::from_secs(3600)), MAX_BUDGET);
    }
}
