//! Notices that the machine has slept or that its network has changed, so that nobody waits for timeouts that were set
//! in another world.
//!
//! Cheap and portable, by looking every few seconds: a clock that also runs in sleep got ahead of one that does not, or
//! packets to the internet would leave from another address than before. Nothing is sent.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

/// How often is looked.
const LOOK: Duration = Duration::from_secs(2);
/// What wall time may gain on the monotonic clock between two looks without having slept. A clock that was set forward
/// does the same, which costs one ping.
const JUMP: Duration = Duration::from_secs(5);

/// Tells of each time the machine or the network has woken. Looking ends when nobody listens any more.
///
/// Must be called inside a tokio runtime.
#[must_use]
pub fn watch_for_wake() -> watch::Receiver<u64> {
    let (wakes, listeners) = watch::channel(0_u64);
    tokio::spawn(async move {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last: Option<Sight> = None;
        loop {
            tokio::select! {
                () = wakes.closed() => return,
                _ = looks.tick() => {}
            }
            let sight = Sight::now();
            if last.as_ref().is_some_and(|last| sight.shows_wake_since(last)) {
                tracing::debug!("the machine has slept or its network has changed");
                wakes.send_modify(|wakes| *wakes = wakes.wrapping_add(1));
            }
            last = Some(sight);
        }
    });
    listeners
}

/// Completes each time the machine or the network has woken; never, where nobody tells. Cancel-safe.
pub(crate) async fn woken(wakes: &mut Option<watch::Receiver<u64>>) {
    let watched = match wakes {
        Some(wakes) => wakes.changed().await.is_ok(),
        None => false,
    };
    if !watched {
        *wakes = None;
        std::future::pending::<()>().await;
    }
}

/// What there is to see at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sight {
    /// Stands still in sleep, on most systems.
    monotonic: Instant,
    wall: SystemTime,
    /// Where packets would leave from; none without a route.
    sources: [Option<IpAddr>; 2],
}

impl Sight {
    fn now() -> Self {
        #[expect(clippy::disallowed_methods, reason = "wall time runs on while the machine sleeps")]
        let wall = SystemTime::now();
        // Addresses that are reserved for documentation: they follow the default route.
        let sources = [
            source((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into()),
            source((Ipv6Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into()),
        ];
        Self { monotonic: Instant::now(), wall, sources }
    }

    fn shows_wake_since(&self, earlier: &Self) -> bool {
        let monotonic = self.monotonic.saturating_duration_since(earlier.monotonic);
        // A machine that was stopped from outside, and clocks that run on in sleep, show by a look that comes too late.
        let slept =
            self.wall.duration_since(earlier.wall).is_ok_and(|wall| wall > monotonic + JUMP) || monotonic > LOOK + JUMP;
        slept || self.sources != earlier.sources
    }
}

/// The address that packets to `to` would carry. Connecting a UDP socket only looks up the route.
fn source(from: SocketAddr, to: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight() -> Sight {
        Sight { monotonic: Instant::now(), wall: SystemTime::UNIX_EPOCH, sources: [None, None] }
    }

    fn later(sight: &Sight, monotonic: u64, wall: u64) -> Sight {
        Sight {
            monotonic: sight.monotonic + Duration::from_secs(monotonic),
            wall: sight.wall + Duration::from_secs(wall),
            ..sight.clone()
        }
    }

    #[test]
    fn sleep_is_seen_by_the_clocks() {
        let before = sight();
        for (monotonic, wall, woke) in [
            (2, 2, false),
            (2, 7, false),
            (2, 8, true),
            (2, 3600, true),
            (7, 7, false),
            (600, 600, true),
            (2, 0, false),
        ] {
            assert_eq!(later(&before, monotonic, wall).shows_wake_since(&before), woke, "{monotonic} {wall}");
        }
        let set_back = Sight { wall: before.wall, ..later(&before, 2, 2) };
        assert!(!set_back.shows_wake_since(&later(&before, 0, 3600)));
    }

    #[test]
    fn another_network_is_seen_by_the_source_address() {
        let home = Sight { sources: [Some([192, 168, 0, 2].into()), None], ..sight() };
        let away = Sight { sources: [None, None], ..later(&home, 2, 2) };
        let office = Sight { sources: [Some([10, 0, 0, 2].into()), None], ..later(&home, 4, 4) };
        assert!(away.shows_wake_since(&home) && office.shows_wake_since(&away) && office.shows_wake_since(&home));
        assert!(!later(&home, 2, 2).shows_wake_since(&home));
    }

    #[tokio::test]
    async fn looking_ends_with_the_last_listener() {
        let listener = watch_for_wake();
        let tasks = tokio::runtime::Handle::current().metrics();
        assert_eq!(tasks.num_alive_tasks(), 1);
        drop(listener);
        while tasks.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
