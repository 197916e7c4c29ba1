//! Which address of a gateway is connected to: a staggered race, after RFC 8305 (Happy Eyeballs).
//!
//! What connecting means, and how long one address may take, is the caller's affair; so is the lookup of the name.

use std::{net::SocketAddr, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;

/// How long an address stays the only one before the next is tried beside it.
pub(super) const STAGGER: Duration = Duration::from_millis(250);

/// Addresses that take part in one race. The others have their turn in later ones.
pub(super) const MOST: usize = 8;

/// Addresses in the order in which they are tried: the families in turn, beginning with the resolver's favourite, and
/// the first `passed_over` of that order last, going round as often as need be.
pub(super) fn in_turn(addresses: impl IntoIterator<Item = SocketAddr>, passed_over: usize) -> Vec<SocketAddr> {
    let mut addresses = addresses.into_iter().peekable();
    let favourite = addresses.peek().is_some_and(SocketAddr::is_ipv6);
    let (ours, others): (Vec<_>, Vec<_>) = addresses.partition(|address| address.is_ipv6() == favourite);
    let mut order = Vec::with_capacity(ours.len() + others.len());
    let (mut ours, mut others) = (ours.into_iter(), others.into_iter());
    loop {
        let pair = [ours.next(), others.next()];
        if pair == [None, None] {
            break;
        }
        order.extend(pair.into_iter().flatten());
    }
    let places = passed_over.checked_rem(order.len()).unwrap_or_default();
    order.rotate_left(places);
    order
}

/// Connects to the first [`MOST`] of these addresses, each [`STAGGER`] after the one before or as soon as any fails.
/// The first connection that is there wins, and the rest is dropped. It ends when each `connect` does.
///
/// # Errors
/// All that were tried and why they failed, in the order of the failures; empty if there is no address.
pub(super) async fn race<T, E, F>(
    addresses: &[SocketAddr],
    connect: impl Fn(SocketAddr) -> F,
) -> Result<(SocketAddr, T), Vec<(SocketAddr, E)>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = addresses.iter().take(MOST);
    let mut running = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        let ended = match waiting.next() {
            Some(&address) => {
                let connecting = connect(address);
                running.push(async move { (address, connecting.await) });
                timeout(STAGGER, running.next()).await
            }
            None => Ok(running.next().await),
        };
        match ended {
            Ok(Some((address, Ok(connection)))) => return Ok((address, connection)),
            Ok(Some((address, Err(error)))) => failures.push((address, error)),
            Ok(None) => return Err(failures),
            // Nobody has anything to say yet: the next one.
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        collections::HashSet,
        future::pending,
    };

    use tokio::time::{Instant, sleep_until};

    use super::*;

    /// What becomes of a connection, in milliseconds after its start.
    #[derive(Debug, Clone, Copy)]
    enum Fate {
        Connects(u64),
        Fails(u64),
        /// As after TCP, if TLS is never answered.
        Hangs,
    }
    use Fate::{Connects, Fails, Hangs};

    fn v4(number: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, u8::try_from(number).expect("few")], 443))
    }

    fn v6(number: u16) -> SocketAddr {
        SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, number], 443))
    }

    /// Counts those that are alive.
    struct Alive<'a>(&'a Cell<usize>);

    impl Drop for Alive<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    /// A course of as many addresses as there are fates, the first being number 0.
    struct Course {
        fates: Vec<Fate>,
        begun: Instant,
        /// Who started, and after how many milliseconds.
        starts: RefCell<Vec<(usize, u128)>>,
        alive: Cell<usize>,
    }

    impl Course {
        fn of(fates: &[Fate]) -> Self {
            Self { fates: fates.to_vec(), begun: Instant::now(), starts: RefCell::default(), alive: Cell::new(0) }
        }

        /// The number of the winner, or those of the losers.
        async fn run(&self) -> Result<usize, Vec<usize>> {
            let addresses: Vec<_> = (0..self.fates.len()).map(v4).collect();
            let number = |address| addresses.iter().position(|known| *known == address).expect("one of ours");
            let run = race(&addresses, |address| {
                let (number, start) = (number(address), Instant::now());
                self.starts.borrow_mut().push((number, self.elapsed()));
                self.alive.set(self.alive.get() + 1);
                let alive = Alive(&self.alive);
                async move {
                    let _alive = alive;
                    let (time, result) = match self.fates[number] {
                        Connects(time) => (time, Ok(())),
                        Fails(time) => (time, Err(())),
                        Hangs => pending().await,
                    };
                    sleep_until(start + Duration::from_millis(time)).await;
                    result
                }
            });
            let ended = run.await;
            assert_eq!(self.alive.get(), 0, "nobody runs on");
            ended
                .map(|(winner, ())| number(winner))
                .map_err(|losers| losers.into_iter().map(|(loser, ())| number(loser)).collect())
        }

        fn elapsed(&self) -> u128 {
            self.begun.elapsed().as_millis()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_connects_at_once_runs_alone() {
        let course = Course::of(&[Connects(249), Connects(0)]);
        assert_eq!((course.run().await, course.elapsed()), (Ok(0), 249));
        assert_eq!(*course.starts.borrow(), [(0, 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn dead_addresses_in_front_cost_a_moment_each() {
        let course = Course::of(&[Hangs, Hangs, Hangs, Hangs, Connects(40), Connects(0)]);
        assert_eq!((course.run().await, course.elapsed()), (Ok(4), 1040));
        assert_eq!(*course.starts.borrow(), [(0, 0), (1, 250), (2, 500), (3, 750), (4, 1000)]);

        let course = Course::of(&[Fails(0), Fails(10), Fails(0), Connects(5)]);
        assert_eq!((course.run().await, course.elapsed()), (Ok(3), 15));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_of_any_starts_the_next_at_once() {
        // The first fails while the second has only just begun.
        let course = Course::of(&[Fails(300), Hangs, Hangs, Connects(100)]);
        assert_eq!((course.run().await, course.elapsed()), (Ok(3), 650));
        assert_eq!(*course.starts.borrow(), [(0, 0), (1, 250), (2, 300), (3, 550)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_started_first_may_still_win() {
        let course = Course::of(&[Connects(600), Connects(400), Fails(0), Hangs]);
        assert_eq!((course.run().await, course.elapsed()), (Ok(0), 600));
        // One that was dead for a while and then there is: the rest does not matter.
        let course = Course::of(&[Connects(7000), Fails(0), Fails(5)]);
        assert_eq!((course.run().await, course.elapsed()), (Ok(0), 7000));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_each_is_told_of() {
        let course = Course::of(&[Fails(800), Fails(0), Fails(100)]);
        assert_eq!((course.run().await, course.elapsed()), (Err(vec![1, 2, 0]), 800));
        let course = Course::of(&[Fails(8000); 3]);
        assert_eq!((course.run().await, course.elapsed()), (Err(vec![0, 1, 2]), 8500));
        assert_eq!(Course::of(&[]).run().await, Err(vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_take_part() {
        let course = Course::of(&[[Fails(0); MOST].as_slice(), &[Connects(0)]].concat());
        assert_eq!(course.run().await, Err((0..MOST).collect()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_race_that_is_called_off_leaves_nobody_behind() {
        let course = Course::of(&[Hangs; 12]);
        for (limit, running) in [(100, 1), (600, 3), (9000, MOST)] {
            let mut run = std::pin::pin!(course.run());
            assert!(timeout(Duration::from_millis(limit), run.as_mut()).await.is_err());
            assert_eq!(course.alive.get(), running);
            run.set(course.run());
            assert_eq!(course.alive.get(), 0);
        }
    }

    #[test]
    fn families_take_turns() {
        for (given, order) in [
            (vec![], vec![]),
            (vec![v4(1), v4(2)], vec![v4(1), v4(2)]),
            (vec![v6(1), v6(2), v6(3), v4(1), v4(2)], vec![v6(1), v4(1), v6(2), v4(2), v6(3)]),
            (vec![v4(1), v6(1), v6(2), v6(3)], vec![v4(1), v6(1), v6(2), v6(3)]),
        ] {
            assert_eq!(in_turn(given.clone(), 0), order, "{given:?}");
        }
        let turned = in_turn([v6(1), v6(2), v4(1), v4(2)], 5);
        assert_eq!(turned, [v4(1), v6(2), v4(2), v6(1)]);
        assert_eq!(in_turn([], 5), []);
    }

    #[test]
    fn every_address_has_its_turn() {
        for count in 1..40_usize {
            let (mut passed_over, mut tried) = (0, HashSet::new());
            for _ in 0..count.div_ceil(MOST) {
                let order = in_turn((0..count).map(v4), passed_over);
                assert_eq!(order.len(), count);
                let racing = &order[..MOST.min(count)];
                tried.extend(racing.to_vec());
                passed_over += racing.len();
            }
            assert_eq!(tried.len(), count);
        }
    }
}
