//! Sequence numbers, acknowledgements, retransmission, pausing, reconnecting and ending.

use super::*;

/// Dialled stream 3 as connection 1, ready to echo.
fn echo(behaviour: Behaviour) -> Rig {
    let mut rig = Rig::open(forwarding(), behaviour);
    rig.frames(&[syn(3)]);
    rig.dialled(1);
    rig
}

#[test]
fn past_present_and_early_messages() {
    let mut rig = echo(Behaviour::ideal());
    let piece = |data: &[u8]| [&FrameHeader::psh(StreamId(3), 1).encode(), data].concat();
    assert_eq!(rig.agent.expected_sequence(), 2);
    // Past: acknowledged again, nothing else. Its content does not matter.
    assert_eq!(rig.send_as(1, PayloadKind::Output, &piece(b"!")), ["ack 1"]);
    assert_eq!(rig.send_as(-1, PayloadKind::Output, &piece(b"!")), ["ack -1"]);
    // Early: acknowledged and kept.
    assert_eq!(rig.send_as(4, PayloadKind::Output, &piece(b"c")), ["ack 4"]);
    assert_eq!(rig.send_as(3, PayloadKind::Output, &piece(b"b")), ["ack 3"]);
    assert_eq!(rig.send_as(3, PayloadKind::Output, &piece(b"b")), ["ack 3"]);
    assert_eq!((rig.agent.early(), rig.agent.expected_sequence()), (2, 2));
    // Present: processed, then acknowledged; then what was kept, without a second acknowledgement.
    assert_eq!(rig.send_as(2, PayloadKind::Output, &piece(b"a")), ["write 1 a", "ack 2", "write 1 b", "write 1 c"]);
    assert_eq!((rig.agent.early(), rig.agent.expected_sequence()), (0, 5));
}

