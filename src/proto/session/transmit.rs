//! What goes out, in this order: the opening message, acknowledgements, retransmissions, control messages, data.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};

use super::{Ending, Open, Phase, Session, Shield};
use crate::{
    proto::{
        Cause, CloseReason, Event, Frame, Initiator, Mode, Transmit, incoming::Receipt, io::FrameState, limits,
        shell::Shell, timer::Timer,
    },
    wire::{
        Acknowledge, Draft, FlagKind, Flags, Header, MessageId, MessageKind, PAYLOAD_OFFSET, PayloadKind,
        SequenceNumber, Size, smux::FrameHeader, to_json,
    },
};

/// Length of an acknowledgement's body: 172 bytes and the digits of the number.
const ACKNOWLEDGEMENT: usize = 192;

impl Session {
    /// What follows from the state without any input.
    pub(super) fn advance(&mut self, now: Instant) {
        if let Phase::Handshaking(handshake) = &mut self.phase
            // Without a websocket nobody can be told.
            && (self.control.is_empty() || !self.online)
            && let Some(cause) = handshake.refusal.take()
        {
            self.close(CloseReason::new(Initiator::Library, cause), true);
        }
        if self.drained_wanted && self.is_drained_now() {
            self.drained_wanted = false;
            self.events.push_back(Event::Drained);
        }
        let Phase::Open(open) = &mut self.phase else { return };
        self.unread.set(open.port.unread());
        self.parked.set(open.port.parked());
        let unread_limit = self.unread.allowance().max(limits::UNREAD_FLOOR);
        open.port.set_unread_limit(unread_limit);
        // Once stopped, reading goes on only when there is room for a while.
        let room = if self.reading { 0 } else { limits::STREAM_UNREAD };
        let parked_fits = self.parked.own() + room < limits::PARKED_BYTES;
        let reading = parked_fits && self.parked.has_room() && self.unread.own() + room < unread_limit;
        if reading != self.reading {
            self.reading = reading;
            self.events.push_back(Event::Backpressure(!reading));
            self.held_up_for = Duration::ZERO;
            self.held_up_since = None;
            self.timers.stop(Timer::SlowReader);
            self.outgoing.restart_wait(now);
            self.heard = now;
            self.agent_heard = now;
            self.silent_for = Duration::ZERO;
            self.timers.stop(Timer::Silence);
        }
        let Phase::Open(open) = &mut self.phase else { return };
        open.port.suspend_unanswered(now, !self.online || !self.reading || self.paused || self.stalled);
        // Others may make room, and do not say so.
        if !self.reading && parked_fits && (!self.parked.has_room() || self.unread.is_shared()) {
            self.timers.start(Timer::Recheck, now + limits::RECHECK);
        }
        // Without a websocket nobody is held up by a reader.
        let holds_up = !self.reading && self.online && open.port.holds_up_others();
        // In sum: others that give up one after another have waited too.
        if holds_up && self.held_up_since.is_none() {
            self.held_up_since = Some(now);
            self.timers.set(Timer::SlowReader, now + limits::SLOW_READER.saturating_sub(self.held_up_for));
        } else if let Some(since) = self.held_up_since.filter(|_| !holds_up) {
            self.held_up_since = None;
            self.held_up_for += now.saturating_duration_since(since);
            self.timers.stop(Timer::SlowReader);
        }
        // What was finished in raw mode ends with the session, which is not hurried for it.
        if open.ending == Ending::No && open.port.wants_end() && self.outgoing.unacked() == 0 {
            open.ending = Ending::FlagWanted;
        }
        if open.ending == Ending::Draining && !open.port.has_unsent() && self.outgoing.unacked() == 0 {
            open.ending = Ending::FlagWanted;
        }
        if open.ending == Ending::FlagWanted {
            self.timers.stop(Timer::Drain);
            // A websocket that does not even take the flag is not waited for longer than one that loses it.
            self.timers.start(Timer::Terminate, now + limits::TERMINATE);
            // A shell does not know it.
            if !open.features.terminate_flag || open.port.shell().is_some() {
                self.close(CloseReason::new(Initiator::Us, Cause::Requested), true);
            }
        }
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        let of_port = match &mut self.phase {
            Phase::Open(Open { port, .. }) | Phase::Closed(_, Some(port)) => port.next_event(),
            Phase::Handshaking(_) | Phase::Closed(_, None) => None,
        };
        of_port.or_else(|| self.events.pop_front())
    }

