//! A peer that breaks the protocol. The policy: a panic on a peer's bytes is always our bug; nothing hangs and no
//! buffer grows without bound; what cannot be read is dropped without acknowledgement as long as it may only have been
//! damaged; what breaks the protocol for good ends the session with an error that names it, and never shows payload.

use bytes::Bytes;
use ssmfwd::{
    proto::{Cause, CloseReason, Event, Initiator, Input, Read, StreamError, StreamId, limits},
    wire::{FlagKind, HEADER_LEN, MessageKind, PayloadKind, smux::FrameHeader},
};

use crate::peer::{NEW, Peer, acknowledgement, fin, message, ms, psh, request};

const FIRST: StreamId = StreamId::FIRST;

/// The end of a session: its reason, and whether TerminateSession is called.
pub(crate) fn closed(peer: &mut Peer) -> Option<(CloseReason, bool)> {
    peer.events().into_iter().find_map(|event| match event {
        Event::Closed { reason, terminate } => Some((reason, terminate)),
        _ => None,
    })
}

/// The text of a protocol violation that ended the session.
fn violation(peer: &mut Peer) -> String {
    match closed(peer) {
        Some((CloseReason { initiator: Initiator::Library, cause: Cause::Protocol(text) }, true)) => text,
        other => panic!("not a protocol violation: {other:?}"),
    }
}

/// The session still carries data both ways.
pub(crate) fn works(peer: &mut Peer) {
    assert_eq!(peer.session.closed(), None);
    peer.lines();
    let stream = peer.open();
    peer.write(stream, b"up");
    peer.drain();
    let number = peer.next;
    peer.output(psh(stream, b"down"));
    let lines = peer.lines();
    assert!(lines[0].ends_with(&format!("Output [SYN {stream}][PSH {stream} up]")), "{lines:?}");
    assert_eq!(lines[1..], [format!("ack {number}")]);
    assert_eq!(peer.read(stream), (b"down".to_vec(), Ok(Read::Pending)));
}

// --- headers ------------------------------------------------------------------------------------------------

#[test]
fn frames_of_any_length_and_header_length_are_dropped_without_a_word() {
    let good = message(MessageKind::OutputStreamData, PayloadKind::Output, 2, b"12345678");
    let truncated = (0..HEADER_LEN + 4).map(|len| good.slice(..len));
    let lengths = [0, 1, 115, 117, 120, 124, 125, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    let relabelled = lengths.map(|length: u32| [&length.to_be_bytes(), &good[4..]].concat().into());
    let bad: Vec<Bytes> = truncated.chain(relabelled).collect();
    for batch in bad.chunks(60) {
        let mut peer = Peer::ready(NEW);
        for frame in batch {
            peer.frame(frame.clone());
        }
        assert!(peer.lines().is_empty() && peer.events().is_empty());
        works(&mut peer);
    }
}

#[test]
fn fields_that_cannot_be_right_are_dropped_without_a_word() {
    let mut peer = Peer::ready(NEW);
    let good = message(MessageKind::OutputStreamData, PayloadKind::Output, peer.next, b"12345678");
    for (at, bytes) in [(4, &[0xff; 32][..]), (4, &[0; 32]), (4, b"two words"), (40, &[0; 8])] {
        let mut bad = good.to_vec();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        peer.frame(bad);
    }
    assert!(peer.lines().is_empty() && peer.events().is_empty());
    works(&mut peer);
}

#[test]
fn a_damaged_payload_is_not_acknowledged_and_the_good_one_is_taken_after_it() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.drain();
    peer.lines();
    let good = message(MessageKind::OutputStreamData, PayloadKind::Output, peer.next, &psh(stream, b"right"));
    for at in [80, good.len() - 1] {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        peer.frame(bad);
    }
    assert!(peer.lines().is_empty());
    assert_eq!(peer.read(stream), (vec![], Ok(Read::Pending)));
    peer.frame(good);
    assert_eq!(peer.lines(), [format!("ack {}", peer.next)]);
    assert_eq!(peer.read(stream), (b"right".to_vec(), Ok(Read::Pending)));
}

