//! Time in which nobody could listen (no websocket, a pause, local readers that are behind) is not taken for anything
//! else: not for a round trip, not for a reason to send again, not for the patience that a silent agent deserves.

use std::time::Duration;

use ssmfwd::{
    proto::{Event, Input, Output, StreamId, Token, limits},
    wire::{MessageKind, PayloadKind},
};

use crate::peer::{BASIC, NEW, Peer, ms, psh, request};

const RTT: Duration = ms(20);

/// A session whose round trip is known.
fn measured(agent: &str) -> (Peer, StreamId) {
    let mut peer = Peer::ready(agent);
    let stream = peer.open();
    for _ in 0..50 {
        peer.write(stream, b"x");
        peer.drain();
        peer.pass(RTT);
        peer.acknowledge_all();
    }
    assert!(peer.session.rtt() < RTT * 2, "{:?}", peer.session.rtt());
    peer.lines();
    peer.events();
    (peer, stream)
}

/// Makes the session stop reading: one stream gets more than the budget, and nobody reads it.
fn stop_reading(peer: &mut Peer, stream: StreamId) {
    while peer.session.wants_messages() {
        peer.output(psh(stream, vec![0; 60_000]));
    }
}

#[test]
fn a_stop_in_reading_is_no_round_trip() {
    let (mut peer, slow) = measured(NEW);
    let other = peer.open();
    peer.drain();
    peer.acknowledge_all();
    stop_reading(&mut peer, slow);
    for _ in 0..20 {
        peer.write(other, vec![1; 1000]);
        peer.drain();
    }
    peer.pass(Duration::from_secs(25));
    drop(peer.read(slow));
    assert!(peer.session.wants_messages());
    assert!(peer.acknowledge_all() >= 20);
    assert!(peer.session.rtt() < RTT * 2, "{:?}", peer.session.rtt());
    assert_eq!(peer.session.rto(), ms(200));
}

#[test]
fn an_outage_is_no_round_trip() {
    for agent in [NEW, BASIC] {
        let (mut peer, stream) = measured(agent);
        peer.write(stream, vec![1; 900]);
        peer.drain();
        peer.input(Input::Disconnected);
        peer.pass(Duration::from_secs(600));
        // Acknowledgements that were under way come before anything was sent again.
        peer.writable = false;
        peer.connect();
        peer.acknowledge_all();
        assert!(peer.session.rtt() < RTT * 2, "{agent}: {:?}", peer.session.rtt());
    }
}

/// A shell takes some messages and then looks for events only, until the websocket takes more.
#[test]
fn after_a_resume_the_head_goes_out_once_however_slowly_messages_are_taken() {
    let (mut peer, stream) = measured(NEW);
    for _ in 0..100 {
        peer.output(psh(stream, b"d"));
    }
    drop(peer.read(stream));
    for text in ["head", "second"] {
        peer.write(stream, text);
        peer.drain();
    }
    peer.input(Input::Disconnected);
    peer.pass(Duration::from_secs(60));
    peer.lines();
    peer.session.handle(peer.now, Input::Connected(Token::new("token")));
    let mut taken = 0;
    loop {
        let output = if taken < 32 { peer.session.poll_output(peer.now) } else { peer.session.poll_event(peer.now) };
        match output {
            Output::Transmit(_) | Output::Ping => taken += 1,
            Output::Event(_) => {}
            Output::Timeout(_) => break,
        }
    }
    peer.drain();
    assert_eq!(peer.data_lines().iter().filter(|line| line.ends_with("head]")).count(), 1);
    // One more after each timeout, the first after the ordinary one: how bad the old path was is forgotten.
    peer.pass(ms(220));
    let lines = peer.data_lines();
    assert_eq!(lines.iter().filter(|line| line.ends_with("head]")).count(), 1, "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.ends_with("second]")).count(), 1, "{lines:?}");
}

