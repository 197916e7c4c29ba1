//! Pools made of numbers.

use super::*;

const START: u64 = 1000;

/// A pool whose sessions all do the same.
struct Pool {
    growth: Growth,
    now: Instant,
    samples: Vec<Sample>,
}

/// What a session does in one interval.
#[derive(Clone, Copy)]
struct Work {
    messages: u64,
    full: u64,
    sent: u64,
    held: usize,
    busy: usize,
}

/// The genuine agent's pump, which never rests.
const PUMPED: Work = Work { messages: 71, full: 71, sent: 0, held: 0, busy: 8 };
/// Two uploads that wait for the window.
const HELD: Work = Work { messages: 0, full: 0, sent: 90, held: 2, busy: 2 };
const IDLE: Work = Work { messages: 0, full: 0, sent: 0, held: 0, busy: 0 };

impl Pool {
    fn new(most: usize) -> Self {
        let mut pool = Self { growth: Growth::new(most), now: Instant::now(), samples: Vec::new() };
        pool.add();
        pool
    }

    fn add(&mut self) {
        let statistics = Statistics { bytes_down: START, ..Statistics::default() };
        let id = MemberId(self.samples.len() as u64);
        self.samples.push(Sample { id, statistics, connections: 8, one_at_a_time: false, usable: true });
    }

    /// One interval; what the pool asks for.
    fn interval(&mut self, work: impl Fn(usize) -> Work) -> usize {
        self.now += SAMPLE;
        for (at, sample) in self.samples.iter_mut().enumerate() {
            let (work, statistics) = (work(at), &mut sample.statistics);
            statistics.messages_down += work.messages;
            statistics.full_messages_down += work.full;
            statistics.bytes_down += work.full * 1024;
            statistics.messages_up += work.sent;
            statistics.bytes_up += work.sent * 1024;
            statistics.held_streams = work.held;
            statistics.busy_streams = work.busy;
        }
        self.growth.observe(self.now, &self.samples)
    }

    /// The same for all sessions until the pool asks for more, at most 30 s: after how many intervals, and for how many.
    fn until_it_grows(&mut self, work: Work) -> Option<(usize, usize)> {
        (1..=300).find_map(|intervals| Some((intervals, self.interval(|_| work))).filter(|(_, more)| *more > 0))
    }
}

#[test]
fn a_pool_doubles_after_two_seconds_and_then_every_second() {
    for work in [Work { busy: 3, ..PUMPED }, Work { busy: 3, ..HELD }] {
        let mut pool = Pool::new(16);
        pool.interval(|_| IDLE);
        let mut steps = Vec::new();
        while let Some((intervals, more)) = pool.until_it_grows(work) {
            steps.push((intervals, more));
            (0..more).for_each(|_| pool.add());
        }
        // One interval more than a second: the first one in which the new sessions are seen.
        assert_eq!(steps, [(20, 1), (11, 2), (11, 4), (11, 8)]);
    }
}

#[test]
fn it_grows_no_further_than_it_may_and_than_its_connections_need() {
    let mut pool = Pool::new(3);
    assert_eq!(pool.until_it_grows(PUMPED).map(|(_, more)| more), Some(2), "three at most");
    pool.add();
    pool.add();
    assert_eq!(pool.until_it_grows(PUMPED), None);

    let three = Work { busy: 3, ..PUMPED };
    let mut pool = Pool::new(4);
    assert_eq!(pool.until_it_grows(three).map(|(_, more)| more), Some(1));
    pool.add();
    let two_and_one = |at| Work { busy: 2 - at, ..PUMPED };
    let asked = (0..300).map(|_| pool.interval(two_and_one)).find(|more| *more > 0);
    assert_eq!(asked, Some(1), "a third session for the third connection, not two");
}

#[test]
fn a_crowd_gets_a_session_for_two_at_once() {
    for (busy, more) in [(2, 1), (4, 1), (5, 2), (8, 3)] {
        assert_eq!(Pool::new(16).until_it_grows(Work { busy, ..PUMPED }), Some((21, more)), "{busy}");
    }
}

#[test]
fn one_busy_connection_is_no_reason() {
    for work in [Work { busy: 1, ..PUMPED }, Work { busy: 1, held: 1, ..HELD }] {
        assert_eq!(Pool::new(4).until_it_grows(work), None);
    }
    // Nor are two streams of which one has been closed meanwhile.
    let mut pool = Pool::new(4);
    pool.samples[0].connections = 1;
    assert_eq!(pool.until_it_grows(PUMPED), None);
}

#[test]
fn what_is_not_at_its_limit_is_no_reason() {
    for (what, work) in [
        ("a destination that is slower than the pump", Work { messages: 60, full: 40, ..PUMPED }),
        ("a trickle", Work { messages: 10, full: 10, ..PUMPED }),
        ("an agent without a pump", Work { messages: 5000, full: 5000, ..PUMPED }),
        ("uploads that nothing holds", Work { held: 0, ..HELD }),
        ("one upload beside a connection that is not held", Work { held: 1, ..HELD }),
        ("a destination that takes nothing", Work { sent: 0, ..HELD }),
    ] {
        assert_eq!(Pool::new(4).until_it_grows(work), None, "{what}");
    }
}

