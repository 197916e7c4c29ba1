//! How much may be in flight: what the path needs, and little more (`proto-notes/sending.md#window`).
//!
//! In the manner of BBR: the delivery rate (a maximum over several round trips) times the least round trip, plus slack.
//! More would only stand in queues, in front of what somebody waits for. What it is not: the hard bounds, which
//! are in `limits.rs` and hold beside it.

use std::time::{Duration, Instant};

use super::{ceiling::Ceiling, limits};

/// In flight before anything is known, and after a resume or an idle time: seven doublings to the hard bound, and a
/// third of a second of a link as slow as 100 kB/s.
const INITIAL: usize = 32 << 10;
/// Messages that may always be in flight: what is acknowledged in turns must not starve the pipe.
const FLOOR_MESSAGES: usize = 4;
/// The window holds this much more than one least round trip, as a divisor of it: room for the rate to grow by.
const HEADROOM: u32 = 16;
/// And this much more, in time: what a busy machine may be late without starving the pipe. It is the queue in front of
/// whatever is sent beside a bulk transfer.
const SLACK: Duration = Duration::from_millis(2);
/// How long a message may keep the path busy, and what is sent behind it waiting.
const MESSAGE: Duration = Duration::from_millis(3);
/// The maximum of the rate is over two spans, the present and the one before, of this many round trips each, or of
/// [`RATE_SPAN`] if that is longer.
const RATE_ROUNDS: u32 = 5;
/// Longer than a machine pauses, so that one pause does not show.
const RATE_SPAN: Duration = Duration::from_millis(200);
/// How long the least round trip is believed. Paths change; then the window is emptied for a round to see.
const LEAST_ROUND_TRIP: Duration = Duration::from_secs(10);
/// Nothing in flight for so long, or for ten round trips: what is known of the rate is out of date.
const IDLE: Duration = Duration::from_secs(1);
/// How much longer than the least, and a quarter of it, a round trip may be until start-up stops to grow the window: it
/// is the queue that grows.
const QUEUED: Duration = Duration::from_millis(20);
/// Round trips as long as that for so long, and start-up is over, round or no round: with a queue rounds are long.
const QUEUED_FOR: Duration = Duration::from_millis(50);
/// Acknowledgements come in lumps when somebody is late, and always in messages: the window holds the largest lump of
/// late besides. But not more than this: people notice.
const LUMP: Duration = Duration::from_millis(25);
/// Rounds in a row in which every message is held up longer than our own window should: whether the queue is ours shows
/// when next to nothing is in flight.
const FOREIGN: u32 = 8;
/// Rounds without growth that end the start-up: one may be bad luck, and the delay has a say too.
const NO_GROWTH: u32 = 3;
/// Samples in a round before its least delay is taken for a queue.
const ROUND_SAMPLES: u32 = 4;

/// The delay-aware window of one session.
#[derive(Debug)]
pub(super) struct Window {
    /// Bytes acknowledged, ever.
    delivered: u64,
    /// When, last; or when sending began after a moment with nothing in flight.
    delivered_at: Option<Instant>,
    /// When the message that was acknowledged last had been sent.
    first_sent: Option<Instant>,
    /// Until so much is delivered, samples show what there was to send and not what the path takes.
    starved_until: u64,
    /// Until so much is delivered, the window was what held back.
    full_until: u64,
    rate: Largest,
    lumps: Lumps,
    ceiling: Ceiling,
    least: Option<(Duration, Instant)>,
    /// The round ends when so much is delivered.
    round_end: u64,
    round_samples: u32,
    round_least: Duration,
    /// Since when every message has been held up.
    queued_since: Option<Instant>,
    /// Rounds in a row in which that was not our doing.
    foreign: u32,
    phase: Phase,
    emptying: Option<Emptying>,
    /// Until so much is delivered, the window has been emptied and filled again, and rates show that.
    refilled_at: u64,
    /// The size of the message that was last asked for.
    message: usize,
}

#[derive(Debug)]
enum Phase {
    /// The window doubles each round while it is what holds back.
    Startup { window: usize, best: u64, no_growth: u32 },
    /// The window follows the estimates.
    Steady,
}

