//! Is the other end there, does it want data, and what was lost with a websocket: pings, keepalive, pauses,
//! retransmission, resume.

use ssmfwd::{
    proto::{Cause, Event, Input, limits},
    wire::{MessageKind, PayloadKind},
};

use crate::peer::{BASIC, KEEPALIVE, NEW, Peer, ms, psh, request};

const PING: std::time::Duration = std::time::Duration::from_secs(20);

// --- pings --------------------------------------------------------------------------------------------------

#[test]
fn pings_go_out_at_once_and_then_every_interval() {
    let mut peer = Peer::ready(NEW);
    for _ in 0..3 {
        peer.input(Input::PingSent);
        peer.input(Input::Pong);
        peer.pass(PING - ms(1));
        assert!(peer.lines().is_empty());
        peer.pass(ms(1));
        assert_eq!(peer.lines(), ["ping"]);
    }
    assert!(peer.events().is_empty());
}

#[test]
fn two_silent_intervals_after_a_ping_are_too_many() {
    let mut peer = Peer::ready(NEW);
    peer.input(Input::PingSent);
    peer.pass(2 * PING - ms(1));
    assert!(peer.events().is_empty());
    peer.pass(ms(1));
    assert_eq!(peer.events(), [Event::Unresponsive]);
}

#[test]
fn anything_that_comes_is_a_sign_of_life() {
    let signs: [fn(&mut Peer); 4] = [
        |peer| peer.input(Input::Pong),
        |peer| peer.publication(MessageKind::StartPublication),
        |peer| peer.acknowledge(0),
        |peer| peer.say_at(0, PayloadKind::HandshakeRequest, b""),
    ];
    for sign in signs {
        let mut peer = Peer::ready(NEW);
        for _ in 0..5 {
            peer.input(Input::PingSent);
            peer.pass(2 * PING - ms(1));
            sign(&mut peer);
        }
        assert!(peer.events().is_empty());
    }
}

/// The clock of a ping starts when it has left: one that is stuck behind data says nothing about the peer.
#[test]
fn a_ping_that_was_not_flushed_proves_nothing() {
    let mut peer = Peer::ready(NEW);
    peer.pass(10 * PING);
    assert!(peer.events().is_empty());
    assert!(peer.lines().is_empty(), "and no second one is sent behind it");
    peer.input(Input::PingSent);
    peer.pass(PING - ms(1));
    assert!(peer.events().is_empty(), "it has one interval at least");
    peer.pass(ms(1));
    assert_eq!(peer.events(), [Event::Unresponsive]);
}

#[test]
fn silence_is_of_our_own_making_while_reading_is_stopped() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.drain();
    peer.acknowledge_all();
    for messages in 0.. {
        if !peer.session.wants_messages() {
            break;
        }
        assert!(messages < 1000, "no bound");
        peer.output(psh(stream, vec![0; 60_000]));
    }
    peer.input(Input::PingSent);
    peer.events();
    peer.pass(20 * PING);
    assert!(peer.events().is_empty());
    assert!(!peer.read(stream).0.is_empty());
    assert_eq!(peer.events(), [Event::Backpressure(false)]);
    peer.pass(PING - ms(1));
    peer.input(Input::PingSent);
    assert!(peer.events().is_empty(), "the silence starts anew");
    peer.pass(2 * PING);
    assert_eq!(peer.events(), [Event::Unresponsive]);
}

#[test]
fn no_ping_without_a_websocket() {
    let mut peer = Peer::ready(NEW);
    peer.input(Input::PingSent);
    peer.input(Input::Disconnected);
    peer.pass(10 * PING);
    assert_eq!((peer.lines(), peer.events()), (vec![], vec![Event::Reconnect]));
    peer.connect();
    assert!(peer.lines().contains(&"ping".to_owned()));
}

// --- keepalive ----------------------------------------------------------------------------------------------

#[test]
fn only_agents_that_expect_it_get_a_keepalive() {
    for (agent, expected) in [(KEEPALIVE, vec!["2 Output [NOP]"]), (NEW, vec![]), (BASIC, vec![])] {
        let mut peer = Peer::ready(agent);
        peer.pass(limits::KEEPALIVE - ms(1));
        assert!(peer.data_lines().is_empty(), "{agent}");
        peer.pass(ms(1));
        assert_eq!(peer.data_lines(), expected, "{agent}");
    }
}