#[test]
fn too_many_malformed_messages_on_one_websocket_end_the_session() {
    let mut peer = Peer::ready(NEW);
    for _ in 1..limits::MALFORMED_MESSAGES {
        peer.frame(&b"junk"[..]);
    }
    assert_eq!(closed(&mut peer), None);
    peer.input(Input::Disconnected);
    peer.connect();
    for _ in 1..limits::MALFORMED_MESSAGES {
        peer.frame(&b"junk"[..]);
    }
    assert_eq!(closed(&mut peer), None, "a new websocket starts afresh");
    peer.frame(&b"junk"[..]);
    let (reason, terminate) = closed(&mut peer).expect("the limit is reached");
    assert!(terminate && reason.initiator == Initiator::Library);
    assert!(matches!(&reason.cause, Cause::Limit(text) if text.starts_with("64 malformed messages")), "{reason}");
    peer.frame(&b"junk"[..]);
    assert_eq!(peer.session.closed(), Some(&reason), "the first end counts");
}

#[test]
fn kinds_that_are_not_for_us_are_ignored() {
    let mut peer = Peer::ready(NEW);
    let number = peer.next;
    for kind in [
        MessageKind::InputStreamData,
        MessageKind::AgentSessionState,
        MessageKind::InteractiveShell,
        MessageKind::AgentTaskComplete,
        MessageKind::AgentJob,
        MessageKind::Unknown("stream_teleport".into()),
    ] {
        peer.frame(message(kind, PayloadKind::Output, number, b"{}"));
    }
    assert!(peer.lines().is_empty() && peer.events().is_empty(), "only the agent's stream data is acknowledged");
    works(&mut peer);
}

#[test]
fn payloads_of_any_kind_are_acknowledged_and_those_not_known_ignored() {
    let mut peer = Peer::ready(NEW);
    let first = peer.next;
    for kind in [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 99, u32::MAX] {
        peer.say(PayloadKind::from_wire(kind), b"{garbage");
        peer.say(PayloadKind::from_wire(kind), b"");
    }
    let expected: Vec<_> = (first..peer.next).map(|number| format!("ack {number}")).collect();
    assert_eq!(peer.lines(), expected);
    assert!(peer.events().is_empty());
    works(&mut peer);
}

// --- numbers ------------------------------------------------------------------------------------------------

#[test]
fn numbers_out_of_this_world_deliver_nothing() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.drain();
    for number in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX, i64::MAX - 1] {
        peer.say_at(number, PayloadKind::Output, psh(stream, b"ghost"));
    }
    assert_eq!(peer.read(stream), (vec![], Ok(Read::Pending)));
    assert_eq!(peer.session.occupancy().early_messages, 2, "they count as early");
    works(&mut peer);
}

#[test]
fn acknowledgements_of_anything_change_nothing() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.write(stream, b"x");
    peer.drain();
    let before = (peer.session.occupancy(), peer.session.rto());
    for number in [i64::MIN, -1, 0, 1, 3, 1000, i64::MAX] {
        peer.frame(acknowledgement(number));
    }
    for body in ["", "null", "{}", "[]", "\"3\"", "{\"AcknowledgedMessageSequenceNumber\":1e99}", "{", "\u{0}"] {
        peer.frame(message(MessageKind::Acknowledge, PayloadKind::Undefined, 0, body.as_bytes()));
    }
    assert_eq!((peer.session.occupancy(), peer.session.rto()), before);
    peer.acknowledge(2);
    assert_eq!(peer.session.occupancy().unacked_messages, 0);
    for _ in 0..50_000 {
        peer.frame(acknowledgement(2));
    }
    works(&mut peer);
}

