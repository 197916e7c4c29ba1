//! Connections that live a moment, one after another on each of some lanes.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    Outcome, PATIENCE,
    destination::{Command, Destination},
    load::connect,
    pattern::PIECE,
    ping_pong::Latency,
    transfer::{Transfer, Transfers},
};

/// What each connection does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Errand {
    /// A byte there and back.
    Echo,
    /// So many bytes down.
    Download(u64),
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    connections: AtomicU64,
    /// Bytes of downloads.
    bytes: AtomicU64,
    samples: Mutex<Vec<Duration>>,
}

/// Lanes that are under way.
pub(crate) struct Lanes {
    shared: Arc<Shared>,
    lanes: JoinSet<io::Result<()>>,
}

impl Lanes {
    pub(crate) fn start(address: SocketAddr, destination: &Destination, lanes: usize, errand: Errand) -> Self {
        let mut this = Self { shared: Arc::default(), lanes: JoinSet::new() };
        for _ in 0..lanes {
            let (shared, transfers) = (Arc::clone(&this.shared), Arc::clone(&destination.transfers));
            this.lanes.spawn(async move {
                while !shared.stopping.load(Acquire) {
                    let started = Instant::now();
                    let run = async {
                        match errand {
                            Errand::Echo => echo(address).await,
                            Errand::Download(bytes) => download(address, &transfers, bytes, &shared.bytes).await,
                        }
                    };
                    timeout(PATIENCE, run).await??;
                    shared.connections.fetch_add(1, Relaxed);
                    shared.samples.lock().unwrap_or_else(PoisonError::into_inner).push(started.elapsed());
                }
                Ok(())
            });
        }
        this
    }

    /// Connections that are done.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Relaxed)
    }

    /// Bytes that have come down.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Relaxed)
    }

    /// Lets the last connections end; how long connections took.
    pub(crate) async fn finish(mut self) -> Outcome<Latency> {
        self.shared.stopping.store(true, Release);
        while let Some(lane) = self.lanes.join_next().await {
            lane??;
        }
        Ok(Latency::of(std::mem::take(&mut self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner))))
    }
}

async fn echo(address: SocketAddr) -> io::Result<()> {
    let mut socket = connect(address).await?;
    let mut request = [0; 18];
    request[..17].copy_from_slice(&Command::Echo.request(0, 0));
    request[17] = fastrand::u8(..);
    socket.write_all(&request).await?;
    let back = socket.read_u8().await?;
    if back == request[17] { Ok(()) } else { Err(io::Error::other("another byte came back")) }
}

async fn download(address: SocketAddr, transfers: &Transfers, bytes: u64, sum: &AtomicU64) -> io::Result<()> {
    let transfer = transfers.add(Some(bytes));
    let done = fetch(address, &transfer, sum).await;
    transfers.forget(transfer.id);
    done
}

async fn fetch(address: SocketAddr, transfer: &Transfer, sum: &AtomicU64) -> io::Result<()> {
    let mut socket = connect(address).await?;
    socket.write_all(&Command::Send.request(0, transfer.id)).await?;
    let mut buffer = vec![0; PIECE];
    while Some(transfer.count()) != transfer.goal() {
        let count = socket.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !transfer.received(&buffer[..count]) {
            return Err(io::Error::other("wrong bytes"));
        }
        sum.fetch_add(count as u64, Relaxed);
    }
    Ok(())
}
