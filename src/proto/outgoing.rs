//! The sending direction: numbers, what is in flight, retransmission (`proto-notes/reliability.md#retransmission`).

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    budget::{ProcessBudget, Share},
    limits,
    rto::Rto,
    window::{Mark, Window},
};
use crate::wire::SequenceNumber;

/// Messages sent and not acknowledged, in order. Nothing is ever evicted: when it is full nothing more is produced.
///
/// *differs from the plugin:* it drops the oldest of 10,000 and so makes a hole that nothing fills.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Entry `i` has the number `first + i`.
    first: SequenceNumber,
    entries: VecDeque<Entry>,
    unacked: usize,
    /// Bytes of all entries.
    span: usize,
    /// Places that nobody uses at the moment.
    spare: Vec<Place>,
    bytes: Share,
    rto: Rto,
    /// Since when acknowledgements have been read without a gap: a round trip that began earlier measures the gap.
    clean_since: Option<Instant>,
    /// Since when there has been something to acknowledge.
    waiting_since: Option<Instant>,
    /// When the oldest message became the oldest: its wait does not start before (RFC 6298, 5.3).
    head_since: Option<Instant>,
    /// How often the head was sent again in vain: each time its wait doubles.
    back_off: u32,
    resend: Resend,
    window: Window,
}

/// Where the bytes of a message are kept, once they are hashed.
pub(super) type Place = Arc<OnceLock<Bytes>>;

#[derive(Debug)]
struct Entry {
    /// What is sent again; `None` once acknowledged.
    message: Option<Place>,
    size: usize,
    /// A probe: what is sent again is something else, and harmless.
    probe: bool,
    sent: Instant,
    mark: Mark,
    transmissions: u32,
}

/// What is to be sent again beside the head that timed out.
///
/// ```text
///   resume ─▶ Head ─sent─▶ AwaitLife ──sign of life, or one RTO──▶ Rest ─▶ Nothing
///   a head that had timed out is acknowledged ─▶ Suspect ──no other acknowledgement──▶ Rest
/// ```
///
/// `before`: what was last sent earlier than this is sent again, so a message goes out at most once per cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resend {
    Nothing,
    /// Send the head, then wait for the agent.
    Head {
        before: Instant,
    },
    /// The head is sent; the agent has not shown that it receives.
    AwaitLife {
        before: Instant,
    },
    /// The head was lost. If the agent's websocket was replaced, all that was under way to it is lost with it, and one
    /// timeout each would be minutes; if it was only slow, its acknowledgements of the others follow at once.
    Suspect {
        before: Instant,
        until: Instant,
    },
    /// Send everything else that is unacknowledged, from this number.
    Rest {
        next: SequenceNumber,
        before: Instant,
    },
}

/// Least time that the acknowledgements behind that of a late head may take.
const SUSPICION: Duration = Duration::from_millis(20);

impl Outgoing {
    pub(super) fn new(budget: &ProcessBudget) -> Self {
        Self {
            first: SequenceNumber::ZERO,
            entries: VecDeque::new(),
            unacked: 0,
            span: 0,
            spare: Vec::new(),
            bytes: budget.in_flight(),
            rto: Rto::default(),
            clean_since: None,
            waiting_since: None,
            head_since: None,
            back_off: 0,
            resend: Resend::Nothing,
            window: Window::new(),
        }
    }

    /// The number of the next new message.
    pub(super) fn next_sequence(&self) -> SequenceNumber {
        SequenceNumber(self.first.0.saturating_add_unsigned(self.entries.len() as u64))
    }

    /// Whether a new data message may be sent: the window is the only flow control of the protocol.
    pub(super) fn has_room(&self) -> bool {
        self.unacked < limits::IN_FLIGHT_MESSAGES
            && self.entries.len() < limits::IN_FLIGHT_SPAN
            && self.span < limits::IN_FLIGHT_SPAN_BYTES
            && self.bytes.own() < limits::IN_FLIGHT_BYTES
            && self.bytes.has_room()
    }

