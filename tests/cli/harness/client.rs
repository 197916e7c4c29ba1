//! A local program that uses a forward.

use std::{io, net::SocketAddr};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::within;

/// A connection to a forward.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let socket = within("connecting", TcpStream::connect(address)).await.expect("a listener");
        socket.set_nodelay(true).expect("a socket");
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("a socket")
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        within("writing", self.0.write_all(bytes)).await.expect("an open connection");
    }

    /// So many bytes.
    pub(crate) async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        within("reading", self.0.read_exact(&mut bytes)).await.expect("an open connection");
        bytes
    }

    /// All bytes up to the end.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        within("reading to the end", self.0.read_to_end(&mut bytes)).await.expect("a clean end");
        bytes
    }

    /// All bytes up to a failure.
    pub(crate) async fn read_to_failure(&mut self) -> (Vec<u8>, io::ErrorKind) {
        let mut bytes = Vec::new();
        match within("reading to a failure", self.0.read_to_end(&mut bytes)).await {
            Ok(_) => panic!("a clean end after {} bytes", bytes.len()),
            Err(error) => (bytes, error.kind()),
        }
    }

    /// Writes bytes and reads them back from an echoing destination.
    pub(crate) async fn echo(&mut self, bytes: &[u8]) {
        self.write(bytes).await;
        assert_eq!(self.read(bytes.len()).await, bytes);
    }

    /// Ends this direction.
    pub(crate) async fn end(&mut self) {
        self.0.shutdown().await.expect("an open connection");
    }

    /// Resets the connection.
    pub(crate) fn reset(self) {
        reset(self.0);
    }
}

/// Resets a connection.
pub(super) fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO)).expect("a socket");
}
