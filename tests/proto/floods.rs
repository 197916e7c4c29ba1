//! A peer that sends more than anybody should: whatever it is, memory and traffic stay within bounds, and what cannot be
//! read is the business of `malformed`.

use ssmfwd::{
    proto::{Cause, Event, Read, StreamError, StreamId, limits},
    wire::{MessageKind, PayloadKind, smux::FrameHeader},
};

use crate::{
    malformed::{closed, works},
    peer::{NEW, Peer, fin, ms, psh, request},
};

/// Every stream carries a copy of the reason, and people read it.
#[test]
fn texts_for_people_are_cut_to_a_size_for_people() {
    let endless = "\u{1F4A3}".repeat(200_000);
    let mut peer = Peer::ready(NEW);
    let streams: Vec<_> = (0..100).map(|_| peer.open()).collect();
    peer.channel_closed(&format!(r#"{{"Output":"{endless}"}}"#));
    let (reason, _) = closed(&mut peer).expect("closed");
    assert!(matches!(&reason.cause, Cause::ChannelClosed(text) if text.chars().count() == limits::TEXT));
    for stream in streams {
        assert_eq!(peer.read(stream).1, Err(StreamError::SessionEnded(reason.clone())));
    }

    let mut peer = Peer::connected();
    peer.say(PayloadKind::HandshakeRequest, request(NEW, r#"{"type":"LocalPortForwarding"}"#));
    peer.say(PayloadKind::HandshakeComplete, format!(r#"{{"CustomerMessage":"{endless}"}}"#));
    let events = peer.events();
    assert!(matches!(&events[..], [Event::CustomerMessage(text)] if text.chars().count() == limits::TEXT));
}

/// The handshake is done once: neither its bodies nor the administrator's words come again.
#[test]
fn handshakes_in_any_number_are_one_handshake() {
    let mut peer = Peer::connected();
    let greeting = r#"{"HandshakeTimeToComplete":1,"CustomerMessage":"welcome"}"#;
    for _ in 0..3000 {
        peer.say(PayloadKind::HandshakeRequest, request(NEW, r#"{"type":"LocalPortForwarding"}"#));
        peer.say(PayloadKind::HandshakeComplete, greeting);
        peer.say(PayloadKind::EncChallengeRequest, br#"{"Challenge":"AAECAwQFBgcICQoL"}"#);
    }
    assert_eq!(peer.events(), [Event::CustomerMessage("welcome".to_owned())]);
    assert_eq!(peer.data_lines(), ["open", "0 HandshakeResponse", "1 Output [NOP]"]);
    peer.acknowledge_all();
    works(&mut peer);
}

/// Many stopped readers, each within its own bound, add up: the session has a bound of its own.
#[test]
fn many_streams_whose_readers_have_stopped_are_bounded_together() {
    let mut peer = Peer::ready(NEW);
    let streams: Vec<_> = (0..1000).map(|_| peer.open()).collect();
    peer.drain();
    peer.acknowledge_all();
    let mut held = 0;
    for stream in streams.iter().cycle() {
        if !peer.session.wants_messages() {
            break;
        }
        assert!(held < 64 << 20, "no bound");
        peer.output(psh(*stream, vec![0; 60_000]));
        held += 60_000;
    }
    let bound = limits::UNREAD_PROCESS;
    assert!((bound..bound + 60_000).contains(&held), "{held} bytes are held");
    // Others wait: enough of the slow ones are given up at once, not one in each half minute.
    peer.pass(limits::SLOW_READER);
    let reset = peer.events().iter().filter(|event| matches!(event, Event::SlowReader(_))).count();
    assert!(peer.session.wants_messages() && (10..25).contains(&reset), "{reset} of {} streams", streams.len());
    for stream in &streams {
        peer.read(*stream).1.map_or_else(|error| assert_eq!(error, StreamError::SlowReader), drop);
    }
    assert_eq!(peer.session.occupancy().parked_bytes, 0);
}

/// One read of the websocket is no more work than its bytes, whatever they say.
#[test]
fn floods_of_frames_for_nobody_leave_nothing_behind() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.drain();
    peer.acknowledge_all();
    let frames = |frame: fn(StreamId) -> FrameHeader| -> Vec<u8> {
        (0..100_000).flat_map(|id| frame(StreamId(2 * id + 5)).encode()).collect()
    };
    for flood in [
        frames(FrameHeader::syn),
        frames(FrameHeader::fin),
        frames(|id| FrameHeader::psh(id, 0)),
        frames(|_| FrameHeader::nop()),
        // Half a header at the end of each message, and the other half at the beginning of the next.
        [&frames(FrameHeader::fin)[..], &FrameHeader::nop().encode()[..4]].concat(),
        [&FrameHeader::nop().encode()[4..], &frames(FrameHeader::syn)].concat(),
    ] {
        peer.lines();
        peer.output(&flood);
        assert_eq!(peer.lines(), [format!("ack {}", peer.next - 1)]);
    }
    assert!(peer.events().is_empty());
    assert_eq!((peer.session.occupancy().streams, peer.read(stream).1), (1, Ok(Read::Pending)));
}

/// Each flag can take one stream that is open; what is left of a flood does not reach those that come later.
#[test]
fn a_flood_of_refusals_takes_no_more_than_what_is_open() {
    let mut peer = Peer::ready(NEW);
    let streams: Vec<_> = (0..3).map(|_| peer.open()).collect();
    peer.drain();
    for _ in 0..20_000 {
        peer.refuse();
    }
    for stream in &streams {
        peer.output(fin(*stream));
        assert_eq!(peer.read(*stream).1, Err(StreamError::Refused));
        peer.release(*stream);
    }
    works(&mut peer);
}

/// What the gateway announces makes at most one event a message, and no message of ours.
#[test]
fn publications_at_line_rate_cost_no_traffic() {
    let mut peer = Peer::ready(NEW);
    let stream = peer.open();
    peer.drain();
    peer.lines();
    for _ in 0..20_000 {
        peer.publication(MessageKind::PausePublication);
        peer.publication(MessageKind::StartPublication);
    }
    assert_eq!(peer.events().len(), 40_000);
    assert!(peer.lines().is_empty(), "the head is not sent again for a start that says nothing new");
    peer.write(stream, b"x");
    peer.drain();
    assert_eq!(peer.data_lines(), ["3 Output [PSH 3 x]"]);
}

/// A gateway may claim again and again that the agent is back; the head goes out at its own pace all the same.
#[test]
fn starts_do_not_make_the_head_go_out_faster_than_its_timeout() {
    let mut peer = Peer::ready(NEW);
    peer.open();
    peer.drain();
    peer.lines();
    for _ in 0..10_000 {
        peer.publication(MessageKind::StartPublication);
        peer.pass(ms(1));
    }
    assert_eq!(peer.data_lines().len(), 50, "every 200 ms");
}
