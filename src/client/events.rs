//! What happens, as a stream.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::{Stream, stream};
use tokio::sync::broadcast::{self, Receiver, Sender, WeakSender, error::RecvError};

use crate::forward::{Event, Observer};

/// Events that are kept for who is slow to take them.
const KEPT: usize = 256;

/// So many events were not taken in time: they are gone, and what comes next is the oldest that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} events were missed")]
pub struct Missed(pub u64);

/// Events in the order in which they happened, until there can be no more. The last 256 are kept for a slow taker, which
/// never holds up data, and is told what it has [`Missed`].
pub struct Events(Pin<Box<dyn Stream<Item = Result<Event, Missed>> + Send>>);

impl Events {
    fn new(receiver: Receiver<Event>) -> Self {
        Self(Box::pin(stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((Ok(event), receiver)),
                Err(RecvError::Lagged(count)) => Some((Err(Missed(count)), receiver)),
                Err(RecvError::Closed) => None,
            }
        })))
    }

    /// It has ended.
    fn none() -> Self {
        Self::new(broadcast::channel(1).1)
    }
}

impl Stream for Events {
    type Item = Result<Event, Missed>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// Where events come from, for as long as somebody observes, or until it is [ended](Self::end).
pub(super) struct EventSource {
    sender: Arc<Mutex<Option<Sender<Event>>>>,
}

impl EventSource {
    pub(super) fn new() -> Self {
        Self { sender: Arc::new(Mutex::new(Some(Sender::new(KEPT)))) }
    }

    /// Takes events.
    pub(super) fn observer(&self) -> Observer {
        let sender = self.sender.clone();
        Arc::new(move |event| {
            if let Some(sender) = &*lock(&sender) {
                // An event that nobody takes is no failure.
                drop(sender.send(event));
            }
        })
    }

    /// From now on.
    pub(super) fn subscribe(&self) -> Events {
        lock(&self.sender).as_ref().map_or_else(Events::none, |sender| Events::new(sender.subscribe()))
    }

    /// There are no more, whoever still observes.
    pub(super) fn end(&self) {
        lock(&self.sender).take();
    }

    /// The events from now on, and a way to those that come later: neither keeps them from ending with the last
    /// observer.
    pub(super) fn split(self) -> (Events, LaterEvents) {
        let later = lock(&self.sender).as_ref().map(Sender::downgrade);
        (self.subscribe(), LaterEvents(later))
    }
}

/// What is behind the lock is whole between any two statements.
fn lock(sender: &Mutex<Option<Sender<Event>>>) -> MutexGuard<'_, Option<Sender<Event>>> {
    sender.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A way to events that does not keep them from ending.
pub(super) struct LaterEvents(Option<WeakSender<Event>>);

impl LaterEvents {
    /// From now on.
    pub(super) fn subscribe(&self) -> Events {
        match self.0.as_ref().and_then(WeakSender::upgrade) {
            Some(sender) => Events::new(sender.subscribe()),
            None => Events::none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn event(number: usize) -> Event {
        Event::AcceptFailed(number.to_string())
    }

    fn number(event: &Event) -> usize {
        let Event::AcceptFailed(number) = event else { panic!("{event:?}") };
        number.parse().expect("a number")
    }

    #[tokio::test]
    async fn an_end_leaves_what_was_before_it_and_nothing_after() {
        let source = EventSource::new();
        let (observer, mut events) = (source.observer(), source.subscribe());
        observer(event(1));
        source.end();
        observer(event(2));
        assert_eq!(events.next().await.map(|last| number(&last.expect("not missed"))), Some(1));
        assert!(events.next().await.is_none() && source.subscribe().next().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_taker_is_told_what_it_missed_and_holds_up_nobody() {
        let source = EventSource::new();
        let observer = source.observer();
        let (mut events, later) = source.split();
        (0..KEPT + 44).for_each(|number| observer(event(number)));
        assert_eq!(events.next().await.map(Result::err), Some(Some(Missed(44))));
        for expected in 44..KEPT + 44 {
            let event = events.next().await.expect("an event").expect("not missed");
            assert_eq!(number(&event), expected);
        }
        let mut latest = later.subscribe();
        drop(observer);
        assert!(events.next().await.is_none() && latest.next().await.is_none());
        assert!(later.subscribe().next().await.is_none(), "there can be no more");
    }
}
