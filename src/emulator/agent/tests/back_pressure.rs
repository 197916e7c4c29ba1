//! The chain from a destination that does not read to a websocket that is not read.

use super::*;

/// A small chain: 100 bytes of socket, 50 tokens.
fn small() -> Rig {
    let mut behaviour = Behaviour::ideal();
    (behaviour.local_socket, behaviour.receive_bucket) = (100, 50);
    let mut rig = Rig::open(forwarding(), behaviour);
    rig.frames(&[syn(3), syn(5)]);
    rig.dialled(1);
    rig.dialled(2);
    rig
}

#[test]
fn one_stalled_destination_stops_every_stream_then_the_reader() {
    let mut rig = small();
    // 60 bytes take the tokens below zero: the last frame that is read.
    assert_eq!(rig.frames(&[psh(3, &[b'a'; 60])]), [&format!("write 1 {}", "a".repeat(60)), "ack 2"]);
    // Another stream's frame stays in the socket: 12 of 100 bytes.
    assert_eq!(rig.frames(&[psh(5, b"held")]), ["ack 3"]);
    // Up to exactly full, the reader goes on acknowledging.
    assert_eq!(rig.frames(&[psh(5, &[b'b'; 80])]), ["ack 4"]);
    assert!(rig.agent.wants_messages());
    // One frame more does not fit: not acknowledged, and the reader is blocked.
    assert_eq!(rig.frames(&[fin(5)]), NOTHING);
    assert!(!rig.agent.wants_messages());
    assert_eq!(rig.agent.expected_sequence(), 5);
    assert_eq!(rig.wait(ms(60_000)), NOTHING);
    // What is delivered all the same waits.
    assert_eq!(rig.send(PayloadKind::Size, b"{}"), NOTHING);
    // Ten bytes bring the tokens back to zero; the eleventh is one token, which is one frame.
    assert_eq!(rig.written(1, 10), NOTHING);
    assert_eq!(rig.written(1, 1), ["write 2 held", "ack 5", "ack 6"]);
    assert!(rig.agent.wants_messages());
    assert_eq!(rig.written(2, 4), [format!("write 2 {}", "b".repeat(80))]);
    assert_eq!(rig.written(2, 80), ["close 2", "2 Output [FIN 5]"]);
}

#[test]
fn a_blocked_reader_does_not_stop_the_pump() {
    let mut behaviour = Behaviour::ideal();
    (behaviour.local_socket, behaviour.receive_bucket, behaviour.window) = (100, 50, Some(1));
    let mut rig = Rig::open(forwarding(), behaviour);
    rig.frames(&[syn(3)]);
    rig.dialled(1);
    assert_eq!(rig.received(1, b"one").len(), 1);
    assert_eq!(rig.received(1, b"two"), NOTHING);
    // From here on acknowledgements are not seen: nothing but the reader's own end could open the window again.
    rig.frames(&[psh(3, &[b'a'; 60])]);
    assert_eq!(rig.frames(&[psh(3, &[b'b'; 200])]).iter().filter(|line| line.contains("Output")).count(), 1);
    assert!(!rig.agent.wants_messages());
    assert_eq!(rig.received(1, b"three").len(), 1);
}

#[test]
fn a_stream_that_ends_gives_its_tokens_back() {
    let mut rig = small();
    rig.frames(&[psh(3, &[b'a'; 60])]);
    rig.frames(&[psh(5, b"held"), fin(3)]);
    assert_eq!(rig.eof(1), ["close 1", "write 2 held", "2 Output [FIN 3]"]);
}

#[test]
fn data_of_streams_that_are_over_costs_nothing() {
    let mut rig = small();
    rig.eof(1);
    for _ in 0..10 {
        rig.frames(&[psh(3, &[b'a'; 60])]);
    }
    assert_eq!(rig.frames(&[psh(5, b"flows")]).first().map(String::as_str), Some("write 2 flows"));
}

