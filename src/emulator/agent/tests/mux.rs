//! Streams.

use super::*;

#[test]
fn a_stream_is_dialled_echoes_and_closes() {
    let mut rig = Rig::open(forwarding(), Behaviour::realistic());
    assert_eq!(rig.frames(&[syn(3), psh(3, b"hello")]), ["dial 1 localhost:9000", "ack 1"]);
    // What came before the connection did is delivered to it.
    assert_eq!(rig.dialled(1), ["write 1 hello"]);
    assert_eq!(rig.written(1, 5), NOTHING);
    assert_eq!(rig.received(1, b"world"), ["2 Output [PSH 3 world]"]);
    rig.ack(2);
    rig.wait(ms(2));
    // The client's FIN closes the destination, both directions, and is answered.
    assert_eq!(rig.frames(&[psh(3, b"bye"), fin(3)]), ["write 1 bye", "ack 2"]);
    assert_eq!(rig.written(1, 3), ["close 1", "3 Output [FIN 3]"]);
    assert_eq!(rig.agent.open_streams(), 0);
    // What the destination still does is nobody's business.
    assert_eq!(rig.received(1, b"late"), NOTHING);
    assert_eq!(rig.eof(1), NOTHING);
    assert_eq!(rig.written(1, 9), NOTHING);
    rig.ack(3);
    assert_eq!(rig.wait(ms(1000)), NOTHING);
}

#[test]
fn two_streams_interleave_as_recorded() {
    let mut rig = Rig::open(forwarding(), Behaviour::ideal());
    let both = rig.frames(&[syn(3), syn(5), psh(3, b"one")]);
    assert_eq!(both, ["dial 1 localhost:9000", "dial 2 localhost:9000", "ack 1"]);
    assert_eq!(rig.dialled(2), NOTHING);
    assert_eq!(rig.dialled(1), ["write 1 one"]);
    assert_eq!(rig.frames(&[psh(5, b"two"), psh(3, b"three")]), ["write 2 two", "write 1 three", "ack 2"]);
    assert_eq!(rig.received(2, b"2"), ["2 Output [PSH 5 2]"]);
    assert_eq!(rig.received(1, b"1"), ["3 Output [PSH 3 1]"]);
}

#[test]
fn the_end_of_the_destination_discards_what_the_client_says_later() {
    let mut rig = Rig::open(forwarding(), Behaviour::realistic());
    rig.frames(&[syn(3)]);
    rig.dialled(1);
    assert_eq!(rig.received(1, b"bye"), ["2 Output [PSH 3 bye]"]);
    // The pump sleeps: the FIN comes after.
    assert_eq!(rig.eof(1), ["close 1"]);
    assert_eq!(rig.frames(&[psh(3, b"late"), fin(3)]), ["ack 2"]);
    assert_eq!(rig.wait(ms(2)), ["1: 3 Output [FIN 3]"]);
}

#[test]
fn a_refused_destination_is_flagged_past_the_pump_then_fin() {
    let mut rig = Rig::open(forwarding(), Behaviour::realistic());
    // Capture d-destination-refused.
    assert_eq!(rig.frames(&[syn(3), psh(3, b"x")]), ["dial 1 localhost:9000", "ack 1"]);
    assert_eq!(rig.refused(1), ["2 ConnectToPortError", "3 Output [FIN 3]"]);
    assert_eq!(rig.frames(&[fin(3)]), ["ack 2"]);
    // While the pump sleeps the flag overtakes queued data.
    rig.frames(&[syn(5), syn(7)]);
    rig.wait(ms(2));
    rig.dialled(2);
    assert_eq!(rig.received(2, b"a"), ["4 Output [PSH 5 a]"]);
    assert_eq!(rig.received(2, b"b"), NOTHING);
    assert_eq!(rig.refused(3), ["5 ConnectToPortError"]);
    assert_eq!(rig.wait(ms(2)), ["3: 6 Output [PSH 5 b][FIN 7]"]);
}

#[test]
fn a_probe_of_syn_and_fin_is_dialled_then_closed() {
    let mut rig = Rig::open(forwarding(), Behaviour::ideal());
    assert_eq!(rig.frames(&[syn(3), fin(3)]), ["dial 1 localhost:9000", "ack 1"]);
    assert_eq!(rig.dialled(1), ["close 1", "2 Output [FIN 3]"]);
    rig.frames(&[syn(5), fin(5)]);
    assert_eq!(rig.refused(2), ["3 ConnectToPortError", "4 Output [FIN 5]"]);
}

#[test]
fn frames_of_streams_that_do_not_exist_and_second_syns_are_ignored() {
    let mut rig = Rig::open(forwarding(), Behaviour::ideal());
    assert_eq!(rig.frames(&[psh(9, b"x"), fin(9), psh(3, b"")]), ["ack 1"]);
    assert_eq!(rig.frames(&[syn(3), syn(3), psh(3, b"")]), ["dial 1 localhost:9000", "ack 2"]);
    assert_eq!(rig.dialled(1), NOTHING);
    // An id may be used again once it is over.
    rig.eof(1);
    assert_eq!(rig.frames(&[syn(3)]), ["dial 2 localhost:9000", "ack 3"]);
}

