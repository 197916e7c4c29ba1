//! A TCP connection that wakes its task for whatever comes, or is looked at now and then.
//!
//! The first is what everybody wants, until messages come by themselves, one after another, a millisecond apart: then
//! each of them costs a wakeup, which is far more than the message itself. A connection that is *polled* is not
//! registered with the reactor; it is read when its owner says so, and what has come until then comes at once. (Network
//! cards do the same with their interrupts.) When to do so is not decided here.

use std::{
    io::{self, IoSlice, Read, Write},
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A TCP connection.
#[derive(Debug)]
pub(super) struct Socket {
    state: State,
}

#[derive(Debug)]
enum State {
    /// Registered: wakes its task.
    Awake(TcpStream),
    /// Not registered. `unread`: it may be read until there is nothing.
    Polled { tcp: std::net::TcpStream, unread: bool },
    /// Could not be registered, or the opposite: it was closed with that.
    Gone,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { state: State::Awake(tcp) }
    }

    /// Lets it be read once more, and from now on only when this is called. Nothing wakes its task until
    /// [`wake`](Self::wake), or until something cannot be written.
    ///
    /// # Errors
    /// If the system does not let it: then it is closed.
    pub(super) fn look(&mut self) -> io::Result<()> {
        self.state = match self.take()? {
            State::Awake(tcp) => State::Polled { tcp: tcp.into_std()?, unread: true },
            State::Polled { tcp, .. } => State::Polled { tcp, unread: true },
            State::Gone => State::Gone,
        };
        Ok(())
    }

    /// Lets it wake its task again, which has to read until there is nothing.
    ///
    /// # Errors
    /// If the system does not let it: then it is closed.
    pub(super) fn wake(&mut self) -> io::Result<()> {
        self.state = match self.take()? {
            State::Polled { tcp, .. } => State::Awake(TcpStream::from_std(tcp)?),
            state => state,
        };
        Ok(())
    }

    fn take(&mut self) -> io::Result<State> {
        match mem::replace(&mut self.state, State::Gone) {
            State::Gone => Err(io::ErrorKind::NotConnected.into()),
            state => Ok(state),
        }
    }

    /// Writes as `blocking` does while it is polled, and as `registered` does otherwise.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        mut blocking: impl FnMut(&std::net::TcpStream) -> io::Result<usize>,
        registered: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let State::Polled { tcp, .. } = &self.state {
            match retried(|| blocking(tcp)) {
                // Only the reactor tells when there is room.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wake()?,
                done => return Poll::Ready(done),
            }
        }
        match &mut self.state {
            State::Awake(tcp) => registered(Pin::new(tcp), cx),
            _ => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

/// As often as a signal comes between.
fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.state {
            State::Awake(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            State::Polled { unread: false, .. } => Poll::Pending,
            State::Polled { tcp, unread } => {
                let space = buffer.initialize_unfilled();
                match retried(|| (&*tcp).read(space)) {
                    Ok(count) => {
                        // Less than there was space for is all there was.
                        *unread = count == space.len() || count == 0;
                        buffer.advance(count);
                        Poll::Ready(Ok(()))
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        *unread = false;
                        Poll::Pending
                    }
                    Err(error) => Poll::Ready(Err(error)),
                }
            }
            State::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |mut tcp| tcp.write(bytes), |tcp, cx| tcp.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |mut tcp| tcp.write_vectored(slices), |tcp, cx| tcp.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.state {
            State::Awake(tcp) => Pin::new(tcp).poll_shutdown(cx),
            State::Polled { tcp, .. } => Poll::Ready(tcp.shutdown(std::net::Shutdown::Write)),
            State::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Socket::new(near.expect("connected")), far.expect("accepted").0)
    }

    /// What can be read at once.
    fn read(socket: &mut Socket) -> Option<String> {
        let mut space = [0; 16];
        let mut buffer = ReadBuf::new(&mut space);
        match Pin::new(socket).poll_read(&mut Context::from_waker(std::task::Waker::noop()), &mut buffer) {
            Poll::Pending => None,
            Poll::Ready(done) => {
                done.expect("alive");
                Some(String::from_utf8_lossy(buffer.filled()).into_owned())
            }
        }
    }

    /// Reads until this much has come: loopback takes its time.
    async fn look_for(socket: &mut Socket, wanted: &str) {
        let mut found = String::new();
        while found.len() < wanted.len() {
            socket.look().expect("alive");
            found.push_str(&read(socket).unwrap_or_default());
            tokio::task::yield_now().await;
        }
        assert_eq!(found, wanted);
    }

    #[tokio::test]
    async fn while_it_is_polled_it_is_read_when_it_is_told_to_and_no_further_than_there_is() {
        let (mut socket, mut far) = pair().await;
        far.write_all(b"one").await.expect("written");
        look_for(&mut socket, "one").await;
        far.write_all(b"two").await.expect("written");
        assert_eq!(read(&mut socket), None, "not before the next look");
        look_for(&mut socket, "two").await;
        drop(far);
        socket.look().expect("alive");
        let end = loop {
            tokio::task::yield_now().await;
            socket.look().expect("alive");
            if let Some(end) = read(&mut socket) {
                break end;
            }
        };
        assert_eq!(end, "");
        assert_eq!(read(&mut socket).as_deref(), Some(""), "an end stays");
    }

    #[tokio::test]
    async fn what_came_while_it_was_polled_wakes_once_it_may() {
        let (mut socket, mut far) = pair().await;
        socket.look().expect("alive");
        far.write_all(b"came before").await.expect("written");
        socket.wake().expect("alive");
        let mut first = [0; 11];
        socket.read_exact(&mut first).await.expect("woken");
        far.write_all(b"came behind").await.expect("written");
        let mut second = [0; 11];
        socket.read_exact(&mut second).await.expect("woken");
        assert_eq!((&first, &second), (b"came before", b"came behind"));
    }

    #[tokio::test]
    async fn what_does_not_fit_while_it_is_polled_is_written_later() {
        let (mut socket, mut far) = pair().await;
        socket.look().expect("alive");
        let sent = vec![7; 32 << 20];
        let (mut received, mut piece) = (0, vec![0; 1 << 20]);
        let reading = async {
            while received < sent.len() {
                received += far.read(&mut piece).await.expect("alive");
            }
        };
        let (written, ()) = tokio::join!(socket.write_all(&sent), reading);
        written.expect("written");
    }
}