    /// Whether a new data message of `size` bytes may be sent: the path can take it at once, and all bounds hold.
    pub(super) fn admits(&mut self, size: usize) -> bool {
        self.is_within_bounds(size) && self.window.admits(self.bytes.own(), size)
    }

    /// Whether a small one may be sent, beside messages of `size` bytes that may not: the window is exceeded by no
    /// more than one of those.
    pub(super) fn admits_urgent(&self, urgent: usize, size: usize) -> bool {
        self.is_within_bounds(urgent) && self.bytes.own() + urgent <= self.window.usual(size) + size
    }

    fn is_within_bounds(&self, size: usize) -> bool {
        self.has_room() && (self.unacked == 0 || self.bytes.own() + size <= limits::IN_FLIGHT_BYTES)
    }

    /// There is room, and nothing to send.
    pub(super) fn starved(&mut self, now: Instant) {
        self.window.starved(now, self.bytes.own());
    }

    /// There is room, and something else that holds back what there is to send.
    pub(super) fn held(&mut self) {
        self.window.held(self.bytes.own());
    }

    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// Records a probe of `size` bytes as sent; what is sent again is `harmless`.
    pub(super) fn sent_probe(&mut self, now: Instant, size: usize, harmless: Bytes) {
        let slot = self.sent(now, size);
        slot.get_or_init(|| harmless);
        if let Some(entry) = self.entries.back_mut() {
            entry.probe = true;
        }
    }

    /// Records a new message as sent and returns where its bytes are to be kept.
    pub(super) fn sent(&mut self, now: Instant, size: usize) -> Place {
        let message = self.spare.pop().unwrap_or_default();
        let mark = self.window.sent(now, self.bytes.own(), size);
        if self.unacked == 0 {
            self.head_since = Some(now);
            self.waiting_since = Some(now);
        }
        self.unacked += 1;
        self.span += size;
        self.bytes.set(self.bytes.own() + size);
        let kept = Some(Arc::clone(&message));
        self.entries.push_back(Entry { message: kept, size, probe: false, sent: now, mark, transmissions: 1 });
        message
    }

    /// Takes an acknowledgement. False if nothing waited for it: repeated, or of a number never sent.
    pub(super) fn acknowledged(&mut self, now: Instant, sequence: SequenceNumber) -> bool {
        let index = self.index(sequence);
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else { return false };
        let Some(mut message) = entry.message.take() else { return false };
        // One that is only just being hashed belongs to whoever does that, too.
        if let Some(place) = Arc::get_mut(&mut message)
            && self.spare.len() < limits::IN_FLIGHT_MESSAGES
        {
            place.take();
            self.spare.push(message);
        }
        let (sent, first_try) = (entry.sent, entry.transmissions == 1);
        let (size, mark) = (entry.size, entry.mark);
        let clean = first_try && self.clean_since.is_none_or(|since| sent >= since);
        if clean {
            self.rto.sample(now.saturating_duration_since(sent));
        }
        match self.resend {
            Resend::Nothing if index == Some(0) && !first_try => {
                let until = now + SUSPICION.max(self.rto.srtt().unwrap_or_default() / 4);
                self.resend = Resend::Suspect { before: sent, until };
            }
            // The agent works through what was sent at first: nothing is lost. What was sent after the head was sent
            // again says nothing about that.
            Resend::Suspect { before, .. } if first_try && sent < before => self.resend = Resend::Nothing,
            _ => {}
        }
        self.unacked -= 1;
        self.waiting_since = self.waiting_since.filter(|_| self.unacked > 0);
        self.bytes.set(self.bytes.own() - size);
        self.window.acknowledged(now, sent, mark, size, self.bytes.own(), clean);
        if index == Some(0) {
            while self.entries.front().is_some_and(|entry| entry.message.is_none()) {
                self.span -= self.entries.pop_front().map_or(0, |entry| entry.size);
                self.first = self.first.next();
            }
            self.head_since = (self.unacked > 0).then_some(now);
            self.back_off = 0;
        } else if first_try && self.entries.front().is_some_and(|head| sent > head.sent) {
            // The agent receives: what keeps the head waiting is not a dead path.
            self.back_off = 0;
        }
        true
    }

