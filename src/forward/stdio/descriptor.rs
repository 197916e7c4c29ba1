//! stdin and stdout without blocking, and without a trace on what others share with us.
//!
//! Whether reads and writes block is a property of the *open file description*, which a process shares with everybody
//! who has inherited the same descriptor: the shell whose terminal it is, an `sh -c` around us, our own stderr. A flag
//! that is set there is seen by all of them, and outlives us if we are killed. So it is never set:
//!
//! | what it is | how |
//! | --- | --- |
//! | a pipe, Linux | opened once more through `/proc/self/fd`: a description of our own, which may well not block |
//! | a socket | each call says for itself that it must not block |
//! | a file, a terminal, anything else | threads that may block; the end of the process does not wait for them |
//!
//! Where `/proc` is missing or forbids it, a pipe is one of the others. One with a name that is read always is: opened anew
//! when its writers have gone, it never tells of its end.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(not(unix))]
pub(crate) use self::threads::{Input, Output, Stdin};
#[cfg(unix)]
pub(crate) use self::unix::{Input, Output, Stdin};

#[cfg(unix)]
mod unix {
    use std::{
        fs::{File, OpenOptions},
        future::pending,
        io::IoSlice,
        os::{
            fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
            unix::fs::OpenOptionsExt as _,
        },
        task::ready,
    };

    use rustix::{
        fs::{FileType, OFlags, fcntl_getfl, fstat},
        io::{Errno, fcntl_dupfd_cloexec},
        net::{RecvFlags, SendAncillaryBuffer, SendFlags},
        termios::isatty,
    };
    use tokio::{
        io::{Interest, unix::AsyncFd},
        net::unix::pipe,
    };

    use super::*;

    /// Bytes that a thread reads or writes at once.
    const CHUNK: usize = 64 * 1024;

    /// stdin, before it is read: the one that the process was started with, which everything that it starts has too, or
    /// one that was moved out of their reach.
    #[derive(Debug, Default)]
    pub(crate) struct Stdin(Option<OwnedFd>);

    impl Stdin {
        pub(crate) fn moved_to(descriptor: OwnedFd) -> Self {
            Self(Some(descriptor))
        }

        /// Must run inside a tokio runtime.
        pub(crate) fn open(&self) -> io::Result<Input> {
            match &self.0 {
                Some(moved) => Input::of(moved.as_fd()),
                None => Input::of(io::stdin().as_fd()),
            }
        }
    }

    /// What stdin is.
    pub(crate) enum Input {
        Pipe(pipe::Receiver),
        Socket(AsyncFd<OwnedFd>),
        Other(tokio::fs::File),
    }

    /// What stdout is.
    pub(crate) enum Output {
        Pipe(pipe::Sender),
        Socket(AsyncFd<OwnedFd>),
        Other(tokio::fs::File),
    }

    impl Input {
        fn of(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
            match file_type(descriptor)? {
                FileType::Fifo if !has_name(descriptor) => {
                    match pipe::OpenOptions::new().open_receiver(path(descriptor)) {
                        Ok(pipe) => Ok(Self::Pipe(pipe)),
                        Err(error) => {
                            tracing::debug!(%error, "stdin cannot be opened once more: it gets a thread");
                            Ok(Self::Other(with_thread(descriptor, OpenOptions::new().read(true))?))
                        }
                    }
                }
                FileType::Socket => Ok(Self::Socket(socket(descriptor, Interest::READABLE)?)),
                _ => Ok(Self::Other(with_thread(descriptor, OpenOptions::new().read(true))?)),
            }
        }
    }

    impl Output {
        pub(crate) fn stdout() -> io::Result<Self> {
            Self::of(io::stdout().as_fd())
        }

        fn of(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
            match file_type(descriptor)? {
                FileType::Fifo => match pipe::OpenOptions::new().open_sender(path(descriptor)) {
                    Ok(pipe) => Ok(Self::Pipe(pipe)),
                    // Also when its reader has gone already, which the first write tells.
                    Err(error) => {
                        tracing::debug!(%error, "stdout cannot be opened once more: it gets a thread");
                        Ok(Self::Other(with_thread(descriptor, OpenOptions::new().write(true))?))
                    }
                },
                FileType::Socket => Ok(Self::Socket(socket(descriptor, Interest::WRITABLE)?)),
                _ => Ok(Self::Other(with_thread(descriptor, OpenOptions::new().write(true))?)),
            }
        }

