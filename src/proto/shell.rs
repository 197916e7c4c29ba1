//! The one stream of a shell or a command (`proto-notes/shell-sessions.md`): input upwards; output and error output
//! downwards, in the order in which they came; the terminal's size; the exit code.

use std::{collections::VecDeque, time::Instant};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    CloseReason, Event, OpenError, Read, StreamError, limits,
    sealing::{Cover, SealError},
    send_buffer::SpareBuffers,
    statistics::Meter,
    stream::{Finish, Stream, Wake},
};
use crate::wire::{PayloadKind, Size, smux::StreamId, to_json};

/// What a command writes to. Only commands without a terminal have both, and only of agents that separate them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShellChannel {
    /// Standard output, or everything that comes out of a terminal.
    Output,
    /// Standard error.
    ErrorOutput,
}

/// What a read of a shell's output gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputRead {
    /// This many pieces, all of one kind.
    Data(ShellChannel, usize),
    /// The shell has ended, and everything it wrote was read.
    End,
    /// Nothing yet: an [`Event::Readable`] will come.
    Pending,
}

/// Bytes of one kind in a row.
#[derive(Debug)]
struct Run {
    channel: ShellChannel,
    len: usize,
}

#[derive(Debug)]
pub(super) struct Shell {
    stream: Stream,
    claimed: bool,
    /// What of the unread bytes is which.
    runs: VecDeque<Run>,
    cover: Cover,
    size: Size,
    /// The agent has not been told of the size.
    size_is_new: bool,
    exit_code: Option<i32>,
    spare: SpareBuffers,
    meter: Meter,
    events: VecDeque<Event>,
}

impl Shell {
    pub(super) fn new(cover: Cover, size: Size) -> Self {
        Self {
            stream: Stream::opened(),
            claimed: false,
            runs: VecDeque::new(),
            cover,
            size,
            size_is_new: true,
            exit_code: None,
            spare: SpareBuffers::default(),
            meter: Meter::default(),
            events: VecDeque::new(),
        }
    }

    pub(super) fn open(&mut self) -> Result<StreamId, OpenError> {
        if std::mem::replace(&mut self.claimed, true) { Err(OpenError::Used) } else { Ok(StreamId::FIRST) }
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.claimed
    }

    pub(super) fn is_sealed(&self) -> bool {
        matches!(self.cover, Cover::Sealed(_))
    }

    fn stream(&mut self, id: StreamId) -> Result<&mut Stream, StreamError> {
        if id == StreamId::FIRST { Ok(&mut self.stream) } else { Err(StreamError::Unknown) }
    }

    pub(super) fn write(&mut self, id: StreamId, data: &[u8]) -> Result<usize, StreamError> {
        if id != StreamId::FIRST {
            return Err(StreamError::Unknown);
        }
        self.stream.write(data, &mut self.spare)
    }

    pub(super) fn write_buffer(&mut self, id: StreamId, buffer: &mut Vec<u8>) -> Result<usize, StreamError> {
        if id != StreamId::FIRST {
            return Err(StreamError::Unknown);
        }
        self.stream.write_buffer(buffer, &mut self.spare)
    }

    /// Both kinds as one, for readers that do not tell them apart.
    pub(super) fn read(&mut self, id: StreamId, out: &mut impl BufMut) -> Result<Read, StreamError> {
        let before = self.stream.unread();
        let read = self.stream(id)?.read(out);
        self.consume(before - self.stream.unread());
        read
    }

    /// The same without a copy.
    pub(super) fn read_pieces(
        &mut self,
        id: StreamId,
        pieces: &mut [Bytes],
        limit: usize,
    ) -> Result<Read, StreamError> {
        let before = self.stream.unread();
        let read = self.stream(id)?.read_pieces(pieces, limit);
        self.consume(before - self.stream.unread());
        read
    }

    /// What comes next, of one kind. The count is of the pieces.
    pub(super) fn read_output(
        &mut self,
        id: StreamId,
        pieces: &mut [Bytes],
        limit: usize,
    ) -> Result<OutputRead, StreamError> {
        let (channel, len) = self.runs.front().map_or((ShellChannel::Output, 0), |run| (run.channel, run.len));
        // With nothing to read, what there is instead.
        let limit = if len == 0 { limit } else { limit.min(len) };
        Ok(match self.read_pieces(id, pieces, limit)? {
            Read::Data(count) => OutputRead::Data(channel, count),
            Read::End => OutputRead::End,
            Read::Pending => OutputRead::Pending,
        })
    }

    fn consume(&mut self, mut count: usize) {
        while count > 0
            && let Some(run) = self.runs.front_mut()
        {
            let taken = count.min(run.len);
            run.len -= taken;
            count -= taken;
            if run.len == 0 {
                self.runs.pop_front();
            }
        }
    }

    /// Nothing can be said to the agent: the end of input is what the user types for it.
    pub(super) fn finish(&mut self, id: StreamId) {
        if let Ok(stream) = self.stream(id)
            && stream.finish == Finish::Flowing
        {
            stream.finish = Finish::Wanted;
        }
    }

    pub(super) fn release(&mut self, id: StreamId) {
        if let Ok(stream) = self.stream(id) {
            stream.release();
            self.runs.clear();
        }
    }

