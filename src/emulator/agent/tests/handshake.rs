//! From the open websocket to the chosen mode.

use super::*;

#[test]
fn opens_like_the_recorded_agent() {
    let mut rig = Rig::new(options(forwarding(), Behaviour::realistic()));
    rig.now += ms(5);
    assert_eq!(rig.input(AgentInput::Connected).len(), 2);
    let [state, request] = &rig.transmitted[..] else { panic!("two messages") };

    // Capture b-mux-two-interleaved, messages 8 and 9, without identity and digest.
    let recorded_state = br#"{"SchemaVersion":1,"SessionState":"Connected","SessionId":"lab-0effd47c3e7e46d79"}"#;
    assert_eq!(&state[..40], b"\0\0\0tagent_session_state             \0\0\0\x01");
    assert_eq!(&state[48..64], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    assert_eq!(&state[112..], [&[0, 0, 0, 0, 0, 0, 0, 0x52], &recorded_state[..]].concat());
    let recorded_request = concat!(
        r#"{"AgentVersion":"3.3.1142.0","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":"#,
        r#"{"SessionType":"Port","Properties":{"localPortNumber":"0","portNumber":"9000","#,
        r#""type":"LocalPortForwarding"}}}]}"#
    );
    assert_eq!(&request[..40], b"\0\0\0toutput_stream_data              \0\0\0\x01");
    assert_eq!(&request[48..64], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(&request[112..], [&[0, 0, 0, 5, 0, 0, 0, 0xd5], recorded_request.as_bytes()].concat());

    assert_eq!(rig.last().header.created_ms, 1_700_000_000_005);
    assert_eq!(rig.last().header.id.0.get_version_num(), 4);
}

#[test]
fn acknowledges_the_response_then_completes() {
    let mut rig = Rig::new(options(forwarding(), Behaviour::realistic()));
    rig.input(AgentInput::Connected);
    rig.ack(0);
    rig.now += Duration::from_micros(1500);
    let complete = r#"1 HandshakeComplete {"HandshakeTimeToComplete":1500000,"CustomerMessage":""}"#;
    assert_eq!(rig.respond("1.2.764.0", 1), ["ack 0", complete]);
    assert_eq!(rig.last().header.flags, Flags::NONE);
    assert_eq!((rig.agent.mode(), rig.agent.unacked()), (Some(Mode::Mux), 1));
    rig.ack(1);
    assert_eq!((rig.agent.unacked(), rig.deadline), (0, None));
}

#[test]
fn acknowledgement_looks_like_the_recorded_one() {
    let mut rig = Rig::new(options(forwarding(), Behaviour::realistic()));
    rig.input(AgentInput::Connected);
    rig.send(PayloadKind::Output, b"x");
    let ack = rig.last();
    assert_eq!(
        (ack.header.kind, ack.header.flags, ack.header.sequence, ack.header.payload_kind),
        (MessageKind::Acknowledge, Flags::SYN_FIN, SequenceNumber::ZERO, PayloadKind::Undefined)
    );
    let id = MessageId::from_random(0);
    let body = format!(
        "{{\"AcknowledgedMessageType\":\"input_stream_data\",\"AcknowledgedMessageId\":\"{id}\",\
         \"AcknowledgedMessageSequenceNumber\":0,\"IsSequentialMessage\":true}}"
    );
    assert_eq!((ack.payload.len(), &ack.payload[..]), (0xaf, body.as_bytes()));
}

#[test]
fn both_versions_and_the_type_choose_the_mode() {
    for (agent, client, properties, mode) in [
        ("3.3.1142.0", "1.2.764.0", forwarding(), Mode::Mux),
        ("3.0.222.0", "1.1.70", forwarding(), Mode::Mux),
        ("3.0.196.0", "1.2.764.0", forwarding(), Mode::Basic),
        ("3.3.1142.0", "1.1.69", forwarding(), Mode::Basic),
        ("3.3.1142.0", "", forwarding(), Mode::Basic),
        ("3.3.1142.0", "1.2.764.0", ssh(), Mode::Raw),
    ] {
        let mut rig = Rig::new(AgentOptions { version: agent.to_owned(), ..options(properties, Behaviour::ideal()) });
        rig.shake_hands(client);
        assert_eq!(rig.agent.mode(), Some(mode), "agent {agent}, client {client:?}");
    }
}

#[test]
fn waits_15_s_for_the_response() {
    let mut rig = Rig::new(options(forwarding(), Behaviour::realistic()));
    rig.input(AgentInput::Connected);
    rig.ack(0);
    assert_eq!(rig.wait(ms(14_999)), NOTHING);
    assert_eq!(rig.wait(ms(1)), ["15000: state Terminating", "15000: ended \"Handshake timed out.\""]);
    assert!(rig.agent.ended() && rig.deadline.is_none());
}

#[test]
fn a_failed_action_ends_the_session_and_a_damaged_response_does_not() {
    let mut rig = Rig::new(options(forwarding(), Behaviour::realistic()));
    rig.input(AgentInput::Connected);
    rig.ack(0);
    assert_eq!(rig.send_as(0, PayloadKind::HandshakeResponse, b"{"), NOTHING);
    assert_eq!(rig.agent.expected_sequence(), 0);
    let ended = "ended \"SessionType failed at the client: cannot\"";
    assert_eq!(rig.respond("1.2.764.0", 3), ["ack 0", "state Terminating", ended]);
    assert_eq!(rig.data(b"x"), NOTHING);
}

#[test]
fn data_before_the_response_is_acknowledged_and_thrown_away() {
    let mut rig = Rig::new(options(forwarding(), Behaviour::ideal()));
    rig.input(AgentInput::Connected);
    rig.ack(0);
    assert_eq!(rig.frames(&[syn(3), psh(3, b"lost")]), ["ack 0"]);
    assert_eq!(rig.respond("1.2.764.0", 1).len(), 2);
    assert_eq!((rig.agent.open_streams(), rig.agent.expected_sequence()), (0, 2));
}

#[test]
fn after_completion_early_data_is_first_swallowed_then_refused() {
    let mut behaviour = Behaviour::ideal();
    (behaviour.swallow_early, behaviour.refuse_early) = (1, 2);
    let mut rig = Rig::open(forwarding(), behaviour);
    assert_eq!(rig.frames(&[syn(3)]), ["ack 1"]);
    assert_eq!(rig.frames(&[syn(5)]), NOTHING);
    // Capture x-agent-not-ready-reject: the next one is early now, and acknowledged.
    assert_eq!(rig.frames(&[syn(7)]), ["ack 3"]);
    assert_eq!(rig.send_as(2, PayloadKind::Output, &FrameHeader::syn(StreamId(5)).encode()), NOTHING);
    let third = rig.send_as(2, PayloadKind::Output, &FrameHeader::syn(StreamId(5)).encode());
    assert_eq!(third, ["dial 1 localhost:9000", "ack 2", "dial 2 localhost:9000"]);
    assert_eq!((rig.agent.expected_sequence(), rig.agent.open_streams()), (4, 2));
}

#[test]
fn a_forbidden_remote_host_ends_the_session_after_the_handshake() {
    let properties = json!({"host": "169.254.169.254", "portNumber": "80", "type": "LocalPortForwarding"});
    let mut rig = Rig::new(options(properties.clone(), Behaviour::realistic()));
    let lines = rig.shake_hands("1.2.764.0");
    let ended = "ended \"Forwarding to IP address 169.254.169.254 is forbidden.\"";
    assert_eq!(lines[lines.len() - 2..], ["state Terminating", ended]);
    let mut behaviour = Behaviour::realistic();
    behaviour.deny_list = false;
    let mut rig = Rig::open(properties, behaviour);
    assert_eq!(rig.frames(&[syn(3)]), ["dial 1 169.254.169.254:80", "ack 1"]);
}

#[test]
fn properties_without_a_port_end_the_session() {
    let mut rig = Rig::new(options(json!({"type": "LocalPortForwarding"}), Behaviour::realistic()));
    let lines = rig.shake_hands("1.2.764.0");
    assert_eq!(lines.last().expect("an end"), "ended \"Port number \\\"\\\" in session properties is invalid.\"");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let transcript = |seed| {
        let mut rig = Rig::new(AgentOptions { seed, ..options(forwarding(), Behaviour::realistic()) });
        rig.shake_hands("1.2.764.0");
        rig.transmitted
    };
    assert_eq!(transcript(1), transcript(1));
    assert_ne!(transcript(1), transcript(2));
}
