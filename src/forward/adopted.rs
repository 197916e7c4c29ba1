//! Listening sockets that somebody else has made: a supervisor that listens before its services run (`systemd.socket(5)`).
//!
//! They are used as they are: what they are bound to, their backlog and the mode of a unix socket are the business of
//! whoever has made them, and so is the file of a unix socket when we are gone.

use std::{io, net::TcpListener};
#[cfg(unix)]
use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{SocketAddr, UnixListener},
    },
    path::PathBuf,
};

/// A listening socket from elsewhere.
#[derive(Debug)]
#[non_exhaustive]
pub enum AdoptedListener {
    /// Over TCP.
    Tcp(TcpListener),
    /// A unix socket; it may have no path.
    #[cfg(unix)]
    Unix(UnixListener),
}

impl AdoptedListener {
    /// Another handle of the same socket.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => Ok(Self::Tcp(socket.try_clone()?)),
            #[cfg(unix)]
            Self::Unix(socket) => Ok(Self::Unix(socket.try_clone()?)),
        }
    }
}

#[cfg(unix)]
impl TryFrom<OwnedFd> for AdoptedListener {
    type Error = io::Error;

    /// What a descriptor is.
    ///
    /// # Errors
    /// When it is not a stream socket that listens, over TCP or unix.
    fn try_from(descriptor: OwnedFd) -> io::Result<Self> {
        use rustix::net::{AddressFamily, SocketType, getsockname, sockopt};

        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        if sockopt::socket_type(&descriptor)? != SocketType::STREAM {
            return Err(wrong("it is not a stream socket"));
        }
        check(&descriptor)?;
        match getsockname(&descriptor)?.address_family() {
            AddressFamily::INET | AddressFamily::INET6 => Ok(Self::Tcp(descriptor.into())),
            AddressFamily::UNIX => Ok(Self::Unix(descriptor.into())),
            _ => Err(wrong("it is neither a TCP nor a unix socket")),
        }
    }
}

/// One that does not listen would fail at every accept; and one that was inherited would be inherited again, by every
/// program that we start.
#[cfg(unix)]
pub(super) fn check(socket: impl AsFd) -> io::Result<()> {
    // Darwin does not tell.
    #[cfg(not(target_vendor = "apple"))]
    if !rustix::net::sockopt::socket_acceptconn(&socket)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
    }
    Ok(rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC)?)
}

/// The path of a unix socket, or what stands for it: `@name` for an abstract one, as in other programs.
#[cfg(unix)]
pub(super) fn path_of(address: &SocketAddr) -> PathBuf {
    if let Some(path) = address.as_pathname() {
        return path.to_owned();
    }
    #[cfg(target_os = "linux")]
    if let Some(name) = std::os::linux::net::SocketAddrExt::as_abstract_name(address) {
        return format!("@{}", name.escape_ascii()).into();
    }
    "(unnamed)".into()
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::net::UnixStream as StdStream;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpStream, UnixStream},
    };

    use super::*;
    use crate::forward::{BindError, Listeners, LocalAddress, Peer};

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn tcp(address: &str) -> TcpListener {
        TcpListener::bind(address).expect("a free port")
    }

    #[tokio::test]
    async fn sockets_of_all_kinds_are_used_as_they_are() {
        let folder = folder();
        let path = folder.path().join("db.sock");
        let listeners = [OwnedFd::from(tcp("127.0.0.1:0")), UnixListener::bind(&path).expect("a free path").into()];
        let adopted: Vec<_> =
            listeners.into_iter().map(AdoptedListener::try_from).collect::<Result<_, _>>().expect("sockets");
        let mut listeners = Listeners::adopt(adopted).expect("they listen");
        let [LocalAddress::Tcp(address), LocalAddress::Unix(at)] = &listeners.addresses()[..] else { panic!("two") };
        assert_eq!(*at, path);
        let mut client = TcpStream::connect(address).await.expect("a listener");
        let accepted = listeners.accept().await.expect("a connection");
        assert_eq!(accepted.peer(), Peer::Tcp(client.local_addr().expect("an address")));
        drop(accepted);
        assert_eq!(client.read(&mut [0]).await.expect("the end"), 0);
        let mut client = UnixStream::connect(&path).await.expect("a listener");
        client.write_all(b"x").await.expect("a write");
        assert_eq!(listeners.accept().await.expect("a connection").peer(), Peer::Unix);

        // The file is not ours.
        drop(listeners);
        assert!(path.exists());
        StdStream::connect(&path).expect_err("nothing listens any more");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn unix_sockets_without_a_path_have_a_name_too() {
        use std::os::linux::net::SocketAddrExt;

        let name = format!("ssmfwd-test-{}\0\u{1}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let listener = UnixListener::bind_addr(&address).expect("a free name");
        let mut listeners = Listeners::adopt(vec![AdoptedListener::Unix(listener)]).expect("it listens");
        let shown = format!("@ssmfwd-test-{}\\x00\\x01", std::process::id());
        assert_eq!(listeners.addresses(), [LocalAddress::Unix(shown.into())]);
        let _client = StdStream::connect_addr(&address).expect("a listener");
        assert_eq!(listeners.accept().await.expect("a connection").peer(), Peer::Unix);

        // Never bound: Linux lets it listen, although nobody finds it.
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
        if socket.listen(1).is_ok() {
            let listeners = Listeners::adopt(vec![AdoptedListener::Unix(OwnedFd::from(socket).into())]);
            assert_eq!(listeners.expect("it listens").addresses(), [LocalAddress::Unix("(unnamed)".into())]);
        }
    }

    #[tokio::test]
    async fn what_does_not_listen_is_refused() {
        let folder = folder();
        let file = std::fs::File::create(folder.path().join("file")).expect("a file");
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let listener = tcp("127.0.0.1:0");
        let kept = listener.try_clone().expect("another descriptor");
        rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::empty()).expect("a descriptor");
        check(&kept).expect("it listens");
        assert_eq!(rustix::io::fcntl_getfd(&kept).expect("a descriptor"), rustix::io::FdFlags::CLOEXEC);
        let connected = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("a listener");
        for descriptor in [OwnedFd::from(file), datagrams.into(), connected.into()] {
            AdoptedListener::try_from(descriptor).expect_err("no listener");
        }
        let connected = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("a listener");
        let disguised = AdoptedListener::Tcp(OwnedFd::from(connected).into());
        let error = Listeners::adopt(vec![disguised]).err().expect("it does not listen");
        assert!(matches!(error, BindError::Adopted { .. }), "{error}");
        assert_eq!(error.to_string(), "cannot use a listening socket that was passed on");
        let nothing = Listeners::adopt(Vec::new()).err().expect("nobody could connect");
        assert!(matches!(nothing, BindError::Adopted { .. }), "{nothing}");
    }
}
