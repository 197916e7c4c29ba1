//! What a session has carried, and how fast: counters and rates that cost a few additions a message.
//!
//! Not here: what to make of them. Whether a session is as fast as it can be is judged by who owns several.

use std::time::{Duration, Instant};

use super::{Transmit, io::FrameState, limits};

/// Rates are those of the present interval and the one before it: half a second to a second. Long enough that a message
/// more or less does not show, short enough that a stream that has begun does.
const INTERVAL: Duration = Duration::from_millis(500);

/// What a session has carried since its start, and what it carries now.
///
/// Bytes are those of streams, as applications see them: without headers and without what was sent again. Counters only
/// grow, so that who looks now and then can subtract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// Bytes of streams put into messages.
    pub bytes_up: u64,
    /// Bytes of streams received, in order.
    pub bytes_down: u64,
    /// Messages sent that the agent acknowledges, each counted once.
    pub messages_up: u64,
    /// Messages with data of streams received, in order, each counted once.
    pub messages_down: u64,
    /// Those of them that were as large as the largest before: more was waiting to be sent behind them.
    pub full_messages_down: u64,
    /// Messages sent again.
    pub retransmissions: u64,
    /// Bytes per second upwards, over the last half to whole second.
    pub bytes_up_per_s: u64,
    /// Bytes per second downwards, over the last half to whole second.
    pub bytes_down_per_s: u64,
    /// Streams that have moved data in the last half to whole second, whichever way.
    pub busy_streams: usize,
    /// Streams that had something to send when the session last was not allowed to send more: the window is full, the
    /// pace is kept, or the gateway has asked for a pause. None once all was sent; a websocket that takes nothing for
    /// the moment does not count.
    pub held_streams: usize,
}

/// Counts messages.
#[derive(Debug, Default)]
pub(super) struct MessageCounts {
    up: u64,
    down: u64,
    full_down: u64,
    largest_down: usize,
    /// Full ones in a row.
    run_down: u32,
    retransmissions: u64,
    held_streams: usize,
}

/// Counts bytes of streams.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// When the present interval began.
    since: Option<Instant>,
    /// The present interval's number, from 1.
    interval: u64,
    up: Flow,
    down: Flow,
    /// Streams that have moved data in the present interval.
    busy: usize,
    /// And in the one before.
    busy_before: usize,
}

/// In which interval a stream has last moved data.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BusyIn(u64);

/// Bytes in one direction.
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    total: u64,
    present: u64,
    before: u64,
}

impl Flow {
    fn add(&mut self, bytes: usize) {
        self.total += bytes as u64;
        self.present += bytes as u64;
    }

    fn roll(&mut self, adjacent: bool) {
        self.before = if adjacent { self.present } else { 0 };
        self.present = 0;
    }
}

impl Meter {
    pub(super) fn sent(&mut self, now: Instant, stream: &mut BusyIn, bytes: usize) {
        self.mark(now, stream);
        self.up.add(bytes);
    }

    pub(super) fn received(&mut self, now: Instant, stream: &mut BusyIn, bytes: usize) {
        self.mark(now, stream);
        self.down.add(bytes);
    }

    fn mark(&mut self, now: Instant, stream: &mut BusyIn) {
        self.roll(now);
        if stream.0 != self.interval {
            stream.0 = self.interval;
            self.busy += 1;
        }
    }

    /// Begins another interval if the present one is over.
    fn roll(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        if elapsed < INTERVAL && self.interval > 0 {
            return;
        }
        let adjacent = elapsed < 2 * INTERVAL;
        self.since = Some(if adjacent && self.interval > 0 { since + INTERVAL } else { now });
        self.interval += 1;
        self.up.roll(adjacent);
        self.down.roll(adjacent);
        self.busy_before = if adjacent { self.busy } else { 0 };
        self.busy = 0;
    }
}

impl MessageCounts {
    pub(super) fn transmitted(&mut self, transmit: &Transmit) {
        match transmit {
            Transmit::Binary(frame) if frame.is_retransmission() => self.retransmissions += 1,
            Transmit::Binary(frame) if matches!(frame.0, FrameState::Kept(..)) => self.up += 1,
            // Acknowledgements, what opens the channel, and probes, which carry nothing.
            Transmit::Binary(_) | Transmit::Text(_) => {}
        }
    }

    /// Nothing more may be sent, or there is nothing: so many streams have something.
    pub(super) fn held(&mut self, streams: usize) {
        self.held_streams = streams;
    }

