//! The token bucket: what takes a token, what does not, and what pauses do to it.

use std::time::Duration;

use ssmfwd::{
    proto::{Input, Slowdown, StreamId, limits},
    wire::{MessageKind, PayloadKind},
};

use crate::peer::{BASIC, NEW, Peer, ms, psh};

const MUX: &str = r#"{"type":"LocalPortForwarding"}"#;

fn limited(rate: u32, slowdown: &Slowdown) -> (Peer, StreamId) {
    let mut peer = Peer::with(|config| {
        config.max_message_rate = rate;
        config.slowdown = slowdown.clone();
    });
    peer.shake_hands(NEW, MUX);
    let stream = peer.open();
    peer.drain();
    peer.acknowledge_all();
    peer.payloads();
    peer.lines();
    (peer, stream)
}

/// How many data messages go out in so long, of an upload that never ends over a way of no length.
fn messages(peer: &mut Peer, stream: StreamId, time: Duration) -> usize {
    let end = peer.now + time;
    let mut count = 0;
    while peer.now < end {
        peer.session.write(stream, &[7; 64 << 10]).expect("open");
        peer.drain();
        peer.acknowledge_all();
        count += peer.payloads().len();
        peer.pass(ms(1));
    }
    count
}

#[test]
fn the_rate_is_kept() {
    for rate in [10, 100, 900, 5000] {
        let (mut peer, stream) = limited(rate, &Slowdown::default());
        let burst = rate as usize * 30 / 1000 + 1;
        let count = messages(&mut peer, stream, ms(10_000));
        let expected = rate as usize * 10;
        assert!((expected - 1..=expected + burst).contains(&count), "{rate}: {count}");
    }
}

#[test]
fn a_deadline_says_when_the_next_token_comes() {
    let (mut peer, stream) = limited(10, &Slowdown::default());
    peer.pass(ms(1000));
    peer.write(stream, [7; 5000]);
    peer.drain();
    assert_eq!(peer.payloads().len(), 1, "a lone message goes at once, the next waits");
    assert_eq!(peer.deadline, Some(peer.now + ms(70)), "a tenth of a second less what the bucket holds");
    peer.pass(ms(70));
    assert_eq!(peer.payloads().len(), 1);
    peer.writable = false;
    peer.pass(ms(1000));
    assert!(peer.payloads().is_empty(), "nothing spins, and nothing is sent, while nothing can be written");
}

/// Each connection of many that come one after another costs one token, not two.
#[test]
fn with_few_tokens_left_an_end_shares_a_message_with_what_comes_next() {
    let (mut peer, bulk) = limited(900, &Slowdown::default());
    peer.pass(ms(1000));
    let first = peer.open();
    peer.write(first, b"first");
    peer.drain();
    peer.lines();
    peer.finish(first);
    peer.drain();
    assert_eq!(peer.data_lines().len(), 1, "with tokens to spare it goes at once");
    for _ in 0..18 {
        peer.write(bulk, b"x");
        peer.drain();
    }
    assert_eq!(peer.data_lines().len(), 18);

    let second = peer.open();
    peer.write(second, b"second");
    peer.drain();
    assert_eq!(peer.data_lines().len(), 1, "data takes what there is");
    peer.finish(second);
    peer.drain();
    assert_eq!(peer.data_lines(), [""; 0]);
    let third = peer.open();
    peer.write(third, b"third");
    peer.pass(ms(2));
    let lines = peer.data_lines();
    assert!(lines.len() == 1 && lines[0].contains("FIN 7") && lines[0].ends_with("third]"), "{lines:?}");
    peer.finish(third);
    peer.pass(ms(1));
    assert_eq!(peer.data_lines(), [""; 0]);
    peer.pass(ms(20));
    assert_eq!(peer.data_lines().len(), 1, "alone it waits until there are some again");
}

#[test]
fn a_pause_slows_all_that_share_it_and_the_rate_comes_back() {
    let slowdown = Slowdown::default();
    let (mut one, one_stream) = limited(1000, &slowdown);
    let (mut other, other_stream) = limited(1000, &slowdown);
    other.now = one.now;
    one.publication(MessageKind::PausePublication);
    one.publication(MessageKind::StartPublication);
    for (peer, stream) in [(&mut one, one_stream), (&mut other, other_stream)] {
        messages(peer, stream, ms(100));
        let count = messages(peer, stream, ms(2000));
        assert!((980..1020).contains(&count), "{count} of 2000 in two seconds");
        for _ in 0..300 {
            peer.pass(ms(1000));
            peer.acknowledge_all();
        }
        messages(peer, stream, ms(100));
        let count = messages(peer, stream, ms(2000));
        assert!((1980..2020).contains(&count), "{count}");
    }
    let (mut stranger, stream) = limited(1000, &Slowdown::default());
    let count = messages(&mut stranger, stream, ms(2000));
    assert!(count > 1980, "{count}");
}

/// Spends all tokens for the next ten seconds.
fn spent() -> (Peer, StreamId) {
    let (mut peer, stream) = limited(1, &Slowdown::default());
    peer.pass(ms(2000));
    peer.write(stream, [7; 20_000]);
    peer.drain();
    assert_eq!(peer.payloads().len(), 1);
    peer.lines();
    (peer, stream)
}

#[test]
fn acknowledgements_and_the_oldest_message_take_no_tokens() {
    let (mut peer, stream) = spent();
    peer.output(psh(stream, b"x"));
    assert_eq!(peer.lines(), ["ack 2"]);
    peer.pass(ms(200));
    let lines = peer.data_lines();
    assert!(lines.len() == 1 && lines[0].starts_with("again "), "{lines:?}");
    peer.session.end(peer.now);
    peer.drain();
    peer.pass(limits::DRAIN);
    assert!(peer.lines().iter().any(|line| line.ends_with("Flag TerminateSession")));
}

#[test]
fn the_flag_that_frees_a_basic_session_takes_none() {
    let mut peer = Peer::with(|config| config.max_message_rate = 1);
    peer.shake_hands(BASIC, MUX);
    let stream = peer.open();
    peer.write(stream, b"x");
    peer.finish(stream);
    assert_eq!(peer.lines(), ["2 Output x", "3 Flag DisconnectToPort"]);
}

#[test]
fn what_is_sent_again_behind_the_oldest_takes_tokens_and_comes_before_new_data() {
    let (mut peer, stream) = limited(100, &Slowdown::default());
    // Ten in flight.
    for _ in 0..10 {
        peer.write(stream, [7; 900]);
        peer.drain();
        peer.pass(ms(10));
    }
    assert_eq!(peer.payloads().len(), 10);
    peer.input(Input::Disconnected);
    peer.pass(ms(1));
    peer.write(stream, [7; 900]);
    peer.connect();
    peer.lines();
    let start = peer.now;
    peer.say(PayloadKind::Output, psh(stream, b"x"));
    let mut resent = Vec::new();
    for _ in 0..15 {
        resent.extend(peer.data_lines());
        peer.pass(ms(10));
        if resent.len() == 4 {
            assert!(peer.now - start <= ms(30), "the bucket was full");
        }
    }
    let (again, new): (Vec<_>, Vec<_>) = resent.iter().partition(|line| line.starts_with("again "));
    assert_eq!((again.len(), new.len()), (9, 1), "{resent:?}");
    assert!(resent.last().is_some_and(|line| line.starts_with("13 ")), "{resent:?}");
}
