//! Local readers that fall behind: what is kept for them, when reading stops, who is reset and who never.

use ssmfwd::{
    proto::{Event, Read, StreamError, StreamId, limits},
    wire::PayloadKind,
};

use crate::peer::{BASIC, NEW, Peer, fin, ms, psh};

const CHUNK: usize = 60_000;
/// Read so much, and a stopped session reads again.
const ROOM: usize = limits::STREAM_UNREAD + CHUNK;

/// The agent sends to a stream until the websocket is not read any more. Returns how much.
fn fill(peer: &mut Peer, stream: StreamId) -> usize {
    let mut sent = 0;
    while peer.session.wants_messages() {
        assert!(sent < 64 << 20, "no bound");
        peer.output(psh(stream, vec![b'x'; CHUNK]));
        sent += CHUNK;
    }
    sent
}

#[test]
fn reading_stops_when_one_stream_and_the_parked_budget_are_full_and_goes_on_when_there_is_room() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.drain();
    let sent = fill(&mut peer, stream);
    let bound = limits::STREAM_UNREAD + limits::PARKED_BYTES;
    assert!((bound..bound + CHUNK).contains(&sent), "stopped after {sent}");
    assert_eq!(peer.events(), [Event::Backpressure(true)]);

    // A little room is not enough: reading would stop again at once.
    let mut buffer = vec![0; ROOM];
    assert_eq!(peer.session.read(stream, &mut &mut buffer[..CHUNK]), Ok(Read::Data(CHUNK)));
    peer.drain();
    assert!(!peer.session.wants_messages());
    assert_eq!(peer.session.read(stream, &mut &mut buffer[..]), Ok(Read::Data(ROOM)));
    peer.drain();
    assert!(peer.session.wants_messages());
    assert_eq!(peer.events(), [Event::Backpressure(false)]);
    let (rest, end) = peer.read(stream);
    assert_eq!((rest.len(), end), (sent - ROOM - CHUNK, Ok(Read::Pending)));
    assert_eq!(peer.session.occupancy().parked_bytes, 0);
}

#[test]
fn up_to_a_mebibyte_per_stream_parks_nothing() {
    let mut peer = Peer::ready(NEW);
    let streams: Vec<_> = (0..20).map(|_| peer.open()).collect();
    for stream in &streams {
        for _ in 0..limits::STREAM_UNREAD / CHUNK {
            peer.output(psh(*stream, vec![b'x'; CHUNK]));
        }
    }
    assert_eq!(peer.session.occupancy().parked_bytes, 0);
    assert!(peer.session.wants_messages() && peer.events().is_empty());
}

#[test]
fn a_slow_reader_alone_may_wait_for_ever() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.drain();
    let sent = fill(&mut peer, stream);
    peer.events();
    peer.pass(100 * limits::SLOW_READER);
    assert!(peer.events().is_empty(), "nothing happens to it, and silence of our own making does not count");
    assert_eq!(peer.read(stream).0.len(), sent);
}

#[test]
fn a_slow_reader_that_holds_up_another_stream_is_reset_after_30_s() {
    let mut peer = Peer::ready(NEW);
    let (slow, other) = (peer.open(), peer.open());
    peer.drain();
    fill(&mut peer, slow);
    peer.events();
    peer.lines();
    peer.pass(limits::SLOW_READER - ms(1));
    assert!(peer.events().is_empty());
    peer.pass(ms(1));
    let events = peer.events();
    assert_eq!(events, [Event::Readable(slow), Event::SlowReader(slow), Event::Backpressure(false)]);
    assert_eq!(peer.data_lines(), [format!("3 Output [FIN {slow}]")], "the agent is told");
    assert_eq!(peer.read(slow), (vec![], Err(StreamError::SlowReader)));
    assert_eq!(peer.session.write(slow, b"x"), Err(StreamError::SlowReader));
    peer.output(psh(other, b"at last"));
    assert_eq!(peer.read(other).0, b"at last");
    peer.output([psh(slow, b"late"), fin(slow)].concat());
    assert_eq!(peer.read(slow), (vec![], Err(StreamError::SlowReader)), "what still comes is thrown away");
}

