//! What a session carries: connections, with or without streams, or a shell.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    CloseReason, Event, OutputRead, Read, StreamError, StreamId,
    close::Cause,
    limits,
    mux::Mux,
    sealing::{Cover, SealError},
    shell::Shell,
    single::Single,
    statistics::Meter,
    stream::Stream,
};
use crate::wire::{DecodeError, PayloadKind, SequenceNumber, Size};

/// What a session carries, and how (`proto-notes/port-sessions.md#modes`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Many at once, as smux streams.
    Mux,
    /// One at a time, one after another: agents up to 3.0.196.0.
    Basic,
    /// One, for the life of the session: documents that are not for port forwarding, such as the one for SSH.
    Raw,
    /// None, but a shell or a command: its input and output are the one stream
    /// (`proto-notes/shell-sessions.md`).
    Shell,
}

/// What a handshake leads to.
#[derive(Debug)]
pub(super) enum Service {
    Mux,
    Basic,
    Raw,
    /// Only a shell can be sealed.
    Shell(Cover),
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The handshake is not over, or the session is ending.
    #[error("the session is not ready")]
    NotReady,
    /// The session has ended.
    #[error("the session has ended: {0}")]
    Closed(CloseReason),
    /// The session carries one connection at a time: wait for [`Event::CanOpen`].
    #[error("the session carries one connection at a time")]
    Busy,
    /// The session carries a single connection, and it has been used.
    #[error("the session carries a single connection, and it has been used")]
    Used,
    /// Too many streams are open.
    #[error("too many connections in one session")]
    TooMany,
    /// All stream ids have been used.
    #[error("all stream ids of the session have been used")]
    Exhausted,
}

#[derive(Debug)]
pub(super) enum Port {
    Mux(Box<Mux>),
    Single(Box<Single>),
    Shell(Box<Shell>),
}

macro_rules! each {
    ($self:expr, $port:ident => $call:expr) => {
        match $self {
            Port::Mux($port) => $call,
            Port::Single($port) => $call,
            Port::Shell($port) => $call,
        }
    };
}

impl Port {
    /// `terminal`: what a shell begins with.
    pub(super) fn new(service: Service, terminal: Size) -> Self {
        match service {
            Service::Mux => Self::Mux(Box::new(Mux::new())),
            Service::Basic => Self::Single(Box::new(Single::new(true))),
            Service::Raw => Self::Single(Box::new(Single::new(false))),
            Service::Shell(cover) => Self::Shell(Box::new(Shell::new(cover, terminal))),
        }
    }

    pub(super) fn mode(&self) -> Mode {
        match self {
            Self::Mux(_) => Mode::Mux,
            Self::Single(single) if single.is_reusable() => Mode::Basic,
            Self::Single(_) => Mode::Raw,
            Self::Shell(_) => Mode::Shell,
        }
    }

    pub(super) fn shell(&self) -> Option<&Shell> {
        if let Self::Shell(shell) = self { Some(shell) } else { None }
    }

    pub(super) fn shell_mut(&mut self) -> Option<&mut Shell> {
        if let Self::Shell(shell) = self { Some(shell) } else { None }
    }

    /// Whether there is a stream that nobody has asked for, and that can still be read when the session has ended.
    pub(super) fn outlives_session(&self) -> bool {
        match self {
            Self::Mux(_) => false,
            Self::Single(single) => single.has_unclaimed_end(),
            Self::Shell(shell) => !shell.is_claimed(),
        }
    }

    /// Whether something has come on the one connection that there is.
    pub(super) fn has_received(&self) -> bool {
        matches!(self, Self::Single(single) if single.has_received())
    }

    pub(super) fn open(&mut self) -> Result<StreamId, OpenError> {
        each!(self, port => port.open())
    }

    pub(super) fn write(&mut self, id: StreamId, data: &[u8]) -> Result<usize, StreamError> {
        each!(self, port => port.write(id, data))
    }

    pub(super) fn write_buffer(&mut self, id: StreamId, buffer: &mut Vec<u8>) -> Result<usize, StreamError> {
        each!(self, port => port.write_buffer(id, buffer))
    }

