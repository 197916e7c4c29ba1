//! The shell between the session and its websocket: it may take a few messages, and the others only later.

use std::time::{Duration, Instant};

use super::Profile;

/// How much the websocket takes at the moment.
#[derive(Debug)]
pub(super) struct Shell {
    random: fastrand::Rng,
    slow: bool,
    longest: Duration,
    room: usize,
    writable_at: Option<Instant>,
}

impl Shell {
    pub(super) fn new(mut random: fastrand::Rng, profile: Profile) -> Self {
        let longest = match random.u8(..4) {
            0 => 20_000,
            1 => 400_000,
            2 if profile == Profile::Ordeal => 5_000_000,
            _ => 1000,
        };
        let slow = random.u8(..4) > 0;
        Self { random, slow, longest: Duration::from_micros(longest), room: 0, writable_at: None }
    }

    /// A websocket is new.
    pub(super) fn connected(&mut self) {
        self.room = 0;
        self.writable_at = None;
    }

    /// From here on everything is taken at once.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.slow = false;
        self.writable_at = self.writable_at.map(|at| at.min(now));
    }

    /// When the websocket takes more.
    pub(super) fn next(&self) -> Option<Instant> {
        self.writable_at
    }

    /// Whether the websocket takes a message now.
    pub(super) fn is_writable(&mut self, now: Instant) -> bool {
        if self.writable_at.is_some_and(|at| at > now) {
            return false;
        }
        if self.writable_at.take().is_some() || self.room == 0 {
            self.room = self.random.usize(1..=32);
        }
        true
    }

    /// It has taken one. When it was the last for now, says for how long.
    pub(super) fn took(&mut self, now: Instant) -> Option<Duration> {
        self.room = self.room.saturating_sub(1);
        if !self.slow || self.room > 0 {
            return None;
        }
        let wait = Duration::from_micros(self.random.u64(1..=self.longest.as_micros() as u64));
        self.writable_at = Some(now + wait);
        Some(wait)
    }
}