#[test]
fn headers_and_data_may_be_split_anywhere() {
    let mut rig = Rig::open(forwarding(), Behaviour::ideal());
    let bytes = [
        &FrameHeader::syn(StreamId(3)).encode()[..],
        &FrameHeader::psh(StreamId(3), 5).encode(),
        b"hello",
        &FrameHeader::fin(StreamId(3)).encode(),
    ]
    .concat();
    let mut lines = Vec::new();
    for byte in &bytes {
        lines.extend(rig.data(&[*byte]));
    }
    assert_eq!(lines.iter().filter(|line| line.starts_with("ack")).count(), bytes.len());
    lines.retain(|line| !line.starts_with("ack"));
    assert_eq!(lines, ["dial 1 localhost:9000"]);
    assert_eq!(rig.dialled(1), ["write 1 hello"]);
    assert_eq!(rig.written(1, 2), NOTHING);
    assert_eq!(rig.written(1, 3), ["close 1", "2 Output [FIN 3]"]);
}

#[test]
fn the_pump_sends_1024_bytes_then_sleeps() {
    let mut rig = Rig::open(forwarding(), Behaviour::realistic());
    rig.frames(&[syn(3)]);
    rig.dialled(1);
    assert_eq!(rig.received(1, &[0xff; 3000]), ["2 Output (1024 bytes)"]);
    assert_eq!(rig.deadline, Some(rig.now + Duration::from_micros(1330)));
    assert_eq!(rig.wait(ms(3)), ["1: 3 Output (1024 bytes)", "2: 4 Output (960 bytes)"]);
    let payload: usize = rig.transmitted[rig.transmitted.len() - 3..].iter().map(|message| message.len() - 120).sum();
    assert_eq!(payload, HEADER_LEN + 3000);
}

#[test]
fn large_reads_become_frames_of_32_kib() {
    let mut behaviour = Behaviour::ideal();
    behaviour.chunk = 100_000;
    let mut rig = Rig::open(forwarding(), behaviour);
    rig.frames(&[syn(3)]);
    rig.dialled(1);
    let lines = rig.received(1, &[0xff; 40_000]);
    assert_eq!(lines, ["2 Output [PSH 3 (32768 bytes)][PSH 3 (7232 bytes)]"]);
}

#[test]
fn serial_dialling_holds_up_the_streams_behind() {
    let mut rig = Rig::open(forwarding(), Behaviour::realistic());
    assert_eq!(rig.frames(&[syn(3), syn(5), syn(7)]), ["dial 1 localhost:9000", "ack 1"]);
    assert_eq!(rig.frames(&[psh(5, b"waits"), fin(7)]), ["ack 2"]);
    assert_eq!(rig.wait(ms(60_000)), NOTHING);
    assert_eq!(rig.dialled(1), ["dial 2 localhost:9000"]);
    assert_eq!(rig.dialled(2), ["write 2 waits", "dial 3 localhost:9000"]);
    assert_eq!(rig.refused(3), ["2 ConnectToPortError", "3 Output [FIN 7]"]);
}

#[test]
fn another_smux_version_hangs_the_session() {
    let mut rig = Rig::open(forwarding(), Behaviour::ideal());
    rig.frames(&[syn(3)]);
    rig.dialled(1);
    assert_eq!(rig.data(&[2, 0, 0, 0, 5, 0, 0, 0]), ["ack 2"]);
    // Still acknowledged, as long as the local socket has room.
    assert_eq!(rig.frames(&[psh(3, b"unread")]), ["ack 3"]);
    assert_eq!(rig.received(1, b"still sent"), ["2 Output [PSH 3 still sent]"]);
    assert!(!rig.agent.ended());
    assert_eq!(rig.data(&[0; 212_992]), NOTHING);
    assert!(!rig.agent.wants_messages());
}

#[test]
fn old_clients_get_nops_and_are_cut_when_silent() {
    let mut rig = Rig::new(options(forwarding(), Behaviour::ideal()));
    rig.shake_hands("1.2.331.0");
    assert_eq!(rig.wait(ms(9999)), NOTHING);
    assert_eq!(rig.wait(ms(1)), ["10000: 2 Output [NOP]"]);
    rig.ack(2);
    // Any frame counts, and silence is noticed at the second check after it.
    rig.wait(ms(15_000));
    assert_eq!(rig.frames(&[(FrameHeader::nop(), b"")]), ["ack 1"]);
    for sequence in 3..7 {
        assert!(!rig.wait(ms(8700)).iter().any(|line| line.contains("ended")));
        rig.ack(sequence);
    }
    assert_eq!(rig.elapsed_ms(), 59_800);
    assert_eq!(rig.wait(ms(200)), ["60000: state Terminating", "60000: ended \"\""]);
}

#[test]
fn new_clients_may_be_silent_for_ever() {
    let mut rig = Rig::open(forwarding(), Behaviour::ideal());
    rig.frames(&[syn(3)]);
    rig.dialled(1);
    assert_eq!((rig.wait(ms(3_600_000)), rig.deadline), (vec![], None));
}