#[test]
fn unknown_payloads_sizes_and_garbage_are_harmless() {
    let mut rig = echo(Behaviour::ideal());
    assert_eq!(rig.send(PayloadKind::Size, br#"{"cols":80,"rows":24}"#), ["ack 2"]);
    assert_eq!(rig.send(PayloadKind::Size, &[b' '; 32_768]), ["ack 3"]);
    assert_eq!(rig.send(PayloadKind::Unknown(99), b"?"), ["ack 4"]);
    assert_eq!(rig.send(PayloadKind::Flag, b"short"), ["ack 5"]);
    assert_eq!(rig.send(PayloadKind::Output, b""), ["ack 6"]);
    assert_eq!(rig.flag(FlagKind::Unknown(77)), ["ack 7"]);
    assert_eq!(rig.flag(FlagKind::DisconnectToPort), ["ack 8"]);
    assert_eq!(rig.send(PayloadKind::Output, &FrameHeader::nop().encode().repeat(8192)), ["ack 9"]);
    for garbage in [Bytes::new(), Bytes::from_static(&[0xff; 200]), Bytes::from_static(&[0; 120])] {
        assert_eq!(rig.input(AgentInput::Binary(garbage)), NOTHING);
    }
    assert_eq!(rig.gateway(MessageKind::Unknown("stream_teleport".into())), NOTHING);
    assert_eq!(rig.agent.open_streams(), 1);
}

#[test]
fn only_the_head_is_sent_again_unchanged_on_ticks_of_100_ms() {
    let mut rig = echo(Behaviour::ideal());
    // The handshake's two samples of 0 ms lead here: SRTT 76.5625, variation 40.625.
    assert_eq!(rig.agent.rto(), Duration::from_secs_f64(0.239_062_5));
    let sent = rig.transmitted.len();
    rig.received(1, b"a");
    rig.received(1, b"b");
    assert_eq!(rig.agent.unacked(), 2);
    assert_eq!(rig.wait(ms(700)), ["300: 2 Output [PSH 3 a]", "600: 2 Output [PSH 3 a]"]);
    assert_eq!(rig.transmitted[sent], rig.transmitted[sent + 2], "identity and date stay");
    // Sampled from the last sending: 100 ms.
    assert_eq!(rig.ack(2), NOTHING);
    assert_eq!(rig.wait(ms(100)), ["800: 3 Output [PSH 3 b]"]);
    rig.ack(3);
    rig.ack(3);
    rig.ack(99);
    assert_eq!((rig.agent.unacked(), rig.deadline), (0, None));
}

#[test]
fn an_acknowledgement_within_the_store_delay_is_lost() {
    let mut behaviour = Behaviour::ideal();
    behaviour.store_delay = Duration::from_micros(200);
    let mut rig = Rig::new(options(forwarding(), behaviour));
    rig.input(AgentInput::Connected);
    rig.ack(0);
    assert_eq!(rig.agent.unacked(), 1);
    assert_eq!(rig.wait(ms(300)).len(), 1);
    rig.wait(ms(1));
    rig.ack(0);
    assert_eq!(rig.agent.unacked(), 0);
}

#[test]
fn pausing_stops_sources_and_resending_but_not_acknowledging() {
    let mut rig = echo(Behaviour::ideal());
    rig.received(1, b"a");
    assert_eq!(rig.gateway(MessageKind::PausePublication), NOTHING);
    assert!(rig.agent.paused() && !rig.agent.wants_data(ConnectionId(1)));
    assert_eq!(rig.received(1, b"b"), NOTHING);
    assert_eq!(rig.wait(ms(5000)), NOTHING);
    assert_eq!(rig.deadline, None);
    assert_eq!(rig.gateway(MessageKind::StartPublication), ["3 Output [PSH 3 b]"]);
    assert_eq!(rig.wait(ms(100)), ["5100: 2 Output [PSH 3 a]"]);

    // Stream data and acknowledgements of the client lift the pause as well.
    for lift in [true, false] {
        rig.gateway(MessageKind::PausePublication);
        let lines = if lift { rig.send_as(0, PayloadKind::Output, b"past") } else { rig.ack(77) };
        assert_eq!(lines, if lift { vec!["ack 0"] } else { vec![] });
        assert!(!rig.agent.paused() && rig.agent.wants_data(ConnectionId(1)));
    }
}

#[test]
fn publication_messages_without_a_date_are_ignored() {
    let mut rig = echo(Behaviour::ideal());
    let mut undated = message(MessageKind::PausePublication, 0, PayloadKind::Undefined, b"").to_vec();
    undated[40..48].fill(0);
    rig.input(AgentInput::Binary(undated.into()));
    assert!(!rig.agent.paused());
}

#[test]
fn what_a_paused_agent_must_say_waits_for_the_resend_timer() {
    let mut rig = Rig::open(forwarding(), Behaviour::ideal());
    rig.frames(&[syn(3)]);
    rig.gateway(MessageKind::PausePublication);
    assert_eq!(rig.refused(1), NOTHING);
    assert_eq!((rig.agent.unacked(), rig.agent.next_sequence()), (1, 3));
    assert_eq!(rig.gateway(MessageKind::StartPublication), ["3 Output [FIN 3]"]);
    assert_eq!(rig.wait(ms(300)), ["300: 2 ConnectToPortError"]);
}

#[test]
fn a_lost_websocket_keeps_counters_and_buffers() {
    let mut rig = echo(Behaviour::ideal());
    rig.received(1, b"a");
    assert_eq!(rig.input(AgentInput::Disconnected), NOTHING);
    assert_eq!(rig.received(1, b"b"), NOTHING);
    assert_eq!(rig.data(b"lost on the way"), NOTHING);
    assert_eq!(rig.wait(ms(1000)), NOTHING);
    // Nothing is said at once: no state, no handshake. The head comes with the next tick.
    assert_eq!(rig.input(AgentInput::Connected), NOTHING);
    assert_eq!(rig.wait(ms(100)), ["1100: 2 Output [PSH 3 a]"]);
    assert_eq!((rig.agent.expected_sequence(), rig.agent.next_sequence(), rig.agent.unacked()), (2, 4, 2));
    rig.ack(2);
    assert_eq!(rig.wait(ms(100)), ["1200: 3 Output [PSH 3 b]"]);
}

#[test]
fn terminate_is_acknowledged_and_ends_once_all_is_acknowledged() {
    let mut rig = echo(Behaviour::ideal());
    rig.received(1, b"a");
    assert_eq!(rig.flag(FlagKind::TerminateSession), ["ack 2", "close 1"]);
    assert_eq!((rig.agent.open_streams(), rig.agent.ended()), (0, false));
    // The streams are not told, and the client is still listened to.
    assert_eq!(rig.data(b"x"), ["ack 3"]);
    assert_eq!(rig.ack(2), ["state Terminating", "ended \"\""]);
    assert!(rig.agent.ended());
    assert_eq!(rig.data(b"x"), NOTHING);
    assert_eq!(rig.input(AgentInput::Connected), NOTHING);
}

#[test]
fn an_ending_session_waits_2_s_for_acknowledgements() {
    let mut rig = echo(Behaviour::ideal());
    rig.received(1, b"a");
    rig.flag(FlagKind::TerminateSession);
    let lines = rig.wait(ms(3000));
    assert_eq!(lines[lines.len() - 2..], ["2000: state Terminating", "2000: ended \"\""]);
    assert_eq!(lines[0], "300: 2 Output [PSH 3 a]");
}

#[test]
fn old_agents_do_not_know_terminate() {
    for (version, ends) in [("2.3.722.0", false), ("2.3.750.0", true)] {
        let mut rig = Rig::new(AgentOptions { version: version.to_owned(), ..options(ssh(), Behaviour::ideal()) });
        rig.shake_hands("1.2.764.0");
        rig.dialled(1);
        let lines = rig.flag(FlagKind::TerminateSession);
        assert_eq!(lines.iter().any(|line| line.starts_with("ended")), ends, "{version}: {lines:?}");
    }
}

#[test]
fn channel_closed_ends_the_session() {
    let mut rig = echo(Behaviour::ideal());
    assert_eq!(rig.gateway(MessageKind::ChannelClosed), ["close 1", "state Terminating", "ended \"\""]);
}

#[test]
fn an_ideal_agent_does_not_run_ahead_of_its_window() {
    let mut behaviour = Behaviour::ideal();
    behaviour.window = Some(3);
    let mut rig = echo(behaviour);
    assert_eq!(rig.received(1, &[0; 5000]).len(), 3);
    assert_eq!(rig.ack(2), ["5 Output (1024 bytes)"]);
    rig.input(AgentInput::Disconnected);
    assert_eq!((rig.ack(3), rig.agent.unacked()), (vec![], 3));
}