/// The window is emptied to see the round trip without a queue of our own.
#[derive(Debug)]
struct Emptying {
    least: Option<Duration>,
    /// It is empty enough; over when so much is delivered.
    until: Option<u64>,
}

/// The state at the time a message is sent, kept with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    starved: bool,
    /// Sent while the window was emptied, or filled again.
    emptied: bool,
}

/// How many more bytes are acknowledged at once than the rate says.
#[derive(Debug, Default)]
struct Lumps {
    largest: Largest,
    since: Option<Instant>,
    bytes: u64,
}

impl Lumps {
    fn acknowledged(&mut self, now: Instant, size: usize, rate: u64, span: Duration) {
        let expected = self.since.map_or(0, |since| bytes(rate, now.saturating_duration_since(since)) as u64);
        if self.since.is_none() || self.bytes <= expected {
            self.since = Some(now);
            self.bytes = size as u64;
        } else {
            self.bytes = self.bytes - expected + size as u64;
            self.since = Some(now);
        }
        self.largest.sample(now, self.bytes, span);
    }
}

/// The largest of late: over two spans.
#[derive(Debug, Default)]
struct Largest {
    present: u64,
    before: u64,
    since: Option<Instant>,
}

impl Largest {
    fn get(&self) -> Option<u64> {
        Some(self.present.max(self.before)).filter(|value| *value > 0)
    }

