//! The sessions behind streams, by target and destination.
//!
//! The first who asks for a destination starts its session; whoever asks meanwhile waits for the same start and shares
//! its failure. An entry is gone as soon as its source is over, so that the next who asks starts anew.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{ClientError, life::Life};
use crate::{
    forward::{
        Connector, Destination, Observer, Tunnel,
        direct::{self, DirectOptions, DirectSource, DirectStream, NoStream},
    },
    session::{ConnectError, StartRequest},
};

/// The target and the destination.
type Key = (String, Destination);

/// What became of a start: a source, or why there is none.
type Started<T> = Result<Arc<DirectSource<T>>, Arc<ConnectError>>;

/// Sources of streams.
pub(super) struct Pools<C: Connector> {
    connector: Arc<C>,
    options: DirectOptions,
    /// Target and destination are missing.
    request: StartRequest,
    observer: Observer,
    slots: Mutex<Slots<C::Tunnel>>,
    life: Life,
    /// Nobody is left to use a session that is being started.
    abandoned: CancellationToken,
}

struct Slots<T: Tunnel> {
    by_key: HashMap<Key, Slot<T>>,
    newest: u64,
}

struct Slot<T: Tunnel> {
    /// Tells it apart from one that was in its place before.
    number: u64,
    /// `None` while the first session is being started.
    started: watch::Receiver<Option<Started<T>>>,
}

impl<C: Connector> Pools<C> {
    pub(super) fn new(
        connector: Arc<C>,
        options: DirectOptions,
        request: StartRequest,
        observer: Observer,
        life: Life,
    ) -> Self {
        let slots = Mutex::new(Slots { by_key: HashMap::new(), newest: 0 });
        let abandoned = life.closing.child_token();
        Self { connector, options, request, observer, slots, life, abandoned }
    }

    /// A stream; waits for a session if need be. Cancel-safe.
    pub(super) async fn open(
        self: &Arc<Self>,
        target: &str,
        destination: Destination,
    ) -> Result<DirectStream<C::Tunnel>, ClientError> {
        let key = (target.to_owned(), destination);
        loop {
            // Even a start that is cancelled at once may cost a session.
            let Slot { number, mut started } = {
                let _begun = self.life.begin().ok_or(ClientError::Closed)?;
                self.slot(&key)
            };
            let source = match started.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(Ok(source))) => source.clone(),
                Ok(Some(Err(_))) if self.life.closing.is_cancelled() => return Err(ClientError::Closed),
                Ok(Some(Err(error))) => return Err(ClientError::Start(error.clone())),
                // The runtime drops its tasks.
                Ok(None) | Err(_) => return Err(ClientError::Closed),
            };
            match source.open().await {
                Ok(stream) => return Ok(stream),
                Err(NoStream::Over) => self.forget(&key, number),
                Err(NoStream::NoSession(_)) if self.life.closing.is_cancelled() => return Err(ClientError::Closed),
                Err(NoStream::NoSession(failure)) => return Err(ClientError::NoSession(failure)),
            }
        }
    }

    /// The slot of a destination; starts a session if there is none.
    fn slot(self: &Arc<Self>, key: &Key) -> Slot<C::Tunnel> {
        let mut slots = self.lock();
        if let Some(slot) = slots.by_key.get(key) {
            return slot.clone();
        }
        slots.newest += 1;
        let (sender, started) = watch::channel(None);
        let slot = Slot { number: slots.newest, started };
        slots.by_key.insert(key.clone(), slot.clone());
        drop(slots);
        self.life.tasks.spawn(self.keep(key.clone(), slot.number, sender));
        slot
    }

    /// Starts the first session of a destination, and keeps its source to the end.
    fn keep(
        self: &Arc<Self>,
        key: Key,
        number: u64,
        started: watch::Sender<Option<Started<C::Tunnel>>>,
    ) -> impl Future<Output = ()> + Send + use<C> {
        let (connector, options, observer) = (self.connector.clone(), self.options.clone(), self.observer.clone());
        let (closing, abandoned) = (self.life.closing.clone(), self.abandoned.clone());
        let request = self.request_for(&key);
        let pools = Arc::downgrade(self);
        async move {
            // Whatever ends this, a panic included, ends the slot.
            let slot = Entry { pools, key, number };
            let (source, mut keeper) = match direct::start(connector, request, options, observer, abandoned).await {
                Ok(source) => source,
                Err(error) => {
                    drop(slot);
                    started.send_replace(Some(Err(Arc::new(error))));
                    return;
                }
            };
            started.send_replace(Some(Ok(Arc::new(source))));
            // Only the slot keeps the source now, and its streams.
            drop(started);
            let end = keeper.keep(&closing).await;
            drop(slot);
            keeper.close(end, &closing).await;
        }
    }

    fn request_for(&self, (target, destination): &Key) -> StartRequest {
        let mut request = self.request.clone();
        request.target.clone_from(target);
        request.parameters.extend(destination.parameters());
        request.document = request.document.or_else(|| destination.document().map(Into::into));
        request
    }

    fn forget(&self, key: &Key, number: u64) {
        let mut slots = self.lock();
        if slots.by_key.get(key).is_some_and(|slot| slot.number == number) {
            // What it holds takes other locks when it is dropped.
            let slot = slots.by_key.remove(key);
            drop(slots);
            drop(slot);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots<C::Tunnel>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Connector> Drop for Pools<C> {
    fn drop(&mut self) {
        self.abandoned.cancel();
    }
}

impl<T: Tunnel> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self { number: self.number, started: self.started.clone() }
    }
}

/// A slot, from the side of the task that fills it.
struct Entry<C: Connector> {
    pools: Weak<Pools<C>>,
    key: Key,
    number: u64,
}

impl<C: Connector> Drop for Entry<C> {
    fn drop(&mut self) {
        if let Some(pools) = self.pools.upgrade() {
            pools.forget(&self.key, self.number);
        }
    }
}

#[cfg(test)]
mod tests;