#[test]
fn the_shell_holds_no_more_than_a_window_and_a_frame() {
    let mut rig = Rig::open(forwarding(), Behaviour::ideal());
    rig.frames(&[syn(3)]);
    rig.dialled(1);
    let block = [0x80; 60_000];
    let open: Vec<_> =
        (0..4).flat_map(|_| rig.frames(&[psh(3, &block)])).filter(|line| line.contains("write")).collect();
    assert_eq!(open.len(), 2);
    assert_eq!(rig.written(1, 120_000).len(), 2);
}

#[test]
fn a_full_accept_backlog_stops_the_frames() {
    let mut behaviour = Behaviour::realistic();
    behaviour.accept_backlog = 2;
    let mut rig = Rig::open(forwarding(), behaviour);
    // One is being dialled, two wait, the fourth does not fit and holds up what is behind it.
    let syns = [syn(3), syn(5), syn(7), syn(9), fin(3), psh(3, b"behind")];
    assert_eq!(rig.frames(&syns), ["dial 1 localhost:9000", "ack 1"]);
    assert_eq!(rig.agent.open_streams(), 4);
    let dialled = rig.dialled(1);
    assert_eq!(dialled, ["dial 2 localhost:9000", "close 1", "2 Output [FIN 3]"].map(str::to_owned));
}

#[test]
fn a_blocked_reader_forgets_what_the_websocket_loses() {
    let mut rig = small();
    rig.frames(&[psh(3, &[b'a'; 60])]);
    assert_eq!(rig.frames(&[psh(5, &[b'b'; 200])]), NOTHING);
    assert_eq!(rig.send(PayloadKind::Size, b"{}"), NOTHING);
    rig.input(AgentInput::Disconnected);
    assert_eq!(rig.written(1, 60), [format!("write 2 {}", "b".repeat(200))]);
    rig.input(AgentInput::Connected);
    // The blocked message was processed, its acknowledgement is lost; the one behind it never was there.
    assert_eq!(rig.agent.expected_sequence(), 4);
    assert_eq!(rig.send_as(3, PayloadKind::Output, b"again"), ["ack 3"]);
    assert_eq!(rig.send_as(4, PayloadKind::Size, b"{}"), ["ack 4"]);
}

#[test]
fn channel_closed_is_heard_by_a_blocked_agent() {
    let mut rig = small();
    rig.frames(&[psh(3, &[b'a'; 60])]);
    rig.data(&[0; 200]);
    assert!(!rig.agent.wants_messages());
    let lines = rig.gateway(MessageKind::ChannelClosed);
    assert_eq!(lines, ["close 1", "close 2", "state Terminating", "ended \"\""]);
    assert!(rig.agent.wants_messages());
}

#[test]
fn messages_to_a_blocked_reader_are_bounded() {
    let mut rig = small();
    rig.frames(&[psh(3, &[b'a'; 60])]);
    rig.frames(&[psh(5, &[b'b'; 200])]);
    for _ in 0..100 {
        assert_eq!(rig.send(PayloadKind::Size, b"{}"), NOTHING);
    }
    // The blocked message and the 64 that were kept; the rest was lost.
    assert_eq!(rig.written(1, 60).iter().filter(|line| line.starts_with("ack")).count(), 65);
    assert_eq!(rig.agent.expected_sequence(), 3 + 65);
}

#[test]
fn destinations_are_read_while_the_pump_has_room() {
    let mut rig = Rig::open(forwarding(), Behaviour::realistic());
    rig.frames(&[syn(3)]);
    let id = ConnectionId(1);
    assert!(!rig.agent.wants_data(id), "not dialled");
    rig.dialled(1);
    let mut read = 0;
    while rig.agent.wants_data(id) {
        rig.received(1, &[0; 16_384]);
        read += 16_384;
    }
    assert!((212_992..212_992 + 20_000).contains(&read), "{read}");
    // At 1024 bytes in 1.33 ms this takes 0.28 s: what a byte behind it has to wait.
    let pumped = rig.wait(ms(300)).iter().filter(|line| !line.contains(": 2 Output")).count();
    assert!((205..=225).contains(&pumped), "{pumped}");
    assert!(rig.agent.wants_data(id));
    rig.eof(1);
    assert!(!rig.agent.wants_data(id) && !rig.agent.wants_data(ConnectionId(99)));
}
