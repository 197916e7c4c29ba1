//! What a client has begun and not ended yet, so that closing it misses nothing.

use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// The tasks of a client, and whether it is being closed. All clones are of the same client.
#[derive(Debug, Clone, Default)]
pub(super) struct Life {
    /// Ends everything.
    pub(super) closing: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Life {
    /// Whoever is about to begin something holds this until its task is spawned: [`Self::close`] waits for it. `None` if
    /// nothing may begin any more.
    pub(super) fn begin(&self) -> Option<TaskTrackerToken> {
        // Before the look: what is closed after it finds the token.
        let token = self.tasks.token();
        (!self.closing.is_cancelled()).then_some(token)
    }

    /// Ends everything; returns when nothing is left, and nothing can begin.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_about_to_begin_when_it_is_closed_is_waited_for() {
        let life = Life::default();
        let about = life.begin().expect("open");
        let mut closed = std::pin::pin!(life.close());
        assert!((&mut closed).now_or_never().is_none());
        assert!(life.begin().is_none(), "it is being closed");
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        life.tasks.spawn(ended);
        drop(about);
        assert!((&mut closed).now_or_never().is_none(), "what has begun is not over");
        drop(end);
        closed.await;
    }
}