    /// The agent has shown that it receives: after a resume the rest may follow the head.
    pub(super) fn sign_of_life(&mut self) {
        if let Resend::Head { before } | Resend::AwaitLife { before } = self.resend {
            self.resend = Resend::Rest { next: self.first, before };
        }
    }

    /// A new websocket: nothing that was in flight on the old one is known to have arrived.
    pub(super) fn resumed(&mut self, now: Instant) {
        self.restart_wait(now);
        self.window.restart(now);
        // How bad the old path was says nothing about the new one.
        self.back_off = 0;
        self.resend = if self.unacked > 0 { Resend::Head { before: now } } else { Resend::Nothing };
    }

    /// When [`overdue`](Self::overdue) is to be called.
    pub(super) fn resend_at(&self) -> Option<Instant> {
        match self.resend {
            Resend::AwaitLife { before } => Some(self.entries.front().map_or(before, |head| head.sent) + self.rto()),
            Resend::Suspect { until, .. } if self.unacked > 0 => Some(until),
            _ => None,
        }
    }

    /// The agent has said nothing in time.
    pub(super) fn overdue(&mut self, now: Instant) {
        let before = match self.resend {
            Resend::AwaitLife { before } => before,
            // On a live websocket nothing is sent again before its own timeout.
            Resend::Suspect { before, .. } => before.min(now.checked_sub(self.rto()).unwrap_or(before)),
            _ => return,
        };
        self.resend = Resend::Rest { next: self.first, before };
    }

    /// The next message that has to be sent again beside the head that timed out.
    pub(super) fn next_resend(&mut self, now: Instant) -> Option<Bytes> {
        match self.resend {
            Resend::Nothing | Resend::AwaitLife { .. } | Resend::Suspect { .. } => None,
            Resend::Head { before } => {
                self.resend = Resend::AwaitLife { before };
                self.transmit(now, 0)
            }
            Resend::Rest { next, before } => {
                let start = self.index(next).unwrap_or(0);
                let lost = |entry: &Entry| entry.message.is_some() && entry.sent < before;
                let found = self.entries.iter().skip(start).position(lost);
                self.resend = match found {
                    Some(at) => Resend::Rest { next: self.first.next_by(start + at + 1), before },
                    None => Resend::Nothing,
                };
                found.and_then(|at| self.transmit(now, start + at))
            }
        }
    }

    /// Whether [`next_resend`](Self::next_resend) gives one of many, which take their turn like new ones.
    pub(super) fn is_sending_rest(&self) -> bool {
        matches!(self.resend, Resend::Rest { .. })
    }

    /// Whether new data has to wait behind messages that are sent again.
    pub(super) fn is_resending(&self) -> bool {
        !matches!(self.resend, Resend::Nothing | Resend::Suspect { .. })
    }

    /// The gateway says that the agent is back: the head need not wait for the end of a long back-off.
    pub(super) fn forget_back_off(&mut self) {
        self.back_off = 0;
    }

