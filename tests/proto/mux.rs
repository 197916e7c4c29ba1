//! Many streams in one session: the bytes that the client sends, whose turn it is, which stream a refusal means.

use ssmfwd::{
    proto::{Event, OpenError, Read, StreamError, StreamId, limits},
    wire::smux::{Command, FrameHeader, HEADER_LEN},
};

use crate::peer::{NEW, Peer, fin, ms, psh};

/// The frames of a message: command, stream, length.
fn frames(mut payload: &[u8]) -> Vec<(Command, u32, usize)> {
    let mut out = Vec::new();
    while let Some((header, rest)) = payload.split_first_chunk::<HEADER_LEN>() {
        let header = FrameHeader::decode(*header).expect("a frame");
        out.push((header.command, header.stream.0, header.data_len()));
        payload = &rest[header.data_len()..];
    }
    assert!(payload.is_empty());
    out
}

// --- what is sent -------------------------------------------------------------------------------------------

#[test]
fn opening_data_and_end_share_a_message() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.write(stream, b"hello");
    peer.finish(stream);
    assert_eq!(peer.lines(), ["2 Output [SYN 3][PSH 3 hello][FIN 3]"]);
    assert_eq!(peer.session.write(stream, b"x"), Err(StreamError::Finished));
}

#[test]
fn small_streams_share_a_message() {
    let mut peer = Peer::ready(NEW);
    for text in ["a", "b", "c"] {
        let stream = peer.open();
        peer.write(stream, text);
    }
    peer.drain();
    assert_eq!(peer.lines(), ["2 Output [SYN 3][PSH 3 a][SYN 5][PSH 5 b][SYN 7][PSH 7 c]"]);
}

#[test]
fn a_lone_byte_leaves_at_once_in_a_message_of_its_own() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.drain();
    peer.lines();
    for number in 3..20 {
        peer.write(stream, b"x");
        peer.drain();
        assert_eq!(peer.lines(), [format!("{number} Output [PSH 3 x]")], "nothing waits for an acknowledgement");
    }
}

