//! Sessions that carry one connection at a time: basic mode, one after another; raw mode, one for good.

use ssmfwd::{
    proto::{Cause, CloseReason, Event, Initiator, Mode, OpenError, Read, StreamError, StreamId, limits},
    wire::PayloadKind,
};

use crate::peer::{BASIC, NEW, Peer, ms};

// --- basic --------------------------------------------------------------------------------------------------

#[test]
fn data_goes_without_frames_and_the_flag_follows_it() {
    let mut peer = Peer::ready(BASIC);
    let stream = peer.open();
    assert_eq!(peer.session.open_stream(), Err(OpenError::Busy));
    peer.write(stream, b"hello");
    peer.finish(stream);
    assert_eq!(peer.lines(), ["2 Output hello", "3 Flag DisconnectToPort"]);
    assert_eq!(peer.session.open_stream(), Err(OpenError::Busy), "the flag is not acknowledged");
    assert_eq!(peer.read(stream), (vec![], Ok(Read::End)), "the agent closes without a word");
}

#[test]
fn the_flag_waits_behind_all_data() {
    let mut peer = Peer::ready(BASIC);
    let stream = peer.open();
    peer.write(stream, vec![b'x'; 5000]);
    peer.session.finish(stream);
    peer.release(stream);
    let lines = peer.lines();
    assert_eq!(lines.last().map(String::as_str), Some("7 Flag DisconnectToPort"), "{lines:?}");
    assert_eq!(peer.payloads().iter().map(bytes::Bytes::len).sum::<usize>(), 5000 + 4);
}

#[test]
fn the_next_connection_waits_for_the_flags_acknowledgement_and_silence() {
    let mut peer = Peer::ready(BASIC);
    let stream = peer.open();
    peer.write(stream, b"x");
    peer.finish(stream);
    peer.lines();
    peer.acknowledge(2);
    peer.pass(ms(150));
    assert_eq!(peer.events(), [], "the flag is not acknowledged");
    peer.acknowledge(3);
    peer.pass(ms(40));
    peer.output(b"of the old connection");
    peer.pass(limits::SETTLE - ms(1));
    assert_eq!((peer.events(), peer.session.open_stream()), (vec![], Err(OpenError::Busy)));
    // Each of its bytes starts the silence again, and two round trips may be longer than 50 ms.
    peer.pass(ms(250));
    assert_eq!(peer.events(), [Event::CanOpen]);
    peer.output(b"a straggler");
    let next = peer.open();
    assert_eq!(next, StreamId(5));
    assert_eq!(peer.read(next), (vec![], Ok(Read::Pending)), "stray bytes belong to nobody");
    peer.write(next, b"second");
    peer.drain();
    assert_eq!(peer.data_lines(), ["4 Output second"]);
    peer.output(b"reply");
    assert_eq!(peer.read(next).0, b"reply");
}

