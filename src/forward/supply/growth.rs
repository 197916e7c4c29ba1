//! When an automatic pool grows. Pure: time and statistics come in.
//!
//! The sessions are looked at every [`SAMPLE`]. Such an interval is *saturated* if every one of them was as fast as it
//! can be, in one of three ways, and more connections than sessions were busy in it:
//!
//! - *downwards*, while the agent's pump ran without a gap. The pump sends what it has, 1024 bytes at most, then sleeps a
//!   millisecond or a bit more, whatever the client does (`proto-notes/session-life.md#the-pool`). So its messages come
//!   at some 700 a second on Linux, never at much over 1000, and all of them are full as long as more is waiting behind
//!   them. Neither its exact pace nor the size of its messages is assumed: nearly all messages as large as the largest,
//!   and a rate that such a pump can have;
//! - *upwards*, while data of two or more streams waited for the window or the pace, and some of it moved;
//! - in basic mode, while a connection waited for its turn.
//!
//! The pool grows when nearly all intervals of two seconds were saturated, later steps of one second, each time to
//! twice the size, or to one session for two busy connections if that is more. If a step has brought nothing, something else is the limit: then it rests for a minute, and longer
//! the next time.

use std::{collections::VecDeque, ops::RangeInclusive, time::Duration};

use tokio::time::Instant;

use super::member::MemberId;
use crate::proto::Statistics;

/// Between two looks at the sessions.
pub(super) const SAMPLE: Duration = Duration::from_millis(100);

/// And after [`QUIET_SAMPLES`] in which next to nothing was carried: many programs keep connections that they do not use.
const QUIET_SAMPLE: Duration = Duration::from_millis(500);
const QUIET_SAMPLES: u32 = 20;
/// Bytes a second of all sessions together that are next to nothing: a third of the slowest pump.
const QUIET: u64 = 50_000;

/// Saturation before the first step: a page that loads is over by then.
const FIRST: Duration = Duration::from_secs(2);
/// And before the others: it is known by then that this is more than a page.
const LATER: Duration = Duration::from_secs(1);
/// So many percent of the intervals are nearly all.
const NEARLY_ALL: usize = 85;

/// Messages a second that an agent's pump may send when it never rests: from timers that are five times too slow to
/// sleeps of a millisecond that are cut short. What comes faster is not paced by a pump.
const PUMP: RangeInclusive<u64> = 150..=1500;
/// So many percent of its messages are full then: one in ten may be the end of a reply.
const FULL: u64 = 90;

/// A step that has brought less than so many percent more has brought nothing: twice the sessions should bring 100.
const GAIN: u64 = 25;
/// A step that was longer ago is not judged any more: what was carried then may have been another work.
const JUDGED_FOR: Duration = Duration::from_secs(30);
/// How long the pool rests after that, doubling.
const FUTILE: Duration = Duration::from_secs(60);
const FUTILE_CAP: Duration = Duration::from_secs(900);

/// What is known of one session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) id: MemberId,
    pub(super) statistics: Statistics,
    /// Connections that use it.
    pub(super) connections: usize,
    /// It carries one connection at a time.
    pub(super) one_at_a_time: bool,
    /// It can take connections.
    pub(super) usable: bool,
}

impl Sample {
    /// Connections that want something of it now.
    pub(super) fn wanted(&self) -> usize {
        if self.one_at_a_time { self.connections } else { self.statistics.busy_streams.min(self.connections) }
    }
}

/// The growth of one pool.
#[derive(Debug)]
pub(super) struct Growth {
    most: usize,
    sampled_at: Option<Instant>,
    before: Vec<Sample>,
    intervals: VecDeque<Interval>,
    /// So many in a row were quiet.
    quiet: u32,
    /// The latest step: how many sessions there were, and what they carried.
    step: Option<Step>,
    not_before: Option<Instant>,
    futile: u32,
}

#[derive(Debug, Clone, Copy)]
struct Interval {
    since: Instant,
    until: Instant,
    saturated: bool,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    at: Instant,
    size: usize,
    rate: u64,
}

