//! One connection at a time, without frames (`proto-notes/port-sessions.md#basic-mode`).
//!
//! Basic mode is what agents up to 3.0.196.0 do in port-forwarding sessions: the agent dials when the session starts,
//! closes the connection on the DisconnectToPort flag, and dials again on the next data. It never says that the
//! destination has closed. Raw mode is the same for a single connection that lives as long as the session.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Cause, CloseReason, Event, OpenError, Read, StreamError, limits,
    send_buffer::SpareBuffers,
    statistics::Meter,
    stream::{Finish, Stream, Wake},
};
use crate::wire::{FlagKind, PayloadKind, SequenceNumber, smux::StreamId};

/// The connection of a session without streams.
#[derive(Debug)]
pub(super) struct Single {
    /// Whether another connection may follow.
    reusable: bool,
    id: StreamId,
    stream: Stream,
    life: Life,
    /// Earlier connections that the application has not let go of: what had arrived can still be read.
    earlier: BTreeMap<StreamId, Stream>,
    spare: SpareBuffers,
    meter: Meter,
    events: VecDeque<Event>,
}

/// ```text
///   Unclaimed ─open─▶ Claimed ─flag written─▶ Leaving ─acknowledged, then silent─▶ Free ─open─▶ Claimed …
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// The agent has dialled and nobody has asked for the connection: what arrives is the first one's.
    Unclaimed,
    /// In use.
    Claimed,
    /// The flag is under way; what arrives belongs to the connection that is closing.
    Leaving { flag: SequenceNumber, quiet_since: Instant },
    /// Ready for the next connection; what arrives belongs to nobody.
    Free,
}

impl Single {
    pub(super) fn new(reusable: bool) -> Self {
        Self {
            reusable,
            id: StreamId::FIRST,
            stream: Stream::opened(),
            life: Life::Unclaimed,
            earlier: BTreeMap::new(),
            spare: SpareBuffers::default(),
            meter: Meter::default(),
            events: VecDeque::new(),
        }
    }

    pub(super) fn open(&mut self) -> Result<StreamId, OpenError> {
        match self.life {
            Life::Unclaimed => {}
            Life::Free => {
                let id = StreamId(self.id.0.checked_add(2).ok_or(OpenError::Exhausted)?);
                let before = std::mem::replace(&mut self.stream, Stream::opened());
                if before.held {
                    self.earlier.insert(self.id, before);
                }
                self.id = id;
            }
            Life::Claimed | Life::Leaving { .. } if self.reusable => return Err(OpenError::Busy),
            Life::Claimed | Life::Leaving { .. } => return Err(OpenError::Used),
        }
        self.life = Life::Claimed;
        Ok(self.id)
    }

    pub(super) fn is_reusable(&self) -> bool {
        self.reusable
    }

    /// Whether the destination has said anything on the present connection.
    pub(super) fn has_received(&self) -> bool {
        self.stream.received
    }

    /// Whether a raw connection has come to its end before anybody asked for it.
    pub(super) fn has_unclaimed_end(&self) -> bool {
        !self.reusable && self.life == Life::Unclaimed && self.stream.has_ended() && self.stream.cut().is_none()
    }

    fn stream(&mut self, id: StreamId) -> Result<&mut Stream, StreamError> {
        if id == self.id { Ok(&mut self.stream) } else { self.earlier.get_mut(&id).ok_or(StreamError::Unknown) }
    }

    pub(super) fn write(&mut self, id: StreamId, data: &[u8]) -> Result<usize, StreamError> {
        let Self { stream, earlier, spare, .. } = self;
        let stream = if id == self.id { stream } else { earlier.get_mut(&id).ok_or(StreamError::Unknown)? };
        stream.write(data, spare)
    }

    pub(super) fn write_buffer(&mut self, id: StreamId, buffer: &mut Vec<u8>) -> Result<usize, StreamError> {
        let Self { stream, earlier, spare, .. } = self;
        let stream = if id == self.id { stream } else { earlier.get_mut(&id).ok_or(StreamError::Unknown)? };
        stream.write_buffer(buffer, spare)
    }

    pub(super) fn read(&mut self, id: StreamId, out: &mut impl BufMut) -> Result<Read, StreamError> {
        self.stream(id)?.read(out)
    }

    pub(super) fn read_pieces(
        &mut self,
        id: StreamId,
        pieces: &mut [Bytes],
        limit: usize,
    ) -> Result<Read, StreamError> {
        self.stream(id)?.read_pieces(pieces, limit)
    }

    /// In raw mode nothing can be said to the agent: the end of the session is the end of the connection, and it comes
    /// when all has arrived.
    pub(super) fn finish(&mut self, id: StreamId) {
        if let Ok(stream) = self.stream(id)
            && stream.finish == Finish::Flowing
        {
            stream.finish = Finish::Wanted;
        }
    }

