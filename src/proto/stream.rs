//! One connection to the destination, as both port modes see it.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    CloseReason, limits,
    receive_buffer::ReceiveBuffer,
    send_buffer::{self, SendBuffer, SpareBuffers},
    statistics::BusyIn,
};

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// This many bytes.
    Data(usize),
    /// The destination's side has ended, and everything it sent was read.
    End,
    /// Nothing yet: an [`Event::Readable`](super::Event::Readable) will come.
    Pending,
}

/// Why a stream carries nothing (more).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The agent could not reach the destination.
    #[error("the destination refused the connection or did not answer")]
    Refused,
    /// The session ended under it.
    #[error("the session ended: {0}")]
    SessionEnded(CloseReason),
    /// Its reader stopped and held up the other streams of the session.
    #[error("reset after its reader had held up the session for {} s", limits::SLOW_READER.as_secs())]
    SlowReader,
    /// Written after its own end.
    #[error("written to after the end of the stream")]
    Finished,
    /// The agent has ended the stream and would throw the data away.
    #[error("the destination has closed the connection")]
    PeerFinished,
    /// There is no such stream (any more).
    #[error("no such stream")]
    Unknown,
}

/// ```text
///            open                finish()            FIN written
///   (syn) ─────────▶ Flowing ──────────────▶ Wanted ─────────────▶ Sent      our direction
///   (end: None) ──────────────── FIN of the agent, refusal, reset ──▶ Some   the agent's direction
/// ```
#[derive(Debug)]
pub(super) struct Stream {
    /// Mux mode: the SYN has been written.
    pub(super) opened: bool,
    pub(super) finish: Finish,
    /// Data of the application that is not in a message yet.
    pub(super) unsent: SendBuffer,
    /// The application holds the stream. Without it what arrives is thrown away.
    pub(super) held: bool,
    /// In the scheduler's turn.
    pub(super) queued: bool,
    /// Something was received, ever.
    pub(super) received: bool,
    /// Mux mode: in the queue of those that may hold slices of the websocket's read buffers.
    pub(super) unsettled: bool,
    /// Bytes that went into messages.
    sent: u64,
    /// Mux mode: what the destination was given to answer.
    pub(super) asked: Option<Asked>,
    pub(super) busy_in: BusyIn,
    unread: ReceiveBuffer,
    end: Option<Result<(), StreamError>>,
    reader_waits: bool,
    writer_waits: bool,
}

/// Our direction of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// Open.
    Flowing,
    /// To be ended when what is unsent is sent.
    Wanted,
    /// Ended.
    Sent,
}

/// A reason to answer: the opening of a connection, then the first thing said on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) at: Instant,
    /// Data or a FIN went out, not only the SYN.
    pub(super) spoke: bool,
}

/// Who has to be told after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub(super) struct Wake {
    pub(super) reader: bool,
    pub(super) writer: bool,
}

impl Stream {
    pub(super) fn new() -> Self {
        Self {
            opened: false,
            finish: Finish::Flowing,
            unsent: SendBuffer::default(),
            held: true,
            queued: false,
            received: false,
            unsettled: false,
            sent: 0,
            asked: None,
            busy_in: BusyIn::default(),
            unread: ReceiveBuffer::default(),
            end: None,
            reader_waits: false,
            writer_waits: false,
        }
    }

    /// A connection that needs no opening.
    pub(super) fn opened() -> Self {
        Self { opened: true, ..Self::new() }
    }

    /// Takes as much of `data` as there is room for; 0 means wait.
    pub(super) fn write(&mut self, data: &[u8], spare: &mut SpareBuffers) -> Result<usize, StreamError> {
        self.can_write()?;
        let count = data.len().min(limits::STREAM_UNSENT.saturating_sub(self.unsent.len()));
        self.writer_waits = count == 0 && !data.is_empty();
        self.unsent.push(&data[..count], spare);
        Ok(count)
    }

    /// The same without a copy: takes the buffer whole and leaves another in its place, or takes part of one that is
    /// too large for that; 0 means wait.
    pub(super) fn write_buffer(
        &mut self,
        buffer: &mut Vec<u8>,
        spare: &mut SpareBuffers,
    ) -> Result<usize, StreamError> {
        if buffer.len() > send_buffer::BUFFER {
            let count = self.write(buffer, spare)?;
            buffer.drain(..count);
            return Ok(count);
        }
        self.can_write()?;
        let count = buffer.len();
        // Whoever waits is woken when there is room for a whole one.
        self.writer_waits = self.unsent.len() + count > limits::STREAM_UNSENT;
        if self.writer_waits {
            return Ok(0);
        }
        self.unsent.push_buffer(buffer, spare);
        Ok(count)
    }

