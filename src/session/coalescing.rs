//! When a websocket is looked at now and then instead of waking the session for each packet.
//!
//! A download of the agent comes in full messages a little more than a millisecond apart (`proto-notes/agent.md#pump`),
//! each alone: acknowledging it, handing it on and waking up for it cost far more than the message. Nobody sees a few
//! milliseconds on a stream of them. So when messages have come like that for a while, and nothing is waited for that
//! somebody sent, the socket is [polled](super::socket). Something to send ends it at once; at the next look, something
//! small, many at a time, or nothing.
//!
//! The agent does not mind: it acts on a missing acknowledgement after some hundreds of milliseconds.

use std::{sync::OnceLock, time::Duration};

use tokio::time::Instant;

/// Between two looks. Seven messages of the agent's pump come in it; as many stand in front of whoever is served by the
/// same session in any case.
const PERIOD: Duration = Duration::from_millis(10);
/// A read that brings more messages than this is no drip, and costs little for each.
const FEW: usize = 4;
/// Reads in a row that brought few.
const READS: u32 = 16;
/// A look that brings more messages than this is too late: whoever sends like that should not wait for us.
const MANY: usize = 16;

/// What to do with the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is polled from now on.
    Poll,
    /// It wakes the session again, and has to be read.
    Wake,
}

/// Watches how messages come.
#[derive(Debug, Default)]
pub(super) struct Coalescing {
    /// Reads in a row that brought few messages.
    few: u32,
    /// When to look: the socket is polled.
    look_at: Option<Instant>,
}

impl Coalescing {
    /// When the socket has to be looked at. `None`: it wakes the session itself.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// So many messages were read, if the socket was read at all. `bulk`: they are part of a download, and nothing else
    /// is expected.
    pub(super) fn read(&mut self, now: Instant, messages: Option<usize>, bulk: bool) -> Option<Change> {
        if self.look_at.is_some() {
            if !bulk || messages.is_some_and(|messages| messages == 0 || messages > MANY) {
                *self = Self::default();
                return Some(Change::Wake);
            }
            if messages.is_some() {
                self.look_at = Some(next_look(now));
            }
            return None;
        }
        match messages {
            None | Some(0) => {}
            Some(messages) if bulk && messages <= FEW => self.few += 1,
            Some(_) => self.few = 0,
        }
        if !bulk || self.few < READS {
            return None;
        }
        self.look_at = Some(next_look(now));
        Some(Change::Poll)
    }
}

/// All sessions of the process look at the same moments: one wakeup does for all.
fn next_look(now: Instant) -> Instant {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    next_of(*FIRST.get_or_init(|| now), now)
}

/// The next of the moments that are whole periods after the first.
fn next_of(first: Instant, now: Instant) -> Instant {
    let late = now.saturating_duration_since(first).as_nanos() % PERIOD.as_nanos();
    now + PERIOD - Duration::from_nanos(u64::try_from(late).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Option<usize> = Some(1);

    /// Reads, one after another; what changed.
    fn reads(coalescing: &mut Coalescing, now: &mut Instant, reads: &[(Option<usize>, bool)]) -> Vec<Option<Change>> {
        let mut read = |&(messages, bulk): &(Option<usize>, bool)| {
            *now += Duration::from_millis(10);
            coalescing.read(*now, messages, bulk)
        };
        reads.iter().map(&mut read).collect()
    }

    fn polled(now: &mut Instant) -> Coalescing {
        let mut coalescing = Coalescing::default();
        let changes = reads(&mut coalescing, now, &[(ONE, true); READS as usize]);
        assert_eq!(changes.last(), Some(&Some(Change::Poll)));
        assert_eq!(changes.iter().flatten().count(), 1);
        coalescing
    }

    #[test]
    fn a_drip_is_polled_and_each_look_sets_the_next() {
        let mut now = Instant::now();
        let mut coalescing = polled(&mut now);
        let look = coalescing.look_at().expect("polled");
        assert!(look > now && look <= now + PERIOD);
        assert_eq!(reads(&mut coalescing, &mut now, &[(None, true)]), [None]);
        assert_eq!(coalescing.look_at(), Some(look), "something else was done meanwhile");
        assert_eq!(reads(&mut coalescing, &mut now, &[(Some(MANY), true)]), [None]);
        let next = coalescing.look_at().expect("polled");
        assert!(next > now && next <= now + PERIOD);
    }

    #[test]
    fn all_look_at_the_same_moments() {
        let first = Instant::now();
        assert_eq!(next_of(first, first), first + PERIOD);
        assert_eq!(next_of(first, first + PERIOD - Duration::from_nanos(1)), first + PERIOD);
        assert_eq!(next_of(first, first + PERIOD * 1000 + Duration::from_millis(1)), first + PERIOD * 1001);
    }

    #[test]
    fn whatever_is_no_drip_wakes_and_it_begins_anew() {
        for end in [(ONE, false), (None, false), (Some(0), true), (Some(MANY + 1), true)] {
            let mut now = Instant::now();
            let mut coalescing = polled(&mut now);
            assert_eq!(reads(&mut coalescing, &mut now, &[end]), [Some(Change::Wake)], "{end:?}");
            assert_eq!(coalescing.look_at(), None);
            let changes = reads(&mut coalescing, &mut now, &[(ONE, true); READS as usize - 1]);
            assert_eq!(changes, [None; READS as usize - 1]);
        }
    }

    #[test]
    fn what_comes_in_crowds_is_not_polled() {
        let mut now = Instant::now();
        let mut coalescing = Coalescing::default();
        for _ in 0..10 {
            let changes = reads(&mut coalescing, &mut now, &[(ONE, true); READS as usize - 1]);
            assert_eq!(changes, [None; READS as usize - 1]);
            assert_eq!(reads(&mut coalescing, &mut now, &[(Some(FEW + 1), true)]), [None]);
        }
    }
}