    pub(super) fn read(&mut self, id: StreamId, out: &mut impl BufMut) -> Result<Read, StreamError> {
        each!(self, port => port.read(id, out))
    }

    pub(super) fn finish(&mut self, id: StreamId) {
        each!(self, port => port.finish(id));
    }

    pub(super) fn release(&mut self, id: StreamId) {
        each!(self, port => port.release(id));
    }

    /// Without a copy: fills places with pieces of up to `limit` bytes together. The count is of the pieces.
    pub(super) fn read_pieces(
        &mut self,
        id: StreamId,
        pieces: &mut [Bytes],
        limit: usize,
    ) -> Result<Read, StreamError> {
        each!(self, port => port.read_pieces(id, pieces, limit))
    }

    /// What a shell has written, of one kind. What others carry is all of one.
    pub(super) fn read_output(
        &mut self,
        id: StreamId,
        pieces: &mut [Bytes],
        limit: usize,
    ) -> Result<OutputRead, StreamError> {
        self.shell_mut().ok_or(StreamError::Unknown)?.read_output(id, pieces, limit)
    }

    /// Takes the payload of a message with which the session had received `position` bytes.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        kind: PayloadKind,
        payload: Bytes,
        position: u64,
    ) -> Result<(), Cause> {
        match self {
            Self::Mux(mux) if kind == PayloadKind::Output => {
                mux.receive(now, payload, position).map_err(|error: DecodeError| Cause::Protocol(error.to_string()))
            }
            Self::Single(single) if kind == PayloadKind::Output => {
                single.receive(now, payload, position);
                Ok(())
            }
            Self::Mux(_) | Self::Single(_) => Ok(()),
            Self::Shell(shell) => shell
                .receive(now, kind, payload, position)
                .map_err(|error: SealError| Cause::Encryption(error.to_string())),
        }
    }

    pub(super) fn refused(&mut self) {
        if let Self::Mux(mux) = self {
            mux.refused();
        }
    }

    pub(super) fn output(&self) -> Option<PayloadKind> {
        match self {
            Self::Mux(mux) => mux.has_output().then_some(PayloadKind::Output),
            Self::Single(single) => single.output(),
            Self::Shell(shell) => shell.output(),
        }
    }

    /// Whether what comes next is little, and somebody may wait for it.
    pub(super) fn is_urgent(&self) -> bool {
        matches!(self, Self::Mux(mux) if mux.is_urgent())
    }

    /// Whether nothing is to be sent but ends of streams, which can share a message with what comes next.
    pub(super) fn has_only_ends(&self) -> bool {
        matches!(self, Self::Mux(mux) if mux.has_only_ends())
    }

    /// Fills the message that [`output`](Self::output) announced; `urgent`: only with what is.
    pub(super) fn fill(
        &mut self,
        now: Instant,
        sequence: SequenceNumber,
        out: &mut BytesMut,
        limit: usize,
        urgent: bool,
    ) {
        match self {
            Self::Mux(mux) => mux.fill(now, out, limit, urgent),
            Self::Single(single) => single.fill(now, sequence, out, limit),
            Self::Shell(shell) => shell.fill(now, out, limit),
        }
    }

    pub(super) fn settles_at(&self, is_unacked: impl Fn(SequenceNumber) -> bool, rtt: Duration) -> Option<Instant> {
        match self {
            Self::Mux(_) | Self::Shell(_) => None,
            Self::Single(single) => single.settles_at(is_unacked, rtt),
        }
    }

    pub(super) fn acknowledged(&mut self, now: Instant, sequence: SequenceNumber) {
        if let Self::Single(single) = self {
            single.acknowledged(now, sequence);
        }
    }

    pub(super) fn settle(&mut self) {
        if let Self::Single(single) = self {
            single.settle();
        }
    }

    pub(super) fn want_nop(&mut self) {
        if let Self::Mux(mux) = self {
            mux.want_nop();
        }
    }

    /// The largest payload that messages may have; shells are not worth a larger one.
    pub(super) fn payload_limit(&self) -> usize {
        if let Self::Shell(_) = self { limits::PAYLOAD } else { usize::MAX }
    }

    /// While it is known that nothing can be answered, connections without an answer are not counted.
    pub(super) fn suspend_unanswered(&mut self, now: Instant, suspended: bool) {
        if let Self::Mux(mux) = self {
            mux.suspend_unanswered(now, suspended);
        }
    }

    /// When [`check_unanswered`](Self::check_unanswered) is to be called. Without streams the session's own deadline
    /// for the first acknowledgement stands in for it.
    pub(super) fn unanswered_at(&self) -> Option<Instant> {
        match self {
            Self::Mux(mux) => mux.unanswered_at(),
            Self::Single(_) | Self::Shell(_) => None,
        }
    }

    pub(super) fn check_unanswered(&mut self, now: Instant) {
        if let Self::Mux(mux) = self {
            mux.check_unanswered(now);
        }
    }

    pub(super) fn reset_slowest(&mut self) {
        if let Self::Mux(mux) = self {
            mux.reset_slowest();
        }
    }

    /// Whether one slow reader holds up others.
    pub(super) fn holds_up_others(&self) -> bool {
        matches!(self, Self::Mux(mux) if mux.holds_up_others())
    }

    pub(super) fn has_unsent(&self) -> bool {
        match self {
            Self::Mux(mux) => mux.has_unsent(),
            Self::Single(single) => single.output().is_some(),
            Self::Shell(shell) => shell.has_unsent(),
        }
    }

    /// Whether nothing is left to say but that the session is over.
    pub(super) fn wants_end(&self) -> bool {
        matches!(self, Self::Single(single) if single.wants_end())
    }

    /// Whether so many bytes wait to be sent.
    pub(super) fn has_waiting(&self, bytes: usize) -> bool {
        match self {
            Self::Mux(mux) => mux.has_waiting(bytes),
            Self::Single(single) => single.has_waiting(bytes),
            Self::Shell(shell) => shell.has_waiting(bytes),
        }
    }

    pub(super) fn end_all(&mut self, reason: &CloseReason) {
        each!(self, port => port.end_all(reason));
    }

    pub(super) fn cut(&self, id: StreamId) -> Option<StreamError> {
        each!(self, port => port.cut(id))
    }

    pub(super) fn parked(&self) -> usize {
        each!(self, port => port.parked())
    }

    /// Keeps as little as an idle session needs.
    pub(super) fn rest(&mut self) {
        each!(self, port => port.rest());
    }

    /// Bytes that were received and not read, without those that are parked.
    pub(super) fn unread(&self) -> usize {
        each!(self, port => port.unread())
    }

    /// How many of them may be there. With one stream nobody has to know who holds up whom.
    pub(super) fn set_unread_limit(&mut self, bytes: usize) {
        if let Self::Mux(mux) = self {
            mux.set_unread_limit(bytes);
        }
    }

    pub(super) fn held(&self) -> usize {
        each!(self, port => port.held())
    }

    /// Streams that have something to send.
    pub(super) fn waiting(&self) -> usize {
        match self {
            Self::Mux(mux) => mux.waiting(),
            Self::Single(single) => usize::from(single.output().is_some()),
            Self::Shell(shell) => usize::from(shell.output().is_some()),
        }
    }

    pub(super) fn meter(&mut self) -> &mut Meter {
        each!(self, port => port.meter())
    }

    /// Largest number of unsent and of unread bytes of any stream.
    pub(super) fn largest_buffers(&self) -> (usize, usize) {
        let sizes = |stream: &Stream| (stream.unsent.len(), stream.unread());
        let max = |a: (usize, usize), b: (usize, usize)| (a.0.max(b.0), a.1.max(b.1));
        match self {
            Self::Mux(mux) => mux.streams().map(sizes).fold((0, 0), max),
            Self::Single(single) => single.streams().map(sizes).fold((0, 0), max),
            Self::Shell(shell) => sizes(shell.the_stream()),
        }
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        each!(self, port => port.next_event())
    }
}
