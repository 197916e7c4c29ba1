//! The state machine and everybody who waits for it, behind one lock.
//!
//! The lock guards one state machine, is held for microseconds, and nothing is hashed, written or woken under it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use tokio::sync::{Notify, watch};

use super::{ControlError, Health, SessionId, clock};
use crate::proto::{self, CloseReason, Input, StreamId};

/// How far a session has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Status {
    Connecting,
    Ready,
    /// Over for its streams; the API may still have to be told.
    Closed(CloseReason),
    /// Nothing is left to be done.
    Finished(CloseReason),
}

pub(super) struct Shared {
    pub(super) id: SessionId,
    state: Mutex<State>,
    pub(super) status: watch::Sender<Status>,
    pub(super) health: watch::Sender<Health>,
    /// A session of one connection at a time is free again.
    pub(super) can_open: Notify,
    /// Everything that was written is acknowledged.
    pub(super) drained: Notify,
    /// Whose turn it is to wait for that: first come, first served.
    pub(super) turn: tokio::sync::Mutex<()>,
}

pub(super) struct State {
    pub(super) proto: proto::Session,
    pub(super) streams: HashMap<StreamId, Wakers>,
    pub(super) driver: Option<Waker>,
    /// An attempt to reconnect that is under way may wait for an answer that will never come.
    pub(super) woken: bool,
    /// Why there is no data key, which says more than the end of the session that follows.
    pub(super) no_data_key: Option<ControlError>,
}

/// Who waits for a stream.
#[derive(Default)]
pub(super) struct Wakers {
    pub(super) read: Option<Waker>,
    pub(super) write: Option<Waker>,
}

impl Shared {
    pub(super) fn new(id: SessionId, proto: proto::Session) -> Self {
        Self {
            id,
            state: Mutex::new(State { proto, streams: HashMap::new(), driver: None, woken: false, no_data_key: None }),
            status: watch::Sender::new(Status::Connecting),
            health: watch::Sender::new(Health::Ready),
            can_open: Notify::new(),
            drained: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the driver afterwards if the change says so.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> (R, bool)) -> R {
        let (result, driver) = {
            let mut state = self.lock();
            let (result, wake) = change(&mut state);
            (result, if wake { state.driver.take() } else { None })
        };
        if let Some(driver) = driver {
            driver.wake();
        }
        result
    }

    /// Ends what has not ended, for a driver that is gone, and wakes everybody who waits for a stream.
    pub(super) fn abandon(&self, reason: CloseReason) {
        let waiting: Vec<_> = {
            let mut state = self.lock();
            state.proto.abort(reason);
            state.streams.values_mut().flat_map(|wakers| [wakers.read.take(), wakers.write.take()]).collect()
        };
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// The machine or the network may have woken.
    pub(super) fn wake(&self) {
        self.change(|state| {
            state.proto.handle(clock::now(), Input::Wake);
            state.woken = true;
            ((), true)
        });
    }

    /// Asks for the end. Harmless if it has come already.
    pub(super) fn end(&self) {
        self.change(|state| (state.proto.end(clock::now()), true));
    }
}