/// The time counts from when somebody waits: an open stream that comes later starts it.
#[test]
fn a_stream_opened_while_nothing_is_read_counts_as_held_up() {
    let mut peer = Peer::ready(NEW);
    let slow = peer.open();
    peer.drain();
    fill(&mut peer, slow);
    peer.pass(10 * limits::SLOW_READER);
    peer.events();
    peer.open();
    peer.drain();
    peer.pass(limits::SLOW_READER - ms(1));
    assert!(peer.events().is_empty());
    peer.pass(ms(1));
    assert!(peer.events().contains(&Event::SlowReader(slow)));
}

/// A download that is complete can hold up the others as well as one that goes on.
#[test]
fn a_slow_reader_whose_stream_the_agent_has_ended_is_reset_too() {
    let mut peer = Peer::ready(NEW);
    let (slow, other) = (peer.open(), peer.open());
    peer.drain();
    for _ in 0..(limits::STREAM_UNREAD + limits::PARKED_BYTES) / CHUNK {
        peer.output(psh(slow, vec![b'x'; CHUNK]));
    }
    assert!(peer.session.wants_messages());
    peer.output([psh(slow, vec![b'x'; CHUNK]), fin(slow)].concat());
    assert!(!peer.session.wants_messages());
    peer.events();
    peer.pass(limits::SLOW_READER);
    assert!(peer.events().contains(&Event::SlowReader(slow)), "the other stream would wait for ever");
    assert!(peer.session.wants_messages());
    assert_eq!(peer.read(slow), (vec![], Err(StreamError::SlowReader)), "an incomplete stream must not look complete");
    peer.output(psh(other, b"at last"));
    assert_eq!(peer.read(other).0, b"at last");
}

#[test]
fn a_slow_reader_that_goes_away_frees_the_others_at_once() {
    let mut peer = Peer::ready(NEW);
    let (slow, _other) = (peer.open(), peer.open());
    peer.drain();
    fill(&mut peer, slow);
    peer.events();
    peer.release(slow);
    assert_eq!(peer.events(), [Event::Backpressure(false)]);
    assert!(peer.session.wants_messages());
    peer.pass(2 * limits::SLOW_READER);
    assert!(!peer.events().contains(&Event::SlowReader(slow)));
}

/// While acknowledgements are not read, their absence says nothing.
#[test]
fn nothing_is_sent_again_while_nothing_is_read() {
    let mut peer = Peer::ready(NEW);
    let (slow, other) = (peer.open(), peer.open());
    peer.drain();
    fill(&mut peer, slow);
    peer.write(other, b"x");
    peer.drain();
    peer.lines();
    peer.pass(limits::SLOW_READER - ms(100));
    assert!(peer.data_lines().is_empty());
    let mut buffer = vec![0; ROOM];
    peer.session.read(slow, &mut &mut buffer[..]).expect("open");
    peer.drain();
    assert!(peer.data_lines().is_empty(), "the acknowledgement may be the next thing to be read");
    peer.pass(ms(199));
    assert!(peer.data_lines().is_empty());
    peer.pass(ms(1));
    assert_eq!(peer.data_lines(), ["again 2 Output [SYN 3][SYN 5]"]);
}

#[test]
fn a_single_connection_stops_reading_too_and_is_never_reset() {
    let mut peer = Peer::ready(BASIC);
    let stream = peer.open();
    peer.drain();
    let mut sent = 0;
    while peer.session.wants_messages() {
        assert!(sent < 64 << 20, "no bound");
        peer.say(PayloadKind::Output, vec![b'x'; CHUNK]);
        sent += CHUNK;
    }
    peer.pass(100 * limits::SLOW_READER);
    assert_eq!(peer.read(stream).0.len(), sent);
    assert!(peer.session.wants_messages());
}