#[test]
fn pumps_of_other_machines_are_known_too() {
    for messages in [20, 50, 64, 90, 100] {
        let work = Work { messages, full: messages, ..PUMPED };
        assert!(Pool::new(4).until_it_grows(work).is_some(), "{messages} messages in 100 ms");
    }
}

#[test]
fn short_gaps_are_forgiven_and_long_ones_are_not() {
    let mut pool = Pool::new(4);
    let grown = (0..40).map(|at| pool.interval(|_| if at % 10 == 5 { IDLE } else { PUMPED })).any(|more| more > 0);
    assert!(grown, "one interval in ten");
    let mut pool = Pool::new(4);
    let grown = (0..300).map(|at| pool.interval(|_| if at % 4 == 0 { IDLE } else { PUMPED })).any(|more| more > 0);
    assert!(!grown, "one in four");
    // A second without anything starts the two seconds again.
    let mut pool = Pool::new(4);
    (0..19).for_each(|_| assert_eq!(pool.interval(|_| PUMPED), 0));
    (0..10).for_each(|_| assert_eq!(pool.interval(|_| IDLE), 0));
    assert!(pool.until_it_grows(PUMPED).is_some_and(|(intervals, _)| intervals >= 17));
}

#[test]
fn quiet_connections_are_looked_at_seldom() {
    let mut pool = Pool::new(4);
    let pause = |pool: &Pool| pool.growth.next_sample(pool.now) - pool.now;
    let trickle = Work { messages: 3, full: 3, ..PUMPED };
    (0..=19).for_each(|_| assert_eq!(pool.interval(|_| trickle), 0));
    assert_eq!(pause(&pool), SAMPLE);
    pool.interval(|_| trickle);
    assert_eq!(pause(&pool), QUIET_SAMPLE);
    pool.interval(|_| PUMPED);
    assert_eq!(pause(&pool), SAMPLE);
    assert_eq!(pool.until_it_grows(PUMPED), Some((20, 3)));
}

#[test]
fn all_sessions_have_to_be_saturated() {
    let mut pool = Pool::new(4);
    pool.add();
    let one = (0..300).map(|_| pool.interval(|at| if at == 0 { PUMPED } else { IDLE })).any(|more| more > 0);
    assert!(!one);
    pool.samples[1].usable = false;
    let reconnecting = (0..300).map(|_| pool.interval(|_| PUMPED)).any(|more| more > 0);
    assert!(!reconnecting);
}

#[test]
fn a_step_that_brought_nothing_is_not_followed_by_another_for_a_while() {
    let mut pool = Pool::new(8);
    let four = Work { busy: 4, ..PUMPED };
    assert!(pool.until_it_grows(four).is_some());
    pool.add();
    // The link is the limit: each of two carries half.
    let half = Work { messages: 35, full: 35, ..PUMPED };
    let mut asked = Vec::new();
    for interval in 0..9000 {
        if pool.interval(|_| half) > 0 {
            asked.push(interval);
        }
    }
    // It is found out after a second, and tried again a minute later; that brings nothing either.
    assert!(asked.first().is_some_and(|first| (600..650).contains(first)), "{asked:?}");
    pool.growth.rest();
    assert!(pool.growth.intervals.is_empty());
}

#[test]
fn in_basic_mode_connections_that_wait_for_their_turn_are_the_reason() {
    let mut pool = Pool::new(4);
    pool.samples[0].one_at_a_time = true;
    pool.samples[0].connections = 1;
    assert_eq!(pool.until_it_grows(PUMPED), None, "nobody waits");
    pool.samples[0].connections = 2;
    assert_eq!(pool.until_it_grows(IDLE).map(|(_, more)| more), Some(1));
}

#[test]
fn a_pool_that_has_changed_is_looked_at_afresh() {
    let mut pool = Pool::new(4);
    (0..19).for_each(|_| assert_eq!(pool.interval(|_| PUMPED), 0));
    pool.samples[0].id = MemberId(9);
    assert_eq!(pool.until_it_grows(PUMPED), Some((21, 3)));
}

#[test]
fn a_step_of_long_ago_is_not_judged_and_a_gain_is_remembered() {
    let three = Work { busy: 3, ..PUMPED };
    let slower = Work { messages: 30, full: 30, ..PUMPED };
    for (pause, grows) in [(100, false), (400, true)] {
        let mut pool = Pool::new(4);
        assert_eq!(pool.until_it_grows(three).map(|(_, more)| more), Some(1));
        pool.add();
        (0..pause).for_each(|_| assert_eq!(pool.interval(|_| IDLE), 0));
        // The same rate as one session had: of another work, if it is much later.
        let grown = (0..30).any(|_| pool.interval(|_| slower) > 0);
        assert_eq!(grown, grows, "after {pause} intervals");
    }
    let mut pool = Pool::new(8);
    pool.growth.futile = 3;
    assert!(pool.until_it_grows(three).is_some());
    pool.add();
    assert!(pool.until_it_grows(three).is_some());
    assert_eq!(pool.growth.futile, 0);
}
