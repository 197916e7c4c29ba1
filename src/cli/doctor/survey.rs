//! What is asked beside the session: who we are, what SSM knows of the target, when sessions end. Best effort: each may
//! be denied.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::PATIENCE;
use crate::{
    aws::{Aws, NodeInfo, Preferences, repeated},
    session::{ControlError, ControlErrorKind},
};

/// An answer, and how long it took.
type Answer<T> = (Result<T, ControlError>, Duration);

/// Answers on their way.
pub(super) struct Survey {
    identity: Pending<String>,
    /// Nothing is asked of what is no node.
    registration: Option<Pending<Option<NodeInfo>>>,
    preferences: Pending<Preferences>,
}

impl Survey {
    /// Asks everything at once.
    pub(super) fn begin(aws: &Arc<Aws>, target: &str) -> Self {
        let [one, two, three] = [aws.clone(), aws.clone(), aws.clone()];
        let node = target.to_owned();
        Self {
            preferences: Pending::new(async move { one.preferences().await }),
            registration: (target.starts_with("i-") || target.starts_with("mi-"))
                .then(|| Pending::new(async move { two.describe(&node).await })),
            identity: Pending::new(async move { three.identity().await.map(|identity| identity.to_string()) }),
        }
    }

    pub(super) async fn identity(&self) -> Answer<String> {
        self.identity.answer().await
    }

    /// `None` if the target is of no kind that registers.
    pub(super) async fn registration(&self) -> Option<Answer<Option<NodeInfo>>> {
        match &self.registration {
            Some(pending) => Some(pending.answer().await),
            None => None,
        }
    }

    pub(super) async fn preferences(&self) -> Answer<Preferences> {
        self.preferences.answer().await
    }
}

/// An answer that may be waited for more than once.
struct Pending<T>(watch::Receiver<Option<Arc<Answer<T>>>>);

impl<T: Clone + Send + Sync + 'static> Pending<T> {
    fn new(work: impl Future<Output = Result<T, ControlError>> + Send + 'static) -> Self {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            let begun = Instant::now();
            let answer = timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(late()));
            sender.send_replace(Some(Arc::new((answer, begun.elapsed()))));
        });
        Self(receiver)
    }

    async fn answer(&self) -> Answer<T> {
        let mut receiver = self.0.clone();
        let answer = receiver.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        match answer.as_deref() {
            Some((Ok(answer), took)) => (Ok(answer.clone()), *took),
            Some((Err(error), took)) => (Err(repeated(error)), *took),
            None => (Err(late()), PATIENCE),
        }
    }
}

/// Nothing has come back, which is all that is known.
fn late() -> ControlError {
    ControlError {
        kind: ControlErrorKind::Network,
        operation: "asking",
        resource: "AWS".to_owned(),
        message: format!("no answer within {} s", PATIENCE.as_secs()),
        source: None,
    }
}
