//! The gateway's reaction to too many messages: pause, then kill.
//!
//! Pure. Modelled on what a third party saw the service do above about 1000 data messages a second
//! (`proto-notes/emulator.md#rate-cap`): first `pause_publication`, and if the client goes on, the connection dies.

use std::time::{Duration, Instant};

use super::config::RateCap;

const WINDOW: Duration = Duration::from_secs(1);

/// What to do about a message that was just counted, or about time that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// Tell the client to pause.
    Pause,
    /// Tell the client to go on.
    Start,
    /// Reset the client's websocket.
    Kill,
}

/// Counts messages in windows of one second.
#[derive(Debug)]
pub(super) struct RateMeter {
    window_end: Instant,
    count: u32,
    paused_at: Option<Instant>,
}

impl RateMeter {
    pub(super) fn new(now: Instant) -> Self {
        Self { window_end: now + WINDOW, count: 0, paused_at: None }
    }

    /// Counts one message.
    pub(super) fn count(&mut self, now: Instant, cap: &RateCap) -> Verdict {
        let passed = self.tick(now, cap);
        self.count = self.count.saturating_add(1);
        if self.count <= cap.per_second {
            return passed;
        }
        match self.paused_at {
            None => {
                self.paused_at = Some(now);
                Verdict::Pause
            }
            Some(since) if now.duration_since(since) >= cap.kill_after => Verdict::Kill,
            Some(_) => passed,
        }
    }

    /// Time passes: a client that kept within the cap for a whole window may go on.
    pub(super) fn tick(&mut self, now: Instant, cap: &RateCap) -> Verdict {
        if now < self.window_end {
            return Verdict::Fine;
        }
        // A window in which nothing was counted ended in between.
        let calm = self.count <= cap.per_second || now >= self.window_end + WINDOW;
        self.count = 0;
        self.window_end = now + WINDOW;
        if calm && self.paused_at.take().is_some() { Verdict::Start } else { Verdict::Fine }
    }

    /// When [`tick`](Self::tick) has something to say: only while paused.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.paused_at.map(|_| self.window_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap() -> RateCap {
        "10".parse().expect("a cap")
    }

    #[test]
    fn a_client_that_heeds_the_pause_is_started_again() {
        let start = super::super::clock::now();
        let mut meter = RateMeter::new(start);
        for _ in 0..10 {
            assert_eq!(meter.count(start, &cap()), Verdict::Fine);
        }
        assert_eq!(meter.count(start, &cap()), Verdict::Pause);
        assert_eq!(meter.count(start, &cap()), Verdict::Fine);
        assert_eq!(meter.tick(start + WINDOW, &cap()), Verdict::Fine, "this window was not calm");
        assert_eq!(meter.deadline(), Some(start + 2 * WINDOW));
        assert_eq!(meter.count(start + WINDOW, &cap()), Verdict::Fine);
        assert_eq!(meter.tick(start + 2 * WINDOW, &cap()), Verdict::Start);
        assert_eq!(meter.deadline(), None);
    }

    #[test]
    fn a_client_that_goes_on_is_killed() {
        let start = super::super::clock::now();
        let mut meter = RateMeter::new(start);
        let verdicts: Vec<_> =
            (0..400).map(|tick| meter.count(start + tick * Duration::from_millis(10), &cap())).collect();
        assert_eq!(verdicts.iter().position(|verdict| *verdict == Verdict::Pause), Some(10));
        let killed = verdicts.iter().position(|verdict| *verdict == Verdict::Kill);
        assert!(killed.is_some_and(|tick| (310..=320).contains(&tick)), "{killed:?}");
    }

    #[test]
    fn a_client_within_the_cap_is_left_alone() {
        let start = super::super::clock::now();
        let mut meter = RateMeter::new(start);
        for tick in 0..500 {
            assert_eq!(meter.count(start + tick * Duration::from_millis(101), &cap()), Verdict::Fine);
        }
    }
}
