//! When the next websocket is tried (`proto-notes/websocket.md#reconnecting`).

use std::time::{Duration, Instant};

use super::limits;

/// Attempts to replace a lost websocket: at once, then later and later, for as long as the session may live.
#[derive(Debug, Default)]
pub(super) struct Reconnect {
    /// Attempts in a row that came to nothing.
    failures: u32,
    /// When the present websocket was opened.
    opened: Option<Instant>,
    /// Something came in on it.
    heard: bool,
}

impl Reconnect {
    /// A websocket is open. Whether it is any good is not known yet: the token may be refused.
    pub(super) fn opened(&mut self, now: Instant) {
        self.opened = Some(now);
        self.heard = false;
    }

    /// Something came in.
    pub(super) fn heard(&mut self) {
        self.heard = true;
    }

    /// The websocket is lost: how long the first attempt is to wait. Not at all, unless it was no good from the start:
    /// otherwise a gateway that accepts and closes would be asked, and the API with it, as fast as it answers.
    pub(super) fn lost(&mut self, now: Instant, random: &mut fastrand::Rng) -> Duration {
        let lived = self.opened.take().map_or(Duration::ZERO, |opened| now.saturating_duration_since(opened));
        if self.heard && lived >= limits::STEADY {
            self.failures = 0;
            return Duration::ZERO;
        }
        self.failed(random)
    }

    /// An attempt came to nothing: how long the next is to wait.
    pub(super) fn failed(&mut self, random: &mut fastrand::Rng) -> Duration {
        self.failures = self.failures.saturating_add(1);
        back_off(self.failures, random)
    }

    /// The network or the machine has woken: what failed before says nothing about the next attempt.
    pub(super) fn encouraged(&mut self) {
        self.failures = self.failures.min(1);
    }
}

/// Full jitter: anything from nothing to a ceiling that doubles. Of many clients that lost the same gateway at the same
/// moment, no two come back together.
fn back_off(failures: u32, random: &mut fastrand::Rng) -> Duration {
    let doubled = limits::RECONNECT_BASE.saturating_mul(1 << (failures.saturating_sub(1)).min(16));
    doubled.min(limits::RECONNECT_CEILING).mul_f64(random.f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_websocket_that_carried_something_is_replaced_at_once() {
        let (mut reconnect, mut random, now) = (Reconnect::default(), fastrand::Rng::with_seed(1), start());
        for _ in 0..3 {
            reconnect.opened(now);
            reconnect.heard();
            assert_eq!(reconnect.lost(now + limits::STEADY, &mut random), Duration::ZERO);
            assert_eq!(reconnect.failures, 0);
        }
    }

    #[test]
    fn websockets_that_are_no_good_are_not_opened_as_fast_as_they_close() {
        let (mut reconnect, mut random, now) = (Reconnect::default(), fastrand::Rng::with_seed(2), start());
        let mut waited = Duration::ZERO;
        for round in 0..40 {
            reconnect.opened(now);
            // Silent for long, or heard and closed at once.
            if round % 2 == 0 {
                reconnect.heard();
            }
            let lived = if round % 2 == 0 { Duration::ZERO } else { limits::STEADY * 2 };
            waited += reconnect.lost(now + lived, &mut random);
        }
        assert_eq!(reconnect.failures, 40);
        assert!(waited > limits::RECONNECT_CEILING * 5, "{waited:?}");
    }

    #[test]
    fn waits_grow_up_to_a_ceiling_and_are_spread() {
        let mut random = fastrand::Rng::with_seed(3);
        for failures in [1, 2, 3, 8, 40, u32::MAX] {
            let waits: Vec<_> = (0..1000).map(|_| back_off(failures, &mut random)).collect();
            let ceiling = (limits::RECONNECT_BASE * (1 << (failures - 1).min(16))).min(limits::RECONNECT_CEILING);
            assert!(waits.iter().all(|wait| *wait <= ceiling), "{failures}");
            assert!(waits.iter().any(|wait| *wait > ceiling.mul_f64(0.9)), "{failures}");
            assert!(waits.iter().any(|wait| *wait < ceiling.mul_f64(0.1)), "{failures}");
        }
    }

    #[test]
    fn hope_shortens_the_next_wait() {
        let (mut reconnect, mut random) = (Reconnect::default(), fastrand::Rng::with_seed(4));
        for _ in 0..20 {
            reconnect.failed(&mut random);
        }
        reconnect.encouraged();
        assert!(reconnect.failed(&mut random) <= limits::RECONNECT_BASE * 2);
    }
}
