//! What the connections of the soak lead to: it checks what it gets and answers with what can be checked.

use std::{
    io::{self, ErrorKind},
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    pattern::{receive, send},
    verdict::Verdict,
};

/// A request: so many bytes of one pattern go up, while so many of another come down. When all is up, a receipt follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) seed: u64,
    pub(crate) up: u32,
    pub(crate) down: u32,
}

impl Request {
    /// Most bytes in one direction.
    pub(crate) const MOST: u32 = 1 << 20;

    pub(crate) fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.seed.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.up.to_be_bytes());
        bytes[12..].copy_from_slice(&self.down.to_be_bytes());
        bytes
    }

    /// The byte that says that all of it arrived.
    pub(crate) fn receipt(self) -> u8 {
        self.seed.to_be_bytes()[0]
    }

    /// `None` at the end of the data.
    async fn read(from: &mut TcpStream) -> io::Result<Option<Self>> {
        let mut first = [0];
        if from.read(&mut first).await? == 0 {
            return Ok(None);
        }
        let mut rest = [0; 7];
        from.read_exact(&mut rest).await?;
        let [b, c, d, e, f, g, h] = rest;
        let seed = u64::from_be_bytes([first[0], b, c, d, e, f, g, h]);
        let request = Self { seed, up: from.read_u32().await?, down: from.read_u32().await? };
        if request.up > Self::MOST || request.down > Self::MOST {
            return Err(io::Error::other(format!("no request that was ever made: {request:?}")));
        }
        Ok(Some(request))
    }
}

/// A server on loopback.
pub(crate) struct Destination {
    pub(crate) port: u16,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    open: AtomicU64,
    /// In the middle of a request.
    cut: AtomicU64,
}

impl Destination {
    pub(crate) async fn start(verdict: Verdict) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let counts = Arc::<Counts>::default();
        let shared = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (counts, verdict) = (Arc::clone(&shared), verdict.clone());
                tokio::spawn(async move {
                    counts.open.fetch_add(1, Relaxed);
                    match serve(socket).await {
                        Ok(()) => {}
                        Err(error) if error.kind() == ErrorKind::Other => {
                            verdict.fail(format!("the destination got what was not sent: {error}"));
                        }
                        // Whether that may be is judged at the other end.
                        Err(_) => {
                            counts.cut.fetch_add(1, Relaxed);
                        }
                    }
                    counts.open.fetch_sub(1, Relaxed);
                });
            }
        });
        Ok(Self { port, counts, task })
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> u64 {
        self.counts.open.load(Relaxed)
    }

    /// Connections that ended in the middle of a request.
    pub(crate) fn cut(&self) -> u64 {
        self.counts.cut.load(Relaxed)
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    while let Some(request) = Request::read(&mut socket).await? {
        let (mut reader, mut writer) = socket.split();
        tokio::try_join!(
            receive(&mut reader, request.seed, request.up as usize),
            send(&mut writer, !request.seed, request.down as usize),
        )?;
        writer.write_u8(request.receipt()).await?;
    }
    Ok(())
}