#[test]
fn endless_early_messages_are_bounded_and_delivered_once_the_gap_is_filled() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.drain();
    peer.lines();
    let gap = peer.next;
    for number in gap + 1..gap + 10_000 {
        peer.say_at(number, PayloadKind::Output, psh(stream, b"x"));
    }
    assert_eq!(peer.session.occupancy().early_messages, limits::EARLY_MESSAGES);
    assert_eq!(peer.lines().len(), limits::EARLY_MESSAGES, "what is not kept is not acknowledged");
    peer.say_at(gap, PayloadKind::Output, psh(stream, b"x"));
    assert_eq!(peer.read(stream).0.len(), limits::EARLY_MESSAGES + 1);

    let mut peer = Peer::ready(NEW);
    for number in 1..20 {
        peer.say_at(peer.next + number, PayloadKind::Output, vec![0; 900 << 10]);
    }
    assert_eq!(peer.lines().len(), 4, "4 MiB are kept");
    assert!(peer.session.occupancy().early_bytes <= limits::EARLY_BYTES);
}

#[test]
fn repeated_messages_do_not_fill_memory_with_acknowledgements_that_cannot_be_written() {
    let mut peer = Peer::ready(NEW);
    peer.writable = false;
    for _ in 0..limits::WAITING_ACKNOWLEDGEMENTS + 1000 {
        peer.say_at(0, PayloadKind::HandshakeRequest, b"");
    }
    assert_eq!(peer.session.occupancy().waiting_acknowledgements, limits::WAITING_ACKNOWLEDGEMENTS);
    peer.writable = true;
    peer.drain();
    assert_eq!(peer.lines().len(), limits::WAITING_ACKNOWLEDGEMENTS);
    works(&mut peer);
}

// --- frames of streams --------------------------------------------------------------------------------------

#[test]
fn frames_of_another_version_or_command_end_the_session() {
    for (bytes, text) in [
        ([2, 2, 0, 0, 3, 0, 0, 0], "smux version 2, expected 1"),
        ([0, 0, 0, 0, 0, 0, 0, 0], "smux version 0, expected 1"),
        ([1, 4, 0, 0, 3, 0, 0, 0], "smux command 4 does not exist in version 1"),
        ([1, 255, 255, 255, 255, 255, 255, 255], "smux command 255 does not exist in version 1"),
    ] {
        let mut peer = Peer::ready(NEW);
        let stream = peer.open();
        peer.output([&psh(stream, b"before")[..], &bytes].concat());
        assert_eq!(violation(&mut peer), text);
        let (data, end) = peer.read(stream);
        assert_eq!(data, b"before", "what came before can be read");
        assert!(matches!(end, Err(StreamError::SessionEnded(_))), "{end:?}");
        peer.output(psh(stream, b"after"));
        assert_eq!(peer.read(stream).0, b"");
        assert!(matches!(peer.session.open_stream(), Err(ssmfwd::proto::OpenError::Closed(_))));
    }
}

#[test]
fn frames_for_nobody_are_thrown_away() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.drain();
    for id in [0, 1, 2, 4, 5, 7, u32::MAX] {
        let id = StreamId(id);
        peer.output(FrameHeader::syn(id).encode());
        peer.output(psh(id, b"for nobody"));
        peer.output(fin(id));
        peer.output(fin(id));
    }
    // The length of other commands than PSH means nothing, and an empty PSH is nothing.
    peer.output([1, 3, 255, 255, 0, 0, 0, 0]);
    peer.output([1, 0, 255, 255, 3, 0, 0, 0]);
    peer.output(psh(stream, b""));
    assert!(peer.events().is_empty());
    assert_eq!(peer.read(stream), (vec![], Ok(Read::Pending)));
    assert_eq!(peer.session.occupancy().streams, 1);
    works(&mut peer);
}