#[test]
fn the_silence_is_50_ms_or_two_round_trips() {
    for (rtt, silence) in [(1, 50), (100, 200)] {
        let mut peer = Peer::connected();
        // Every round trip of the session takes as long.
        peer.say(PayloadKind::HandshakeRequest, crate::peer::request(BASIC, r#"{"type":"LocalPortForwarding"}"#));
        peer.pass(ms(rtt));
        peer.acknowledge(0);
        peer.say(PayloadKind::HandshakeComplete, b"{}");
        peer.pass(ms(rtt.min(29)));
        peer.acknowledge(1);
        let stream = peer.open();
        peer.write(stream, b"x");
        peer.finish(stream);
        peer.events();
        peer.acknowledge(2);
        peer.acknowledge(3);
        let expected = (peer.session.rtt() * 2).max(limits::SETTLE);
        assert!(expected >= ms(50) && expected <= ms(silence), "{expected:?}");
        peer.pass(expected - ms(1));
        assert_eq!(peer.events(), []);
        peer.pass(ms(1));
        assert_eq!(peer.events(), [Event::CanOpen]);
    }
}

#[test]
fn what_arrived_before_anybody_asked_is_the_first_connections() {
    let mut peer = Peer::ready(BASIC);
    peer.output(b"SSH-2.0-server\r\n");
    assert_eq!(peer.events(), []);
    let stream = peer.open();
    assert_eq!(peer.read(stream), (b"SSH-2.0-server\r\n".to_vec(), Ok(Read::Pending)));
}

#[test]
fn a_released_connection_sends_the_flag_alone() {
    let mut peer = Peer::ready(BASIC);
    let stream = peer.open();
    peer.write(stream, b"never mind");
    peer.release(stream);
    assert_eq!(peer.lines(), ["2 Flag DisconnectToPort"]);
}

/// Its reader may be slower than the agent is with the next connection.
#[test]
fn what_had_arrived_stays_readable_when_the_next_connection_has_begun() {
    let mut peer = Peer::ready(BASIC);
    let first = peer.open();
    peer.write(first, b"request");
    peer.output(vec![b'r'; 100_000]);
    peer.finish(first);
    peer.acknowledge_all();
    peer.pass(ms(1000));
    assert_eq!(peer.events(), [Event::CanOpen]);
    let second = peer.open();
    peer.output(b"for the second");
    assert_eq!(peer.session.occupancy().streams, 2);
    let (data, end) = peer.read(first);
    assert_eq!((data.len(), end), (100_000, Ok(Read::End)));
    assert_eq!(peer.session.write(first, b"x"), Err(StreamError::Finished));
    assert_eq!(peer.read(second), (b"for the second".to_vec(), Ok(Read::Pending)));
    peer.finish(first);
    peer.release(first);
    assert!(peer.data_lines().iter().filter(|line| line.contains("DisconnectToPort")).count() == 1);
    assert_eq!(peer.session.occupancy().streams, 1);
    assert_eq!(peer.session.read(first, &mut Vec::new()), Err(StreamError::Unknown));
}

#[test]
fn the_session_ends_an_open_connection_with_an_error() {
    let mut peer = Peer::ready(BASIC);
    let stream = peer.open();
    peer.output(b"before");
    peer.channel_closed("{}");
    let (data, end) = peer.read(stream);
    assert_eq!(data, b"before");
    assert!(matches!(end, Err(StreamError::SessionEnded(_))));
}

// --- raw ----------------------------------------------------------------------------------------------------

#[test]
fn a_raw_session_carries_one_connection() {
    let mut peer = Peer::raw();
    let stream = peer.open();
    assert_eq!(peer.session.open_stream(), Err(OpenError::Used));
    peer.write(stream, b"SSH-2.0-client\r\n");
    peer.finish(stream);
    assert_eq!(peer.lines(), ["2 Output SSH-2.0-client\\r\\n"], "nothing can be said of the end");
    peer.output(b"reply");
    assert_eq!(peer.read(stream), (b"reply".to_vec(), Ok(Read::Pending)), "it goes on until the session ends");
    peer.release(stream);
    assert_eq!(peer.session.open_stream(), Err(OpenError::Used));
}

#[test]
fn what_is_finished_in_raw_mode_ends_with_its_session_once_all_has_arrived() {
    let mut peer = Peer::raw();
    let stream = peer.open();
    peer.write(stream, b"one");
    peer.pass(ms(0));
    assert_eq!(peer.lines(), ["2 Output one"]);
    peer.write(stream, b"two");
    peer.finish(stream);
    assert_eq!(peer.lines(), ["3 Output two"]);
    // Far longer than an end that somebody waits for takes to drain: data is not given up for it.
    for _ in 0..20 {
        peer.input(ssmfwd::proto::Input::Pong);
        peer.pass(ms(500));
    }
    assert!(peer.lines().iter().all(|line| !line.contains("Flag")), "two messages have not arrived");
    assert_eq!(peer.session.closed(), None);
    peer.acknowledge(2);
    peer.lines();
    peer.output(b"reply");
    peer.acknowledge(3);
    assert!(peer.lines().iter().any(|line| line.starts_with("4 Flag")), "the end of the session is its end");
    peer.acknowledge(4);
    let reason = CloseReason::new(Initiator::Us, Cause::Requested);
    assert!(peer.events().contains(&Event::Closed { reason, terminate: false }));
    assert_eq!(peer.session.cut(stream), None);
    assert_eq!(peer.read(stream), (b"reply".to_vec(), Ok(Read::End)), "and as complete as any");
}

/// Nobody is left who would hear the rest: the agent's side is closed, not kept until the service's idle timeout.
#[test]
fn a_raw_connection_that_is_let_go_of_ends_its_session() {
    let mut peer = Peer::raw();
    let stream = peer.open();
    peer.release(stream);
    assert!(peer.lines().iter().any(|line| line.starts_with("2 Flag")));
}

#[test]
fn the_agents_end_of_a_raw_session_is_an_ordinary_end() {
    let mut peer = Peer::raw();
    let stream = peer.open();
    peer.output(b"goodbye");
    peer.channel_closed(r#"{"Output":""}"#);
    let reason = CloseReason::new(Initiator::Agent, Cause::ChannelClosed(String::new()));
    assert!(peer.events().contains(&Event::Closed { reason, terminate: false }));
    assert_eq!(peer.session.cut(stream), None);
    assert_eq!(peer.read(stream), (b"goodbye".to_vec(), Ok(Read::End)));
}

/// A server that says its piece and leaves may be done before anybody has asked for its connection.
#[test]
fn what_a_raw_connection_was_told_before_it_was_asked_for_is_not_lost() {
    for (last_words, expected) in [("", Some(b"goodbye")), ("Session timed out", None)] {
        let mut peer = Peer::raw();
        peer.output(b"goodbye");
        peer.channel_closed(&format!(r#"{{"Output":"{last_words}"}}"#));
        match (peer.session.open_stream(), expected) {
            (Ok(stream), Some(expected)) => {
                assert_eq!(peer.read(stream), (expected.to_vec(), Ok(Read::End)));
                assert!(peer.session.open_stream().is_err(), "there was one");
            }
            (Err(OpenError::Closed(_)), None) => {}
            (opened, _) => panic!("{last_words:?}: {opened:?}"),
        }
    }
}

/// It may even be done before the agent has acknowledged anything: the agent dials before the session is ready. The
/// words of a server that turns everybody away were lost.
#[test]
fn what_a_raw_connection_was_told_before_the_session_was_ready_is_not_lost() {
    for said in [&b"Exceeded MaxStartups\r\n"[..], b""] {
        let mut peer = Peer::connected();
        peer.say(PayloadKind::HandshakeRequest, crate::peer::request(NEW, r#"{"portNumber":"22"}"#));
        peer.acknowledge(0);
        peer.say(PayloadKind::HandshakeComplete, b"{}");
        if !said.is_empty() {
            peer.output(said);
        }
        peer.channel_closed(r#"{"Output":""}"#);
        let told = !said.is_empty();
        assert_eq!((peer.session.left_something(), peer.session.mode()), (told, Some(Mode::Raw)));
        let initiator = if told { Initiator::Agent } else { Initiator::Service };
        let reason = CloseReason::new(initiator, Cause::ChannelClosed(String::new()));
        assert_eq!(peer.events(), [Event::Closed { reason: reason.clone(), terminate: false }], "and never ready");
        if told {
            let stream = peer.open();
            assert_eq!(peer.read(stream), (said.to_vec(), Ok(Read::End)));
        } else {
            assert_eq!(peer.session.open_stream(), Err(OpenError::Closed(reason)));
        }
    }
}

/// What it said last is there, and what it said before is not.
#[test]
fn the_agents_end_of_a_raw_session_behind_a_gap_is_an_error() {
    let mut peer = Peer::raw();
    let stream = peer.open();
    peer.output(b"one");
    peer.say_at(peer.next + 1, PayloadKind::Output, b"three");
    peer.channel_closed(r#"{"Output":""}"#);
    let (data, end) = peer.read(stream);
    assert_eq!(data, b"one");
    assert!(matches!(end, Err(StreamError::SessionEnded(_))), "{end:?}");
}

/// Words of the agent are no end of the data, whoever's session it was.
#[test]
fn a_destination_that_cannot_be_dialled_is_no_end_of_the_data() {
    for mut peer in [Peer::raw(), Peer::ready(BASIC)] {
        let stream = peer.open();
        peer.channel_closed(r#"{"Output":"Unable to connect to specified port: connection refused"}"#);
        let (data, end) = peer.read(stream);
        assert_eq!(data, b"");
        let Err(StreamError::SessionEnded(reason)) = end else { panic!("{end:?}") };
        assert!(reason.is_destination_unreachable() && !reason.is_end_of_data(), "{reason}");
    }
}

#[test]
fn the_services_end_of_a_raw_session_is_an_error() {
    let mut peer = Peer::raw();
    let stream = peer.open();
    peer.channel_closed(r#"{"Output":"Session timed out"}"#);
    assert!(matches!(peer.session.cut(stream), Some(StreamError::SessionEnded(_))));
    assert!(matches!(peer.read(stream).1, Err(StreamError::SessionEnded(_))));
}

#[test]
fn a_destination_that_does_not_answer_is_named() {
    let mut peer = Peer::connected();
    peer.say(PayloadKind::HandshakeRequest, crate::peer::request(BASIC, r#"{"type":"LocalPortForwarding"}"#));
    peer.acknowledge(0);
    peer.say(PayloadKind::HandshakeComplete, b"{}");
    // The agent's worker has died dialling: nobody acknowledges the shield.
    while peer.session.closed().is_none() {
        peer.input(ssmfwd::proto::Input::Pong);
        peer.pass(ms(1000));
    }
    let text = peer.session.closed().expect("closed").to_string();
    assert!(text.contains("the destination refused the connection or did not answer"), "{text}");
}

/// A piece without a byte was taken for a local program that takes nothing, and all that followed was thrown away.
#[test]
fn a_message_without_a_byte_is_no_data() {
    for mut peer in [Peer::ready(BASIC), Peer::raw()] {
        let stream = peer.open();
        let mut pieces = [const { bytes::Bytes::new() }; 4];
        assert_eq!(peer.session.read_pieces(stream, &mut pieces, 100), Ok(Read::Pending));
        peer.output(b"");
        assert_eq!(peer.session.read_pieces(stream, &mut pieces, 100), Ok(Read::Pending));
        peer.output(b"data");
        assert_eq!(peer.session.read_pieces(stream, &mut pieces, 100), Ok(Read::Data(1)));
        assert_eq!(pieces[0], "data");
    }
}
