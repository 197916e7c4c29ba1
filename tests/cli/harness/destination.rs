//! Servers that the emulated agent connects to.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Mutex, mpsc, watch},
    task::JoinHandle,
};

use super::{client::reset, within};

/// Outcomes that wait to be asked for.
const OUTCOMES: usize = 8192;

/// A server that treats every connection alike and tells what became of each.
pub(crate) struct Destination<T = Closed> {
    pub(crate) port: u16,
    accepted: watch::Receiver<usize>,
    outcomes: Mutex<mpsc::Receiver<T>>,
    task: JoinHandle<()>,
}

/// How a destination saw a connection end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// After so many bytes, by an end of the data.
    Cleanly(usize),
    /// By a reset.
    Reset,
}

impl<T: Send + 'static> Destination<T> {
    pub(crate) async fn serve<F, R>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + 'static,
        R: Future<Output = T> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (count, accepted) = watch::channel(0);
        let (sender, outcomes) = mpsc::channel(OUTCOMES);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).expect("a socket");
                count.send_modify(|count| *count += 1);
                let (work, sender) = (serve(socket), sender.clone());
                tokio::spawn(async move { drop(sender.send(work.await).await) });
            }
        });
        Self { port, accepted, outcomes: Mutex::new(outcomes), task }
    }

    /// Connections until now.
    pub(crate) fn accepted(&self) -> usize {
        *self.accepted.borrow()
    }

    /// Waits for so many connections.
    pub(crate) async fn until_accepted(&self, count: usize) {
        let mut accepted = self.accepted.clone();
        within(&format!("{count} connections"), accepted.wait_for(|now| *now >= count)).await.expect("it runs");
    }

    /// What became of the next connection that has ended.
    pub(crate) async fn outcome(&self) -> T {
        within("the end of a connection", async { self.outcomes.lock().await.recv().await }).await.expect("it runs")
    }
}

impl<T> Drop for Destination<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Destination {
    /// Sends everything back.
    pub(crate) async fn echo() -> Self {
        Self::serve(|mut socket| async move {
            let mut chunk = vec![0; 16 << 10];
            let mut total = 0;
            loop {
                match socket.read(&mut chunk).await {
                    Ok(0) => return Closed::Cleanly(total),
                    Ok(count) if socket.write_all(&chunk[..count]).await.is_ok() => total += count,
                    _ => return Closed::Reset,
                }
            }
        })
        .await
    }

    /// Only reads.
    pub(crate) async fn sink() -> Self {
        Self::serve(|mut socket| async move { Closed::of(socket.read_to_end(&mut Vec::new()).await) }).await
    }

    /// Says something and waits for the other side's end.
    pub(crate) async fn greeting(text: &'static [u8]) -> Self {
        Self::serve(move |mut socket| async move {
            match socket.write_all(text).await {
                Ok(()) => Closed::of(socket.read_to_end(&mut Vec::new()).await),
                Err(_) => Closed::Reset,
            }
        })
        .await
    }

    /// Says something and ends.
    pub(crate) async fn farewell(text: &'static [u8]) -> Self {
        Self::serve(move |mut socket| async move {
            if socket.write_all(text).await.is_err() || socket.shutdown().await.is_err() {
                return Closed::Reset;
            }
            Closed::of(socket.read_to_end(&mut Vec::new()).await)
        })
        .await
    }

    /// Resets every connection after its first byte.
    pub(crate) async fn resetting() -> Self {
        Self::serve(|mut socket| async move {
            let read = socket.read_u8().await;
            reset(socket);
            Closed::of(read.map(|_| 1))
        })
        .await
    }
}

impl Closed {
    pub(crate) fn of(read: io::Result<usize>) -> Self {
        read.map_or(Self::Reset, Self::Cleanly)
    }
}

/// A port that refuses every connection, and that nobody else gets meanwhile.
pub(crate) struct RefusingPort {
    pub(crate) port: u16,
    socket: Arc<Socket>,
}

impl RefusingPort {
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        let address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
        Self { port: address.port(), socket: Arc::new(socket) }
    }

    /// From now on connections are accepted; they end at once.
    pub(crate) fn accept(&self) {
        self.socket.listen(16).expect("a bound socket");
        let socket = Arc::clone(&self.socket);
        // Ends with the process: accepting blocks.
        std::thread::spawn(move || while socket.accept().is_ok() {});
    }
}
