//! The websocket is lost and replaced: when it is tried again, what is told, what a probe finds out, and what keeps a
//! session from being taken for idle.

use std::time::Duration;

use ssmfwd::{
    proto::{Cause, CloseReason, Event, Initiator, Input, limits},
    wire::MessageKind,
};

use crate::peer::{BASIC, KEEPALIVE, NEW, Peer, ms};

/// A session whose first ping has been answered.
fn quiet() -> Peer {
    let mut peer = Peer::ready(NEW);
    peer.input(Input::PingSent);
    peer.input(Input::Pong);
    peer.lines();
    peer
}

/// Loses a websocket that had lived.
fn lose(peer: &mut Peer) {
    peer.pass(limits::STEADY);
    peer.publication(MessageKind::StartPublication);
    peer.events();
    peer.input(Input::Disconnected);
}

/// How many attempts were asked for since the last look.
fn attempts(peer: &mut Peer) -> usize {
    peer.events().into_iter().filter(|event| *event == Event::Reconnect).count()
}

#[test]
fn a_loss_asks_for_another_websocket_at_once_and_resumption_is_told_when_something_is_heard() {
    let mut peer = Peer::ready(NEW);
    lose(&mut peer);
    assert_eq!(peer.events(), [Event::Reconnect]);
    peer.input(Input::Disconnected);
    assert!(peer.events().is_empty(), "it is lost already");
    peer.connect();
    assert!(peer.events().is_empty(), "the token may be refused yet");
    peer.input(Input::Pong);
    assert!(peer.events().is_empty(), "a proxy answers pings, too");
    peer.publication(MessageKind::StartPublication);
    assert_eq!(peer.events(), [Event::Resumed]);
    peer.publication(MessageKind::StartPublication);
    peer.pass(limits::STEADY * 2);
    assert!(peer.events().is_empty(), "told once");
}

#[test]
fn attempts_go_on_for_days_and_never_faster_than_the_back_off_allows() {
    let mut peer = Peer::ready(NEW);
    lose(&mut peer);
    assert_eq!(attempts(&mut peer), 1);
    let start = peer.now;
    while peer.now < start + Duration::from_secs(2 * 86_400) {
        peer.input(Input::ConnectFailed);
        peer.pass(limits::RECONNECT_CEILING);
        assert_eq!(attempts(&mut peer), 1, "one attempt for each that failed");
    }
    assert!(peer.session.closed().is_none());
    peer.connect();
    peer.input(Input::Pong);
    peer.pass(limits::STEADY);
    assert_eq!(peer.events(), [Event::Resumed], "nobody objects");
    // What is good ends the waiting.
    lose(&mut peer);
    assert_eq!(attempts(&mut peer), 1);
}

#[test]
fn a_token_that_is_refused_again_and_again_is_not_asked_for_at_line_rate() {
    let mut peer = Peer::ready(NEW);
    lose(&mut peer);
    let start = peer.now;
    for _ in 0..100 {
        while attempts(&mut peer) == 0 {
            peer.pass(ms(50));
        }
        peer.connect();
        peer.input(Input::Disconnected);
    }
    assert!(peer.now - start > Duration::from_secs(100), "{:?}", peer.now - start);
}

#[test]
fn no_attempt_is_asked_for_while_one_is_under_way_and_none_after_the_end() {
    let mut peer = Peer::ready(NEW);
    lose(&mut peer);
    peer.events();
    peer.pass(Duration::from_secs(600));
    assert_eq!(peer.events(), []);
    peer.session.abort(CloseReason::new(Initiator::Service, Cause::SessionOver));
    peer.drain();
    let over = CloseReason::new(Initiator::Service, Cause::SessionOver);
    assert_eq!(peer.events(), [Event::Closed { reason: over, terminate: false }]);
    peer.input(Input::ConnectFailed);
    peer.input(Input::Wake);
    peer.pass(Duration::from_secs(600));
    assert_eq!((peer.events(), peer.deadline), (vec![], None));
}

