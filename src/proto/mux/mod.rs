//! Many streams in one session: the client side of smux version 1 (`proto-notes/smux.md`).
//!
//! What it is: opening, fair turns, coalescing into messages, delivery, the end of streams. What it is not:
//! sequence numbers, acknowledgements, windows; version 1 has no flow control of its own, so the messages in flight
//! are the only bound upwards, and downwards only not reading the websocket holds the agent back.

mod decoder;
mod refusals;
mod unanswered;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    time::Instant,
};

use bytes::{BufMut, Bytes, BytesMut};

use self::{
    decoder::{Decoder, Part},
    refusals::Refusals,
    unanswered::Unanswered,
};
use super::{
    CloseReason, Event, OpenError, Read, StreamError, limits,
    send_buffer::SpareBuffers,
    statistics::Meter,
    stream::{Finish, Stream, Wake},
};
use crate::wire::{
    DecodeError,
    smux::{FrameHeader, HEADER_LEN, StreamId},
};

/// A stream that has more than this to send does not put a smaller piece into the rest of a message: the frame
/// header would cost more than it carries.
const LEAST_PIECE: usize = 64;

/// Streams that are looked at to see whether much waits.
const LOOK_AHEAD: usize = 16;

/// All streams of a session.
#[derive(Debug)]
pub(super) struct Mux {
    streams: BTreeMap<StreamId, Stream>,
    next: Option<StreamId>,
    /// Streams that had nothing to send until now: they come before the others, once.
    fresh: VecDeque<StreamId>,
    turn: VecDeque<StreamId>,
    /// Closed here and told so; the agent's FIN is awaited.
    tombstones: BTreeSet<StreamId>,
    nop_wanted: bool,
    spare: SpareBuffers,
    decoder: Decoder,
    refusals: Refusals,
    unanswered: Unanswered,
    held: usize,
    /// Streams that may hold slices of the websocket's read buffers, each once, with when the oldest came, or a little
    /// later.
    unsettled: VecDeque<(u64, StreamId)>,
    /// Received and not read, of all streams.
    unread: usize,
    /// More than that is too much for the process.
    unread_limit: usize,
    /// The part of it that is above what each stream may hold for itself.
    parked: usize,
    meter: Meter,
    events: VecDeque<Event>,
}

impl Mux {
    pub(super) fn new() -> Self {
        Self {
            streams: BTreeMap::new(),
            next: Some(StreamId::FIRST),
            fresh: VecDeque::new(),
            turn: VecDeque::new(),
            tombstones: BTreeSet::new(),
            nop_wanted: false,
            spare: SpareBuffers::default(),
            decoder: Decoder::default(),
            refusals: Refusals::default(),
            unanswered: Unanswered::default(),
            held: 0,
            unsettled: VecDeque::new(),
            unread: 0,
            unread_limit: limits::UNREAD_PROCESS,
            parked: 0,
            meter: Meter::default(),
            events: VecDeque::new(),
        }
    }

    pub(super) fn open(&mut self) -> Result<StreamId, OpenError> {
        // A closed stream whose FIN could not be sent yet is not forgotten like a tombstone, so it counts.
        if self.streams.len() - self.tombstones.len() >= limits::OPEN_STREAMS {
            return Err(OpenError::TooMany);
        }
        let id = self.next.ok_or(OpenError::Exhausted)?;
        self.next = id.0.checked_add(2).map(StreamId);
        self.streams.insert(id, Stream::new());
        self.held += 1;
        self.unanswered.opened();
        self.schedule(id);
        Ok(id)
    }

    pub(super) fn write(&mut self, id: StreamId, data: &[u8]) -> Result<usize, StreamError> {
        let stream = self.streams.get_mut(&id).filter(|stream| stream.held).ok_or(StreamError::Unknown)?;
        let count = stream.write(data, &mut self.spare)?;
        self.schedule(id);
        Ok(count)
    }

    pub(super) fn read(&mut self, id: StreamId, out: &mut impl BufMut) -> Result<Read, StreamError> {
        self.read_by(id, |stream| stream.read(out))
    }

    pub(super) fn read_pieces(
        &mut self,
        id: StreamId,
        pieces: &mut [Bytes],
        limit: usize,
    ) -> Result<Read, StreamError> {
        self.read_by(id, |stream| stream.read_pieces(pieces, limit))
    }

