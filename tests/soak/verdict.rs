//! What went wrong, from wherever it was seen.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Failures that are kept in words: after these the run is over anyway.
const KEPT: usize = 50;
/// What happened last, for whoever reads a failure.
const HISTORY: usize = 60;

/// Failures and what happened before them.
#[derive(Clone, Default)]
pub(crate) struct Verdict(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    failed: Notify,
}

#[derive(Default)]
struct State {
    failures: Vec<String>,
    count: usize,
    history: VecDeque<String>,
}

impl Verdict {
    /// Something is wrong. The run ends as soon as it can.
    pub(crate) fn fail(&self, what: impl Into<String>) {
        let mut state = self.state();
        state.count += 1;
        if state.failures.len() < KEPT {
            state.failures.push(what.into());
        }
        drop(state);
        self.0.failed.notify_one();
    }

    /// Something happened that explains what follows.
    pub(crate) fn note(&self, what: impl Into<String>) {
        let mut state = self.state();
        if state.history.len() == HISTORY {
            state.history.pop_front();
        }
        // Afterwards it would only push out what explains the first failure.
        if state.count == 0 {
            state.history.push_back(what.into());
        }
    }

    /// Resolves once something is wrong.
    pub(crate) async fn failed(&self) {
        while !self.has_failed() {
            self.0.failed.notified().await;
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.state().count > 0
    }

    /// How often something was wrong, and the first of it in words.
    pub(crate) fn failures(&self) -> (usize, Vec<String>) {
        let state = self.state();
        (state.count, state.failures.clone())
    }

    pub(crate) fn history(&self) -> Vec<String> {
        self.state().history.iter().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