/// Lets time pass while the gateway answers pings and the agent says nothing; what is told except of pauses.
fn silence(peer: &mut Peer, seconds: u64, mut each: impl FnMut(&mut Peer)) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..seconds {
        peer.pass(Duration::from_secs(1));
        peer.input(Input::PingSent);
        peer.input(Input::Pong);
        each(peer);
        events.extend(peer.events().into_iter().filter(|event| !matches!(event, Event::Paused(_))));
        if peer.session.closed().is_some() {
            break;
        }
    }
    events
}

#[test]
fn an_agent_that_is_gone_is_given_up_in_time_although_the_gateway_pauses_again_and_again() {
    let (mut peer, stream) = measured(NEW);
    peer.write(stream, b"x");
    peer.drain();
    let start = peer.now;
    let events = silence(&mut peer, 1000, |peer| {
        if peer.data_lines().iter().any(|line| line.starts_with("again")) {
            peer.publication(MessageKind::PausePublication);
        }
    });
    assert!(matches!(events[..], [Event::Stalled(true), Event::Closed { .. }]), "{events:?}");
    let waited = peer.now - start;
    assert!(waited <= limits::STALL_TIMEOUT + Duration::from_secs(2), "{waited:?}");
}

#[test]
fn an_agent_that_is_gone_is_given_up_in_time_on_a_network_that_keeps_breaking() {
    let (mut peer, stream) = measured(NEW);
    peer.write(stream, b"x");
    peer.drain();
    let mut online = 0;
    for _ in 0..100 {
        online += 40;
        silence(&mut peer, 40, |_| {});
        if peer.session.closed().is_some() {
            break;
        }
        // Time without a websocket does not count.
        peer.input(Input::Disconnected);
        peer.pass(Duration::from_secs(3600));
        peer.connect();
    }
    assert!(peer.session.closed().is_some(), "never");
    let limit = limits::STALL_TIMEOUT.as_secs();
    assert!((limit..=limit + 80).contains(&online), "after {online} s with a websocket");
}

/// What the gateway does not answer either is the network's fault.
#[test]
fn silence_of_the_whole_network_is_not_the_agents() {
    let (mut peer, stream) = measured(NEW);
    peer.write(stream, b"x");
    peer.drain();
    for _ in 0..100 {
        peer.input(Input::PingSent);
        peer.pass(Duration::from_secs(39));
        peer.input(Input::Disconnected);
        peer.connect();
    }
    assert!(peer.session.closed().is_none(), "{:?}", peer.session.closed());
}

#[test]
fn a_new_websocket_gives_the_agent_ten_seconds_before_it_is_called_silent() {
    let (mut peer, stream) = measured(NEW);
    peer.write(stream, b"x");
    peer.drain();
    silence(&mut peer, 9, |_| {});
    peer.input(Input::Disconnected);
    peer.connect();
    peer.publication(MessageKind::StartPublication);
    peer.events();
    assert_eq!(silence(&mut peer, 9, |_| {}), []);
    assert_eq!(silence(&mut peer, 2, |_| {}), [Event::Stalled(true)]);
}

/// Health checks and people who give up do not protect whoever holds everybody up.
#[test]
fn a_slow_reader_is_reset_although_those_that_wait_give_up_one_after_another() {
    let (mut peer, slow) = measured(NEW);
    stop_reading(&mut peer, slow);
    peer.events();
    let mut waited = Duration::ZERO;
    let is_reset = |event: &Event| matches!(event, Event::SlowReader(_));
    while !peer.events().iter().any(is_reset) {
        assert!(waited <= limits::SLOW_READER, "{waited:?}");
        let other = peer.open();
        peer.drain();
        peer.pass(Duration::from_secs(10));
        waited += Duration::from_secs(10);
        peer.release(other);
        // While nobody waits it may be as slow as it likes.
        if peer.session.cut(slow).is_none() {
            peer.pass(Duration::from_secs(600));
        }
    }
    assert!(waited >= limits::SLOW_READER && peer.session.cut(slow).is_some(), "{waited:?}");
}

#[test]
fn without_a_websocket_no_reader_holds_anybody_up() {
    let (mut peer, slow) = measured(NEW);
    let _other = peer.open();
    stop_reading(&mut peer, slow);
    peer.input(Input::Disconnected);
    peer.pass(Duration::from_secs(3600));
    assert!(peer.session.cut(slow).is_none());
    peer.connect();
    peer.pass(limits::SLOW_READER);
    assert!(peer.session.cut(slow).is_some());
}