    pub(super) fn release(&mut self, id: StreamId) {
        self.earlier.remove(&id);
        if id == self.id {
            self.stream.release();
        }
    }

    pub(super) fn receive(&mut self, now: Instant, payload: Bytes, position: u64) {
        match &mut self.life {
            Life::Unclaimed | Life::Claimed => {
                self.meter.received(now, &mut self.stream.busy_in, payload.len());
                let wake = self.stream.receive(payload, position);
                self.stream.settle(position.saturating_sub(limits::RECENT));
                self.wake(wake);
            }
            Life::Leaving { quiet_since, .. } => *quiet_since = now,
            Life::Free => {}
        }
    }

    /// What kind of message there is to send.
    pub(super) fn output(&self) -> Option<PayloadKind> {
        if self.life != Life::Claimed {
            return None;
        }
        if !self.stream.unsent.is_empty() {
            return Some(PayloadKind::Output);
        }
        (self.reusable && self.stream.finish == Finish::Wanted).then_some(PayloadKind::Flag)
    }

    pub(super) fn has_waiting(&self, bytes: usize) -> bool {
        self.stream.unsent.len() >= bytes
    }

    /// Fills the message that [`output`](Self::output) announced, which will have this number.
    pub(super) fn fill(&mut self, now: Instant, sequence: SequenceNumber, out: &mut BytesMut, limit: usize) {
        if !self.stream.unsent.is_empty() {
            let before = out.len();
            let wake = self.stream.take(limit, out, &mut self.spare);
            self.meter.sent(now, &mut self.stream.busy_in, out.len() - before);
            self.wake(wake);
            return;
        }
        out.put_slice(&FlagKind::DisconnectToPort.encode());
        self.stream.finish = Finish::Sent;
        self.life = Life::Leaving { flag: sequence, quiet_since: now };
        // The agent closes the connection on the flag and says nothing: this is the end of both directions.
        let wake = self.stream.end(Ok(()));
        self.wake(wake);
    }

    /// When the session can take the next connection: the flag is acknowledged and nothing has come for a while.
    pub(super) fn settles_at(&self, is_unacked: impl Fn(SequenceNumber) -> bool, rtt: Duration) -> Option<Instant> {
        match self.life {
            Life::Leaving { flag, quiet_since } if !is_unacked(flag) => Some(quiet_since + limits::SETTLE.max(rtt * 2)),
            _ => None,
        }
    }

    /// The flag of a closing connection was acknowledged: silence counts from now.
    pub(super) fn acknowledged(&mut self, now: Instant, sequence: SequenceNumber) {
        if let Life::Leaving { flag, quiet_since } = &mut self.life
            && *flag == sequence
        {
            *quiet_since = now;
        }
    }

    /// The silence has come.
    pub(super) fn settle(&mut self) {
        if matches!(self.life, Life::Leaving { .. }) {
            self.life = Life::Free;
            self.events.push_back(Event::CanOpen);
        }
    }

    /// Whether the end of the session is all that is left to say about its connection.
    pub(super) fn wants_end(&self) -> bool {
        !self.reusable
            && self.life == Life::Claimed
            && self.stream.finish == Finish::Wanted
            && self.stream.unsent.is_empty()
    }

    /// The session is over. A raw connection that the agent ended without a word has simply reached its end, and so has
    /// one that we have finished.
    pub(super) fn end_all(&mut self, reason: &CloseReason) {
        let as_wanted = self.stream.finish == Finish::Wanted && reason.cause == Cause::Requested;
        let clean = !self.reusable && (reason.is_end_of_data() || as_wanted);
        let wake = self.stream.end(if clean { Ok(()) } else { Err(StreamError::SessionEnded(reason.clone())) });
        self.wake(wake);
    }

    pub(super) fn cut(&self, id: StreamId) -> Option<StreamError> {
        if id == self.id { self.stream.cut() } else { self.earlier.get(&id)?.cut() }
    }

    pub(super) fn parked(&self) -> usize {
        self.streams().map(Stream::parked).sum()
    }

    /// Keeps as little as an idle session needs.
    pub(super) fn rest(&mut self) {
        self.spare.rest();
    }

    /// Bytes that were received and not read, without those that are parked.
    pub(super) fn unread(&self) -> usize {
        self.streams().map(|stream| stream.unread() - stream.parked()).sum()
    }

    pub(super) fn held(&self) -> usize {
        self.earlier.len() + usize::from(self.life != Life::Unclaimed && self.stream.held)
    }

    pub(super) fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.earlier.values().chain([&self.stream])
    }

    fn wake(&mut self, wake: Wake) {
        if wake.reader {
            self.events.push_back(Event::Readable(self.id));
        }
        if wake.writer {
            self.events.push_back(Event::Writable(self.id));
        }
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