#[test]
fn messages_carry_whole_frames_of_at_most_the_largest_payload() {
    for max_payload in [64, 65, 1024, 32 << 10] {
        let mut peer = Peer::with(|config| config.max_payload = max_payload);
        peer.shake_hands(NEW, r#"{"type":"LocalPortForwarding"}"#);
        let data: Vec<u8> = (0..limits::STREAM_UNSENT).map(|at| (at % 251) as u8).collect();
        for _ in 0..2 {
            let stream = peer.open();
            peer.write(stream, &data);
            peer.finish(stream);
        }
        peer.acknowledge_all();
        let (mut received, mut ended) = ([Vec::new(), Vec::new()], [false; 2]);
        for payload in peer.payloads() {
            assert!(payload.len() <= max_payload);
            let mut at = 0;
            for (command, stream, len) in frames(&payload) {
                at += HEADER_LEN;
                assert!(len <= limits::QUANTUM);
                assert!(!ended[usize::from(stream == 5)], "at {max_payload}: the end is the last thing said");
                ended[usize::from(stream == 5)] = command == Command::Fin;
                if command == Command::Psh {
                    received[usize::from(stream == 5)].extend_from_slice(&payload[at..at + len]);
                }
                at += len;
            }
        }
        assert!(received.iter().all(|bytes| *bytes == data) && ended == [true; 2], "at {max_payload}");
    }
}

#[test]
fn a_bulk_stream_does_not_keep_the_others_waiting() {
    let mut peer = Peer::ready(NEW);
    let bulk = peer.open();
    peer.write(bulk, vec![0; limits::STREAM_UNSENT]);
    let small = peer.open();
    peer.write(small, b"!");
    peer.drain();
    let messages: Vec<_> = peer.payloads().iter().map(|payload| frames(payload)).collect();
    assert!(messages[0].iter().all(|(_, stream, _)| *stream == bulk.0), "{:?}", messages[0]);
    assert!(messages[1].contains(&(Command::Psh, small.0, 1)), "its byte is in the next message: {:?}", messages[1]);
}

#[test]
fn streams_with_much_to_send_share_evenly() {
    let mut peer = Peer::ready(NEW);
    let streams: Vec<_> = (0..4).map(|_| peer.open()).collect();
    for stream in &streams {
        peer.write(*stream, vec![0; limits::STREAM_UNSENT]);
    }
    peer.drain();
    let mut sent = std::collections::BTreeMap::<u32, usize>::new();
    for payload in peer.payloads().iter().take(100) {
        for (_, stream, len) in frames(payload) {
            *sent.entry(stream).or_default() += len;
        }
    }
    let (least, most) = (sent.values().min().expect("sent"), sent.values().max().expect("sent"));
    assert!(sent.len() == 4 && most - least <= 2 * limits::QUANTUM, "{sent:?}");
}

#[test]
fn the_window_closes_at_1024_messages_and_opens_with_acknowledgements() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    let mut accepted = 0;
    // The window of the path grows with what is acknowledged, until it is no bound any more.
    let mut first = 2;
    loop {
        let count = peer.session.write(stream, &[7; 4096]).expect("open");
        peer.drain();
        let occupancy = peer.session.occupancy();
        if count == 0 && occupancy.unacked_messages == 1024 {
            break;
        }
        if count == 0 {
            assert!(occupancy.window < 1024 * 1144, "{occupancy:?}");
            peer.acknowledge(first);
            first += 1;
        }
        accepted += count;
    }
    assert_eq!(peer.session.occupancy().largest_unsent, limits::STREAM_UNSENT);
    let carried: usize = peer.payloads().iter().flat_map(|payload| frames(payload)).map(|(.., len)| len).sum();
    assert_eq!(carried + limits::STREAM_UNSENT, accepted);
    peer.events();

    // Each acknowledgement, whichever it is, lets one more message out.
    peer.lines();
    peer.acknowledge(first + 500);
    assert_eq!(peer.lines(), [format!("{} Output [PSH 3 1016 bytes]", first + 1024)]);
    assert!(peer.events().is_empty(), "half of the stream's buffer has to be free before its writer is told");
    for number in first..first + 32 {
        peer.acknowledge(number);
    }
    assert_eq!(peer.events(), [Event::Writable(stream)], "told once");
    assert!(peer.session.write(stream, &[7; 4096]).expect("open") > 0);
}

#[test]
fn a_stream_closed_before_its_turn_still_opens_and_ends() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.write(stream, b"never mind");
    peer.release(stream);
    assert_eq!(peer.lines(), ["2 Output [SYN 3][FIN 3]"], "unsent data is thrown away");
    let stream = peer.open();
    peer.write(stream, b"last words");
    peer.session.finish(stream);
    peer.release(stream);
    assert_eq!(peer.lines(), ["3 Output [SYN 5][PSH 5 last words][FIN 5]"], "unless it was finished before");
    assert_eq!(peer.session.occupancy().streams, 0);
}

#[test]
fn the_agents_end_discards_what_it_would_throw_away() {
    let mut peer = Peer::ready(NEW);
    peer.writable = false;
    let stream = peer.open();
    peer.write(stream, vec![0; limits::STREAM_UNSENT]);
    assert_eq!(peer.session.write(stream, b"x"), Ok(0));
    peer.output(fin(stream));
    assert_eq!(peer.events(), [Event::Writable(stream)], "its writer must not wait for ever");
    assert_eq!(peer.session.write(stream, b"x"), Err(StreamError::PeerFinished));
    assert_eq!(peer.session.occupancy().largest_unsent, 0);
    peer.release(stream);
    peer.writable = true;
    peer.drain();
    assert_eq!(peer.data_lines(), ["2 Output [SYN 3][FIN 3]"]);
}

// --- what is held -------------------------------------------------------------------------------------------