/// A retransmission that finds the websocket full waits from when it left, not from when it fell due.
#[test]
fn a_retransmission_that_could_not_leave_is_not_followed_by_the_next() {
    let (mut peer, stream) = measured(NEW);
    peer.write(stream, b"x");
    peer.drain();
    peer.writable = false;
    // Due after 200 ms, and again 400 ms later.
    peer.pass(ms(590));
    peer.writable = true;
    peer.drain();
    peer.pass(ms(390));
    assert_eq!(peer.data_lines().len(), 2, "the message and its retransmission");
    peer.pass(ms(20));
    assert_eq!(peer.data_lines().len(), 1);
}

/// A message is to be sent again, on a websocket that takes nothing.
fn due_and_stuck() -> Peer {
    let (mut peer, stream) = measured(NEW);
    peer.write(stream, b"x");
    peer.drain();
    peer.lines();
    peer.writable = false;
    peer.pass(ms(300));
    peer
}

#[test]
fn what_is_acknowledged_while_it_waits_to_be_sent_again_is_not_sent_again() {
    let mut peer = due_and_stuck();
    assert_eq!(peer.acknowledge_all(), 1);
    peer.writable = true;
    peer.drain();
    assert_eq!(peer.data_lines(), [""; 0]);
}

/// Another websocket may be another path: what the last one took at a time may flood it.
#[test]
fn a_resume_begins_with_a_small_window() {
    let (mut peer, stream) = measured(NEW);
    let first = peer.session.occupancy().window;
    for _ in 0..20 {
        let data = [7; limits::STREAM_UNSENT];
        peer.session.write(stream, &data).expect("open");
        peer.drain();
        peer.pass(ms(10));
        peer.acknowledge_all();
    }
    assert!(peer.session.occupancy().window > first, "{:?}", peer.session.occupancy());
    peer.input(Input::Disconnected);
    peer.pass(ms(50));
    peer.connect();
    assert_eq!(peer.session.occupancy().window, first);
}

/// It falls due on a websocket that takes nothing; then there is another one, and the loss of the first was not told.
#[test]
fn what_was_to_be_sent_again_on_a_lost_websocket_goes_out_once_on_the_next() {
    let mut peer = due_and_stuck();
    peer.writable = true;
    peer.connect();
    assert_eq!(peer.data_lines().iter().filter(|line| line.starts_with("again")).count(), 1);
}

/// A websocket that takes little when it is new, while the shield falls due.
#[test]
fn after_a_resume_the_shield_goes_out_once() {
    let mut peer = Peer::connected();
    peer.say(PayloadKind::HandshakeRequest, request(NEW, r#"{"type":"LocalPortForwarding"}"#));
    peer.acknowledge(0);
    peer.say(PayloadKind::HandshakeComplete, b"{}");
    peer.input(Input::Disconnected);
    peer.pass(ms(100));
    peer.lines();
    peer.writable = false;
    peer.connect();
    peer.pass(limits::SHIELD_RETRY * 10);
    peer.writable = true;
    peer.drain();
    assert_eq!(peer.data_lines(), ["open", "again 1 Output [NOP]"]);
}

/// Time in which the websocket was not read is not silence of the agent, whatever it ends with.
#[test]
fn a_stop_in_reading_that_ends_without_a_websocket_is_no_silence() {
    let (mut peer, slow) = measured(NEW);
    peer.write(slow, b"x");
    peer.drain();
    stop_reading(&mut peer, slow);
    peer.pass(limits::STALL_TIMEOUT * 2);
    peer.input(Input::Disconnected);
    drop(peer.read(slow));
    peer.pass(Duration::from_secs(1));
    peer.connect();
    peer.events();
    silence(&mut peer, limits::STALL_TIMEOUT.as_secs() - 1, |_| {});
    assert_eq!(peer.session.closed(), None);
    silence(&mut peer, 2, |_| {});
    assert!(peer.session.closed().is_some());
}
