//! Connections that wait for their first byte while nothing moves: the agent dials one after another, so one
//! destination that does not answer holds up all that come later (`proto-notes/smux.md#unanswered`).
//!
//! What it is: the bookkeeping that tells such connections from those that are merely idle. What it is not: a verdict.
//! A slow answer looks the same on the wire, so nothing is closed on the strength of it.

use std::{ops::Bound, time::Instant};

use crate::{
    proto::{limits, stream::Stream},
    wire::smux::StreamId,
};

/// What is known of answers. Costs the same for one stream and for thousands: only a check that falls due looks at
/// streams, and only at those opened after the newest answered one.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// The last-opened stream that has received a byte or a FIN: the agent has dialled it, and all before it.
    newest_answered: Option<StreamId>,
    /// Streams after that one which the application holds.
    waiting: usize,
    /// Whether the destination speaks first, as far as it was seen.
    greets: Option<bool>,
    /// No stream can be overdue before this: neither its own wait nor that of the whole queue is long enough. None
    /// while no stream waits, or once they were reported.
    due: Option<Instant>,
    reported: bool,
    suspended: bool,
}

impl Unanswered {
    /// The application has opened a stream: later than all others.
    pub(super) fn opened(&mut self) {
        self.waiting += 1;
    }

    /// The SYN of a stream, its first data or its FIN goes out.
    pub(super) fn asked(&mut self, now: Instant) {
        if !self.reported {
            self.due.get_or_insert(now + limits::UNANSWERED);
        }
    }

    /// The application has let go of a stream.
    pub(super) fn released(&mut self, id: StreamId) {
        if self.newest_answered < Some(id) {
            self.waiting = self.waiting.saturating_sub(1);
            if self.waiting == 0 {
                self.begin(None);
            }
        }
    }

    /// A stream has received its first byte, or its FIN. `greeted`: a byte, and before anything was sent on it.
    ///
    /// `held_between` counts the streams in a range of ids that the application holds; no id is asked for twice.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        id: StreamId,
        greeted: Option<bool>,
        held_between: impl FnOnce((Bound<StreamId>, Bound<StreamId>)) -> usize,
    ) {
        self.greets = greeted.or(self.greets);
        if self.newest_answered >= Some(id) {
            return;
        }
        let passed = held_between((self.after(), Bound::Included(id)));
        self.newest_answered = Some(id);
        self.waiting = self.waiting.saturating_sub(passed);
        // The next one in the queue is dialled only now.
        self.begin(Some(now));
    }

    /// While it is known that nothing can be answered, waiting proves nothing.
    pub(super) fn suspend(&mut self, now: Instant, suspended: bool) {
        if std::mem::replace(&mut self.suspended, suspended) && !suspended && !self.reported {
            self.begin(Some(now));
        }
    }

    /// A new episode: nobody has waited for long.
    fn begin(&mut self, now: Option<Instant>) {
        self.reported = false;
        self.due = now.filter(|_| self.waiting > 0).map(|now| now + limits::UNANSWERED);
    }

    /// When [`check`](Self::check) is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| !self.suspended)
    }

    /// Where the streams that nothing was heard of begin.
    pub(super) fn after(&self) -> Bound<StreamId> {
        self.newest_answered.map_or(Bound::Unbounded, Bound::Excluded)
    }

    /// How many streams are overdue, if that is news. `streams`: all behind [`after`](Self::after).
    pub(super) fn check<'a>(&mut self, now: Instant, streams: impl Iterator<Item = &'a Stream>) -> Option<usize> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        let mut overdue = 0;
        let mut next: Option<Instant> = None;
        for since in streams.filter_map(|stream| self.waits_since(stream)) {
            let due = since + limits::UNANSWERED;
            if due <= now {
                overdue += 1;
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        self.reported = overdue > 0;
        self.due = next.filter(|_| !self.reported);
        self.reported.then_some(overdue)
    }

    /// Since when a stream without an answer has waited for one. A connection on which the application has said
    /// nothing waits only if destinations speak first, or if nobody knows better.
    fn waits_since(&self, stream: &Stream) -> Option<Instant> {
        let asked = stream.asked.filter(|asked| stream.held && (asked.spoke || self.greets != Some(false)));
        asked.map(|asked| asked.at)
    }
}
