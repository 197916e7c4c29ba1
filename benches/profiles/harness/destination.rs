//! What the clients connect to, behind the agent: takes, sends and echoes as a request of 17 bytes asks.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    pattern::PIECE,
    transfer::{Transfer, Transfers},
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// Bytes that a slow destination takes at once.
const SLOW_PIECE: usize = 16 << 10;
/// And what its socket holds beside them: the kernel's usual megabytes would hide that it is slow.
const SLOW_BUFFER: usize = 64 << 10;
/// What a socket holds that the agent has not read: the kernel's usual megabytes take the agent's pump seconds each.
const SEND_BUFFER: usize = 128 << 10;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Command {
    /// To take a transfer.
    Take = b'T',
    /// To send one.
    Send = b'S',
    /// Both at once.
    Both = b'B',
    /// To return what comes, as it comes.
    Echo = b'E',
}

impl Command {
    /// The request: the command, the transfer to be taken, the one to be sent.
    pub(crate) fn request(self, take: u64, send: u64) -> [u8; 17] {
        let mut request = [self as u8; 17];
        request[1..9].copy_from_slice(&take.to_be_bytes());
        request[9..].copy_from_slice(&send.to_be_bytes());
        request
    }
}

/// A destination on loopback. Lives as long as this value.
pub(crate) struct Destination {
    pub(crate) port: u16,
    pub(crate) transfers: Arc<Transfers>,
    accepting: JoinHandle<()>,
}

impl Destination {
    pub(crate) fn start() -> io::Result<Self> {
        Self::with_rate(None)
    }

    /// One that takes no more than so many bytes per second on each connection.
    pub(crate) fn with_rate(rate: Option<u64>) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Connections inherit these.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        if rate.is_some() {
            socket.set_recv_buffer_size(SLOW_BUFFER)?;
        }
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(socket.into())?;
        let port = listener.local_addr()?.port();
        let transfers = Arc::<Transfers>::default();
        let known = Arc::clone(&transfers);
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let known = Arc::clone(&known);
                // A row that is done hangs up in the middle of things; what matters is checked by its transfer.
                tokio::spawn(async move { serve(socket, &known, rate).await.ok() });
            }
        });
        Ok(Self { port, transfers, accepting })
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut socket: TcpStream, transfers: &Transfers, rate: Option<u64>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut request = [0; 17];
    socket.read_exact(&mut request).await?;
    let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| request[at + byte]));
    let find = |id| transfers.find(id).ok_or_else(|| io::Error::other("unknown transfer"));
    let (mut reader, mut writer) = socket.split();
    match request[0] {
        command if command == Command::Take as u8 => receive(&mut reader, &*find(number(1))?, rate).await,
        command if command == Command::Send as u8 => {
            send(&mut writer, &*find(number(9))?).await?;
            // The other end closes first.
            reader.read(&mut [0]).await.map(drop)
        }
        command if command == Command::Both as u8 => {
            let (take, give) = (find(number(1))?, find(number(9))?);
            tokio::try_join!(receive(&mut reader, &take, rate), send(&mut writer, &give)).map(drop)
        }
        command if command == Command::Echo as u8 => {
            let mut buffer = [0; 4096];
            loop {
                match reader.read(&mut buffer).await? {
                    0 => return Ok(()),
                    count => writer.write_all(&buffer[..count]).await?,
                }
            }
        }
        other => Err(io::Error::other(format!("unknown command {other}"))),
    }
}

/// Sends a transfer to its end.
pub(crate) async fn send(to: &mut (impl AsyncWrite + Unpin), transfer: &Transfer) -> io::Result<()> {
    loop {
        let bytes = transfer.next();
        if bytes.is_empty() {
            return Ok(());
        }
        let count = to.write(bytes).await?;
        transfer.sent(count);
    }
}

/// Receives and checks a transfer until the connection ends.
pub(crate) async fn receive(
    from: &mut (impl AsyncRead + Unpin),
    transfer: &Transfer,
    rate: Option<u64>,
) -> io::Result<()> {
    let mut buffer = vec![0; if rate.is_some() { SLOW_PIECE } else { PIECE }];
    let mut next = Instant::now();
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) => {
                transfer.fail(format!("transfer {}: {error}", transfer.id));
                return Err(error);
            }
        };
        if !transfer.received(&buffer[..count]) {
            return Err(io::Error::other("wrong bytes"));
        }
        if let Some(rate) = rate {
            next = next.max(Instant::now()) + Duration::from_micros(count as u64 * 1_000_000 / rate.max(1));
            sleep_until(next).await;
        }
    }
}
