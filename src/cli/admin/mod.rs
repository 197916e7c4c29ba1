//! The admin endpoint: health, readiness, metrics, status and a live page over HTTP. It reads, and changes nothing.
//!
//! ```text
//! Listeners ─▶ Server ─▶ Site ─▶ visitor      who may ask
//!              limits      ├───▶ Snapshots ─▶ Board      what the forwards do
//!                          └───▶ metrics, status, page   how it is told
//! ```
//!
//! All of it runs on a thread of its own: whoever asks, and however often, takes nothing from the thread that forwards
//! but the moments of a snapshot, which are rationed. Nor does the end of the program wait for anybody here.

mod address;
mod exposition;
mod impatient;
mod metrics;
mod page;
#[cfg(test)]
mod samples;
mod server;
mod site;
mod snapshots;
mod status;
#[cfg(test)]
mod tests;
mod visitor;

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::{runtime, sync::oneshot};
use tokio_util::sync::CancellationToken;

pub(super) use address::AdminAddress;

use self::{site::Site, snapshots::Snapshots, visitor::Hosts};
use super::board::{Board, Snapshot};
use crate::forward::{BindError, Listeners, LocalAddress};

/// The endpoint. It serves until it is dropped, from the moment that it is bound: until the forwards are ready it says that
/// they are not.
pub(super) struct Admin {
    addresses: Vec<LocalAddress>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// The endpoint cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    /// The address cannot be bound: as for those of forwards.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The name in it leads nowhere.
    #[error("cannot look up the address of --admin {address}")]
    Name {
        address: AdminAddress,
        #[source]
        source: io::Error,
    },
    /// No thread, or no runtime on it.
    #[error("cannot start the admin endpoint")]
    Thread(#[source] io::Error),
}

impl Admin {
    /// Listens, and serves what the board shows.
    ///
    /// # Errors
    /// When the address cannot be bound. Nothing is left of it then.
    pub(super) async fn bind(address: AdminAddress, board: Arc<Board>) -> Result<Self, AdminError> {
        Self::serve(address, move || board.snapshot()).await
    }

    async fn serve(
        address: AdminAddress,
        snapshot: impl Fn() -> Snapshot + Send + Sync + 'static,
    ) -> Result<Self, AdminError> {
        let stop = CancellationToken::new();
        let (bound, told) = oneshot::channel();
        let work = {
            let stop = stop.clone();
            move || run(&address, Snapshots::new(snapshot), bound, stop)
        };
        let thread = thread::Builder::new().name("admin".into()).spawn(work).map_err(AdminError::Thread)?;
        match told.await {
            Ok(Ok(addresses)) => Ok(Self { addresses, stop, thread: Some(thread) }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(AdminError::Thread(io::Error::other("it has panicked"))),
        }
    }

    /// Where it listens, with the real port: one address, or two.
    pub(super) fn addresses(&self) -> &[LocalAddress] {
        &self.addresses
    }

    /// The addresses that other machines may reach: worth a warning.
    pub(super) fn public_addresses(&self) -> impl Iterator<Item = &LocalAddress> {
        self.addresses.iter().filter(|address| is_public(address))
    }
}

/// `http://127.0.0.1:9090/` for people, or the path of the unix socket.
pub(super) fn shown(address: &LocalAddress) -> String {
    match address {
        LocalAddress::Tcp(address) => format!("http://{address}/"),
        LocalAddress::Unix(_) => address.to_string(),
    }
}

/// Ends it at once. A unix socket is gone afterwards.
impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.cancel();
        // It waits for nothing but what it is doing at the moment, which may be to make a page.
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the admin endpoint has panicked");
        }
    }
}

/// The thread.
fn run(
    address: &AdminAddress,
    snapshots: Snapshots,
    told: oneshot::Sender<Result<Vec<LocalAddress>, AdminError>>,
    stop: CancellationToken,
) {
    // A receiver that is gone has been cancelled, and drops what it is sent: there is nothing to serve then.
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(told.send(Err(AdminError::Thread(error)))),
    };
    runtime.block_on(async {
        let (listeners, hosts) = match listen(address) {
            Ok(bound) => bound,
            Err(error) => return drop(told.send(Err(error))),
        };
        if told.send(Ok(listeners.addresses())).is_ok() {
            server::serve(listeners, Arc::new(Site::new(hosts, snapshots)), stop).await;
        }
    });
}

fn listen(address: &AdminAddress) -> Result<(Listeners, Hosts), AdminError> {
    let listen = address.listen().map_err(|source| AdminError::Name { address: address.clone(), source })?;
    let listeners = Listeners::bind(&listen)?;
    let hosts = hosts_of(&listeners.addresses(), address.name());
    Ok((listeners, hosts))
}

fn hosts_of(addresses: &[LocalAddress], name: Option<&str>) -> Hosts {
    if addresses.iter().all(|address| matches!(address, LocalAddress::Unix(_))) {
        return Hosts::Any;
    }
    Hosts::Tcp { public: addresses.iter().any(is_public), name: name.map(str::to_owned) }
}

fn is_public(address: &LocalAddress) -> bool {
    matches!(address, LocalAddress::Tcp(address) if !address::is_loopback(address.ip()))
}
