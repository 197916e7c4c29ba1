//! The smux keepalive that older agents have, and newer ones for older clients (`proto-notes/smux.md#keepalive`).

use std::time::{Duration, Instant};

use crate::wire::{ClientFeatures, agent_newer_than};

const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);

/// What is to be done at a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// Send a NOP.
    Nop,
    /// Close the session unless a frame was read since the last check.
    Check,
}

/// Two tickers: one sends, one checks that something was received, every 30 s. So silence is noticed after 30 to 60 s.
#[derive(Debug)]
pub(super) struct Keepalive {
    nop: Instant,
    check: Instant,
}

impl Keepalive {
    /// The keepalive of an agent of that version with such a client, if there is one.
    pub(super) fn of(agent_version: &str, client: ClientFeatures, now: Instant) -> Option<Self> {
        let off = if agent_newer_than(agent_version, "3.1.1511.0") {
            client.keepalive_off
        } else {
            agent_newer_than(agent_version, "3.1.1374.0")
        };
        (!off).then(|| Self { nop: now + INTERVAL, check: now + TIMEOUT })
    }

    pub(super) fn deadline(&self) -> Instant {
        self.nop.min(self.check)
    }

    /// The next thing that is due at `now`. At the same instant the check comes first.
    pub(super) fn beat(&mut self, now: Instant) -> Option<Beat> {
        if self.check <= now && self.check <= self.nop {
            self.check += TIMEOUT;
            return Some(Beat::Check);
        }
        if self.nop <= now {
            self.nop += INTERVAL;
            return Some(Beat::Nop);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::agent::tests::start;

    #[test]
    fn versions_decide() {
        let on = |agent: &str, client: &str| Keepalive::of(agent, ClientFeatures::of(client), start()).is_some();
        for client in ["1.2.331.0", "1.2.764.0"] {
            assert!(on("3.1.1374.0", client) && on("3.0.222.0", client));
            assert!(!on("3.1.1446.0", client) && !on("3.1.1511.0", client));
        }
        assert!(on("3.3.987.0", "1.2.331.0"));
        assert!(!on("3.3.987.0", "1.2.764.0"));
    }

    #[test]
    fn a_late_wake_up_does_everything_that_is_due() {
        let t0 = start();
        let mut keepalive = Keepalive { nop: t0 + INTERVAL, check: t0 + TIMEOUT };
        let beats: Vec<_> = std::iter::from_fn(|| keepalive.beat(t0 + TIMEOUT)).collect();
        assert_eq!(beats, [Beat::Nop, Beat::Nop, Beat::Check, Beat::Nop]);
        assert_eq!(keepalive.deadline(), t0 + Duration::from_secs(40));
    }
}