#[test]
fn only_so_many_streams_are_open_at_a_time() {
    let mut peer = Peer::ready(NEW);
    for _ in 0..limits::OPEN_STREAMS {
        peer.session.open_stream().expect("within the limit");
    }
    assert_eq!(peer.session.open_stream(), Err(OpenError::TooMany));
    peer.release(StreamId(101));
    assert_eq!(peer.session.open_stream(), Ok(StreamId(3 + 2 * limits::OPEN_STREAMS as u32)));
}

/// While nothing can be sent, closed streams wait for their FIN to go out: those are bounded too.
#[test]
fn streams_that_come_and_go_while_nothing_can_be_sent_are_bounded() {
    let mut peer = Peer::ready(NEW);
    peer.writable = false;
    let mut opened = 0;
    while let Ok(stream) = peer.session.open_stream() {
        opened += 1;
        assert!(opened <= limits::OPEN_STREAMS + limits::TOMBSTONES, "no bound");
        peer.session.release(stream);
    }
    assert_eq!(peer.session.open_stream(), Err(OpenError::TooMany));
    peer.writable = true;
    peer.drain();
    peer.acknowledge_all();
    assert!(peer.session.open_stream().is_ok(), "room again once they are gone");
}

#[test]
fn closed_streams_are_remembered_until_the_agent_ends_them() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.release(stream);
    peer.events();
    peer.output(psh(stream, vec![0; 60_000]));
    assert_eq!(peer.session.occupancy().largest_unread, 0, "nobody reads it");
    peer.refuse();
    peer.output(fin(stream));
    assert_eq!(peer.session.read(stream, &mut Vec::new()), Err(StreamError::Unknown));
    assert!(peer.events().is_empty(), "it had received something: it was not refused");
}

// --- refusals -----------------------------------------------------------------------------------------------

/// Runs steps on three open streams and returns how each ended. Steps: `!` refusal, `d3` data, `f3` FIN, `r3` release.
fn endings(steps: &str) -> Vec<&'static str> {
    let mut peer = Peer::ready(NEW);
    let streams: Vec<_> = (0..3).map(|_| peer.open()).collect();
    peer.drain();
    for step in steps.split(' ') {
        let stream = || StreamId(step[1..].parse().expect("a number"));
        match &step[..1] {
            "!" => peer.refuse(),
            "d" => peer.output(psh(stream(), b"x")),
            "f" => peer.output(fin(stream())),
            "r" => peer.release(stream()),
            other => panic!("{other}"),
        }
    }
    let events = peer.events();
    let ending = |stream: &StreamId| {
        let told = events.contains(&Event::DestinationRefused(*stream));
        match peer.read(*stream).1 {
            Ok(Read::End) => "end",
            Ok(_) => "open",
            Err(StreamError::Refused) if told => "refused",
            Err(StreamError::Unknown) if told => "refused, released",
            Err(StreamError::Unknown) => "released",
            Err(error) => panic!("{error}"),
        }
    };
    streams.iter().map(ending).collect()
}

#[test]
fn a_refusal_finds_its_stream() {
    for (steps, expected) in [
        ("! f3", ["refused", "open", "open"]),
        ("! f5", ["open", "refused", "open"]),
        // A stream that has received something was dialled.
        ("d3 ! f3 f5", ["end", "refused", "open"]),
        // The agent dials one after another: what was opened before a stream that has received was dialled too.
        ("d5 ! f3 f7", ["end", "open", "refused"]),
        ("! d7 f3 f5", ["end", "end", "open"]),
        ("! ! f3 f5 f7", ["refused", "refused", "end"]),
        ("! ! ! f7 f3 f5", ["refused", "refused", "refused"]),
        // The flag goes past the agent's pump: it may come before data that was sent earlier, never after its FIN.
        ("f3 ! f5", ["end", "refused", "open"]),
        // Released here, refused there.
        ("r3 ! f3 f5", ["refused, released", "end", "open"]),
        ("r3 f3 ! f5", ["released", "refused", "open"]),
        // More refusals than streams.
        ("! ! ! ! ! f3 f5 f7", ["refused", "refused", "refused"]),
    ] {
        assert_eq!(endings(steps), expected, "{steps}");
    }
}