    /// When the oldest message has to be sent again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.is_head_to_be_sent() {
            return None;
        }
        let head = self.entries.front()?;
        let since = head.sent.max(self.head_since?);
        Some(since + self.rto.timeout(1 + self.back_off))
    }

    /// The oldest message, to be sent again now.
    pub(super) fn retransmit_head(&mut self, now: Instant) -> Option<Bytes> {
        self.back_off = self.back_off.saturating_add(1);
        self.transmit(now, 0)
    }

    /// One message, to be sent again now.
    pub(super) fn retransmit(&mut self, now: Instant, sequence: SequenceNumber) -> Option<Bytes> {
        self.index(sequence).and_then(|index| self.transmit(now, index))
    }

    /// A message that was to be sent again leaves only now: its next wait begins with it. None if it was acknowledged
    /// meanwhile.
    pub(super) fn leaves(&mut self, now: Instant, sequence: SequenceNumber) -> Option<Bytes> {
        let index = self.index(sequence)?;
        let entry = self.entries.get_mut(index)?;
        entry.sent = now;
        entry.message.as_ref()?.get().cloned()
    }

    fn transmit(&mut self, now: Instant, index: usize) -> Option<Bytes> {
        let entry = self.entries.get_mut(index)?;
        let message = entry.message.as_ref()?;
        entry.sent = now;
        entry.transmissions = entry.transmissions.saturating_add(1);
        let bytes = message.get().cloned();
        if entry.probe {
            // From now on it is only as large as its harmless form.
            let size = bytes.as_ref().map_or(0, Bytes::len).min(entry.size);
            self.bytes.set(self.bytes.own() - (entry.size - size));
            self.span -= entry.size - size;
            entry.size = size;
        }
        bytes
    }

    /// Time in which acknowledgements were not read does not count.
    pub(super) fn restart_wait(&mut self, now: Instant) {
        self.clean_since = Some(now);
        self.head_since = (self.unacked > 0).then_some(now);
    }

    fn index(&self, sequence: SequenceNumber) -> Option<usize> {
        usize::try_from(sequence.0.checked_sub(self.first.0)?).ok()
    }

    /// The number of the oldest message.
    pub(super) fn head(&self) -> SequenceNumber {
        self.first
    }

    /// After a resume: whether the oldest message has not been sent on this websocket yet.
    pub(super) fn is_head_to_be_sent(&self) -> bool {
        matches!(self.resend, Resend::Head { .. })
    }

    pub(super) fn is_head(&self, sequence: SequenceNumber) -> bool {
        self.unacked > 0 && self.first == sequence
    }

    pub(super) fn is_unacked(&self, sequence: SequenceNumber) -> bool {
        let entry = self.index(sequence).and_then(|index| self.entries.get(index));
        entry.is_some_and(|entry| entry.message.is_some())
    }

    /// Whether an unacknowledged message was sent only once.
    pub(super) fn was_sent_once(&self, sequence: SequenceNumber) -> bool {
        let entry = self.index(sequence).and_then(|index| self.entries.get(index));
        entry.is_some_and(|entry| entry.message.is_some() && entry.transmissions == 1)
    }

    /// The oldest message, its size and when it was sent, if that was at `since` or later, and if it is more than
    /// `size` bytes long in every form.
    pub(super) fn large_head(&self, since: Instant, size: usize) -> Option<(SequenceNumber, usize, Instant)> {
        let head = self.entries.front().filter(|head| head.sent >= since && head.size > size && !head.probe)?;
        (!self.is_head_to_be_sent()).then_some((self.first, head.size, head.sent))
    }

    /// When an unacknowledged message went out last.
    pub(super) fn last_sent(&self, sequence: SequenceNumber) -> Option<Instant> {
        let entry = self.index(sequence).and_then(|index| self.entries.get(index))?;
        entry.message.is_some().then_some(entry.sent)
    }

    /// Since when there has been something to acknowledge, without a moment in which all was acknowledged.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    pub(super) fn unacked(&self) -> usize {
        self.unacked
    }

    pub(super) fn unacked_bytes(&self) -> usize {
        self.bytes.own()
    }

    pub(super) fn srtt(&self) -> Option<Duration> {
        self.rto.srtt()
    }

    pub(super) fn rto(&self) -> Duration {
        self.rto.timeout(1)
    }

    /// Gives back everything that is held.
    pub(super) fn clear(&mut self) {
        self.first = self.next_sequence();
        self.entries.clear();
        self.unacked = 0;
        self.span = 0;
        self.bytes.set(0);
        self.head_since = None;
        self.waiting_since = None;
        self.resend = Resend::Nothing;
    }
}

impl SequenceNumber {
    fn next_by(self, count: usize) -> Self {
        Self(self.0.saturating_add_unsigned(count as u64))
    }
}

#[cfg(test)]
mod tests;