#[test]
fn keepalives_do_not_pile_up() {
    let mut peer = Peer::ready(KEEPALIVE);
    peer.writable = false;
    peer.pass(10 * limits::KEEPALIVE);
    let stream = peer.open();
    peer.write(stream, b"x");
    peer.writable = true;
    peer.drain();
    assert_eq!(peer.data_lines(), ["2 Output [NOP][SYN 3][PSH 3 x]"], "one, and data goes with it");
}

// --- pauses -------------------------------------------------------------------------------------------------

/// A session with one message in flight and one that a pause holds.
fn paused() -> Peer {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.write(stream, b"before");
    peer.drain();
    peer.publication(MessageKind::PausePublication);
    peer.write(stream, b"held");
    peer.drain();
    assert_eq!(peer.events(), [Event::Paused(true)]);
    assert_eq!(peer.data_lines(), ["2 Output [SYN 3][PSH 3 before]"]);
    peer
}

#[test]
fn a_pause_holds_new_data_and_nothing_else() {
    let mut peer = paused();
    peer.pass(ms(200));
    assert_eq!(peer.data_lines(), ["again 2 Output [SYN 3][PSH 3 before]"], "the head is still sent again");
    peer.say_at(0, PayloadKind::HandshakeRequest, b"");
    assert_eq!(peer.lines()[0], "ack 0", "acknowledgements are still sent");
}

#[test]
fn a_pause_is_lifted_by_any_sign_that_the_agent_is_there() {
    let lifts: [fn(&mut Peer); 5] = [
        |peer| peer.publication(MessageKind::StartPublication),
        |peer| peer.acknowledge(2),
        |peer| peer.say(PayloadKind::Output, b""),
        |peer| peer.pass(limits::PAUSE),
        |peer| {
            peer.input(Input::Disconnected);
            peer.connect();
            peer.acknowledge(2);
        },
    ];
    for (index, lift) in lifts.into_iter().enumerate() {
        let mut peer = paused();
        lift(&mut peer);
        assert!(peer.data_lines().contains(&"3 Output [PSH 3 held]".to_owned()), "{index}");
        let events: Vec<_> = peer.events().into_iter().filter(|event| *event != Event::Resumed).collect();
        assert_eq!(events, [Event::Paused(false)], "{index}");
    }
}

#[test]
fn a_pause_that_is_repeated_lasts_longer() {
    let mut peer = paused();
    peer.pass(limits::PAUSE - ms(1));
    peer.publication(MessageKind::PausePublication);
    peer.pass(limits::PAUSE - ms(1));
    assert!(peer.events().is_empty(), "paused once");
    peer.pass(ms(1));
    assert_eq!(peer.events(), [Event::Paused(false)]);
}

#[test]
fn start_publication_ends_the_back_off() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.write(stream, b"x");
    peer.drain();
    // 200, 400, ..., 6400 ms: the next would be 10 s later.
    peer.pass(ms(12_700));
    peer.lines();
    peer.pass(ms(300));
    assert!(peer.data_lines().is_empty());
    peer.publication(MessageKind::StartPublication);
    assert_eq!(peer.data_lines(), ["again 2 Output [SYN 3][PSH 3 x]"], "it has waited for long enough");
}

// --- retransmission and resume ------------------------------------------------------------------------------

/// With three messages, numbers 2 to 4, that nobody has acknowledged.
fn three_in_flight() -> Peer {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    for text in ["a", "b", "c"] {
        peer.write(stream, text);
        peer.drain();
    }
    peer.lines();
    peer
}

#[test]
fn only_the_oldest_message_is_sent_again_and_its_wait_doubles() {
    let mut peer = three_in_flight();
    for wait in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
        peer.pass(ms(wait - 1));
        assert!(peer.data_lines().is_empty(), "{wait}");
        peer.pass(ms(1));
        assert_eq!(peer.data_lines(), ["again 2 Output [SYN 3][PSH 3 a]"]);
    }
}

/// What is due many times while nothing can be written goes out once.
#[test]
fn retransmissions_do_not_pile_up_behind_a_websocket_that_takes_nothing() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.write(stream, b"x");
    peer.drain();
    peer.lines();
    peer.writable = false;
    peer.pass(ms(200_000));
    peer.writable = true;
    peer.drain();
    assert_eq!(peer.data_lines(), ["again 2 Output [SYN 3][PSH 3 x]"]);
}