impl Growth {
    /// A pool of at most so many.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            sampled_at: None,
            before: Vec::new(),
            intervals: VecDeque::new(),
            quiet: 0,
            step: None,
            not_before: None,
            futile: 0,
        }
    }

    /// When the sessions are to be looked at again.
    pub(super) fn next_sample(&self, now: Instant) -> Instant {
        let pause = if self.quiet >= QUIET_SAMPLES { QUIET_SAMPLE } else { SAMPLE };
        self.sampled_at.map_or(now, |at| at + pause)
    }

    /// There is nothing to be looked at: what was seen before says nothing about later.
    pub(super) fn rest(&mut self) {
        self.sampled_at = None;
        self.quiet = 0;
        self.before.clear();
        self.intervals.clear();
    }

    /// Looks at all sessions of the pool, in a fixed order. Returns how many more it needs.
    pub(super) fn observe(&mut self, now: Instant, samples: &[Sample]) -> usize {
        let since = self.sampled_at.replace(now);
        let before = std::mem::replace(&mut self.before, samples.to_vec());
        let same = before.iter().map(|sample| sample.id).eq(samples.iter().map(|sample| sample.id));
        let Some(since) = since.filter(|_| same) else {
            self.intervals.clear();
            return 0;
        };
        let length = now.saturating_duration_since(since);
        let each = before.iter().zip(samples);
        let saturated = !samples.is_empty()
            && samples.iter().map(Sample::wanted).sum::<usize>() > samples.len()
            && each.clone().all(|(before, sample)| is_saturated(length, before, sample));
        let bytes = each.map(|(before, sample)| total(sample) - total(before)).sum();
        let interval = Interval { since, until: now, saturated, bytes };
        let was_quiet = self.quiet >= QUIET_SAMPLES;
        self.quiet = if saturated || interval.rate() >= QUIET { 0 } else { self.quiet.saturating_add(1) };
        if was_quiet {
            // Since when it is not any more is not known.
            self.intervals.clear();
            return 0;
        }
        self.intervals.push_back(interval);
        let patience = if samples.len() == 1 { FIRST } else { LATER };
        while self.intervals.len() > 1 && self.intervals[1].since + patience <= now {
            self.intervals.pop_front();
        }
        if !self.is_saturated_for(patience) || self.not_before.is_some_and(|at| now < at) {
            return 0;
        }
        self.step(now, samples)
    }

    fn is_saturated_for(&self, patience: Duration) -> bool {
        let (Some(first), Some(last)) = (self.intervals.front(), self.intervals.back()) else { return false };
        let saturated = self.intervals.iter().filter(|interval| interval.saturated).count();
        first.since + patience <= last.until && saturated * 100 >= self.intervals.len() * NEARLY_ALL
    }

    fn step(&mut self, now: Instant, samples: &[Sample]) -> usize {
        let (size, rate) = (samples.len(), self.rate());
        let waits_for_turn = samples.iter().any(|sample| sample.one_at_a_time);
        let recent = self.step.filter(|step| now.saturating_duration_since(step.at) <= JUDGED_FOR);
        if let Some(step) = recent.filter(|step| step.size < size && !waits_for_turn) {
            if rate >= step.rate.saturating_add(step.rate / 100 * GAIN) {
                self.futile = 0;
                return self.grow(now, samples, rate);
            }
            tracing::debug!(size, rate, before = ?step, "more sessions have not carried more");
            self.step = None;
            self.not_before = Some(now + FUTILE.saturating_mul(1 << self.futile.min(8)).min(FUTILE_CAP));
            self.futile = self.futile.saturating_add(1);
            self.intervals.clear();
            return 0;
        }
        self.grow(now, samples, rate)
    }

    fn grow(&mut self, now: Instant, samples: &[Sample], rate: u64) -> usize {
        let size = samples.len();
        let wanted = samples.iter().map(Sample::wanted).sum::<usize>();
        // More than one for each would be idle.
        let target = (2 * size).max(wanted.div_ceil(2)).min(wanted).min(self.most);
        let more = target.saturating_sub(size);
        if more > 0 {
            self.step = Some(Step { at: now, size, rate });
            self.intervals.clear();
        }
        more
    }

    /// Bytes per second of the whole pool.
    fn rate(&self) -> u64 {
        let (Some(first), Some(last)) = (self.intervals.front(), self.intervals.back()) else { return 0 };
        let bytes = self.intervals.iter().map(|interval| interval.bytes).sum();
        Interval { since: first.since, bytes, ..*last }.rate()
    }
}

impl Interval {
    /// Bytes per second.
    fn rate(&self) -> u64 {
        let micros = self.until.saturating_duration_since(self.since).as_micros().max(1);
        u64::try_from(u128::from(self.bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
    }
}

fn total(sample: &Sample) -> u64 {
    sample.statistics.bytes_up.saturating_add(sample.statistics.bytes_down)
}

/// Whether a session was as fast as it can be.
fn is_saturated(length: Duration, before: &Sample, sample: &Sample) -> bool {
    if !sample.usable {
        return false;
    }
    if sample.one_at_a_time {
        return sample.connections > 1;
    }
    let (then, now) = (&before.statistics, &sample.statistics);
    let messages = now.messages_down.saturating_sub(then.messages_down);
    let full = now.full_messages_down.saturating_sub(then.full_messages_down);
    let per_second = u64::try_from(u128::from(messages) * 1000 / length.as_millis().max(1)).unwrap_or(u64::MAX);
    let down = PUMP.contains(&per_second) && full * 100 >= messages * FULL;
    let up = now.held_streams > 1 && now.messages_up > then.messages_up;
    down || up
}

#[cfg(test)]
mod tests;
