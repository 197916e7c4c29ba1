//! The end that we want: drain, flag, acknowledgement; and everything that can keep it from going well.

use ssmfwd::{
    proto::{Cause, CloseReason, Event, Initiator, Input, OpenError, Read, StreamError, limits},
    wire::MessageKind,
};

use crate::peer::{BASIC, NEW, Peer, ms, psh};

/// Older than the TerminateSession flag.
const OLD: &str = "2.3.722.0";

/// The session ended as asked; `terminate`: by the API.
fn ended(terminate: bool) -> Event {
    Event::Closed { reason: CloseReason::new(Initiator::Us, Cause::Requested), terminate }
}

fn end(peer: &mut Peer) {
    peer.session.end(peer.now);
    peer.drain();
}

#[test]
fn the_agent_is_told_and_its_acknowledgement_is_the_end() {
    let mut peer = Peer::ready(NEW);
    end(&mut peer);
    assert_eq!(peer.lines(), ["2 Flag TerminateSession"]);
    assert_eq!(peer.session.open_stream(), Err(OpenError::NotReady));
    peer.acknowledge(2);
    assert_eq!(peer.events(), [ended(false)]);
    assert_eq!((peer.deadline, peer.session.occupancy().unacked_bytes), (None, 0));
}

#[test]
fn channel_closed_is_as_good_as_the_acknowledgement() {
    let mut peer = Peer::ready(BASIC);
    end(&mut peer);
    peer.channel_closed(r#"{"Output":"ended by somebody"}"#);
    assert_eq!(peer.events(), [ended(false)]);
}

#[test]
fn what_is_queued_is_sent_and_acknowledged_first() {
    let mut peer = Peer::ready(NEW);
    peer.writable = false;
    let stream = peer.open();
    peer.write(stream, vec![0; 3000]);
    end(&mut peer);
    peer.writable = true;
    peer.drain();
    assert_eq!(peer.lines().len(), 3, "the data");
    peer.acknowledge(2);
    peer.acknowledge(3);
    assert!(peer.lines().is_empty());
    peer.acknowledge(4);
    assert_eq!(peer.lines(), ["5 Flag TerminateSession"]);
    assert_eq!(peer.read(stream).1, Ok(Read::Pending), "streams live until the end");
    peer.acknowledge(5);
    let Err(StreamError::SessionEnded(reason)) = peer.read(stream).1 else { panic!("the stream lives") };
    assert_eq!(reason.to_string(), "ended as asked");
}

#[test]
fn draining_has_an_end() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.write(stream, b"x");
    end(&mut peer);
    peer.lines();
    peer.pass(limits::DRAIN - ms(1));
    assert!(!peer.lines().iter().any(|line| line.contains("Flag")));
    peer.pass(ms(1));
    assert_eq!(peer.lines(), ["3 Flag TerminateSession"]);
}

#[test]
fn a_pause_does_not_hold_the_end() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.publication(MessageKind::PausePublication);
    peer.write(stream, b"x");
    end(&mut peer);
    peer.pass(limits::DRAIN);
    assert_eq!(peer.data_lines(), ["2 Flag TerminateSession"]);
}

#[test]
fn without_an_answer_the_api_is_called_after_two_seconds() {
    let mut peer = Peer::ready(NEW);
    end(&mut peer);
    peer.pass(limits::TERMINATE - ms(1));
    assert!(peer.events().is_empty());
    assert!(peer.lines().contains(&"again 2 Flag TerminateSession".to_owned()), "a lost flag comes again");
    peer.pass(ms(1));
    assert_eq!(peer.events(), [ended(true)]);
}

/// A websocket that takes nothing is no reason to wait for ever.
#[test]
fn a_flag_that_cannot_be_sent_is_not_waited_for_longer() {
    let mut peer = Peer::ready(NEW);
    peer.writable = false;
    let stream = peer.open();
    peer.write(stream, b"x");
    end(&mut peer);
    peer.pass(limits::DRAIN + limits::TERMINATE - ms(1));
    assert!(peer.events().is_empty());
    peer.pass(ms(1));
    assert_eq!(peer.events(), [ended(true)]);
}

#[test]
fn agents_that_do_not_know_the_flag_are_ended_by_the_api() {
    let mut peer = Peer::ready(OLD);
    end(&mut peer);
    assert_eq!((peer.lines(), peer.events()), (vec![], vec![ended(true)]));
}

#[test]
fn an_end_before_ready_or_without_a_websocket_is_immediate() {
    let mut peer = Peer::connected();
    end(&mut peer);
    assert_eq!(peer.events(), [ended(true)]);

    let mut peer = Peer::ready(NEW);
    peer.input(Input::Disconnected);
    end(&mut peer);
    assert_eq!(peer.events(), [ended(true)]);

    let mut peer = Peer::ready(NEW);
    end(&mut peer);
    peer.input(Input::Disconnected);
    assert_eq!(peer.events(), [ended(true)], "the flag may be lost");
}

#[test]
fn the_first_end_counts_and_nothing_happens_after_it() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    end(&mut peer);
    end(&mut peer);
    peer.acknowledge(2);
    peer.acknowledge(3);
    assert_eq!(peer.events(), [ended(false)]);
    peer.lines();
    end(&mut peer);
    peer.session.abort(CloseReason::new(Initiator::Transport, Cause::ConnectionLost("too late".to_owned())));
    peer.output(psh(stream, b"too late"));
    peer.channel_closed("{}");
    peer.input(Input::Disconnected);
    peer.connect();
    peer.pass(ms(100_000));
    assert_eq!((peer.lines(), peer.events(), peer.deadline), (vec![], vec![], None));
    assert_eq!(peer.session.closed().map(ToString::to_string).as_deref(), Some("ended as asked"));
}

#[test]
fn texts_tell_the_service_from_the_agent() {
    let cases = [
        ("Your session has been terminated by an administrator.", Initiator::Service),
        ("", Initiator::Service),
        (" \n", Initiator::Service),
        ("Setting up data channel with id x failed", Initiator::Agent),
        ("  Handshake timed out.", Initiator::Agent),
        ("----------ERROR-------\nno shell", Initiator::Agent),
    ];
    for (text, initiator) in cases {
        let mut peer = Peer::ready(NEW);
        peer.channel_closed(&serde_json::json!({ "Output": text }).to_string());
        // As it came, unless it says nothing.
        let told = if text.trim().is_empty() { "" } else { text };
        let reason = CloseReason::new(initiator, Cause::ChannelClosed(told.to_owned()));
        assert_eq!(peer.events(), [Event::Closed { reason, terminate: false }]);
    }
}

/// The agent acknowledges what it only stores: with 45 % of the messages lost, 2 of 8 sessions were left running, because
/// the flag was acknowledged ahead of a message that never came.
#[test]
fn a_flag_that_is_acknowledged_ahead_of_older_messages_proves_nothing() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.write(stream, b"lost");
    peer.drain();
    peer.session.end(peer.now);
    peer.drain();
    peer.pass(limits::DRAIN);
    peer.acknowledge(3);
    assert!(peer.session.closed().is_none(), "number 2 is missing, so the agent has not read the flag");
    peer.acknowledge(2);
    assert!(peer.events().iter().any(|event| matches!(event, Event::Closed { terminate: false, .. })));

    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.write(stream, b"lost");
    peer.drain();
    peer.session.end(peer.now);
    peer.drain();
    peer.pass(limits::DRAIN);
    peer.acknowledge(3);
    peer.pass(limits::TERMINATE);
    assert!(peer.events().iter().any(|event| matches!(event, Event::Closed { terminate: true, .. })));
}
