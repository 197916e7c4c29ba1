//! Where local programs connect to: bound before any session is started, so that a busy port costs nothing.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{self, Sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{AdoptedListener, Bind, Listen, Peer};
#[cfg(unix)]
use super::{adopted, unix_socket::UnixSocket};

/// Connections that the kernel keeps until they are accepted. Connections beyond `--max-connections` wait there, but for
/// the first of them.
pub(super) const BACKLOG: i32 = 1024;

/// Attempts to find a port that is free on both loopback addresses. A number that is taken on one of them is rare.
const PAIR_ATTEMPTS: u32 = 10;

/// The wait after a failed accept, doubled up to [`ACCEPT_RETRY_MAX`] while it keeps failing: descriptors come back
/// when connections end.
const ACCEPT_RETRY_MIN: Duration = Duration::from_millis(20);
const ACCEPT_RETRY_MAX: Duration = Duration::from_secs(1);

/// A local address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// A TCP address.
    #[error("cannot listen on {address}")]
    Tcp {
        /// The address, as asked for.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Every free port of the first address is taken on the second.
    #[error("found no port that is free on both {first} and {second}")]
    NoPair {
        /// The first address.
        first: IpAddr,
        /// The second address.
        second: IpAddr,
    },
    /// A unix socket.
    #[error("cannot listen on {}", path.display())]
    Unix {
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program listens on the unix socket.
    #[error("cannot listen on {}: another program does", path.display())]
    UnixInUse {
        /// Its path.
        path: PathBuf,
    },
    /// The path is taken by something that ssmfwd did not make.
    #[error("cannot listen on {}: it exists and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A socket that was to listen already.
    #[error("cannot use a listening socket that was passed on")]
    Adopted {
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// This system has no unix sockets.
    #[error("cannot listen on {}: there are no unix sockets on this system", path.display())]
    Unsupported {
        /// The path.
        path: PathBuf,
    },
}

/// An address that is bound.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LocalAddress {
    /// With the real port.
    Tcp(SocketAddr),
    /// A unix socket. One without a path, which somebody else has made, has `@name` or `(unnamed)` in its place.
    Unix(PathBuf),
}

/// `127.0.0.1:13306`, `[::1]:13306` or the path.
impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A connection of a local program.
#[derive(Debug)]
pub enum Accepted {
    /// Over TCP.
    Tcp(TcpStream, SocketAddr),
    /// Over a unix socket.
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

impl Accepted {
    /// Whose it is.
    #[must_use]
    pub fn peer(&self) -> Peer {
        match self {
            Self::Tcp(_, peer) => Peer::Tcp(*peer),
            #[cfg(unix)]
            Self::Unix(_) => Peer::Unix,
        }
    }
}

/// The listening sockets of one forward: one or two that we have bound, or any number of others.
pub struct Listeners {
    // In this order: the sockets are closed before that is told.
    sockets: Vec<Listening>,
    closed: DropGuard,
    /// Which socket is asked first, so that a busy one does not starve the other.
    turn: usize,
    retry: Retry,
}

enum Listening {
    Tcp(TcpSocket),
    #[cfg(unix)]
    Unix(UnixSocket),
}

/// A listening TCP socket.
struct TcpSocket {
    listener: TcpListener,
    /// With the real port.
    address: SocketAddr,
}

impl TcpSocket {
    /// One that listens and does not block.
    fn over(listener: std::net::TcpListener) -> io::Result<Self> {
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }
}

impl From<TcpSocket> for Listening {
    fn from(socket: TcpSocket) -> Self {
        Self::Tcp(socket)
    }
}

impl Listeners {
    /// Binds and listens. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// When an address cannot be bound; then none is. The second loopback address is left out where the machine has
    /// no IPv6.
    pub fn bind(listen: &Listen) -> Result<Self, BindError> {
        let sockets = match listen {
            Listen::Tcp { bind, port } => bind_tcp(*bind, *port)?,
            #[cfg(unix)]
            Listen::Unix(path) => vec![Listening::Unix(UnixSocket::bind(path)?)],
            #[cfg(not(unix))]
            Listen::Unix(path) => return Err(BindError::Unsupported { path: path.clone() }),
        };
        Ok(Self { sockets, closed: CancellationToken::new().drop_guard(), turn: 0, retry: Retry::default() })
    }

    /// Takes sockets that listen already. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// When one of them does not listen, or there is none.
    pub fn adopt(listeners: Vec<AdoptedListener>) -> Result<Self, BindError> {
        let failed = |source| BindError::Adopted { source };
        if listeners.is_empty() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "there is none")));
        }
        let sockets = listeners.into_iter().map(Listening::adopt).collect::<io::Result<_>>().map_err(failed)?;
        Ok(Self { sockets, closed: CancellationToken::new().drop_guard(), turn: 0, retry: Retry::default() })
    }

    /// Fires when none of them listens any more: their addresses can be bound again.
    #[must_use]
    pub fn closed(&self) -> CancellationToken {
        self.closed.token().clone()
    }

    /// The addresses, with the real port.
    #[must_use]
    pub fn addresses(&self) -> Vec<LocalAddress> {
        let address = |socket: &Listening| match socket {
            Listening::Tcp(socket) => LocalAddress::Tcp(socket.address),
            #[cfg(unix)]
            Listening::Unix(socket) => LocalAddress::Unix(socket.path().to_owned()),
        };
        self.sockets.iter().map(address).collect()
    }

    /// The next connection. Cancel-safe.
    ///
    /// # Errors
    /// When connections cannot be accepted, mostly for want of descriptors: call again, it will wait first.
    pub async fn accept(&mut self) -> io::Result<Accepted> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        ready!(self.retry.poll_allowed(cx));
        for turn in self.turn..self.turn + self.sockets.len() {
            let index = turn % self.sockets.len();
            loop {
                match self.sockets[index].poll_accept(cx) {
                    Poll::Pending => break,
                    // The connection failed before it was accepted: accept(2) asks to go on.
                    Poll::Ready(Err(error)) if is_of_connection(&error) => {}
                    Poll::Ready(Err(error)) => {
                        self.retry.failed();
                        return Poll::Ready(Err(error));
                    }
                    Poll::Ready(Ok(accepted)) => {
                        self.retry = Retry::default();
                        self.turn = index + 1;
                        return Poll::Ready(Ok(accepted));
                    }
                }
            }
        }
        Poll::Pending
    }
}