    pub(super) fn next_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if let Some(text) = self.text.take() {
            return Some(Transmit::Text(text));
        }
        if let Some(receipt) = self.incoming.next_acknowledgement() {
            return Some(once(self.acknowledgement(now, receipt)));
        }
        while let Some(sequence) = self.again.pop_front() {
            if let Some(bytes) = self.outgoing.leaves(now, sequence) {
                return Some(again(bytes));
            }
        }
        self.token_at = None;
        let takes_token = self.outgoing.is_sending_rest();
        if self.held_until(now).is_some() {
            // Nor anything new, which waits behind what is to be sent again.
        } else if let Some(ready_at) = self.pacer.ready_at(now).filter(|_| takes_token) {
            self.token_at = Some(ready_at);
        } else if let Some(bytes) = self.outgoing.next_resend(now) {
            if takes_token {
                self.pacer.take(now);
            }
            return Some(again(bytes));
        }
        if let Some((kind, payload)) = self.control.pop_front() {
            return Some(self.sequenced(now, kind, &payload));
        }
        let Phase::Open(open) = &mut self.phase else { return None };
        if open.shield == Shield::Wanted {
            open.shield = Shield::Sent { sequence: self.outgoing.next_sequence(), wait: limits::SHIELD_RETRY };
            self.timers.set(Timer::Shield, now + limits::SHIELD_RETRY);
            let size = open.port.shell_mut().map(Shell::take_size);
            let (kind, payload) = size.map_or_else(
                || {
                    let (kind, payload, _) = self.nothing();
                    (kind, payload)
                },
                |size| (PayloadKind::Size, size),
            );
            return Some(self.sequenced(now, kind, &payload));
        }
        match open.ending {
            Ending::FlagWanted => Some(self.terminate_flag(now)),
            Ending::FlagSent(_) => None,
            Ending::No | Ending::Draining => self.data(now),
        }
    }

    /// The next message of the port, or a probe between two of them.
    fn data(&mut self, now: Instant) -> Option<Transmit> {
        let Phase::Open(open) = &self.phase else { return None };
        let held = open.shield != Shield::Passed || self.paused || self.outgoing.is_resending();
        let Some(kind) = open.port.output().filter(|_| !held) else {
            self.outgoing.starved(now);
            return None;
        };
        // With few tokens left, the next connection had better begin in the message that the last one ends in.
        if open.ending == Ending::No
            && open.port.has_only_ends()
            && let Some(spare_at) = self.pacer.half_full_at(now)
        {
            self.token_at = Some(spare_at);
            self.outgoing.starved(now);
            return None;
        }
        let rate = self.pacer.rate(now);
        let wanted = self.outgoing.window().message_size(rate);
        let limit = self.payload_size.target(wanted).min(open.port.payload_limit());
        let (size, urgent) = (PAYLOAD_OFFSET + limit, limits::URGENT.min(limit));
        if open.port.is_urgent()
            && self.pacer.is_half_full(now)
            && self.outgoing.admits_urgent(PAYLOAD_OFFSET + urgent, size)
        {
            // What was urgent may have ended meanwhile.
            if let Some(transmit) = self.port_message(now, kind, urgent, true) {
                self.pacer.take(now);
                return Some(transmit);
            }
        }
        let Phase::Open(open) = &self.phase else { return None };
        // And with it, all there was.
        let kind = open.port.output()?;
        if !self.outgoing.admits(size) {
            return None;
        }
        if kind != PayloadKind::Output {
            // A flag: it is small, seldom, and somebody waits for it.
            return self.port_message(now, kind, limit, false);
        }
        if let Some(ready_at) = self.pacer.ready_at(now).max(self.outgoing.window().ready_at(now)) {
            // What is urgent waits for tokens to spare, and for no ceiling.
            let spare_at = self.pacer.half_full_at(now).filter(|_| open.port.is_urgent());
            self.token_at = Some(spare_at.map_or(ready_at, |spare_at| spare_at.min(ready_at)));
            self.outgoing.held();
            return None;
        }
        let room = self.outgoing.unacked_bytes() + PAYLOAD_OFFSET + self.config.max_payload <= limits::IN_FLIGHT_BYTES;
        let waiting = |bytes| room && open.port.has_waiting(bytes);
        let probe = if open.port.payload_limit() < self.config.max_payload {
            None
        } else {
            self.payload_size.next_probe(now, wanted, waiting)
        };
        let transmit = match probe {
            Some(size) => Some(self.probe(now, size)),
            None => self.port_message(now, kind, limit, false),
        };
        if transmit.is_some() {
            self.pacer.take(now);
        }
        transmit
    }

    fn port_message(&mut self, now: Instant, kind: PayloadKind, limit: usize, urgent: bool) -> Option<Transmit> {
        let sequence = self.outgoing.next_sequence();
        let header = self.header(now, MessageKind::InputStreamData, kind, sequence, Flags::NONE);
        let mut draft = self.messages.draft(&header, limit);
        if let Phase::Open(open) = &mut self.phase {
            open.port.fill(now, sequence, draft.payload_mut(), limit, urgent);
            if open.port.has_unsent() && !urgent {
                self.payload_size.filled();
            }
        }
        self.messages.finish(&mut draft);
        // A stream that ended while it waited for its turn leaves nothing, and an empty message must not be sent: the
        // references cannot even write one.
        (draft.payload_len() > 0).then(|| self.keep(now, draft))
    }

    /// Shows whether messages of this size pass, and means nothing. What is kept is its harmless form.
    fn probe(&mut self, now: Instant, size: usize) -> Transmit {
        let sequence = self.outgoing.next_sequence();
        let (kind, piece, padding) = self.nothing();
        let header = self.header(now, MessageKind::InputStreamData, kind, sequence, Flags::NONE);
        let mut harmless = Draft::new(&header, piece.len());
        harmless.payload_mut().put_slice(&piece);
        let mut large = Draft::new(&header, size);
        large.payload_mut().put_slice(&piece);
        while large.payload_len() + padding.len() <= size {
            large.payload_mut().put_slice(&padding);
        }
        self.outgoing.sent_probe(now, large.len(), harmless.seal());
        self.payload_size.probing(sequence, size);
        once(large)
    }

    /// A payload that is acknowledged and has no other effect, and what may follow it as often as one likes.
    fn nothing(&self) -> (PayloadKind, Bytes, Bytes) {
        match &self.phase {
            Phase::Open(open) if open.port.mode() == Mode::Mux => {
                let nop = Bytes::copy_from_slice(&FrameHeader::nop().encode());
                (PayloadKind::Output, nop.clone(), nop)
            }
            _ => (PayloadKind::Size, size(), Bytes::from_static(b" ")),
        }
    }

    fn terminate_flag(&mut self, now: Instant) -> Transmit {
        let sequence = self.outgoing.next_sequence();
        if let Phase::Open(open) = &mut self.phase {
            open.ending = Ending::FlagSent(sequence);
        }
        self.timers.set(Timer::Terminate, now + limits::TERMINATE);
        self.sequenced(now, PayloadKind::Flag, &FlagKind::TerminateSession.encode())
    }

    fn sequenced(&mut self, now: Instant, kind: PayloadKind, payload: &[u8]) -> Transmit {
        let sequence = self.outgoing.next_sequence();
        let header = self.header(now, MessageKind::InputStreamData, kind, sequence, Flags::NONE);
        let mut draft = self.messages.draft(&header, payload.len());
        draft.payload_mut().put_slice(payload);
        self.messages.finish(&mut draft);
        self.keep(now, draft)
    }

    fn keep(&mut self, now: Instant, draft: Draft) -> Transmit {
        let keep = self.outgoing.sent(now, draft.len());
        Transmit::Binary(Frame(FrameState::Kept(draft, keep)))
    }

    fn acknowledgement(&mut self, now: Instant, receipt: Receipt) -> Draft {
        let header =
            self.header(now, MessageKind::Acknowledge, PayloadKind::Undefined, SequenceNumber::ZERO, Flags::SYN_FIN);
        let mut draft = self.acknowledgements.draft(&header, ACKNOWLEDGEMENT);
        let kind = MessageKind::OutputStreamData;
        Acknowledge::encode_into(draft.payload_mut(), kind.as_str(), receipt.id, receipt.sequence);
        self.acknowledgements.finish(&mut draft);
        draft
    }

    fn header(
        &mut self,
        now: Instant,
        kind: MessageKind,
        payload_kind: PayloadKind,
        sequence: SequenceNumber,
        flags: Flags,
    ) -> Header {
        let elapsed = u64::try_from(now.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX);
        Header {
            kind,
            schema_version: 1,
            // Peers take zero for a missing date.
            created_ms: self.config.epoch_ms.saturating_add(elapsed).max(1),
            sequence,
            flags,
            id: MessageId::from_random(self.random.u128(..)),
            payload_kind,
        }
    }
}

/// A terminal size, which port sessions acknowledge and ignore.
pub(super) fn size() -> Bytes {
    to_json(&Size { cols: 80, rows: 24 })
}

fn once(draft: Draft) -> Transmit {
    Transmit::Binary(Frame(FrameState::Once(draft)))
}

fn again(bytes: Bytes) -> Transmit {
    Transmit::Binary(Frame(FrameState::Again(bytes)))
}
