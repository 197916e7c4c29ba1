//! One connection at a time, and one only.

use super::*;

/// A session with a client that is too old for streams.
fn basic() -> Rig {
    let mut rig = Rig::new(options(forwarding(), Behaviour::ideal()));
    assert_eq!(rig.shake_hands("1.1.50.0").last().map(String::as_str), Some("dial 1 localhost:9000"));
    rig
}

#[test]
fn data_is_refused_until_the_destination_is_there() {
    let mut rig = basic();
    assert_eq!(rig.send_as(1, PayloadKind::Output, b"early"), NOTHING);
    assert_eq!(rig.send_as(2, PayloadKind::Output, b" birds"), ["ack 2"]);
    assert_eq!(rig.dialled(1), NOTHING);
    assert_eq!(rig.send_as(1, PayloadKind::Output, b"early"), ["write 1 early"]);
    // Acknowledged once it is written; then what came early is written, acknowledged already.
    assert!(!rig.agent.wants_messages());
    assert_eq!(rig.written(1, 4), NOTHING);
    assert_eq!(rig.written(1, 1), ["ack 1", "write 1  birds"]);
    assert_eq!(rig.written(1, 6), NOTHING);
    assert_eq!((rig.agent.expected_sequence(), rig.agent.early()), (3, 0));
}

#[test]
fn two_connections_one_after_the_other_as_recorded() {
    let mut rig = basic();
    rig.dialled(1);
    // Capture a-basic-two-sequential-connections.
    assert_eq!(rig.data(b"hello\n"), ["write 1 hello\n"]);
    assert_eq!(rig.written(1, 6), ["ack 1"]);
    assert_eq!(rig.received(1, b"echo"), ["2 Output echo"]);
    assert_eq!(rig.flag(FlagKind::DisconnectToPort), ["close 1", "ack 2"]);
    assert_eq!(rig.received(1, b"late"), NOTHING);
    assert_eq!(rig.flag(FlagKind::DisconnectToPort), ["ack 3"]);
    // The next data dials again, and the reader waits for it.
    assert_eq!(rig.data(b"second"), ["dial 2 localhost:9000"]);
    assert!(!rig.agent.wants_messages());
    assert_eq!(rig.dialled(2), ["write 2 second"]);
    assert_eq!(rig.written(2, 6), ["ack 4"]);
}

#[test]
fn the_end_of_the_destination_is_not_told_and_the_next_data_dials() {
    let mut rig = Rig::new(options(forwarding(), Behaviour::realistic()));
    rig.shake_hands("1.1.50.0");
    rig.dialled(1);
    // Capture a4-basic-server-closes-first. The data before the end still comes.
    assert_eq!(rig.received(1, &[b'x'; 1025]).len(), 1);
    assert_eq!(rig.eof(1), NOTHING);
    assert!(!rig.agent.wants_data(ConnectionId(1)));
    assert_eq!(rig.wait(ms(2)), ["1: 3 Output x", "1: close 1"]);
    assert_eq!(rig.data(b"more"), ["dial 2 localhost:9000"]);
}

#[test]
fn a_write_that_fails_is_not_acknowledged_and_tried_on_a_new_connection() {
    let mut rig = basic();
    rig.dialled(1);
    assert_eq!(rig.data(b"data"), ["write 1 data"]);
    assert_eq!(rig.eof(1), ["close 1"]);
    assert!(rig.agent.wants_messages());
    assert_eq!(rig.agent.expected_sequence(), 1);
    assert_eq!(rig.send_as(1, PayloadKind::Output, b"data"), ["dial 2 localhost:9000"]);
    rig.dialled(2);
    assert_eq!(rig.written(2, 4), ["ack 1"]);
}

#[test]
fn an_early_message_whose_write_fails_stalls_the_session_for_good() {
    let mut rig = basic();
    rig.dialled(1);
    rig.send_as(2, PayloadKind::Output, b"two");
    rig.send_as(1, PayloadKind::Output, b"one");
    assert_eq!(rig.written(1, 3), ["ack 1", "write 1 two"]);
    rig.eof(1);
    // It was acknowledged: a client will not send it again.
    assert_eq!((rig.agent.expected_sequence(), rig.agent.early()), (2, 1));
    assert_eq!(rig.send_as(3, PayloadKind::Output, b"three"), ["ack 3"]);
    assert_eq!(rig.agent.expected_sequence(), 2);
}

#[test]
fn a_refused_destination_at_the_start_kills_the_worker_silently() {
    for properties in [forwarding(), ssh()] {
        let mut rig = Rig::new(options(properties, Behaviour::realistic()));
        rig.shake_hands("1.1.50.0");
        // Captures a3 and h2.
        assert_eq!(rig.refused(1), NOTHING);
        assert!(rig.agent.crashed() && !rig.agent.ended());
        assert_eq!(rig.data(b"x"), NOTHING);
        assert_eq!((rig.wait(ms(60_000)), rig.deadline), (vec![], None));
    }
    let mut behaviour = Behaviour::realistic();
    behaviour.crash_when_refused = false;
    let mut rig = Rig::open(ssh(), behaviour);
    let ended = "ended \"Unable to connect to specified port: connection refused\"";
    assert_eq!(rig.refused(1), ["state Terminating", ended]);
}

#[test]
fn a_refused_destination_later_ends_the_session() {
    let mut rig = basic();
    rig.dialled(1);
    rig.eof(1);
    rig.data(b"x");
    let ended = "ended \"Unable to connect to specified port: connection refused\"";
    assert_eq!(rig.refused(2), ["state Terminating", ended]);
}

#[test]
fn only_one_message_is_read_ahead_of_the_pump() {
    let mut rig = Rig::new(options(forwarding(), Behaviour::realistic()));
    rig.shake_hands("1.1.50.0");
    rig.dialled(1);
    assert!(rig.agent.wants_data(ConnectionId(1)));
    rig.received(1, &[0; 4096]);
    assert!(!rig.agent.wants_data(ConnectionId(1)));
    rig.wait(ms(4));
    assert!(rig.agent.wants_data(ConnectionId(1)));
    assert_eq!(rig.agent.next_sequence(), 6);
}

#[test]
fn a_raw_session_ends_with_its_destination_after_the_data() {
    let mut rig = Rig::open(ssh(), Behaviour::realistic());
    assert_eq!(rig.agent.mode(), Some(Mode::Raw));
    rig.dialled(1);
    assert_eq!(rig.data(b"SSH-2.0"), ["write 1 SSH-2.0"]);
    assert_eq!(rig.written(1, 7), ["ack 1"]);
    assert_eq!(rig.received(1, &[b'y'; 1030]).len(), 1);
    assert_eq!(rig.eof(1), NOTHING);
    assert_eq!(rig.wait(ms(2)), ["1: 3 Output yyyyyy", "1: close 1"]);
    rig.ack(2);
    assert_eq!(rig.ack(3), ["state Terminating", "ended \"\""]);
}

#[test]
fn a_raw_session_ends_when_the_client_disconnects() {
    let mut rig = Rig::open(ssh(), Behaviour::ideal());
    rig.dialled(1);
    assert_eq!(rig.flag(FlagKind::DisconnectToPort), ["close 1", "ack 1", "state Terminating", "ended \"\""]);
}