impl Listening {
    fn adopt(listener: AdoptedListener) -> io::Result<Self> {
        match listener {
            AdoptedListener::Tcp(listener) => {
                #[cfg(unix)]
                adopted::check(&listener)?;
                listener.set_nonblocking(true)?;
                Ok(TcpSocket::over(listener)?.into())
            }
            #[cfg(unix)]
            AdoptedListener::Unix(listener) => Ok(Self::Unix(UnixSocket::adopt(listener)?)),
        }
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = ready!(socket.listener.poll_accept(cx))?;
                Poll::Ready(Ok(Accepted::Tcp(stream, peer)))
            }
            #[cfg(unix)]
            Self::Unix(socket) => {
                let (stream, _) = ready!(socket.listener.poll_accept(cx))?;
                Poll::Ready(Ok(Accepted::Unix(stream)))
            }
        }
    }
}

/// Errors of one connection, not of the listener.
fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    )
}

/// When accepting may be tried again.
#[derive(Default)]
struct Retry {
    wait: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Retry {
    fn failed(&mut self) {
        self.wait = (self.wait * 2).clamp(ACCEPT_RETRY_MIN, ACCEPT_RETRY_MAX);
        self.timer = Some(Box::pin(time::sleep_until(time::Instant::now() + self.wait)));
    }

    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
        Poll::Ready(())
    }
}

