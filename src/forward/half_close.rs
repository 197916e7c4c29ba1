//! When our FIN goes out. Pure: bytes and ends are reported to it, time comes in as `now`.
//!
//! The agent has no half-close. On our FIN it closes the *whole* connection to the destination, replies still to come
//! included (`proto-notes/port-sessions.md#half-close`). So a FIN that follows the end of the local program too
//! closely cuts off the reply, and one that never follows leaks a connection at the destination. The compromise:
//!
//! ```text
//! local end ──┬─ nothing was ever sent, or the local socket failed ───────────▶ at once, unless a greeting is awaited
//!             ├─ the last byte went downwards: nothing is owed ───────────────▶ after max(200 ms, 2 RTT) of silence
//!             └─ the last byte went upwards: a reply may be due ──────────────▶ after the linger time of silence
//! ```
//!
//! *Silence* counts from the last byte that the destination sent and the local program took, or from the local end.
//! Which of the two waits applies is decided once, at the local end: a reply that comes in portions is not cut off
//! between them. The linger time is the upper bound of both.

use std::time::{Duration, Instant};

/// A destination that has answered and been silent for so long owes nothing: long enough for a database to hand
/// over the next row, short enough for connections that come and go.
const ANSWERED: Duration = Duration::from_millis(200);

/// The policy of one connection.
#[derive(Debug, Clone)]
pub struct HalfClose {
    linger: Duration,
    sent: bool,
    reply_due: bool,
    last_heard: Option<Instant>,
    local_end: LocalEnd,
}

#[derive(Debug, Clone, Copy)]
enum LocalEnd {
    NotYet,
    /// Send the FIN as soon as the destination was silent for `patience` after the later of `at` and its last byte.
    Ended {
        at: Instant,
        patience: Duration,
    },
    Failed,
}

/// What the policy says about our FIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fin {
    /// The local program has not ended.
    NotDue,
    /// Send it.
    Now,
    /// Send it then, unless the destination says something before.
    At(Instant),
}

impl HalfClose {
    /// The policy of a new connection. A `linger` of zero sends the FIN at the local end.
    #[must_use]
    pub const fn new(linger: Duration) -> Self {
        Self { linger, sent: false, reply_due: false, last_heard: None, local_end: LocalEnd::NotYet }
    }

    /// A destination that was sent nothing is waited for, too: it may be what speaks first.
    #[must_use]
    pub const fn awaiting_greeting(self) -> Self {
        Self { sent: true, reply_due: true, ..self }
    }

    /// Bytes of the local program were given to the stream.
    pub fn sent(&mut self) {
        self.sent = true;
        self.reply_due = true;
    }

    /// Bytes came from the destination.
    pub fn heard(&mut self, now: Instant) {
        self.reply_due = false;
        self.last_heard = Some(now);
    }

    /// The local program took some of them.
    pub fn delivered(&mut self, now: Instant) {
        self.last_heard = Some(now);
    }

    /// The local program has ended its direction, and all it wrote was given to the stream.
    pub fn local_ended(&mut self, now: Instant, rtt: Duration) {
        if !matches!(self.local_end, LocalEnd::NotYet) {
            return;
        }
        let patience = match (self.sent, self.reply_due) {
            (false, _) => Duration::ZERO,
            (true, false) => answered(rtt).min(self.linger),
            (true, true) => self.linger,
        };
        // Silence before the end counts only where an answer has come.
        let at = self.last_heard.filter(|_| !self.reply_due).unwrap_or(now);
        self.local_end = LocalEnd::Ended { at, patience };
    }

    /// The local socket failed: nobody is left to read a reply.
    pub fn local_failed(&mut self) {
        self.local_end = LocalEnd::Failed;
    }

    /// Waits for a reply no longer than for more of one.
    pub fn hurry(&mut self, rtt: Duration) {
        if let LocalEnd::Ended { patience, .. } = &mut self.local_end {
            *patience = (*patience).min(answered(rtt));
        }
    }

    /// Whether the local program has ended or failed.
    #[must_use]
    pub fn has_local_ended(&self) -> bool {
        !matches!(self.local_end, LocalEnd::NotYet)
    }

    /// Whether the last byte went upwards: a reply may be due.
    #[must_use]
    pub fn is_reply_due(&self) -> bool {
        self.reply_due
    }

    /// Whether our FIN is due.
    #[must_use]
    pub fn fin(&self, now: Instant) -> Fin {
        match self.local_end {
            LocalEnd::NotYet => Fin::NotDue,
            LocalEnd::Failed => Fin::Now,
            LocalEnd::Ended { at, patience } => {
                let silent_since = self.last_heard.map_or(at, |heard| heard.max(at));
                // A linger time beyond the range of the clock is none: it never ends.
                match silent_since.checked_add(patience) {
                    _ if patience.is_zero() => Fin::Now,
                    Some(due) if due <= now => Fin::Now,
                    Some(due) => Fin::At(due),
                    None => Fin::NotDue,
                }
            }
        }
    }
}