    fn sample(&mut self, now: Instant, value: u64, span: Duration) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= span {
            self.before = self.present;
            self.present = 0;
            self.since = Some(now);
        }
        self.present = self.present.max(value);
    }
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            delivered: 0,
            delivered_at: None,
            first_sent: None,
            starved_until: 0,
            full_until: 0,
            rate: Largest::default(),
            lumps: Lumps::default(),
            ceiling: Ceiling::default(),
            least: None,
            round_end: 0,
            round_samples: 0,
            round_least: Duration::MAX,
            queued_since: None,
            foreign: 0,
            phase: Phase::startup(),
            emptying: None,
            refilled_at: 0,
            message: 0,
        }
    }

    /// Begins anew: another websocket may be another path, and after a while any path is another.
    pub(super) fn restart(&mut self, now: Instant) {
        self.delivered_at = Some(now);
        self.first_sent = Some(now);
        self.rate = Largest::default();
        self.lumps = Lumps::default();
        self.ceiling.restart();
        self.least = None;
        self.phase = Phase::startup();
        self.emptying = None;
        self.queued_since = None;
        self.foreign = 0;
        self.round_end = self.delivered;
        self.new_round(0);
    }

    /// A message of `size` bytes is sent, with so many in flight before it.
    pub(super) fn sent(&mut self, now: Instant, in_flight: usize, size: usize) -> Mark {
        if in_flight == 0 {
            let idle = self.delivered_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            if idle >= IDLE.max(self.least_round_trip().unwrap_or_default() * 10) {
                self.restart(now);
            }
            self.delivered_at = Some(now);
            self.first_sent = Some(now);
        }
        self.ceiling.sent(now, size);
        Mark {
            delivered: self.delivered,
            delivered_at: self.delivered_at.unwrap_or(now),
            first_sent: self.first_sent.unwrap_or(now),
            starved: self.starved_until > self.delivered,
            emptied: self.emptying.is_some() || self.refilled_at > self.delivered,
        }
    }

    /// There was room, and nothing to send.
    pub(super) fn starved(&mut self, now: Instant, in_flight: usize) {
        self.ceiling.idle(now);
        self.held(in_flight);
    }

    /// There was room, and something else that holds back what there is to send.
    pub(super) fn held(&mut self, in_flight: usize) {
        self.starved_until = self.delivered + in_flight.max(1) as u64;
    }

    /// When the ceiling lets more pass: `None` if now.
    pub(super) fn ready_at(&self, now: Instant) -> Option<Instant> {
        self.ceiling.ready_at(now)
    }

    /// Whether a message of `size` bytes may join those in flight.
    pub(super) fn admits(&mut self, in_flight: usize, size: usize) -> bool {
        self.message = size;
        let admits = in_flight == 0 || in_flight + size <= self.size(size);
        if !admits {
            self.full_until = self.delivered + in_flight as u64;
        }
        admits
    }

    /// Bytes that may be in flight, in messages of `message` bytes.
    pub(super) fn size(&self, message: usize) -> usize {
        match (&self.phase, &self.emptying, self.rate.get()) {
            (Phase::Steady, Some(_), Some(rate)) => {
                within(bytes(rate, self.least_round_trip().unwrap_or_default() / 2), message)
            }
            _ => self.usual(message),
        }
    }

    /// The same when the window is not being emptied.
    pub(super) fn usual(&self, message: usize) -> usize {
        let least = self.least_round_trip().unwrap_or_default();
        let window = match (&self.phase, self.rate.get()) {
            (Phase::Startup { window, .. }, _) => *window,
            (Phase::Steady, Some(rate)) => {
                let lump = usize::try_from(self.lumps.largest.get().unwrap_or(0)).unwrap_or(usize::MAX);
                bytes(rate, least + least / HEADROOM + SLACK).saturating_add(lump.min(bytes(rate, LUMP)))
            }
            (Phase::Steady, None) => INITIAL,
        };
        within(window, message)
    }

    /// What a message should hold at most so that it does not keep others waiting, bytes; `None` as long as nothing
    /// is known. `messages`: how many there may be a second.
    pub(super) fn message_size(&self, messages: Option<u64>) -> Option<usize> {
        let rate = self.rate.get()?;
        // The rate is about to double.
        let rate = if matches!(self.phase, Phase::Startup { .. }) { rate.saturating_mul(2) } else { rate };
        // Smaller, and their number would be the limit.
        let least = messages.map_or(0, |messages| rate / messages.max(1) * 5 / 4);
        Some(bytes(rate, MESSAGE).max(usize::try_from(least).unwrap_or(usize::MAX)))
    }

    pub(super) fn least_round_trip(&self) -> Option<Duration> {
        self.least.map(|(least, _)| least)
    }

    /// Bytes a second that the path has delivered, lately.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate.get()
    }

    /// A message of `size` bytes was acknowledged, with `in_flight` left. `clean`: it was sent once, and what lies
    /// between is the path's doing.
    pub(super) fn acknowledged(
        &mut self,
        now: Instant,
        sent: Instant,
        mark: Mark,
        size: usize,
        in_flight: usize,
        clean: bool,
    ) {
        self.delivered += size as u64;
        // What was sent again too: after a silence that is the first to be acknowledged.
        if let (Some(before), Some(best)) = (self.delivered_at.replace(now), self.rate.get()) {
            let (silence, least) = (now.saturating_duration_since(before), self.least_round_trip().unwrap_or_default());
            self.ceiling.acknowledged(now, silence, least, self.delivered, best);
        }
        if !clean {
            return;
        }
        self.first_sent = Some(self.first_sent.map_or(sent, |first| first.max(sent)));
        let round_trip = now.saturating_duration_since(sent);
        self.measure(now, round_trip, in_flight);
        // With a queue before it, the path is what limits, whatever there was to send.
        let queued = self.is_queued(round_trip);
        self.queued_since = if queued { self.queued_since.or(Some(now)) } else { None };
        let elapsed =
            now.saturating_duration_since(mark.delivered_at).max(sent.saturating_duration_since(mark.first_sent));
        let span = RATE_SPAN.max(self.least_round_trip().unwrap_or_default() * RATE_ROUNDS);
        if let Some(rate) = self.rate.get().filter(|_| !mark.emptied) {
            self.lumps.acknowledged(now, size, rate, span);
        }
        let rate = rate(self.delivered - mark.delivered, elapsed);
        if let Some(rate) = rate.filter(|_| !mark.emptied)
            && (!mark.starved || queued || self.rate.get().is_none_or(|best| rate >= best))
        {
            self.rate.sample(now, rate, span);
        }
        if let Phase::Startup { window, .. } = &mut self.phase
            && self.full_until >= self.delivered
            && !queued
        {
            *window = window.saturating_add(size).min(limits::IN_FLIGHT_BYTES);
        }
        let long = self.queued_since.is_some_and(|since| now.saturating_duration_since(since) >= QUEUED_FOR);
        if long && self.rate.get().is_some() {
            self.phase = Phase::Steady;
        }
        self.round_samples += 1;
        self.round_least = self.round_least.min(round_trip);
        if mark.delivered >= self.round_end {
            self.end_round(mark.starved);
            self.new_round(in_flight);
        }
    }

    fn new_round(&mut self, in_flight: usize) {
        self.round_end = self.delivered + in_flight as u64;
        self.round_samples = 0;
        self.lumps.since = None;
        self.round_least = Duration::MAX;
    }

    /// Whether start-up is over: the rate does not grow any more, or a queue does. And later, whose queue it is.
    fn end_round(&mut self, starved: bool) {
        let (rate, queue) = (self.rate.get().unwrap_or(0), self.has_queue());
        let Phase::Startup { best, no_growth, .. } = &mut self.phase else {
            self.foreign = if self.is_queued(self.round_least.saturating_sub(LUMP)) { self.foreign + 1 } else { 0 };
            if self.foreign >= FOREIGN && self.emptying.is_none() {
                self.foreign = 0;
                self.emptying = Some(Emptying { least: None, until: None });
            }
            return;
        };
        if rate >= *best + *best / 4 {
            *best = rate;
            *no_growth = 0;
        } else if !starved {
            *no_growth += 1;
        }
        if rate > 0 && (queue || *no_growth >= NO_GROWTH) {
            self.phase = Phase::Steady;
        }
    }

    /// Whether a message that took so long was held up.
    fn is_queued(&self, round_trip: Duration) -> bool {
        self.least.is_some_and(|(least, _)| round_trip > least + least / 4 + QUEUED)
    }

    /// Whether every message of the round was held up.
    fn has_queue(&self) -> bool {
        self.round_samples >= ROUND_SAMPLES && self.is_queued(self.round_least)
    }

    /// Takes a round trip.
    fn measure(&mut self, now: Instant, round_trip: Duration, in_flight: usize) {
        let Some((least, at)) = self.least else {
            self.least = Some((round_trip, now));
            return;
        };
        if round_trip <= least {
            self.least = Some((round_trip, now));
            self.end_emptying(in_flight);
            return;
        }
        if self.emptying.is_none() && now.saturating_duration_since(at) >= LEAST_ROUND_TRIP {
            self.emptying = Some(Emptying { least: None, until: None });
        }
        let little = self.size(self.message);
        let Some(emptying) = &mut self.emptying else { return };
        emptying.least = Some(emptying.least.map_or(round_trip, |least| least.min(round_trip)));
        match emptying.until {
            None if in_flight <= little => emptying.until = Some(self.delivered + in_flight as u64),
            Some(until) if self.delivered > until => {
                let found = emptying.least.unwrap_or(least);
                // With next to nothing in flight: it is the path that has become longer, not our own queue.
                let longer = self.is_queued(found.saturating_sub(LUMP));
                self.end_emptying(in_flight);
                if longer {
                    self.restart(now);
                }
                self.least = Some((found, now));
            }
            _ => {}
        }
    }
}