    fn read_by(
        &mut self,
        id: StreamId,
        read: impl FnOnce(&mut Stream) -> Result<Read, StreamError>,
    ) -> Result<Read, StreamError> {
        let stream = self.held_stream(id)?;
        let before = (stream.unread(), stream.parked());
        let read = read(stream);
        let after = (stream.unread(), stream.parked());
        self.unread -= before.0 - after.0;
        self.parked -= before.1 - after.1;
        read
    }

    /// A stream of the application: not one that it has let go of.
    fn held_stream(&mut self, id: StreamId) -> Result<&mut Stream, StreamError> {
        self.streams.get_mut(&id).filter(|stream| stream.held).ok_or(StreamError::Unknown)
    }

    pub(super) fn write_buffer(&mut self, id: StreamId, buffer: &mut Vec<u8>) -> Result<usize, StreamError> {
        let stream = self.streams.get_mut(&id).filter(|stream| stream.held).ok_or(StreamError::Unknown)?;
        let count = stream.write_buffer(buffer, &mut self.spare)?;
        self.schedule(id);
        Ok(count)
    }

    /// The FIN goes out behind what was written.
    pub(super) fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.finish == Finish::Flowing
        {
            stream.finish = Finish::Wanted;
            self.schedule(id);
        }
    }

    /// The application lets go. What was written before a `finish` is still sent; the rest is not. The stream stays as
    /// a tombstone until the agent's FIN, so that a refusal finds it.
    pub(super) fn release(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.held) else { return };
        self.unread -= stream.unread();
        self.parked -= stream.parked();
        self.held -= 1;
        stream.release();
        self.unanswered.released(id);
        self.schedule(id);
        self.bury(id);
    }

    /// Takes bytes of the agent's frame stream, with which the session had received `position` bytes.
    pub(super) fn receive(&mut self, now: Instant, mut payload: Bytes, position: u64) -> Result<(), DecodeError> {
        self.settle(position.saturating_sub(limits::RECENT));
        while let Some(part) = self.decoder.next(&mut payload)? {
            match part {
                Part::Data(id, data) => self.receive_data(now, id, data, position),
                Part::Fin(id) => self.receive_fin(now, id),
            }
        }
        Ok(())
    }

    /// Copies out what came before `position` and is not read yet.
    fn settle(&mut self, position: u64) {
        while let Some((_, id)) = self.unsettled.pop_front_if(|(oldest, _)| *oldest < position) {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let oldest = stream.settle(position);
            stream.unsettled = oldest.is_some();
            self.unsettled.extend(oldest.map(|oldest| (oldest, id)));
        }
    }

    fn receive_data(&mut self, now: Instant, id: StreamId, data: Bytes, position: u64) {
        // Data for a stream that is over here is thrown away, as the genuine peers do.
        let Some(stream) = self.streams.get_mut(&id) else { return };
        self.refusals.received(id);
        let first = !stream.received;
        let greeted = stream.asked.is_some_and(|asked| !asked.spoke);
        let before = (stream.unread(), stream.parked());
        self.meter.received(now, &mut stream.busy_in, data.len());
        let wake = stream.receive(data, position);
        if !std::mem::replace(&mut stream.unsettled, true) {
            self.unsettled.push_back((position, id));
        }
        self.unread += stream.unread() - before.0;
        self.parked += stream.parked() - before.1;
        self.wake(id, wake);
        if first {
            self.answered(now, id, Some(greeted));
        }
    }

    fn receive_fin(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.has_ended() {
            return;
        }
        let refused = self.refusals.claims(id, stream.received);
        let wake = stream.end(if refused { Err(StreamError::Refused) } else { Ok(()) });
        self.wake(id, wake);
        if refused {
            self.events.push_back(Event::DestinationRefused(id));
        }
        self.answered(now, id, None);
        self.bury(id);
    }

    fn answered(&mut self, now: Instant, id: StreamId, greeted: Option<bool>) {
        let streams = &self.streams;
        self.unanswered.answered(now, id, greeted, |ids| streams.range(ids).filter(|(_, stream)| stream.held).count());
    }

    /// While it is known that nothing can be answered, connections without an answer are not counted.
    pub(super) fn suspend_unanswered(&mut self, now: Instant, suspended: bool) {
        self.unanswered.suspend(now, suspended);
    }

    /// When [`check_unanswered`](Self::check_unanswered) is to be called.
    pub(super) fn unanswered_at(&self) -> Option<Instant> {
        self.unanswered.due()
    }

    /// Tells if streams have waited too long for their first answer.
    pub(super) fn check_unanswered(&mut self, now: Instant) {
        let streams = self.streams.range((self.unanswered.after(), Bound::Unbounded));
        let overdue = self.unanswered.check(now, streams.map(|(_, stream)| stream));
        self.events.extend(overdue.map(Event::Unanswered));
    }

    /// The ConnectToPortError flag: some stream was refused, and its FIN follows.
    pub(super) fn refused(&mut self) {
        self.refusals.announced(self.streams.len());
    }

    /// A NOP with the next message: the keepalive of old agents.
    pub(super) fn want_nop(&mut self) {
        self.nop_wanted = true;
    }

    pub(super) fn has_output(&self) -> bool {
        self.nop_wanted || self.has_unsent()
    }

    /// Whether any stream has data or a FIN that is not in a message yet.
    pub(super) fn has_unsent(&self) -> bool {
        !self.fresh.is_empty() || !self.turn.is_empty()
    }

    /// Whether the next stream has little to send and had nothing before: somebody may wait for it.
    pub(super) fn is_urgent(&self) -> bool {
        let next = self.fresh.front().and_then(|id| self.streams.get(id));
        next.is_some_and(|stream| stream.unsent.len() <= limits::URGENT - 3 * HEADER_LEN)
    }

    /// Whether nothing is to be sent but the ends of some streams, which nobody waits for.
    pub(super) fn has_only_ends(&self) -> bool {
        let ends = |id| self.streams.get(id).is_some_and(|stream| stream.opened && stream.unsent.is_empty());
        !self.nop_wanted && self.waiting() <= LOOK_AHEAD && self.fresh.iter().chain(&self.turn).all(ends)
    }

    /// Whether so many bytes wait to be sent, of the streams whose turn comes next: a few are enough to tell a backlog.
    pub(super) fn has_waiting(&self, bytes: usize) -> bool {
        let next = self.fresh.iter().chain(&self.turn).take(LOOK_AHEAD);
        next.filter_map(|id| self.streams.get(id)).map(|stream| stream.unsent.len()).sum::<usize>() >= bytes
    }

    /// Fills a message with whole frames of up to `limit` bytes: streams take turns, and share the message. `urgent`:
    /// only those that had nothing to send until now.
    pub(super) fn fill(&mut self, now: Instant, out: &mut BytesMut, limit: usize, urgent: bool) {
        let end = out.len() + limit;
        let start = out.len();
        if std::mem::take(&mut self.nop_wanted) {
            out.put_slice(&FrameHeader::nop().encode());
        }
        loop {
            let fresh = !self.fresh.is_empty();
            let next = if fresh { self.fresh.front() } else { self.turn.front().filter(|_| !urgent) };
            let Some(id) = next.copied() else { return };
            let turn = if fresh { &mut self.fresh } else { &mut self.turn };
            let Some(stream) = self.streams.get_mut(&id) else {
                turn.pop_front();
                continue;
            };
            if !stream.opened {
                if end - out.len() < HEADER_LEN {
                    return;
                }
                out.put_slice(&FrameHeader::syn(id).encode());
                stream.opened = true;
                if stream.ask(now, false) {
                    self.unanswered.asked(now);
                }
            }
            let mut wake = Wake::default();
            let mut proven = false;
            if !stream.unsent.is_empty() {
                let room = (end - out.len()).saturating_sub(HEADER_LEN);
                let count = stream.unsent.len().min(room).min(limits::QUANTUM);
                let scrap = count < LEAST_PIECE && count < stream.unsent.len() && out.len() > start;
                if count == 0 || scrap {
                    return;
                }
                #[expect(clippy::cast_possible_truncation, reason = "the quantum is below 64 KiB")]
                out.put_slice(&FrameHeader::psh(id, count as u16).encode());
                wake = stream.take(count, out, &mut self.spare);
                self.meter.sent(now, &mut stream.busy_in, count);
                proven = !stream.received && stream.proves_destination(count);
                if stream.ask(now, true) {
                    self.unanswered.asked(now);
                }
            }
            if stream.unsent.is_empty() && stream.finish == Finish::Wanted {
                if end - out.len() < HEADER_LEN {
                    if proven {
                        self.answered(now, id, None);
                    }
                    self.wake(id, wake);
                    return;
                }
                out.put_slice(&FrameHeader::fin(id).encode());
                stream.finish = Finish::Sent;
                if stream.ask(now, true) {
                    self.unanswered.asked(now);
                }
            }
            turn.pop_front();
            stream.queued = stream.has_output();
            if stream.queued {
                self.turn.push_back(id);
            }
            if proven {
                self.answered(now, id, None);
            }
            self.wake(id, wake);
            self.bury(id);
        }
    }

    fn schedule(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.queued
            && stream.has_output()
        {
            stream.queued = true;
            self.fresh.push_back(id);
        }
    }

    fn wake(&mut self, id: StreamId, wake: Wake) {
        if wake.reader {
            self.events.push_back(Event::Readable(id));
        }
        if wake.writer {
            self.events.push_back(Event::Writable(id));
        }
    }

    /// Forgets a stream that is over on all sides. One that only the agent has not ended becomes a tombstone.
    fn bury(&mut self, id: StreamId) {
        let closed_here = |stream: &&Stream| !stream.held && stream.finish == Finish::Sent;
        let Some(stream) = self.streams.get(&id).filter(closed_here) else { return };
        if stream.has_ended() {
            self.streams.remove(&id);
            self.tombstones.remove(&id);
            return;
        }
        self.tombstones.insert(id);
        if self.tombstones.len() > limits::TOMBSTONES
            && let Some(oldest) = self.tombstones.pop_first()
        {
            self.streams.remove(&oldest);
        }
    }

    /// The session is over: every stream that has not ended gets this end, behind what it received.
    pub(super) fn end_all(&mut self, reason: &CloseReason) {
        self.fresh.clear();
        self.turn.clear();
        self.nop_wanted = false;
        let ids: Vec<_> = self.streams.keys().copied().collect();
        for id in ids {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let wake = stream.end(Err(StreamError::SessionEnded(reason.clone())));
            self.wake(id, wake);
        }
    }

    /// Resets the streams with the most unread data, until the session can be read again, if another one is there to be
    /// held up by them.
    pub(super) fn reset_slowest(&mut self) {
        if !self.holds_up_others() {
            return;
        }
        while self.others_wait() {
            let slowest = self.streams.iter_mut().max_by_key(|(_, stream)| stream.unread());
            let Some((id, stream)) = slowest.filter(|(_, stream)| stream.unread() > 0) else { return };
            let id = *id;
            self.unread -= stream.unread();
            self.parked -= stream.parked();
            let wake = stream.reset(StreamError::SlowReader);
            if stream.finish != Finish::Sent {
                stream.finish = Finish::Wanted;
            }
            self.wake(id, wake);
            // Its reader may not be waiting, which is the trouble; tell it all the same.
            self.events.push_back(Event::Readable(id));
            self.events.push_back(Event::SlowReader(id));
            self.schedule(id);
            let room = limits::STREAM_UNREAD;
            if self.parked + room < limits::PARKED_BYTES && self.unread() + room < self.unread_limit {
                return;
            }
        }
    }

    /// Whether a stream waits for data behind one whose reader does not keep up. The latter may have ended already: a
    /// complete download that nobody takes holds up the others as well.
    pub(super) fn holds_up_others(&self) -> bool {
        (self.parked > 0 || self.unread() >= self.unread_limit) && self.others_wait()
    }

    fn others_wait(&self) -> bool {
        self.streams.values().any(|stream| stream.held && !stream.has_ended() && stream.unread() == 0)
    }

    pub(super) fn cut(&self, id: StreamId) -> Option<StreamError> {
        self.streams.get(&id)?.cut()
    }

    /// Bytes above what each stream may hold for itself.
    pub(super) fn parked(&self) -> usize {
        self.parked
    }

    /// How many bytes all streams together may hold, beside what is parked.
    pub(super) fn set_unread_limit(&mut self, bytes: usize) {
        self.unread_limit = bytes;
    }

    /// Keeps as little as an idle session needs.
    pub(super) fn rest(&mut self) {
        self.spare.rest();
    }

    /// Bytes that were received and not read, without those that are parked.
    pub(super) fn unread(&self) -> usize {
        self.unread - self.parked
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Streams that have something to send.
    pub(super) fn waiting(&self) -> usize {
        self.fresh.len() + self.turn.len()
    }

    pub(super) fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.streams.values()
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