#[test]
fn a_stream_ends_once_and_nothing_follows_its_end() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.drain();
    assert_eq!(peer.read(stream).1, Ok(Read::Pending));
    peer.output([psh(stream, b"all"), fin(stream), psh(stream, b"too late"), fin(stream), fin(stream)].concat());
    peer.output([fin(stream), psh(stream, b"far too late")].concat());
    assert_eq!(peer.events(), [Event::Readable(stream)]);
    assert_eq!(peer.read(stream), (b"all".to_vec(), Ok(Read::End)));
    assert_eq!(peer.session.write(stream, b"x"), Err(StreamError::PeerFinished));
    peer.release(stream);
    assert_eq!(peer.session.read(stream, &mut Vec::new()), Err(StreamError::Unknown));
    works(&mut peer);
}

#[test]
fn frames_may_be_cut_anywhere() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.drain();
    let frames = [psh(stream, vec![b'a'; 5000]), FrameHeader::nop().encode().to_vec(), psh(stream, b"b"), fin(stream)];
    for byte in frames.concat() {
        peer.output([byte]);
    }
    let (data, end) = peer.read(stream);
    assert_eq!((data.len(), data.last(), end), (5001, Some(&b'b'), Ok(Read::End)));
}

#[test]
fn refusals_without_streams_are_forgotten() {
    let mut peer = Peer::ready(NEW);
    for _ in 0..2000 {
        peer.refuse();
    }
    let stream = peer.open();
    peer.drain();
    peer.output(fin(stream));
    assert_eq!(peer.read(stream), (vec![], Ok(Read::End)), "nobody refused this one");
    assert!(!peer.events().contains(&Event::DestinationRefused(stream)));
}

#[test]
fn flags_of_any_size_and_number_are_ignored() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.drain();
    for len in [0, 1, 3, 5, 8, 1000] {
        peer.say(PayloadKind::Flag, vec![3; len]);
    }
    for flag in [FlagKind::DisconnectToPort, FlagKind::TerminateSession, FlagKind::Unknown(u32::MAX)] {
        peer.say(PayloadKind::Flag, flag.encode());
    }
    peer.output(fin(stream));
    assert_eq!(peer.read(stream).1, Ok(Read::End), "none of them refused it");
    works(&mut peer);
}

// --- the gateway --------------------------------------------------------------------------------------------

#[test]
fn pause_and_start_in_any_number_leave_no_trace() {
    let mut peer = Peer::ready(NEW);
    for _ in 0..5000 {
        peer.publication(MessageKind::PausePublication);
    }
    assert_eq!(peer.events(), [Event::Paused(true)]);
    for _ in 0..5000 {
        peer.publication(MessageKind::StartPublication);
    }
    assert_eq!(peer.events(), [Event::Paused(false)]);
    for _ in 0..5000 {
        peer.publication(MessageKind::StartPublication);
        peer.publication(MessageKind::PausePublication);
    }
    assert_eq!(peer.events().len(), 9999);
    peer.publication(MessageKind::StartPublication);
    works(&mut peer);
}

/// Their header says nothing that the reference reads; some gateways may send less.
#[test]
fn publication_messages_may_be_as_short_as_their_kind() {
    for kind in [MessageKind::PausePublication, MessageKind::StartPublication] {
        let whole = message(kind, PayloadKind::Undefined, 0, b"");
        for len in [36, 40, 119, 120] {
            let mut peer = Peer::ready(NEW);
            peer.frame(whole.slice(..len));
            peer.publication(MessageKind::StartPublication);
            works(&mut peer);
        }
    }
}