#[test]
fn a_refusal_does_not_touch_later_streams() {
    let mut peer = Peer::ready(NEW);
    let refused = peer.open();
    peer.drain();
    for _ in 0..5 {
        peer.refuse();
    }
    peer.output(fin(refused));
    assert_eq!(peer.read(refused).1, Err(StreamError::Refused));
    peer.release(refused);
    let later = peer.open();
    peer.drain();
    peer.output(fin(later));
    assert_eq!(peer.read(later).1, Ok(Read::End));
}

// --- no answer ----------------------------------------------------------------------------------------------

const NOBODY: [usize; 0] = [];

/// A session with this many streams whose SYNs are acknowledged. Forgets what was said.
fn opened(streams: usize) -> (Peer, Vec<StreamId>) {
    let mut peer = Peer::ready(NEW);
    let streams = (0..streams).map(|_| peer.open()).collect();
    settle(&mut peer);
    (peer, streams)
}

/// Everything is acknowledged: the agent is well, whatever its destination does.
fn settle(peer: &mut Peer) {
    peer.drain();
    peer.acknowledge_all();
    peer.events();
}

fn unanswered(peer: &mut Peer) -> Vec<usize> {
    let of_kind = |event| if let Event::Unanswered(count) = event { Some(count) } else { None };
    peer.events().into_iter().filter_map(of_kind).collect()
}

/// What passes in a run of seconds, with the acknowledgements of an agent that is well.
fn seconds(peer: &mut Peer, seconds: u64) -> Vec<usize> {
    for _ in 0..seconds {
        peer.pass(ms(1000));
        peer.acknowledge_all();
    }
    unanswered(peer)
}

#[test]
fn connections_without_a_first_byte_are_reported_after_ten_seconds_and_once() {
    let (mut peer, streams) = opened(3);
    peer.pass(limits::UNANSWERED - ms(1));
    assert_eq!(unanswered(&mut peer), NOBODY, "not before its time");
    peer.pass(ms(1));
    assert_eq!(unanswered(&mut peer), [3]);
    peer.open();
    settle(&mut peer);
    assert_eq!(seconds(&mut peer, 300), NOBODY, "they go on waiting: the same episode");
    assert_eq!(peer.deadline, Some(peer.now + ms(10_000)), "and nothing but the next ping is waited for");
    // The first dial has failed at last; the second begins, and does not succeed either.
    peer.refuse();
    peer.output(fin(streams[0]));
    unanswered(&mut peer);
    peer.pass(limits::UNANSWERED - ms(1));
    assert_eq!(unanswered(&mut peer), NOBODY, "the wait of the second has just begun");
    peer.pass(ms(1));
    assert_eq!(unanswered(&mut peer), [3], "another episode");
}

#[test]
fn an_answer_to_any_later_connection_clears_the_earlier_ones() {
    for answer in [|id| psh(id, b"x"), fin] {
        let (mut peer, streams) = opened(5);
        peer.write(streams[0], b"slow question");
        settle(&mut peer);
        peer.output(answer(streams[3]));
        assert_eq!(seconds(&mut peer, 60), [1], "only the last one was not dialled for sure");
    }
}

/// While the agent works through its queue nobody is stuck, however long the last one has waited.
#[test]
fn a_queue_that_moves_is_not_reported() {
    let (mut peer, streams) = opened(20);
    for stream in &streams {
        assert_eq!(seconds(&mut peer, 9), NOBODY);
        peer.output(psh(*stream, b"x"));
    }
    assert_eq!(seconds(&mut peer, 60), NOBODY);
}

