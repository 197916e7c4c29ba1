//! One byte there and back, again and again: what somebody feels who types.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{Outcome, PATIENCE, destination::Command, load::connect};

/// Round trips, in the order of their length.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latency(Vec<Duration>);

impl Latency {
    pub(crate) fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// In milliseconds; so many of a thousand took no longer.
    pub(crate) fn permille(&self, permille: usize) -> Option<f64> {
        let at = (self.0.len().checked_sub(1)? * permille).div_ceil(1000);
        Some(self.0.get(at)?.as_secs_f64() * 1000.0)
    }
}

#[derive(Default)]
struct Shared {
    recording: AtomicBool,
    stopping: AtomicBool,
    samples: Mutex<Vec<Duration>>,
}

/// Connections that play ping-pong.
pub(crate) struct PingPong {
    shared: Arc<Shared>,
    players: JoinSet<io::Result<()>>,
}

impl PingPong {
    /// Starts so many connections; each has had its first byte back when this returns.
    pub(crate) async fn start(address: SocketAddr, connections: usize) -> Outcome<Self> {
        let shared = Arc::<Shared>::default();
        let mut players = JoinSet::new();
        for _ in 0..connections {
            let mut socket = connect(address).await?;
            socket.write_all(&Command::Echo.request(0, 0)).await?;
            socket.write_u8(0).await?;
            timeout(PATIENCE, socket.read_u8()).await.map_err(|_| "no first echo")??;
            let shared = Arc::clone(&shared);
            players.spawn(async move {
                let mut number = 0_u8;
                while !shared.stopping.load(Relaxed) {
                    number = number.wrapping_add(1);
                    let started = Instant::now();
                    socket.write_u8(number).await?;
                    let back = timeout(PATIENCE, socket.read_u8()).await??;
                    if back != number {
                        return Err(io::Error::other(format!("sent {number}, got {back} back")));
                    }
                    if shared.recording.load(Relaxed) {
                        shared.samples.lock().unwrap_or_else(PoisonError::into_inner).push(started.elapsed());
                    }
                }
                Ok(())
            });
        }
        Ok(Self { shared, players })
    }

    /// Round trips that end from now on count.
    pub(crate) fn record(&self) {
        self.shared.recording.store(true, Relaxed);
    }

    /// Lets the last round trips end.
    pub(crate) async fn finish(mut self) -> Outcome<Latency> {
        self.shared.stopping.store(true, Relaxed);
        while let Some(player) = self.players.join_next().await {
            player??;
        }
        Ok(Latency::of(std::mem::take(&mut self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner))))
    }
}