#[test]
fn a_session_that_is_ended_without_a_websocket_is_ended_through_the_api() {
    let mut peer = Peer::ready(NEW);
    lose(&mut peer);
    peer.events();
    peer.session.end(peer.now);
    peer.drain();
    let asked = CloseReason::new(Initiator::Us, Cause::Requested);
    assert_eq!(peer.events(), [Event::Closed { reason: asked, terminate: true }]);
}

#[test]
fn waking_shortens_the_wait_for_the_next_attempt() {
    let mut peer = Peer::ready(NEW);
    lose(&mut peer);
    for _ in 0..12 {
        peer.events();
        peer.input(Input::ConnectFailed);
        peer.pass(limits::RECONNECT_CEILING);
    }
    peer.events();
    // The next attempt is under way: nothing to be tried.
    peer.input(Input::Wake);
    assert_eq!(peer.events(), []);
    peer.input(Input::ConnectFailed);
    peer.input(Input::Wake);
    assert_eq!(attempts(&mut peer), 1);
    peer.input(Input::ConnectFailed);
    peer.pass(limits::RECONNECT_BASE * 2);
    assert_eq!(attempts(&mut peer), 1, "the long waits are forgotten");
}

#[test]
fn waking_finds_out_within_seconds_whether_the_websocket_lives() {
    let mut peer = quiet();
    peer.input(Input::Wake);
    assert_eq!(peer.lines(), ["ping"]);
    peer.input(Input::PingSent);
    peer.pass(limits::PROBE - ms(1));
    assert_eq!(peer.events(), []);
    peer.pass(ms(1));
    assert_eq!(peer.events(), [Event::Unresponsive]);

    let mut peer = quiet();
    peer.input(Input::Wake);
    peer.input(Input::PingSent);
    peer.input(Input::Pong);
    peer.pass(limits::PROBE * 2);
    assert_eq!(peer.events(), [], "it lives");
}

#[test]
fn a_ping_that_is_under_way_serves_as_the_probe() {
    let mut peer = quiet();
    peer.pass(Duration::from_secs(20));
    assert!(peer.lines().contains(&"ping".to_owned()));
    peer.input(Input::PingSent);
    peer.input(Input::Wake);
    assert_eq!(peer.lines(), Vec::<String>::new());
    peer.pass(limits::PROBE);
    assert_eq!(peer.events(), [Event::Unresponsive]);
}

#[test]
fn a_session_is_kept_from_being_idle_only_if_that_is_wanted() {
    let sent = |agent: &str, keep_alive: Option<u64>| {
        let mut peer = Peer::with(|config| config.keep_alive = keep_alive.map(Duration::from_secs));
        peer.shake_hands(agent, r#"{"type":"LocalPortForwarding"}"#);
        let mut lines = Vec::new();
        for _ in 0..60 {
            peer.pass(Duration::from_secs(1));
            lines.extend(peer.data_lines());
            peer.acknowledge_all();
        }
        lines
    };
    assert_eq!(sent(NEW, None), Vec::<String>::new());
    assert_eq!(sent(NEW, Some(25)), ["2 Output [NOP]", "3 Output [NOP]"]);
    // Old agents want it more often, or have no stream to put a NOP into.
    assert_eq!(sent(KEEPALIVE, Some(25)).len(), 6);
    assert_eq!(sent(BASIC, Some(25)), ["2 Size", "3 Size"]);
}

#[test]
fn keeping_a_session_alive_does_not_pile_up_behind_a_silent_agent() {
    for agent in [NEW, BASIC] {
        let mut peer = Peer::with(|config| config.keep_alive = Some(Duration::from_secs(1)));
        peer.shake_hands(agent, r#"{"type":"LocalPortForwarding"}"#);
        peer.writable = false;
        peer.pass(Duration::from_secs(100));
        peer.writable = true;
        peer.drain();
        assert!(peer.session.occupancy().unacked_messages <= 1, "{agent}");
    }
}
