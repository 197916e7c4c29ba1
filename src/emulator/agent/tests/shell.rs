//! A program in the place of destinations.

use super::*;

fn shell_options(session_type: SessionType, properties: Value, behaviour: Behaviour) -> AgentOptions {
    AgentOptions { session_type, ..options(properties, behaviour) }
}

/// A shell that has just been started: without a handshake, so that the client's first message is number 0.
fn shell(behaviour: Behaviour) -> Rig {
    let mut rig = Rig::new(shell_options(SessionType::StandardStream, Value::Null, behaviour));
    assert_eq!(rig.input(AgentInput::Connected), ["state Connected", "start 1 Pty shell"]);
    assert_eq!(rig.agent.mode(), Some(Mode::Shell));
    rig
}

fn started(rig: &mut Rig) -> Vec<String> {
    rig.input(AgentInput::Started(ConnectionId(1)))
}

/// A command without a pty, after its handshake.
fn command(properties: Value, behaviour: Behaviour) -> Rig {
    let mut rig = Rig::new(shell_options(SessionType::NonInteractiveCommands, properties, behaviour));
    let lines = rig.shake_hands("1.2.764.0");
    assert!(lines.last().is_some_and(|line| line.starts_with("start 1 ")), "{lines:?}");
    rig
}

#[test]
fn everything_is_refused_until_there_is_a_pty() {
    let mut rig = shell(Behaviour::realistic());
    assert_eq!(rig.send_as(0, PayloadKind::Size, br#"{"cols":80,"rows":24}"#), NOTHING);
    assert_eq!(rig.send_as(0, PayloadKind::Output, b"ls"), NOTHING);
    // What comes early is kept as always.
    assert_eq!(rig.send_as(1, PayloadKind::Output, b"ls"), ["ack 1"]);
    assert_eq!(started(&mut rig), NOTHING);
    let size = rig.send_as(0, PayloadKind::Size, br#"{"cols":80,"rows":24}"#);
    assert_eq!(size, ["resize 1 80x24", "ack 0", "write 1 ls"]);
    assert_eq!((rig.written(1, 2), rig.agent.expected_sequence()), (vec![], 2));
    assert_eq!(rig.send_as(2, PayloadKind::Size, b"80x24"), NOTHING);
}

#[test]
fn the_output_of_a_pty_is_left_alone_for_a_second_and_then_paced() {
    let mut rig = shell(Behaviour::realistic());
    started(&mut rig);
    assert!(!rig.agent.wants_data(ConnectionId(1)));
    assert_eq!(rig.wait(ms(999)), NOTHING);
    assert!(!rig.agent.wants_data(ConnectionId(1)));
    assert_eq!(rig.wait(ms(1)), NOTHING);
    assert!(rig.agent.wants_data(ConnectionId(1)));
    // A character of three bytes on the edge of a message is kept whole, and so the message is shorter.
    let text = format!("{}€$ ", "x".repeat(1022));
    assert_eq!(rig.received(1, text.as_bytes()), ["0 Output (1022 bytes)"]);
    assert!(rig.agent.wants_data(ConnectionId(1)));
    assert_eq!(rig.wait(ms(2)), ["1001: 1 Output €$ "]);
    rig.ack(0);
    rig.ack(1);
    assert!(shell(Behaviour::ideal()).agent.wants_messages());
    let mut ideal = shell(Behaviour::ideal());
    started(&mut ideal);
    assert!(ideal.agent.wants_data(ConnectionId(1)));
}

#[test]
fn flags_mean_nothing_and_input_is_acknowledged_when_it_is_written() {
    let mut rig = shell(Behaviour::ideal());
    started(&mut rig);
    assert_eq!(rig.flag(FlagKind::TerminateSession), ["ack 0"]);
    assert_eq!(rig.flag(FlagKind::DisconnectToPort), ["ack 1"]);
    assert_eq!(rig.data(b"exit\n"), ["write 1 exit\n"]);
    assert!(!rig.agent.wants_messages());
    assert_eq!(rig.written(1, 5), ["ack 2"]);
}

#[test]
fn the_end_of_the_shell_comes_behind_its_output() {
    let mut rig = shell(Behaviour::realistic());
    started(&mut rig);
    rig.wait(ms(1000));
    assert_eq!(rig.received(1, &[b'y'; 1030]).len(), 1);
    assert_eq!(rig.input(AgentInput::Exited(ConnectionId(1), 0)), NOTHING);
    assert_eq!(rig.eof(1), NOTHING);
    assert_eq!(rig.wait(ms(2)), ["1001: 1 Output yyyyyy", "1001: close 1"]);
    rig.ack(0);
    assert_eq!(rig.ack(1), ["state Terminating", "ended \"\""]);
    // Half a character at the very end is not lost.
    let mut rig = shell(Behaviour::ideal());
    started(&mut rig);
    assert_eq!(rig.received(1, b"\xe2\x82"), NOTHING);
    assert_eq!(rig.eof(1)[0], "0 Output (2 bytes)");
}

#[test]
fn the_end_by_the_service_kills_the_program() {
    let mut rig = shell(Behaviour::ideal());
    started(&mut rig);
    rig.data(b"sleep 9\n");
    assert_eq!(rig.gateway(MessageKind::ChannelClosed), ["close 1", "state Terminating", "ended \"\""]);
}

#[test]
fn line_feeds_are_carriage_returns_for_windows() {
    let mut rig = shell(Behaviour { windows: true, ..Behaviour::ideal() });
    started(&mut rig);
    for (sent, written) in [("dir\n", "dir\r"), ("a\r\nb\n", "a\r\nb\n"), ("\n", "\r")] {
        assert_eq!(rig.data(sent.as_bytes()), [format!("write 1 {written}")]);
        rig.written(1, sent.len());
    }
}

#[test]
fn a_shell_that_cannot_be_started_ends_the_session_and_a_command_says_so_first() {
    let failed = || AgentInput::StartFailed(ConnectionId(1), "no such file".to_owned());
    let mut rig = shell(Behaviour::realistic());
    let lines = rig.input(failed());
    let text = "\\n----------ERROR-------\\nUnable to start command: Failed to start pty: no such file\\n\\n";
    assert_eq!(*lines.last().expect("an end"), format!("ended \"{text}\""));

    let mut rig = command(json!({"commands": "ls"}), Behaviour::realistic());
    assert_eq!(rig.input(failed()), NOTHING);
    let told = rig.wait(ms(1000));
    assert_eq!(told, ["1000: 2 StdErr no such file", "1000: close 1"]);
    assert_eq!(rig.ack(2), ["state Terminating", "ended \"\""]);

    let apart = json!({"commands": "ls", "separateOutputStream": true});
    let mut rig = command(apart, Behaviour::realistic());
    assert_eq!(rig.input(failed()), ["2 ExitCode EXIT_CODE: 1"]);
    assert_eq!(rig.ack(2), NOTHING);
    assert_eq!(rig.wait(ms(1000)), ["1000: 3 StdErr no such file", "1000: close 1"]);
}

#[test]
fn collected_output_is_paced_and_nothing_follows_it() {
    let mut rig = command(json!({"linux": {"commands": "ls"}}), Behaviour::realistic());
    started(&mut rig);
    assert!(rig.agent.wants_data(ConnectionId(1)));
    assert_eq!(rig.data(b"typed\x03\x1c"), ["signal 1 Interrupt", "signal 1 Quit", "ack 1"]);
    assert_eq!(rig.send(PayloadKind::Size, br#"{"cols":80,"rows":24}"#), ["ack 2"]);
    assert_eq!(rig.received(1, &[b'z'; 1025]).len(), 1);
    rig.eof(1);
    assert_eq!(rig.wait(ms(2)), ["1: 3 Output z", "1: close 1"]);
}

#[test]
fn separate_output_is_not_paced_and_its_status_comes_last() {
    let properties = json!({
        "commands": "ls", "separateOutputStream": true,
        "stdOutSeparatorPrefix": "O:", "stdErrSeparatorPrefix": "E:\n",
    });
    let mut rig = command(properties, Behaviour::realistic());
    started(&mut rig);
    assert_eq!(rig.received(1, b"out\n"), ["2 Output O:out\n"]);
    assert_eq!(
        rig.input(AgentInput::ReceivedError(ConnectionId(1), Bytes::from_static(b"err\n"))),
        ["3 StdErr E:\nerr\n"]
    );
    assert_eq!(rig.received(1, &[b'x'; 1500]), ["4 Output (1026 bytes)", "5 Output (478 bytes)"]);
    assert_eq!(rig.input(AgentInput::Exited(ConnectionId(1), -1)), ["6 ExitCode EXIT_CODE: -1", "close 1"]);
    for sequence in 2..6 {
        rig.ack(sequence);
    }
    assert_eq!(rig.ack(6), ["state Terminating", "ended \"\""]);
}
