//! What the tests of this world stand on. No test is in here.

mod client;
mod destination;
mod pattern;
mod program;
mod proxy;
mod relay;
#[cfg(unix)]
mod terminal;
mod world;

use std::{future::Future, time::Duration};

pub(crate) use client::Client;
pub(crate) use destination::{Closed, Destination, RefusingPort};
pub(crate) use pattern::{receive, send};
pub(crate) use program::{Ended, Program};
pub(crate) use proxy::{Answer, Interceptor, Proxy};
pub(crate) use relay::ApiRelay;
#[cfg(unix)]
pub(crate) use terminal::Terminal;
pub(crate) use world::{World, failing};

/// How long anything may take. Far more than it does on an idle machine: it only ends tests that would hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits, but not for ever.
pub(crate) async fn within<F: Future>(what: &str, work: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {} s", PATIENCE.as_secs()),
    }
}