    /// Takes a payload of one of the three kinds that can be sealed; others mean nothing here.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        kind: PayloadKind,
        payload: Bytes,
        position: u64,
    ) -> Result<(), SealError> {
        let channel = match kind {
            PayloadKind::Output => ShellChannel::Output,
            PayloadKind::StdErr => ShellChannel::ErrorOutput,
            PayloadKind::ExitCode => {
                let text = self.cover.open(payload)?;
                self.exit_code = exit_code(&text).or(self.exit_code);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let data = self.cover.open(payload)?;
        let len = data.len();
        self.meter.received(now, &mut self.stream.busy_in, len);
        let before = self.stream.unread();
        let wake = self.stream.receive(data, position);
        self.stream.settle(position.saturating_sub(limits::RECENT));
        // Nothing is kept for a reader that has gone.
        if self.stream.unread() > before {
            match self.runs.back_mut() {
                Some(run) if run.channel == channel => run.len += len,
                _ => self.runs.push_back(Run { channel, len }),
            }
        }
        self.wake(wake);
        Ok(())
    }

    pub(super) fn output(&self) -> Option<PayloadKind> {
        if self.size_is_new {
            return Some(PayloadKind::Size);
        }
        (!self.stream.unsent.is_empty()).then_some(PayloadKind::Output)
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.stream.unsent.is_empty()
    }

    pub(super) fn has_waiting(&self, bytes: usize) -> bool {
        self.stream.unsent.len() >= bytes
    }

    /// Fills the message that [`output`](Self::output) announced.
    pub(super) fn fill(&mut self, now: Instant, out: &mut BytesMut, limit: usize) {
        if self.size_is_new {
            out.put_slice(&self.take_size());
            return;
        }
        let Self { stream, cover, spare, .. } = self;
        let room = limit.min(limits::PAYLOAD).saturating_sub(cover.overhead());
        let before = stream.unsent.len();
        let wake = cover.put(out, |plaintext| stream.take(room, plaintext, spare));
        let sent = before - stream.unsent.len();
        self.meter.sent(now, &mut self.stream.busy_in, sent);
        self.wake(wake);
    }

    // --- the terminal ----------------------------------------------------------------------------------------

    /// Only the newest size waits to be sent.
    pub(super) fn set_size(&mut self, size: Size) {
        self.size_is_new |= self.size != size;
        self.size = size;
    }

    /// The agent is told once more: it does no harm, and the service takes it for use.
    pub(super) fn repeat_size(&mut self) {
        self.size_is_new = true;
    }

    /// The payload that tells the size, to be sent.
    pub(super) fn take_size(&mut self) -> Bytes {
        self.size_is_new = false;
        to_json(&self.size)
    }

    pub(super) fn exit_code(&self) -> Option<i32> {
        self.exit_code
    }

    // --- the end, and what is held ---------------------------------------------------------------------------

    /// The session is over. If the agent ended it and has nothing to say about it, so has the shell.
    pub(super) fn end_all(&mut self, reason: &CloseReason) {
        let wake = self.stream.end(if reason.is_end_of_data() {
            Ok(())
        } else {
            Err(StreamError::SessionEnded(reason.clone()))
        });
        self.wake(wake);
    }

    pub(super) fn cut(&self, id: StreamId) -> Option<StreamError> {
        if id == StreamId::FIRST { self.stream.cut() } else { None }
    }

    /// Bytes received and not read, and what it takes to tell them apart: a command may write a byte to each in turn.
    fn kept(&self) -> usize {
        self.stream.unread() + self.runs.len() * size_of::<Run>()
    }

    pub(super) fn parked(&self) -> usize {
        self.kept().saturating_sub(limits::STREAM_UNREAD)
    }

    pub(super) fn unread(&self) -> usize {
        self.kept() - self.parked()
    }

    pub(super) fn rest(&mut self) {
        self.spare.rest();
    }

    pub(super) fn held(&self) -> usize {
        usize::from(self.claimed && self.stream.held)
    }

    pub(super) fn the_stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }

    fn wake(&mut self, wake: Wake) {
        if wake.reader {
            self.events.push_back(Event::Readable(StreamId::FIRST));
        }
        if wake.writer {
            self.events.push_back(Event::Writable(StreamId::FIRST));
        }
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

/// What the agent writes when a command has ended; below zero if a signal ended it. Windows has codes of 32 bits, which
/// are written without a sign.
fn exit_code(text: &[u8]) -> Option<i32> {
    let code: i64 = std::str::from_utf8(text).ok()?.strip_prefix("EXIT_CODE: ")?.trim_end().parse().ok()?;
    i32::try_from(code).or_else(|_| u32::try_from(code).map(u32::cast_signed)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_read_as_the_agent_writes_them() {
        for (text, code) in [
            ("EXIT_CODE: 0", Some(0)),
            ("EXIT_CODE: 255", Some(255)),
            ("EXIT_CODE: -1", Some(-1)),
            ("EXIT_CODE: 3\n", Some(3)),
            ("EXIT_CODE: 3221225477", Some(-1_073_741_819)),
            ("EXIT_CODE: 4294967296", None),
            ("EXIT_CODE:", None),
            ("EXIT_CODE: x", None),
            ("exit_code: 1", None),
            ("", None),
        ] {
            assert_eq!(exit_code(text.as_bytes()), code, "{text}");
        }
        assert_eq!(exit_code(b"EXIT_CODE: \xff"), None);
    }
}
