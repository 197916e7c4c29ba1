//! A shell or a command, as its user's terminal sees it.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::{connection::Holder, stream::Stream};
use crate::{
    proto::{OutputRead, ShellChannel, StreamId},
    wire::Size,
};

/// Bytes that one [`ShellReader::next`] gives at most.
const READ: usize = 64 << 10;

/// What a shell wrote. Bytes as they came: the agent ends messages between characters where it can, and nobody has
/// changed line ends.
#[derive(Clone, PartialEq, Eq)]
pub enum ShellOutput {
    /// To its terminal or its standard output.
    Output(Bytes),
    /// To its standard error, where the agent keeps the two apart.
    ErrorOutput(Bytes),
}

/// Shows no content.
impl fmt::Debug for ShellOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes) = match self {
            Self::Output(bytes) => ("Output", bytes),
            Self::ErrorOutput(bytes) => ("ErrorOutput", bytes),
        };
        write!(f, "{name}({} bytes)", bytes.len())
    }
}

/// The shell or command of a session, from [`Session::shell`](super::Session::shell).
///
/// Dropped as a whole, what it still writes is thrown away; the session lives on until it is
/// [closed](super::Session::close) or its last clone is dropped.
#[derive(Debug)]
pub struct Shell {
    stream: Arc<Stream>,
}

impl Shell {
    pub(super) fn new(holder: Arc<Holder>, id: StreamId) -> Self {
        Self { stream: Arc::new(Stream::new(holder, id)) }
    }

    /// The two directions, for two tasks.
    #[must_use]
    pub fn split(self) -> (ShellWriter, ShellReader) {
        let writer = ShellWriter { stream: Arc::clone(&self.stream) };
        (writer, ShellReader { stream: self.stream, pieces: Vec::new() })
    }

    /// The terminal has this size now, in characters. Of several that wait to be sent only the newest is.
    pub fn resize(&self, cols: u32, rows: u32) {
        self.stream.shared().change(|state| (state.proto.set_size(Size { cols, rows }), true));
    }

    /// The exit code of the command, once the agent has told it, which it does before the output ends, and only for
    /// commands with separate output. Below zero if a signal ended the command.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.stream.shared().lock().proto.exit_code()
    }
}

/// Input of a shell.
///
/// The protocol has no end of input: `shutdown` sends nothing, and a shell that reads from a terminal takes byte 4 for
/// it.
#[derive(Debug)]
pub struct ShellWriter {
    stream: Arc<Stream>,
}

impl AsyncWrite for ShellWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.poll_write_from(cx, bytes)
    }

    /// Nothing to do: what is written is sent as soon as the window allows.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.finish();
        Poll::Ready(Ok(()))
    }
}

/// Output of a shell.
#[derive(Debug)]
pub struct ShellReader {
    stream: Arc<Stream>,
    /// What was taken out together and not given yet.
    pieces: Vec<ShellOutput>,
}

impl ShellReader {
    /// What comes next; `None` once the shell has ended. Cancel-safe. The bytes may be a slice of a larger buffer: what
    /// is kept is to be copied.
    ///
    /// # Errors
    /// [`ConnectionReset`](io::ErrorKind::ConnectionReset) when the session ended in another way, after everything that
    /// came before. The [`StreamError`](crate::proto::StreamError) within says how.
    pub async fn next(&mut self) -> io::Result<Option<ShellOutput>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same for a poll function.
    ///
    /// # Errors
    /// Those of [`next`](Self::next).
    pub fn poll_next(&mut self, cx: &Context<'_>) -> Poll<io::Result<Option<ShellOutput>>> {
        if self.pieces.is_empty() {
            let mut places: [Bytes; 16] = Default::default();
            let read = std::task::ready!(self.stream.poll_read_output(cx, &mut places, READ))?;
            let OutputRead::Data(channel, count) = read else { return Poll::Ready(Ok(None)) };
            self.pieces.extend(places.into_iter().take(count).rev().map(|piece| match channel {
                ShellChannel::Output => ShellOutput::Output(piece),
                ShellChannel::ErrorOutput => ShellOutput::ErrorOutput(piece),
            }));
        }
        Poll::Ready(Ok(self.pieces.pop()))
    }

    /// See [`Shell::exit_code`]: known when [`next`](Self::next) has given `None`, if ever.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.stream.shared().lock().proto.exit_code()
    }
}