#[test]
fn a_resume_acknowledges_again_sends_the_head_and_then_the_rest() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    for text in ["a", "b", "c"] {
        peer.write(stream, text);
        peer.drain();
    }
    peer.acknowledge(3);
    peer.pass(ms(1));
    peer.input(Input::Disconnected);
    peer.write(stream, b"new");
    peer.drain();
    peer.lines();
    peer.connect();
    assert_eq!(peer.lines(), ["open", "ack 0", "ack 1", "again 2 Output [SYN 3][PSH 3 a]", "ping"]);
    peer.acknowledge(2);
    assert_eq!(peer.lines(), ["again 4 Output [PSH 3 c]", "5 Output [PSH 3 new]"], "not what was acknowledged");
}

#[test]
fn without_a_sign_of_life_the_rest_follows_after_one_timeout() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    for text in ["a", "b"] {
        peer.write(stream, text);
        peer.drain();
    }
    peer.pass(ms(1));
    peer.input(Input::Disconnected);
    peer.connect();
    peer.lines();
    peer.pass(ms(199));
    assert!(peer.data_lines().is_empty());
    peer.pass(ms(1));
    let lines = peer.data_lines();
    assert_eq!(lines.iter().filter(|line| *line == "again 3 Output [PSH 3 b]").count(), 1, "{lines:?}");
}

#[test]
fn a_resume_acknowledges_the_last_1024_messages() {
    let mut peer = Peer::ready(NEW);
    for _ in 0..3000 {
        peer.say(PayloadKind::Output, b"");
    }
    peer.input(Input::Disconnected);
    peer.lines();
    peer.connect();
    let lines = peer.lines();
    let acknowledged: Vec<_> = lines.iter().filter(|line| line.starts_with("ack ")).collect();
    let first = peer.next - i64::try_from(limits::REMEMBERED_RECEIPTS).expect("small");
    assert_eq!(acknowledged.len(), limits::REMEMBERED_RECEIPTS);
    assert_eq!(*acknowledged[0], format!("ack {first}"));
    assert_eq!(*acknowledged[1023], format!("ack {}", peer.next - 1));
}

#[test]
fn cuts_in_quick_succession_lose_and_repeat_nothing() {
    let mut peer = three_in_flight();
    for _ in 0..20 {
        peer.pass(ms(1));
        peer.input(Input::Disconnected);
        peer.connect();
        let resumed: Vec<_> = peer.data_lines();
        assert_eq!(resumed, ["open", "again 2 Output [SYN 3][PSH 3 a]"], "the head once per websocket");
    }
    assert_eq!(peer.acknowledge_all(), 3);
    assert_eq!(peer.data_lines(), ["again 3 Output [PSH 3 b]", "again 4 Output [PSH 3 c]"]);
}

#[test]
fn an_unready_session_resumes_its_response() {
    let mut peer = Peer::connected();
    peer.say(PayloadKind::HandshakeRequest, request(NEW, r#"{"type":"LocalPortForwarding"}"#));
    peer.input(Input::Disconnected);
    peer.lines();
    peer.connect();
    assert_eq!(peer.lines(), ["open", "ack 0", "again 0 HandshakeResponse", "ping"]);
}

/// The agent's worker can die without a word; the gateway goes on answering pings.
#[test]
fn an_agent_that_is_gone_is_reported_after_ten_seconds_and_given_up_after_the_stall_timeout() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.write(stream, b"x");
    peer.drain();
    for _ in 0..9 {
        peer.pass(ms(1000));
        peer.input(Input::Pong);
    }
    assert!(peer.events().is_empty());
    peer.pass(ms(1000));
    assert_eq!(peer.events(), [Event::Stalled(true)]);
    peer.acknowledge(2);
    assert_eq!(peer.events(), [Event::Stalled(false)], "it was only slow");
    peer.write(stream, b"y");
    peer.drain();
    for _ in 0..299 {
        peer.pass(ms(1000));
        peer.input(Input::Pong);
    }
    assert_eq!(peer.events(), [Event::Stalled(true)]);
    peer.pass(ms(1000));
    assert!(
        matches!(peer.session.closed().map(|reason| &reason.cause), Some(Cause::Timeout(_))),
        "{:?}",
        peer.events()
    );
}
