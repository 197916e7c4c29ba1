//! What is kept, what is sent again, and when.

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct World {
    outgoing: Outgoing,
    now: Instant,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
    fn new() -> Self {
        Self { outgoing: Outgoing::new(&ProcessBudget::default()), now: Instant::now() }
    }

    fn send(&mut self, size: usize) -> i64 {
        let sequence = self.outgoing.next_sequence().0;
        let text = Bytes::from(sequence.to_string());
        self.outgoing.sent(self.now, size).set(text).expect("a new message");
        sequence
    }

    fn acknowledge(&mut self, sequence: i64) -> bool {
        self.outgoing.acknowledged(self.now, SequenceNumber(sequence))
    }

    fn resends(&mut self) -> Vec<String> {
        let now = self.now;
        std::iter::from_fn(|| self.outgoing.next_resend(now))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }
}

#[test]
fn acknowledgements_are_individual_and_free_what_they_name() {
    let mut world = World::new();
    for _ in 0..4 {
        world.send(100);
    }
    assert!(world.acknowledge(2) && !world.acknowledge(2));
    assert!(!world.acknowledge(9) && !world.acknowledge(-1) && !world.acknowledge(i64::MIN));
    assert_eq!((world.outgoing.unacked(), world.outgoing.unacked_bytes()), (3, 300));
    assert!(world.acknowledge(0) && world.acknowledge(1) && world.acknowledge(3));
    assert_eq!((world.outgoing.unacked(), world.outgoing.unacked_bytes()), (0, 0));
    assert_eq!((world.outgoing.deadline(), world.outgoing.next_sequence()), (None, SequenceNumber(4)));
}

#[test]
fn only_the_head_is_retransmitted_and_its_wait_doubles() {
    let mut world = World::new();
    let start = world.now;
    world.send(1);
    world.send(1);
    for wait in [200, 400, 800] {
        let deadline = world.outgoing.deadline().expect("two are in flight");
        assert_eq!(deadline - world.now, ms(wait));
        world.now = deadline;
        assert_eq!(world.outgoing.retransmit_head(world.now), Some("0".into()));
    }
    // The second has waited since the start, but was behind the first: its time begins now.
    world.now = start + ms(2000);
    assert!(world.acknowledge(0));
    assert_eq!(world.outgoing.deadline(), Some(world.now + ms(200)));
    assert_eq!(world.outgoing.srtt(), None, "Karn: no sample from a message sent again");
}

#[test]
fn the_window_closes_on_messages_bytes_and_span() {
    let mut world = World::new();
    while world.outgoing.has_room() {
        world.send(1);
    }
    assert_eq!(world.outgoing.unacked(), limits::IN_FLIGHT_MESSAGES);
    assert!(world.acknowledge(5) && world.outgoing.has_room());

    let mut world = World::new();
    while world.outgoing.has_room() {
        world.send(64 << 10);
    }
    assert_eq!(world.outgoing.unacked_bytes(), limits::IN_FLIGHT_BYTES);

    let mut world = World::new();
    world.send(1);
    while world.outgoing.has_room() {
        let sequence = world.send(1);
        world.acknowledge(sequence);
    }
    assert_eq!(world.outgoing.entries.len(), limits::IN_FLIGHT_SPAN);
    assert!(world.acknowledge(0) && world.outgoing.has_room());
}

#[test]
fn after_a_resume_the_head_goes_first_and_the_rest_follows_a_sign_of_life_once() {
    let mut world = World::new();
    for _ in 0..5 {
        world.send(1);
    }
    world.acknowledge(3);
    world.now += ms(1);
    world.outgoing.resumed(world.now);
    assert_eq!(world.resends(), ["0"]);
    assert_eq!(world.outgoing.resend_at(), Some(world.now + ms(200)));
    assert_eq!(world.resends(), [""; 0]);
    world.outgoing.sign_of_life();
    assert_eq!(world.resends(), ["1", "2", "4"], "not the head again, not what was acknowledged");
    assert!(!world.outgoing.is_resending());
    world.outgoing.sign_of_life();
    assert_eq!(world.resends(), [""; 0]);
}