/// A browser opens connections ahead of their use. Where destinations wait to be spoken to, such a connection is idle
/// and nothing is wrong; its wait begins with its first question.
#[test]
fn idle_connections_to_a_destination_that_speaks_second_are_not_reported() {
    let (mut peer, streams) = opened(3);
    peer.write(streams[0], b"GET /");
    settle(&mut peer);
    peer.output(psh(streams[0], b"200"));
    assert_eq!(seconds(&mut peer, 600), NOBODY);
    peer.write(streams[2], b"GET /");
    settle(&mut peer);
    assert_eq!(seconds(&mut peer, 9), NOBODY);
    assert_eq!(seconds(&mut peer, 2), [1], "the one that asked");
}

#[test]
fn silent_connections_to_a_destination_that_greets_are_reported() {
    let (mut peer, streams) = opened(3);
    peer.output(psh(streams[0], b"220 ready"));
    peer.write(streams[0], b"EHLO");
    settle(&mut peer);
    assert_eq!(seconds(&mut peer, 60), [2]);
}

/// A probe opens and ends a connection without a word.
#[test]
fn a_connection_that_was_ended_here_waits_for_the_agents_end() {
    let (mut peer, streams) = opened(2);
    peer.output(psh(streams[0], b"x"));
    peer.finish(streams[1]);
    settle(&mut peer);
    assert_eq!(seconds(&mut peer, 60), [1]);
    peer.output(fin(streams[1]));
    assert_eq!(seconds(&mut peer, 60), NOBODY);
}

#[test]
fn connections_that_were_given_up_are_not_counted() {
    let (mut peer, streams) = opened(3);
    peer.release(streams[0]);
    peer.release(streams[1]);
    assert_eq!(seconds(&mut peer, 60), [1]);
    // The episode ends with the last one that waits.
    peer.release(streams[2]);
    assert_eq!(seconds(&mut peer, 60), NOBODY);
    peer.open();
    settle(&mut peer);
    assert_eq!(seconds(&mut peer, 60), [1]);
}

/// Without a websocket, or with an agent that acknowledges nothing, no answer can come: that is told in other words.
#[test]
fn what_cannot_be_answered_is_not_reported() {
    let (mut peer, _) = opened(1);
    peer.input(ssmfwd::proto::Input::Disconnected);
    peer.pass(ms(60_000));
    assert_eq!(unanswered(&mut peer), NOBODY);
    peer.connect();
    assert_eq!(seconds(&mut peer, 9), NOBODY, "the wait starts anew");
    assert_eq!(seconds(&mut peer, 2), [1]);

    let (mut peer, _) = opened(0);
    peer.open();
    peer.drain();
    peer.pass(ms(60_000));
    assert_eq!(peer.events(), [Event::Stalled(true)]);
    peer.acknowledge_all();
    assert_eq!(seconds(&mut peer, 9), NOBODY);
    assert_eq!(seconds(&mut peer, 2), [1]);

    let (mut peer, _) = opened(1);
    peer.publication(ssmfwd::wire::MessageKind::PausePublication);
    peer.pass(limits::PAUSE - ms(1));
    assert_eq!(unanswered(&mut peer), NOBODY);
}

/// The stream that went first had nothing left to say, and the others were taken to have nothing either: they waited
/// for the next ping.
#[test]
fn a_stream_that_ended_before_its_turn_does_not_keep_the_others_waiting() {
    let mut peer = Peer::ready(NEW);
    let (bulk, small) = (peer.open(), peer.open());
    peer.write(small, b"hi");
    peer.drain();
    peer.write(bulk, vec![0; limits::STREAM_UNSENT]);
    peer.drain();
    assert!(peer.session.occupancy().largest_unsent > 0, "the window is full");
    peer.writable = false;
    peer.write(small, b"more");
    peer.acknowledge_all();
    peer.output(fin(small));
    peer.lines();
    peer.writable = true;
    peer.drain();
    assert!(!peer.data_lines().is_empty());
}