        /// Completes when nobody can read any more what is written. Need not notice.
        pub(in super::super) fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
            // Opened once more, for nothing but this.
            let watched = match self {
                Self::Pipe(_) => pipe::OpenOptions::new().open_sender(path(io::stdout().as_fd())).ok(),
                Self::Socket(_) | Self::Other(_) => None,
            };
            async move {
                match watched {
                    // It fails only together with the runtime.
                    Some(pipe) => drop(pipe.ready(Interest::ERROR).await),
                    None => pending().await,
                }
            }
        }
    }

    fn has_name(pipe: BorrowedFd<'_>) -> bool {
        std::fs::read_link(path(pipe)).is_ok_and(|name| name.is_absolute())
    }

    fn file_type(descriptor: BorrowedFd<'_>) -> io::Result<FileType> {
        Ok(FileType::from_raw_mode(fstat(descriptor)?.st_mode))
    }

    /// Elsewhere than on Linux there is no such path, or it leads to the same description: nothing is opened by it.
    fn path(descriptor: BorrowedFd<'_>) -> String {
        format!("/proc/self/fd/{}", descriptor.as_raw_fd())
    }

    /// A descriptor of our own, never one below 3: whoever finds those free would take them for what they usually are.
    fn duplicate(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        Ok(fcntl_dupfd_cloexec(descriptor, 3)?)
    }

    /// A terminal that somebody has made non-blocking for all who share it is opened once more, too: a thread cannot wait
    /// for that one.
    fn with_thread(descriptor: BorrowedFd<'_>, options: &mut OpenOptions) -> io::Result<tokio::fs::File> {
        let shared = fcntl_getfl(descriptor).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
        let mut own = || options.custom_flags(OFlags::NOCTTY.bits().cast_signed()).open(path(descriptor)).ok();
        let file = if shared && isatty(descriptor) { own() } else { None };
        let file = file.map_or_else(|| duplicate(descriptor).map(File::from), Ok)?;
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(CHUNK);
        Ok(file)
    }

    #[expect(deprecated, reason = "not sound for any type, but for this one; what replaces it is unsafe for all")]
    fn socket(descriptor: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
        AsyncFd::with_interest(duplicate(descriptor)?, interest)
    }

    impl AsyncRead for Input {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            match &mut *self {
                Self::Pipe(pipe) => Pin::new(pipe).poll_read(cx, buffer),
                Self::Other(file) => Pin::new(file).poll_read(cx, buffer),
                Self::Socket(socket) => loop {
                    let mut guard = ready!(socket.poll_read_ready(cx))?;
                    match rustix::net::recv(socket.get_ref(), buffer.initialize_unfilled(), RecvFlags::DONTWAIT) {
                        Ok((count, _)) => {
                            buffer.advance(count);
                            return Poll::Ready(Ok(()));
                        }
                        Err(Errno::AGAIN) => guard.clear_ready(),
                        Err(Errno::INTR) => {}
                        Err(error) => return Poll::Ready(Err(error.into())),
                    }
                },
            }
        }
    }

    impl AsyncWrite for Output {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            match &mut *self {
                Self::Pipe(pipe) => Pin::new(pipe).poll_write_vectored(cx, slices),
                Self::Socket(socket) => loop {
                    let mut guard = ready!(socket.poll_write_ready(cx))?;
                    // Nobody there is an error and no signal: programs in Rust start with SIGPIPE ignored.
                    let flags = SendFlags::DONTWAIT;
                    let mut nothing = SendAncillaryBuffer::default();
                    match rustix::net::sendmsg(socket.get_ref(), slices, &mut nothing, flags) {
                        Ok(count) => return Poll::Ready(Ok(count)),
                        Err(Errno::AGAIN) => guard.clear_ready(),
                        Err(Errno::INTR) => {}
                        Err(error) => return Poll::Ready(Err(error.into())),
                    }
                },
                // In one write: each takes a turn of a thread.
                Self::Other(file) => match slices {
                    [one] => Pin::new(file).poll_write(cx, one),
                    several => {
                        let together: Vec<_> = several.iter().flat_map(|slice| slice.iter().copied()).collect();
                        Pin::new(file).poll_write(cx, &together)
                    }
                },
            }
        }

        /// Completes when a thread has written what it was given.
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            match &mut *self {
                Self::Pipe(_) | Self::Socket(_) => Poll::Ready(Ok(())),
                Self::Other(file) => Pin::new(file).poll_flush(cx),
            }
        }

        /// The descriptor itself is closed by the end of the process.
        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll_flush(cx)
        }
    }
}

#[cfg(not(unix))]
mod threads {
    use super::*;

    /// stdin, before it is read.
    #[derive(Debug, Default)]
    pub(crate) struct Stdin(());

    impl Stdin {
        pub(crate) fn open(&self) -> io::Result<Input> {
            Ok(Input(tokio::io::stdin()))
        }
    }

    /// stdin, read by a thread.
    pub(crate) struct Input(tokio::io::Stdin);

    /// stdout, written by a thread.
    pub(crate) struct Output(tokio::io::Stdout);

    impl Output {
        pub(crate) fn stdout() -> io::Result<Self> {
            Ok(Self(tokio::io::stdout()))
        }

        /// Nothing tells.
        pub(in super::super) fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
            std::future::pending()
        }
    }

    impl AsyncRead for Input {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Output {
        /// Flushed at once: what is written to a local socket needs no flush.
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let written = std::task::ready!(Pin::new(&mut self.0).poll_write(cx, bytes));
            if written.is_ok()
                && let Poll::Ready(Err(error)) = Pin::new(&mut self.0).poll_flush(cx)
            {
                return Poll::Ready(Err(error));
            }
            Poll::Ready(written)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll_flush(cx)
        }
    }
}