#[test]
fn data_that_nobody_has_claimed_yet_stops_reading_as_well() {
    let mut peer = Peer::ready(BASIC);
    let mut sent = 0;
    while peer.session.wants_messages() {
        assert!(sent < 64 << 20, "no bound");
        peer.say(PayloadKind::Output, vec![b'x'; CHUNK]);
        sent += CHUNK;
    }
    let stream = peer.open();
    assert_eq!(peer.read(stream).0.len(), sent, "it belongs to the first connection");
}

/// One session may not starve another: each has a floor.
#[test]
fn sessions_share_the_budget_of_their_process() {
    let budget = ssmfwd::proto::ProcessBudget::default();
    let mut peers: Vec<_> = (0..4)
        .map(|_| {
            let mut peer = Peer::with(|config| config.budget = budget.clone());
            peer.shake_hands(NEW, r#"{"type":"LocalPortForwarding"}"#);
            let stream = peer.open();
            peer.drain();
            (peer, stream)
        })
        .collect();
    for (peer, stream) in &mut peers {
        fill(peer, *stream);
    }
    let parked: Vec<_> = peers.iter().map(|(peer, _)| peer.session.occupancy().parked_bytes).collect();
    assert!(parked.iter().sum::<usize>() < limits::PARKED_BYTES_PROCESS + 5 * CHUNK, "{parked:?}");
    let last = parked[3];
    assert!((limits::PROCESS_BUDGET_FLOOR..limits::PROCESS_BUDGET_FLOOR + 2 * CHUNK).contains(&last), "{parked:?}");
    let (peer, stream) = &mut peers[3];
    assert_eq!(peer.read(*stream).1, Ok(Read::Pending));
    assert!(peer.session.wants_messages(), "its own reader is enough to go on");
}

/// Readers of many sessions that have stopped, each within its own bound, add up for the process and not for each session.
/// Sessions without such readers go on, and the others as soon as there is room, wherever it was made.
#[test]
fn what_nobody_reads_is_bounded_for_the_process() {
    const SESSIONS: usize = 6;
    let budget = ssmfwd::proto::ProcessBudget::default();
    let with = |streams: usize| {
        let mut peer = Peer::with(|config| config.budget = budget.clone());
        peer.shake_hands(NEW, r#"{"type":"LocalPortForwarding"}"#);
        let streams: Vec<_> = (0..streams).map(|_| peer.open()).collect();
        peer.drain();
        (peer, streams)
    };
    let (mut sum, mut hogs) = (0, Vec::new());
    for _ in 0..SESSIONS {
        let (mut peer, streams) = with(40);
        for stream in streams.iter().cycle() {
            if !peer.session.wants_messages() {
                break;
            }
            peer.output(psh(*stream, vec![b'x'; CHUNK]));
            sum += CHUNK;
        }
        hogs.push((peer, streams));
    }
    let all = limits::UNREAD_PROCESS + limits::PARKED_BYTES_PROCESS;
    assert!(sum < all + SESSIONS * (limits::UNREAD_FLOOR + 2 * CHUNK), "{sum} bytes are held");

    let (mut modest, streams) = with(1);
    for _ in 0..100 {
        modest.output(psh(streams[0], vec![b'y'; CHUNK]));
        assert!(modest.session.wants_messages());
        assert_eq!(modest.read(streams[0]).0.len(), CHUNK);
    }

    let (mut last, held) = hogs.pop().expect("a session");
    assert!(!last.session.wants_messages());
    for (peer, streams) in &mut hogs {
        // Without a word to its session: nobody may have a reason to say one.
        streams.iter().for_each(|stream| drop(peer.session.read(*stream, &mut Vec::new())));
    }
    last.pass(limits::RECHECK);
    assert!(last.session.wants_messages(), "{:?}", last.session.occupancy());
    held.iter().for_each(|stream| drop(last.read(*stream)));
}