fn bind_tcp(bind: Bind, port: u16) -> Result<Vec<Listening>, BindError> {
    let (first, second) = bind.addresses();
    let Some(second) = second else { return Ok(vec![bind_one(SocketAddr::new(first, port))?.into()]) };
    for _ in 0..PAIR_ATTEMPTS {
        let one = bind_one(SocketAddr::new(first, port))?;
        match bind_one(SocketAddr::new(second, one.address.port())) {
            Ok(two) => return Ok(vec![one.into(), two.into()]),
            Err(BindError::Tcp { source, .. }) if is_missing(&source) => return Ok(vec![one.into()]),
            Err(BindError::Tcp { source, .. }) if port == 0 && source.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(BindError::NoPair { first, second })
}

/// Whether the machine lacks the address or its whole family.
fn is_missing(error: &io::Error) -> bool {
    /// EAFNOSUPPORT, which has no `ErrorKind`.
    const FAMILY: i32 = if cfg!(target_os = "linux") {
        97
    } else if cfg!(windows) {
        10047
    } else {
        47
    };
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(FAMILY)
}

fn bind_one(address: SocketAddr) -> Result<TcpSocket, BindError> {
    listen_tcp(address).map_err(|source| BindError::Tcp { address, source })
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // As servers do: connections of an earlier run that are in TIME-WAIT must not block the port. On Windows the
    // option would let others take the port over.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // IPv4 has its own socket.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpSocket::over(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(bind: Bind, port: u16) -> Listen {
        Listen::Tcp { bind, port }
    }

    fn ports(listeners: &Listeners) -> Vec<SocketAddr> {
        let port = |address| match address {
            LocalAddress::Tcp(address) => address,
            LocalAddress::Unix(path) => panic!("{path:?}"),
        };
        listeners.addresses().into_iter().map(port).collect()
    }

    #[tokio::test]
    async fn port_zero_is_the_same_number_on_both_loopback_addresses() {
        let listeners = Listeners::bind(&tcp(Bind::Loopback, 0)).expect("free ports");
        let ports = ports(&listeners);
        assert_eq!(ports[0].ip().to_string(), "127.0.0.1");
        assert_ne!(ports[0].port(), 0);
        if let Some(second) = ports.get(1) {
            assert_eq!(second.ip().to_string(), "::1");
            assert_eq!(second.port(), ports[0].port());
        }
    }

    #[tokio::test]
    async fn every_address_accepts() {
        let mut listeners = Listeners::bind(&tcp(Bind::Loopback, 0)).expect("free ports");
        for address in ports(&listeners) {
            let client = TcpStream::connect(address).await.expect("a listener");
            let accepted = listeners.accept().await.expect("a connection");
            assert_eq!(accepted.peer(), Peer::Tcp(client.local_addr().expect("an address")));
        }
    }

    #[tokio::test]
    async fn a_busy_port_is_named_with_its_cause() {
        let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = busy.local_addr().expect("an address").port();
        let error = Listeners::bind(&tcp(Bind::Loopback, port)).err().expect("the port is busy");
        assert_eq!(error.to_string(), format!("cannot listen on 127.0.0.1:{port}"));
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.to_lowercase().contains("in use"), "{cause}");
    }

    #[tokio::test]
    async fn a_port_that_is_busy_on_the_second_address_only_is_an_error() {
        let Ok(busy) = std::net::TcpListener::bind("[::1]:0") else { return }; // no IPv6 here
        let port = busy.local_addr().expect("an address").port();
        let error = Listeners::bind(&tcp(Bind::Loopback, port)).err().expect("the port is busy");
        assert_eq!(error.to_string(), format!("cannot listen on [::1]:{port}"));
        // And nothing is left bound.
        std::net::TcpListener::bind(("127.0.0.1", port)).expect("the first address is free again");
    }

    #[tokio::test]
    async fn all_addresses_are_two_sockets() {
        let listeners = Listeners::bind(&tcp(Bind::All, 0)).expect("free ports");
        let ports = ports(&listeners);
        assert_eq!(ports[0].ip().to_string(), "0.0.0.0");
        assert!(ports.len() == 1 || ports[1].ip().to_string() == "::");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_an_error() {
        let elsewhere = Bind::Address("203.0.113.1".parse().expect("an address"));
        let error = Listeners::bind(&tcp(elsewhere, 0)).err().expect("not ours");
        assert_eq!(error.to_string(), "cannot listen on 203.0.113.1:0");
    }

    #[tokio::test(start_paused = true)]
    async fn failed_accepts_are_retried_later_and_later() {
        let mut retry = Retry::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            retry.failed();
            let start = time::Instant::now();
            poll_fn(|cx| retry.poll_allowed(cx)).await;
            waits.push(start.elapsed().as_millis());
        }
        assert_eq!(waits, [20, 40, 80, 160, 320, 640, 1000, 1000]);
    }
}