    fn can_write(&self) -> Result<(), StreamError> {
        match &self.end {
            Some(Err(error)) => Err(error.clone()),
            _ if self.finish != Finish::Flowing => Err(StreamError::Finished),
            Some(Ok(())) => Err(StreamError::PeerFinished),
            None => Ok(()),
        }
    }

    /// Moves up to `count` unsent bytes into a message.
    pub(super) fn take(&mut self, count: usize, out: &mut BytesMut, spare: &mut SpareBuffers) -> Wake {
        self.sent += self.unsent.take(count, out, spare) as u64;
        let writer = self.writer_waits && self.unsent.len() <= limits::STREAM_UNSENT / 2;
        self.writer_waits &= !writer;
        Wake { writer, ..Wake::default() }
    }

    /// Whether `count` more bytes were the ones that show that the destination takes them.
    pub(super) fn proves_destination(&self, count: usize) -> bool {
        let before = self.sent - count as u64;
        self.sent > limits::TAKEN_UPWARDS && before <= limits::TAKEN_UPWARDS
    }

    pub(super) fn read(&mut self, out: &mut impl BufMut) -> Result<Read, StreamError> {
        let count = self.unread.read(out);
        if count > 0 || !out.has_remaining_mut() { Ok(Read::Data(count)) } else { self.nothing_to_read() }
    }

    /// The same without a copy: fills places with pieces of up to `limit` bytes together. The count is of the pieces.
    pub(super) fn read_pieces(&mut self, pieces: &mut [Bytes], mut limit: usize) -> Result<Read, StreamError> {
        let mut count = 0;
        for place in pieces {
            let Some(piece) = (limit > 0).then(|| self.unread.pop(limit)).flatten() else { break };
            limit -= piece.len();
            *place = piece;
            count += 1;
        }
        if count > 0 { Ok(Read::Data(count)) } else { self.nothing_to_read() }
    }

    fn nothing_to_read(&mut self) -> Result<Read, StreamError> {
        match &self.end {
            None => {
                self.reader_waits = true;
                Ok(Read::Pending)
            }
            Some(Ok(())) => Ok(Read::End),
            Some(Err(error)) => Err(error.clone()),
        }
    }

    /// Takes data that came when the session had received `position` bytes.
    pub(super) fn receive(&mut self, data: Bytes, position: u64) -> Wake {
        self.received = true;
        if !self.held || self.end.is_some() {
            return Wake::default();
        }
        self.unread.push(data, position);
        Wake { reader: std::mem::take(&mut self.reader_waits), writer: false }
    }

    /// The agent's direction ends; what was received before it can still be read. Only the first end counts.
    pub(super) fn end(&mut self, end: Result<(), StreamError>) -> Wake {
        if self.end.is_some() {
            return Wake::default();
        }
        self.end = Some(end);
        // The agent throws away whatever comes for a stream it has ended.
        self.unsent.clear();
        Wake { reader: std::mem::take(&mut self.reader_waits), writer: std::mem::take(&mut self.writer_waits) }
    }

    /// The SYN goes out, or (`speaks`) data or the FIN. True if the wait for an answer begins with it.
    pub(super) fn ask(&mut self, now: Instant, speaks: bool) -> bool {
        let begins = self.asked.is_none_or(|asked| speaks && !asked.spoke);
        if begins {
            self.asked = Some(Asked { at: now, spoke: speaks });
        }
        begins
    }

    /// The application lets go of the stream.
    pub(super) fn release(&mut self) {
        self.held = false;
        self.unread.clear();
        if self.finish == Finish::Flowing {
            self.unsent.clear();
            self.finish = Finish::Wanted;
        }
    }

    /// Ends the stream in place of whatever end it had, without what was not read: it must not look complete.
    pub(super) fn reset(&mut self, error: StreamError) -> Wake {
        self.unread.clear();
        self.end = None;
        self.end(Err(error))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Why it was cut, if it was: its end is neither the agent's nor a refusal.
    pub(super) fn cut(&self) -> Option<StreamError> {
        match &self.end {
            Some(Err(error @ (StreamError::SlowReader | StreamError::SessionEnded(_)))) => Some(error.clone()),
            _ => None,
        }
    }

    /// Data that came before `position` must not keep the websocket's read buffers alive any longer. Returns when the
    /// oldest came that still does.
    pub(super) fn settle(&mut self, position: u64) -> Option<u64> {
        self.unread.settle(position);
        self.unread.unsettled()
    }

    pub(super) fn unread(&self) -> usize {
        self.unread.len()
    }

    /// Bytes above what one stream may hold for itself.
    pub(super) fn parked(&self) -> usize {
        self.unread.len().saturating_sub(limits::STREAM_UNREAD)
    }

    /// Whether something of it waits to be sent.
    pub(super) fn has_output(&self) -> bool {
        !self.opened || !self.unsent.is_empty() || self.finish == Finish::Wanted
    }
}