impl Window {
    fn end_emptying(&mut self, in_flight: usize) {
        if self.emptying.take().is_some() {
            // What follows at once fills the window, and whatever stood empty on the way: fast for once.
            self.refilled_at = self.delivered + (in_flight + 2 * self.usual(self.message)) as u64;
        }
    }
}

impl Phase {
    fn startup() -> Self {
        Self::Startup { window: INITIAL, best: 0, no_growth: 0 }
    }
}

/// Never less than a few messages, never more than the hard bound.
fn within(window: usize, message: usize) -> usize {
    window.max(message.saturating_mul(FLOOR_MESSAGES)).min(limits::IN_FLIGHT_BYTES)
}

/// Bytes a second; `None` if no time has passed.
fn rate(bytes: u64, time: Duration) -> Option<u64> {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    bytes.saturating_mul(1_000_000).checked_div(micros)
}

/// What a rate comes to in a time.
fn bytes(rate: u64, time: Duration) -> usize {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    usize::try_from(rate.saturating_mul(micros) / 1_000_000).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE_SIZE: usize = 4096;

    /// Messages over a path that acknowledges each after so long, and no more than so many a second.
    struct World {
        window: Window,
        now: Instant,
        in_flight: std::collections::VecDeque<(Instant, Mark)>,
    }

    impl World {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
        fn new() -> Self {
            Self { window: Window::new(), now: Instant::now(), in_flight: Default::default() }
        }

        fn bytes(&self) -> usize {
            self.in_flight.len() * MESSAGE_SIZE
        }

        /// Sends what the window admits.
        fn fill(&mut self) {
            while self.window.admits(self.bytes(), MESSAGE_SIZE) {
                let mark = self.window.sent(self.now, self.bytes(), MESSAGE_SIZE);
                self.in_flight.push_back((self.now, mark));
            }
        }

        /// The oldest is acknowledged now.
        fn acknowledge(&mut self) {
            let (sent, mark) = self.in_flight.pop_front().expect("in flight");
            let in_flight = self.bytes();
            self.window.acknowledged(self.now, sent, mark, MESSAGE_SIZE, in_flight, true);
        }

        /// Round trips in which all that is in flight is acknowledged at their end.
        fn rounds(&mut self, count: usize, round_trip: Duration) {
            for _ in 0..count {
                self.fill();
                self.now += round_trip;
                for _ in 0..self.in_flight.len() {
                    self.acknowledge();
                }
            }
        }
    }

    #[test]
    fn start_up_doubles_up_to_the_hard_bound() {
        let mut world = World::new();
        let mut sizes = Vec::new();
        for _ in 0..9 {
            sizes.push(world.window.size(MESSAGE_SIZE));
            world.rounds(1, Duration::from_millis(50));
        }
        assert_eq!(&sizes[..3], [INITIAL, 2 * INITIAL, 4 * INITIAL]);
        assert_eq!(sizes[8], limits::IN_FLIGHT_BYTES);
    }

    #[test]
    fn without_acknowledgements_the_window_is_filled_and_no_more() {
        let mut world = World::new();
        world.fill();
        assert_eq!(world.bytes(), INITIAL);
        world.now += Duration::from_secs(60);
        world.fill();
        assert_eq!(world.bytes(), INITIAL);
    }

    #[test]
    fn after_an_idle_second_or_a_resume_the_estimate_is_forgotten() {
        for resume in [false, true] {
            let mut world = World::new();
            world.rounds(8, Duration::from_millis(20));
            assert!(world.window.size(MESSAGE_SIZE) > 8 * INITIAL);
            if resume {
                world.window.restart(world.now);
            } else {
                world.now += IDLE / 2;
                world.rounds(1, Duration::from_millis(20));
                assert!(world.window.size(MESSAGE_SIZE) > 8 * INITIAL, "half a second is not idle");
                world.now += IDLE;
            }
            world.window.sent(world.now, 0, MESSAGE_SIZE);
            assert_eq!((world.window.size(MESSAGE_SIZE), world.window.rate()), (INITIAL, None));
        }
    }

    #[test]
    fn messages_that_were_all_there_was_to_send_do_not_lower_the_rate() {
        let mut world = World::new();
        world.rounds(10, Duration::from_millis(20));
        let rate = world.window.rate().expect("known");
        for _ in 0..100 {
            world.window.starved(world.now, 0);
            let mark = world.window.sent(world.now, 0, MESSAGE_SIZE);
            world.in_flight.push_back((world.now, mark));
            world.now += Duration::from_millis(20);
            world.acknowledge();
        }
        assert_eq!(world.window.rate(), Some(rate));
    }

    #[test]
    fn there_is_always_room_for_a_few_messages() {
        let mut world = World::new();
        world.rounds(30, Duration::from_millis(1));
        world.window.phase = Phase::Steady;
        world.window.rate = Largest { present: 1, before: 0, since: None };
        world.fill();
        assert_eq!(world.in_flight.len(), FLOOR_MESSAGES);
    }
}
