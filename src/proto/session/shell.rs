//! What a session with one stream has beside it: a shell's output and terminal, and the wait for its delivery.

use bytes::Bytes;

use super::{Phase, Session};
use crate::{
    proto::{OutputRead, StreamError, StreamId, port::Port, shell::Shell},
    wire::Size,
};

impl Session {
    /// Reads what a shell has written, in order and without a copy: fills places with pieces of one kind, of up to
    /// `limit` bytes together. As for [`read_pieces`](Self::read_pieces).
    ///
    /// # Errors
    /// See [`StreamError`]; only after all that arrived before was read. [`StreamError::Unknown`] where there is no
    /// shell.
    pub fn read_output(
        &mut self,
        stream: StreamId,
        pieces: &mut [Bytes],
        limit: usize,
    ) -> Result<OutputRead, StreamError> {
        let read = self.port()?.read_output(stream, pieces, limit);
        self.give_back();
        read
    }

    /// Says how large the terminal is, in characters. Only the newest size waits to be sent. Of no effect where there
    /// is no shell.
    pub fn set_size(&mut self, size: Size) {
        self.config.terminal = size;
        if let Phase::Open(open) = &mut self.phase
            && let Some(shell) = open.port.shell_mut()
        {
            shell.set_size(size);
        }
    }

    /// The exit code of the command, once the agent has told it: only commands with separate output have one. Below
    /// zero if a signal ended the command.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.ports()?.shell()?.exit_code()
    }

    /// Whether payloads are sealed with a key of KMS.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.ports().and_then(Port::shell).is_some_and(Shell::is_sealed)
    }

    /// Whether the streams have nothing unsent and nothing is unacknowledged. If not, an
    /// [`Event::Drained`](crate::proto::Event::Drained) will come, unless the session ends before.
    pub fn is_drained(&mut self) -> bool {
        let drained = self.is_drained_now();
        self.drained_wanted |= !drained;
        drained
    }

    pub(super) fn is_drained_now(&self) -> bool {
        matches!(&self.phase, Phase::Open(open) if !open.port.has_unsent()) && self.outgoing.unacked() == 0
    }

    /// Whether the session has ended and left a stream that can still be opened and read: a short command is over
    /// before anybody can ask for its output.
    #[must_use]
    pub fn left_something(&self) -> bool {
        matches!(&self.phase, Phase::Closed(_, Some(port)) if port.outlives_session())
    }
}