#[test]
fn acknowledgements_during_the_resend_skip_what_they_name() {
    let mut world = World::new();
    for _ in 0..6 {
        world.send(1);
    }
    world.now += ms(1);
    world.outgoing.resumed(world.now);
    assert_eq!(world.resends(), ["0"]);
    world.outgoing.sign_of_life();
    assert_eq!(world.outgoing.next_resend(world.now), Some("1".into()));
    for sequence in 0..4 {
        world.acknowledge(sequence);
    }
    assert_eq!(world.resends(), ["4", "5"]);
}

/// The agent's websocket is replaced about hourly, and all that was under way to it is lost. With one timeout per
/// message a full window took minutes: 1.2 s each at 300 ms of round trip, as a run of the pure world showed.
#[test]
fn a_lost_burst_is_sent_again_at_once_after_its_head_was_acknowledged_late() {
    let mut world = World::new();
    for _ in 0..50 {
        world.send(1);
    }
    world.now = world.outgoing.deadline().expect("in flight");
    assert_eq!(world.outgoing.retransmit_head(world.now), Some("0".into()));
    let after = world.send(1);
    world.now += ms(40);
    assert!(world.acknowledge(0));
    assert!(world.resends().is_empty() && !world.outgoing.is_resending());
    world.now = world.outgoing.resend_at().expect("suspicious");
    world.outgoing.overdue(world.now);
    let resends = world.resends();
    assert_eq!(resends, (1..50).map(|number| number.to_string()).collect::<Vec<_>>(), "not {after}");
    assert!(world.resends().is_empty());
}

/// A new message follows as soon as the head's acknowledgement makes room, and its own comes as soon: an upload over
/// loopback lost its window with the agent's websocket and got one message through per timeout, 300 s in all.
#[test]
fn what_is_sent_after_the_head_was_sent_again_does_not_clear_the_suspicion() {
    let mut world = World::new();
    for _ in 0..50 {
        world.send(1);
    }
    world.now = world.outgoing.deadline().expect("in flight");
    assert_eq!(world.outgoing.retransmit_head(world.now), Some("0".into()));
    world.now += ms(1);
    assert!(world.acknowledge(0));
    let after = world.send(1);
    world.now += ms(1);
    assert!(world.acknowledge(after));
    world.now = world.outgoing.resend_at().expect("still suspicious");
    world.outgoing.overdue(world.now);
    assert_eq!(world.resends().len(), 49);
}

#[test]
fn a_slow_agent_is_not_flooded_with_what_it_has_already() {
    let mut world = World::new();
    for _ in 0..50 {
        world.send(1);
    }
    world.now = world.outgoing.deadline().expect("in flight");
    world.outgoing.retransmit_head(world.now);
    world.now += ms(500);
    for sequence in 0..3 {
        assert!(world.acknowledge(sequence));
    }
    assert_eq!(world.outgoing.resend_at(), None);
    assert!(world.resends().is_empty());
}

#[test]
fn back_off_is_forgotten_when_a_later_message_is_acknowledged() {
    let mut world = World::new();
    world.send(1);
    for _ in 0..5 {
        world.now = world.outgoing.deadline().expect("in flight");
        world.outgoing.retransmit_head(world.now);
    }
    let later = world.send(1);
    world.now += ms(1);
    assert_eq!(world.outgoing.deadline(), Some(world.now - ms(1) + ms(6400)));
    let last = world.send(1);
    world.acknowledge(later);
    assert_eq!(world.outgoing.deadline(), Some(world.now - ms(1) + ms(6400)), "sent at the same time: no evidence");
    world.acknowledge(last);
    assert_eq!(world.outgoing.deadline(), Some(world.now - ms(1) + ms(200)));
}

#[test]
fn back_off_is_forgotten_when_the_gateway_says_that_the_agent_is_back() {
    let mut world = World::new();
    world.send(1);
    for _ in 0..5 {
        world.now = world.outgoing.deadline().expect("in flight");
        world.outgoing.retransmit_head(world.now);
    }
    assert_eq!(world.outgoing.deadline(), Some(world.now + ms(6400)));
    world.outgoing.forget_back_off();
    assert_eq!(world.outgoing.deadline(), Some(world.now + ms(200)));
}
