//! Bulk transfers through a local address, for as long as asked, all of it checked at its other end.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use super::{
    Outcome,
    destination::{Command, Destination, receive, send},
    transfer::{Transfer, Transfers},
};

/// What a local socket holds before its writer waits: a client is measured, not how much the kernel can hide.
const SEND_BUFFER: u32 = 256 << 10;

/// Which way data flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
    Both,
}

impl Direction {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Both => "both",
        }
    }
}

/// Connects as an application does that cares for latency.
pub(crate) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// Transfers that are under way, each on a connection of its own.
pub(crate) struct Bulk {
    transfers: Vec<Arc<Transfer>>,
    known: Arc<Transfers>,
    tasks: JoinSet<io::Result<()>>,
}

impl Bulk {
    /// Starts so many connections.
    pub(crate) async fn start(
        address: SocketAddr,
        destination: &Destination,
        direction: Direction,
        connections: usize,
    ) -> Outcome<Self> {
        let known = Arc::clone(&destination.transfers);
        let mut bulk = Self { transfers: Vec::new(), known, tasks: JoinSet::new() };
        for _ in 0..connections {
            let mut socket = connect(address).await?;
            let up = (direction != Direction::Down).then(|| bulk.add());
            let down = (direction != Direction::Up).then(|| bulk.add());
            let id = |transfer: &Option<Arc<Transfer>>| transfer.as_ref().map_or(0, |transfer| transfer.id);
            let command = match direction {
                Direction::Up => Command::Take,
                Direction::Down => Command::Send,
                Direction::Both => Command::Both,
            };
            let request = command.request(id(&up), id(&down));
            bulk.tasks.spawn(async move {
                socket.write_all(&request).await?;
                let (mut reader, mut writer) = socket.split();
                let up = async {
                    match up {
                        Some(up) => send(&mut writer, &up).await,
                        None => Ok(()),
                    }
                };
                let down = async {
                    match down {
                        Some(down) => receive(&mut reader, &down, None).await,
                        // Nothing comes; the connection is kept until the row is done with it.
                        None => std::future::pending().await,
                    }
                };
                tokio::try_join!(up, down).map(drop)
            });
        }
        Ok(bulk)
    }

    fn add(&mut self) -> Arc<Transfer> {
        let transfer = self.known.add(None);
        self.transfers.push(Arc::clone(&transfer));
        transfer
    }

    /// Bytes that have arrived so far, all transfers together.
    pub(crate) fn received(&self) -> u64 {
        self.transfers.iter().map(|transfer| transfer.count()).sum()
    }

    /// Stops all senders and waits until everything has arrived.
    pub(crate) async fn finish(mut self) -> Outcome<()> {
        self.transfers.iter().for_each(|transfer| transfer.stop());
        for transfer in &self.transfers {
            transfer.complete().await?;
            self.known.forget(transfer.id);
        }
        self.tasks.shutdown().await;
        Ok(())
    }
}