#[test]
fn channel_closed_closes_whatever_its_body_is() {
    let cases = [
        (r#"{"Output":"Session terminated by administrator"}"#, "Session terminated by administrator"),
        (r#"{"Output":""}"#, ""),
        (r#"{"Output":null}"#, ""),
        ("{}", ""),
        // What cannot be read closes too, without a text.
        (r#"{"Output":7}"#, ""),
        (r#"{"Output":"#, ""),
        ("null", ""),
        ("", ""),
        ("\u{1b}[2Jgarbage", ""),
    ];
    for (body, text) in cases {
        let mut peer = Peer::ready(NEW);
        let stream = peer.open();
        peer.channel_closed(body);
        let (reason, terminate) = closed(&mut peer).unwrap_or_else(|| panic!("{body} did not close"));
        assert_eq!(reason, CloseReason::new(Initiator::Service, Cause::ChannelClosed(text.to_owned())), "{body}");
        assert!(!terminate, "{body}");
        assert_eq!(peer.read(stream).1, Err(StreamError::SessionEnded(reason)), "{body}");
    }
}

// --- the handshake ------------------------------------------------------------------------------------------

#[test]
fn bodies_of_the_handshake_that_cannot_be_read_end_the_session() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in ["", "{", "null", "[]", "{}", r#"{"AgentVersion":7,"RequestedClientActions":[]}"#, &deep] {
        let mut peer = Peer::connected();
        peer.say(PayloadKind::HandshakeRequest, body);
        let text = violation(&mut peer);
        assert!(text.starts_with("handshake request is not the expected JSON"), "{text}");
    }
    for body in ["", "{", "7", &deep] {
        let mut peer = Peer::connected();
        peer.say(PayloadKind::HandshakeRequest, request(NEW, "null"));
        peer.say(PayloadKind::HandshakeComplete, body);
        let text = violation(&mut peer);
        assert!(text.starts_with("handshake complete is not the expected JSON"), "{text}");
    }
}

#[test]
fn a_request_is_answered_once_and_completion_before_it_is_ignored() {
    let mut peer = Peer::connected();
    peer.say(PayloadKind::HandshakeComplete, b"{}");
    peer.say(PayloadKind::HandshakeRequest, request(NEW, r#"{"type":"LocalPortForwarding"}"#));
    peer.say(PayloadKind::HandshakeRequest, request("1.0.0.0", "null"));
    peer.say_at(1, PayloadKind::HandshakeRequest, request(NEW, "null"));
    let expected = ["open", "ping", "ack 0", "ack 1", "0 HandshakeResponse", "ack 2", "ack 1"];
    assert_eq!(peer.lines(), expected);
    peer.say(PayloadKind::HandshakeComplete, b"{}");
    peer.say(PayloadKind::HandshakeComplete, b"{}");
    assert_eq!(peer.data_lines(), ["1 Output [NOP]"], "completed once");
    assert_eq!(peer.session.mode(), Some(ssmfwd::proto::Mode::Mux), "the first request counts");
}

#[test]
fn data_without_a_handshake_ends_the_session() {
    let mut peer = Peer::connected();
    peer.say(PayloadKind::Output, b"login: ");
    let (reason, terminate) = closed(&mut peer).expect("nobody can use this");
    assert!(terminate && reason.initiator == Initiator::Library);
    assert!(matches!(&reason.cause, Cause::Handshake(text) if text.contains("data without a handshake")), "{reason}");
}

/// The agent hears what we cannot do before the session ends.
#[test]
fn actions_that_cannot_be_done_are_answered_and_named() {
    let session_type = r#"{"ActionType":"SessionType","ActionParameters":{"SessionType":"Port"}}"#;
    let cases = [
        (r#"{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"k"}}"#, "the client action KMSEncryption"),
        (r#"{"ActionType":"Dance","ActionParameters":[]}"#, "the client action Dance"),
        (r#"{"ActionType":"SessionType","ActionParameters":{"SessionType":"Standard_Stream"}}"#, "Standard_Stream"),
    ];
    for (action, named) in cases {
        let mut peer = Peer::connected();
        let body = format!(r#"{{"AgentVersion":"{NEW}","RequestedClientActions":[{action},{session_type}]}}"#);
        peer.say(PayloadKind::HandshakeRequest, body);
        assert_eq!(peer.lines(), ["open", "ping", "ack 0", "0 HandshakeResponse"]);
        let (reason, terminate) = closed(&mut peer).expect("refused");
        assert!(terminate && matches!(&reason.cause, Cause::Handshake(text) if text.contains(named)), "{reason}");
    }
}

/// The names are the peer's words: they are cut to a size and shown without control characters.
#[test]
fn endless_actions_and_names_make_neither_a_long_answer_nor_a_long_error() {
    let action = r#"{"ActionType":"a","ActionParameters":0},"#.repeat(20_000);
    let many = format!(r#"{{"AgentVersion":"{NEW}","RequestedClientActions":[{}]}}"#, action.trim_end_matches(','));
    let name = "\\u001b[2J".repeat(50_000);
    let long = format!(r#"{{"AgentVersion":"{NEW}","RequestedClientActions":[{{"ActionType":"{name}"}}]}}"#);
    let kind = format!(
        r#"{{"AgentVersion":"{NEW}","RequestedClientActions":[{{"ActionType":"SessionType","ActionParameters":{{"SessionType":"{name}"}}}}]}}"#
    );
    for body in [many, long, kind] {
        let mut peer = Peer::connected();
        peer.say(PayloadKind::HandshakeRequest, &body);
        let answer: usize = peer.payloads().iter().map(Bytes::len).sum();
        assert!(answer < 64 << 10, "{} bytes were answered with {answer}", body.len());
        let (reason, _) = closed(&mut peer).expect("nothing that we can do");
        let text = reason.to_string();
        assert!(text.len() < 500 && !text.contains('\u{1b}'), "{} bytes of error", text.len());
    }
}

/// Signs of life are no progress: the deadline is for the whole handshake.
#[test]
fn a_handshake_that_drips_for_ever_is_given_up() {
    let mut peer = Peer::connected();
    let start = peer.now;
    while peer.session.closed().is_none() && peer.now < start + 10 * limits::HANDSHAKE {
        peer.say(PayloadKind::Size, br#"{"cols":80,"rows":24}"#);
        peer.input(Input::Pong);
        peer.publication(MessageKind::StartPublication);
        peer.pass(ms(500));
    }
    assert_eq!(peer.now - start, limits::HANDSHAKE);
    let (reason, terminate) = closed(&mut peer).expect("given up");
    assert_eq!(reason.to_string(), "timed out: the agent did not complete the handshake (by ssmfwd)");
    assert!(terminate);
}

#[test]
fn a_shield_that_is_never_acknowledged_is_given_up_too() {
    let mut peer = Peer::connected();
    let start = peer.now;
    peer.say(PayloadKind::HandshakeRequest, request(NEW, r#"{"type":"LocalPortForwarding"}"#));
    peer.acknowledge(0);
    peer.say(PayloadKind::HandshakeComplete, b"{}");
    while peer.session.closed().is_none() && peer.now < start + 10 * limits::HANDSHAKE {
        peer.input(Input::Pong);
        peer.pass(ms(500));
    }
    assert_eq!(peer.now - start, limits::HANDSHAKE);
    assert!(matches!(closed(&mut peer), Some((CloseReason { cause: Cause::Timeout(_), .. }, true))));
}

#[test]
fn data_before_ready_waits_for_a_stream_that_wants_it_or_is_thrown_away() {
    let mut peer = Peer::connected();
    peer.say(PayloadKind::HandshakeRequest, request(NEW, r#"{"type":"LocalPortForwarding"}"#));
    peer.say(PayloadKind::HandshakeComplete, b"{}");
    peer.output([psh(FIRST, b"nobody asked"), fin(FIRST)].concat());
    peer.acknowledge(0);
    peer.acknowledge(1);
    let stream = peer.open();
    assert_eq!((stream, peer.read(stream)), (FIRST, (vec![], Ok(Read::Pending))));
    works(&mut peer);
}