fn answered(rtt: Duration) -> Duration {
    ANSWERED.max(rtt.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;

    const LINGER: Duration = Duration::from_secs(5);
    const RTT: Duration = Duration::from_millis(50);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn start() -> Instant {
        time::Instant::now().into_std()
    }

    #[test]
    fn nothing_is_due_before_the_local_end() {
        let start = start();
        let mut policy = HalfClose::new(LINGER);
        assert_eq!(policy.fin(start + ms(60_000)), Fin::NotDue);
        policy.sent();
        policy.heard(start);
        assert_eq!(policy.fin(start + ms(60_000)), Fin::NotDue);
    }

    #[test]
    fn a_connection_that_sent_nothing_ends_at_once() {
        let start = start();
        let mut policy = HalfClose::new(LINGER);
        policy.local_ended(start, RTT);
        assert_eq!(policy.fin(start), Fin::Now);
        // A greeting is not a reply.
        let mut policy = HalfClose::new(LINGER);
        policy.heard(start);
        policy.local_ended(start, RTT);
        assert_eq!(policy.fin(start), Fin::Now);
    }

    #[test]
    fn a_greeting_can_be_awaited() {
        let start = start();
        let mut policy = HalfClose::new(LINGER).awaiting_greeting();
        policy.local_ended(start, RTT);
        assert_eq!(policy.fin(start), Fin::At(start + LINGER));
        // One that has come is all that is awaited.
        let mut policy = HalfClose::new(LINGER).awaiting_greeting();
        policy.heard(start);
        policy.local_ended(start, RTT);
        assert_eq!(policy.fin(start), Fin::At(start + ANSWERED));
    }

    #[test]
    fn an_answered_and_silent_peer_is_not_waited_for() {
        let start = start();
        let mut policy = HalfClose::new(LINGER);
        policy.sent();
        policy.heard(start);
        policy.local_ended(start + ms(200), RTT);
        assert_eq!(policy.fin(start + ms(200)), Fin::Now);
    }

    #[test]
    fn a_peer_that_just_answered_gets_a_moment() {
        let start = start();
        let mut policy = HalfClose::new(LINGER);
        policy.sent();
        policy.heard(start);
        policy.local_ended(start + ms(10), RTT);
        assert_eq!(policy.fin(start + ms(10)), Fin::At(start + ms(200)));
        policy.heard(start + ms(150));
        assert_eq!(policy.fin(start + ms(200)), Fin::At(start + ms(350)));
        assert_eq!(policy.fin(start + ms(350)), Fin::Now);
    }

    #[test]
    fn the_moment_is_two_round_trips_on_long_paths() {
        let start = start();
        let mut policy = HalfClose::new(LINGER);
        policy.sent();
        policy.heard(start);
        policy.local_ended(start, ms(300));
        assert_eq!(policy.fin(start), Fin::At(start + ms(600)));
    }

    #[test]
    fn a_reply_that_is_due_is_waited_for() {
        let start = start();
        let mut policy = HalfClose::new(LINGER);
        policy.heard(start); // a greeting, long ago
        policy.sent();
        policy.local_ended(start + ms(1_000), RTT);
        assert_eq!(policy.fin(start + ms(1_000)), Fin::At(start + ms(6_000)));
        assert_eq!(policy.fin(start + ms(6_000)), Fin::Now);
    }

    #[test]
    fn a_reply_in_portions_is_not_cut_between_them() {
        let start = start();
        let mut policy = HalfClose::new(LINGER);
        policy.sent();
        policy.local_ended(start, RTT);
        for second in 1..100 {
            policy.heard(start + ms(second * 1_000));
            assert_eq!(policy.fin(start + ms(second * 1_000 + 999)), Fin::At(start + ms(second * 1_000) + LINGER));
        }
    }

    #[test]
    fn a_failed_local_socket_is_not_waited_for() {
        let start = start();
        let mut policy = HalfClose::new(LINGER);
        policy.sent();
        policy.local_failed();
        assert_eq!(policy.fin(start), Fin::Now);
        policy.local_ended(start, RTT);
        assert_eq!(policy.fin(start), Fin::Now);
    }

    #[test]
    fn zero_linger_means_at_once_and_the_linger_bounds_both_waits() {
        let start = start();
        let mut policy = HalfClose::new(Duration::ZERO);
        policy.sent();
        policy.local_ended(start, RTT);
        assert_eq!(policy.fin(start), Fin::Now);
        let mut policy = HalfClose::new(ms(50));
        policy.sent();
        policy.heard(start);
        policy.local_ended(start, RTT);
        assert_eq!(policy.fin(start), Fin::At(start + ms(50)));
    }

    #[test]
    fn an_endless_linger_never_comes_due() {
        let start = start();
        let mut policy = HalfClose::new(Duration::MAX);
        policy.sent();
        policy.local_ended(start, RTT);
        assert_eq!(policy.fin(start + ms(1_000_000)), Fin::NotDue);
    }
}