    pub(super) fn received(&mut self, payload: usize) {
        self.down += 1;
        let full = payload >= self.largest_down;
        self.full_down += u64::from(full);
        self.largest_down = self.largest_down.max(payload);
        self.run_down = if full && payload >= limits::PAYLOAD { self.run_down.saturating_add(1) } else { 0 };
    }

    /// Messages in a row that were as large as they can be.
    pub(super) fn run_down(&self) -> u32 {
        self.run_down
    }

    /// The row is over.
    pub(super) fn end_run(&mut self) {
        self.run_down = 0;
    }

    /// Everything as it is now.
    pub(super) fn statistics(&self, now: Instant, meter: Option<&mut Meter>) -> Statistics {
        let mut statistics = Statistics {
            messages_up: self.up,
            messages_down: self.down,
            full_messages_down: self.full_down,
            retransmissions: self.retransmissions,
            held_streams: self.held_streams,
            ..Statistics::default()
        };
        if let Some(meter) = meter {
            meter.roll(now);
            let span = INTERVAL + meter.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            let rate = |flow: Flow| {
                let bytes = u128::from(flow.present) + u128::from(flow.before);
                u64::try_from(bytes * 1_000_000 / span.as_micros().max(1)).unwrap_or(u64::MAX)
            };
            statistics.bytes_up = meter.up.total;
            statistics.bytes_down = meter.down.total;
            statistics.bytes_up_per_s = rate(meter.up);
            statistics.bytes_down_per_s = rate(meter.down);
            statistics.busy_streams = meter.busy.max(meter.busy_before);
        }
        statistics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    fn now() -> Instant {
        Instant::now()
    }

    fn statistics(meter: &mut Meter, now: Instant) -> Statistics {
        MessageCounts::default().statistics(now, Some(meter))
    }

    #[test]
    fn a_steady_flow_shows_its_rate_and_is_forgotten_when_it_stops() {
        let (mut meter, mut stream, start) = (Meter::default(), BusyIn::default(), now());
        let step = Duration::from_millis(10);
        for tick in 0..300 {
            meter.received(start + step * tick, &mut stream, 10_000);
            if tick >= 100 {
                let rate = statistics(&mut meter, start + step * tick).bytes_down_per_s;
                assert!((970_000..=1_030_000).contains(&rate), "{rate} at {tick}");
            }
        }
        let end = start + step * 300;
        assert_eq!(statistics(&mut meter, end).busy_streams, 1);
        let later = statistics(&mut meter, end + 2 * INTERVAL);
        assert_eq!((later.bytes_down, later.bytes_down_per_s, later.busy_streams), (3_000_000, 0, 0));
        assert_eq!((later.bytes_up, later.bytes_up_per_s), (0, 0));
    }

    #[test]
    fn streams_are_busy_for_an_interval_after_their_last_byte() {
        let (mut meter, now) = (Meter::default(), now());
        let mut streams = [BusyIn::default(); 3];
        for _ in 0..5 {
            streams.iter_mut().for_each(|stream| meter.sent(now, stream, 1));
        }
        assert_eq!(statistics(&mut meter, now).busy_streams, 3);
        let now = now + INTERVAL;
        meter.received(now, &mut streams[1], 1);
        assert_eq!(statistics(&mut meter, now).busy_streams, 3, "those of the interval before");
        assert_eq!(statistics(&mut meter, now + INTERVAL).busy_streams, 1);
        assert_eq!(statistics(&mut meter, now + 2 * INTERVAL).busy_streams, 0);
    }

    #[test]
    fn looking_changes_nothing() {
        let now = now();
        let (mut seen, mut unseen) = (Meter::default(), Meter::default());
        let (mut one, mut other) = (BusyIn::default(), BusyIn::default());
        for tick in 0..200 {
            let at = now + Duration::from_millis(37) * tick;
            if tick % 3 != 0 {
                seen.received(at, &mut one, 1000);
                unseen.received(at, &mut other, 1000);
            }
            statistics(&mut seen, at);
        }
        let end = now + Duration::from_millis(37 * 200);
        assert_eq!(statistics(&mut seen, end).bytes_down, statistics(&mut unseen, end).bytes_down);
        let [one, other] = [&mut seen, &mut unseen].map(|meter| statistics(meter, end).bytes_down_per_s);
        assert!(one.abs_diff(other) <= one / 20, "{one} and {other}");
    }

    #[test]
    fn messages_as_large_as_the_largest_are_full() {
        let mut counts = MessageCounts::default();
        for payload in [8, 1024, 1024, 432, 1024, 8] {
            counts.received(payload);
        }
        let statistics = counts.statistics(now(), None);
        assert_eq!((statistics.messages_down, statistics.full_messages_down), (6, 4));
    }
}
