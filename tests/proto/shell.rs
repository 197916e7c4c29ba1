//! Shells and commands: how they begin, what they say in which order, their terminal, their end.

use bytes::Bytes;
use ssmfwd::{
    proto::{
        Cause, CloseReason, Event, Initiator, Input, Mode, OpenError, OutputRead, Read, SessionKinds, ShellChannel,
        StreamError, StreamId, limits,
    },
    wire::{MessageKind, PayloadKind, Size},
};

use crate::peer::{NEW, Peer, ms, shell_request};

const SHELLS: [&str; 3] = ["Standard_Stream", "InteractiveCommands", "NonInteractiveCommands"];

fn waiting(kinds: SessionKinds) -> Peer {
    Peer::with(|config| config.kinds = kinds)
}

/// A shell that has begun without a handshake, with its stream, and nothing unacknowledged.
fn begun() -> (Peer, StreamId) {
    let mut peer = waiting(SessionKinds::Shell);
    peer.publication(MessageKind::StartPublication);
    peer.output("$ ");
    peer.acknowledge(0);
    let stream = peer.open();
    let read = output(&mut peer, stream);
    assert_eq!(read, ([(ShellChannel::Output, b"$ ".to_vec())].into(), Ok(OutputRead::Pending)));
    peer.lines();
    peer.events();
    peer.new_messages();
    (peer, stream)
}

type Said = Vec<(ShellChannel, Vec<u8>)>;

/// What can be read, what follows of one kind put together, and why there is no more.
fn output(peer: &mut Peer, stream: StreamId) -> (Said, Result<OutputRead, StreamError>) {
    let mut said = Said::new();
    loop {
        let mut pieces: [Bytes; 3] = Default::default();
        let read = peer.session.read_output(stream, &mut pieces, 4096);
        let Ok(OutputRead::Data(channel, count)) = read else {
            peer.drain();
            return (said, read);
        };
        assert!((1..=3).contains(&count));
        for piece in &pieces[..count] {
            match said.last_mut() {
                Some((last, bytes)) if *last == channel => bytes.extend_from_slice(piece),
                _ => said.push((channel, piece.to_vec())),
            }
        }
    }
}

fn closed(peer: &mut Peer) -> Option<(CloseReason, bool)> {
    peer.events().into_iter().find_map(|event| match event {
        Event::Closed { reason, terminate } => Some((reason, terminate)),
        _ => None,
    })
}

fn sizes(peer: &mut Peer) -> Vec<String> {
    let sent = peer.new_messages().into_iter().filter(|(kind, _)| *kind == PayloadKind::Size);
    sent.map(|(_, payload)| String::from_utf8(payload.to_vec()).expect("JSON")).collect()
}

fn size(cols: u32, rows: u32) -> Size {
    Size { cols, rows }
}

// --- the beginning -------------------------------------------------------------------------------------------------

#[test]
fn whatever_an_agent_says_first_opens_a_shell_without_a_handshake() {
    for kinds in [SessionKinds::Shell, SessionKinds::Any] {
        for kind in [PayloadKind::Output, PayloadKind::StdErr, PayloadKind::ExitCode] {
            let mut peer = waiting(kinds);
            assert_eq!(peer.session.open_stream(), Err(OpenError::NotReady));
            peer.say(kind, "EXIT_CODE: 4");
            assert_eq!(peer.events(), [Event::Ready { mode: Mode::Shell, agent_version: String::new() }]);
            assert_eq!(peer.lines(), ["open", "ping", "ack 0", "0 Size"]);
            assert_eq!(sizes(&mut peer), [r#"{"cols":300,"rows":100}"#]);
            assert_eq!((peer.session.agent_version(), peer.session.is_sealed()), (None, false));
            let stream = peer.open();
            assert_eq!(peer.session.open_stream(), Err(OpenError::Used));
            assert_eq!(peer.session.exit_code(), (kind == PayloadKind::ExitCode).then_some(4));
            let said = match kind {
                PayloadKind::Output => vec![(ShellChannel::Output, b"EXIT_CODE: 4".to_vec())],
                PayloadKind::StdErr => vec![(ShellChannel::ErrorOutput, b"EXIT_CODE: 4".to_vec())],
                _ => vec![],
            };
            assert_eq!(output(&mut peer, stream), (said, Ok(OutputRead::Pending)));
        }
    }
}

/// What comes too early is acknowledged and thrown away by some agents, and refused by others.
#[test]
fn input_waits_until_the_agent_has_taken_the_size() {
    let mut peer = waiting(SessionKinds::Shell);
    peer.output("$ ");
    let stream = peer.open();
    peer.write(stream, "ls\n");
    peer.drain();
    assert_eq!(peer.data_lines(), ["open", "0 Size"]);
    peer.pass(ms(31));
    assert_eq!(peer.data_lines(), ["again 0 Size"], "refused without a word, and said again");
    peer.acknowledge(0);
    assert_eq!(peer.data_lines(), ["1 Output ls\\n"]);
}

#[test]
fn a_silent_command_has_no_deadline_once_its_agent_is_there() {
    let mut peer = waiting(SessionKinds::Shell);
    peer.pass(limits::HANDSHAKE - ms(1));
    peer.publication(MessageKind::StartPublication);
    for _ in 0..360 {
        peer.pass(ms(10_000));
        peer.input(Input::PingSent);
        peer.input(Input::Pong);
    }
    assert_eq!(closed(&mut peer), None);
    peer.output("at last");
    let stream = peer.open();
    assert_eq!(output(&mut peer, stream).0, [(ShellChannel::Output, b"at last".to_vec())]);
}

#[test]
fn without_an_agent_and_for_connections_the_deadline_stands() {
    for (kinds, published) in [(SessionKinds::Shell, false), (SessionKinds::Connections, true)] {
        let mut peer = waiting(kinds);
        if published {
            peer.publication(MessageKind::StartPublication);
        }
        peer.pass(limits::HANDSHAKE + ms(1));
        let (reason, terminate) = closed(&mut peer).expect("given up");
        assert!(terminate && matches!(reason.cause, Cause::Timeout(_)), "{reason}");
    }
}

#[test]
fn a_handshake_that_was_begun_has_a_deadline_again() {
    let mut peer = waiting(SessionKinds::Shell);
    peer.publication(MessageKind::StartPublication);
    peer.pass(limits::HANDSHAKE * 3);
    peer.say(PayloadKind::HandshakeRequest, shell_request("InteractiveCommands", ""));
    peer.pass(limits::HANDSHAKE - ms(1));
    assert_eq!(closed(&mut peer), None);
    peer.pass(ms(2));
    assert!(closed(&mut peer).is_some_and(|(reason, _)| matches!(reason.cause, Cause::Timeout(_))));
}

#[test]
fn each_type_of_shell_can_begin_with_a_handshake() {
    for session_type in SHELLS {
        let mut peer = waiting(SessionKinds::Any);
        peer.say(PayloadKind::HandshakeRequest, shell_request(session_type, ""));
        peer.acknowledge(0);
        peer.say(PayloadKind::HandshakeComplete, r#"{"HandshakeTimeToComplete":1,"CustomerMessage":"hello"}"#);
        let ready = Event::Ready { mode: Mode::Shell, agent_version: NEW.to_owned() };
        assert_eq!(peer.events(), [Event::CustomerMessage("hello".to_owned()), ready]);
        assert_eq!(peer.data_lines(), ["open", "0 HandshakeResponse", "1 Size"]);
        assert_eq!(peer.session.agent_version(), Some(NEW));
        // An agent whose command takes no input may never acknowledge the size.
        peer.pass(limits::HANDSHAKE * 2);
        assert_eq!(closed(&mut peer), None, "{session_type}");
        peer.acknowledge(1);
        let stream = peer.open();
        peer.write(stream, b"\x03");
        peer.drain();
        assert!(peer.data_lines().contains(&"2 Output \\x03".to_owned()));
    }
}

#[test]
fn data_before_the_handshake_is_complete_and_a_handshake_after_data_end_the_session() {
    let mut peer = waiting(SessionKinds::Shell);
    peer.say(PayloadKind::HandshakeRequest, shell_request("NonInteractiveCommands", ""));
    peer.output("early");
    let (reason, terminate) = closed(&mut peer).expect("nobody does that");
    assert!(terminate && matches!(&reason.cause, Cause::Handshake(text) if text.contains("before")), "{reason}");

    let (mut peer, _) = begun();
    peer.say(PayloadKind::HandshakeRequest, shell_request("Standard_Stream", ""));
    let (reason, terminate) = closed(&mut peer).expect("it may ask for a key, and has talked in the clear");
    assert!(terminate && matches!(&reason.cause, Cause::Handshake(text) if text.contains("after")), "{reason}");
    assert_eq!(peer.data_lines(), [""; 0]);
}

#[test]
fn a_shell_that_is_not_wanted_is_refused_by_name() {
    let mut peer = waiting(SessionKinds::Connections);
    peer.say(PayloadKind::HandshakeRequest, shell_request("InteractiveCommands", ""));
    let (reason, _) = closed(&mut peer).expect("refused");
    assert!(reason.to_string().contains("InteractiveCommands are not for port forwarding"), "{reason}");
    let mut peer = waiting(SessionKinds::Shell);
    peer.say(PayloadKind::HandshakeRequest, crate::peer::request(NEW, "null"));
    let (reason, _) = closed(&mut peer).expect("refused");
    assert!(reason.to_string().contains("type Port are not shells"), "{reason}");
}

#[test]
fn a_session_of_any_kind_carries_connections_too() {
    let mut peer = waiting(SessionKinds::Any);
    peer.publication(MessageKind::StartPublication);
    peer.shake_hands(NEW, r#"{"type":"LocalPortForwarding"}"#);
    let stream = peer.open();
    peer.write(stream, "hello");
    peer.drain();
    assert_eq!(peer.data_lines(), ["2 Output [SYN 3][PSH 3 hello]"]);
    assert_eq!(peer.session.read_output(stream, &mut [], 1), Err(StreamError::Unknown));
}

// --- what is said --------------------------------------------------------------------------------------------------

#[test]
fn output_and_error_output_keep_their_order_under_back_pressure() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut peer, stream) = begun();
        let (mut model, mut read): (Said, Said) = Default::default();
        let mut byte = 0u8;
        let join = |said: &mut Said, channel, bytes: Vec<u8>| match said.last_mut() {
            Some((last, all)) if *last == channel => all.extend(bytes),
            _ => said.push((channel, bytes)),
        };
        for round in 0..200 {
            if random.u8(..4) > 0 || round == 0 {
                let len = if random.bool() { random.usize(1..1000) } else { random.usize(1..200_000) };
                let data: Vec<u8> = std::iter::repeat_with(|| {
                    byte = byte.wrapping_add(1);
                    byte
                })
                .take(len)
                .collect();
                let (channel, kind) = match random.bool() {
                    true => (ShellChannel::Output, PayloadKind::Output),
                    false => (ShellChannel::ErrorOutput, PayloadKind::StdErr),
                };
                if peer.session.wants_messages() {
                    peer.say(kind, &data);
                    join(&mut model, channel, data);
                }
            } else {
                let mut pieces: [Bytes; 4] = Default::default();
                let limit = random.usize(1..300_000);
                if let Ok(OutputRead::Data(channel, count)) = peer.session.read_output(stream, &mut pieces, limit) {
                    let bytes = pieces[..count].concat();
                    assert!((1..=limit).contains(&bytes.len()), "seed {seed}");
                    join(&mut read, channel, bytes);
                }
                peer.drain();
            }
            let occupancy = peer.session.occupancy();
            assert!(occupancy.parked_bytes <= limits::PARKED_BYTES + 200_000, "seed {seed}: {occupancy:?}");
        }
        for (channel, bytes) in output(&mut peer, stream).0 {
            join(&mut read, channel, bytes);
        }
        assert!(read == model, "seed {seed}");
        assert!(peer.session.wants_messages(), "there is room again");
    }
}

/// One byte to each in turn costs more to tell apart than to keep.
#[test]
fn a_command_that_writes_single_bytes_to_each_in_turn_is_stopped_too() {
    let (mut peer, stream) = begun();
    let mut count = 0;
    while peer.session.wants_messages() {
        peer.say(if count % 2 == 0 { PayloadKind::Output } else { PayloadKind::StdErr }, [7]);
        count += 1;
        assert!(count < 2_000_000, "the memory has no bound");
    }
    assert!(peer.events().contains(&Event::Backpressure(true)));
    let (said, _) = output(&mut peer, stream);
    assert_eq!(said.len(), count);
    assert!(peer.session.wants_messages());
}

#[test]
fn a_reader_is_woken_for_either_kind_and_nothing_is_kept_for_one_that_has_gone() {
    for kind in [PayloadKind::Output, PayloadKind::StdErr] {
        let (mut peer, stream) = begun();
        peer.say(kind, "x");
        assert_eq!(peer.events(), [Event::Readable(stream)]);
        peer.release(stream);
        peer.say(kind, vec![0; 5000]);
        assert_eq!(peer.session.occupancy().largest_unread, 0);
        assert_eq!(peer.events(), []);
    }
}

#[test]
fn both_kinds_can_be_read_as_one() {
    let (mut peer, stream) = begun();
    peer.say(PayloadKind::StdErr, "one");
    peer.output("two");
    peer.say(PayloadKind::StdErr, "three");
    let mut buffer = [0; 5];
    assert_eq!(peer.session.read(stream, &mut &mut buffer[..]), Ok(Read::Data(5)));
    assert_eq!(&buffer, b"onetw");
    let rest = [(ShellChannel::Output, b"o".to_vec()), (ShellChannel::ErrorOutput, b"three".to_vec())];
    assert_eq!(output(&mut peer, stream), (rest.into(), Ok(OutputRead::Pending)));
}

#[test]
fn the_exit_code_outlives_the_session_and_nonsense_is_none() {
    let (mut peer, stream) = begun();
    peer.say(PayloadKind::ExitCode, "EXIT_CODE: many");
    assert_eq!(peer.session.exit_code(), None);
    peer.say(PayloadKind::ExitCode, "EXIT_CODE: 3");
    peer.say(PayloadKind::ExitCode, "");
    peer.channel_closed(r#"{"Output":""}"#);
    assert_eq!(peer.session.exit_code(), Some(3));
    assert_eq!(output(&mut peer, stream), (vec![], Ok(OutputRead::End)), "it is no output");
}

#[test]
fn messages_stay_small_and_nothing_larger_is_tried() {
    let mut peer = Peer::with(|config| {
        config.kinds = SessionKinds::Shell;
        config.max_payload = limits::PAYLOAD_MAX;
    });
    peer.output("$ ");
    peer.acknowledge(0);
    let stream = peer.open();
    peer.new_messages();
    for _ in 0..20 {
        let data = [b'x'; 50_000];
        let taken = peer.session.write(stream, &data).expect("open");
        assert!(taken > 0);
        peer.drain();
        peer.acknowledge_all();
    }
    let sent = peer.new_messages();
    assert!(sent.len() > 500, "{}", sent.len());
    assert!(sent.iter().all(|(kind, payload)| *kind == PayloadKind::Output && payload.len() <= limits::PAYLOAD));
}

// --- the terminal --------------------------------------------------------------------------------------------------

#[test]
fn the_size_that_is_known_first_is_told_first_and_then_only_the_newest() {
    let mut peer = waiting(SessionKinds::Shell);
    peer.session.set_size(size(100, 30));
    peer.output("$ ");
    assert_eq!(sizes(&mut peer), [r#"{"cols":100,"rows":30}"#]);
    for cols in 101..110 {
        peer.session.set_size(size(cols, 30));
        peer.drain();
    }
    assert_eq!(sizes(&mut peer), [""; 0], "the first is not taken yet");
    peer.acknowledge(0);
    assert_eq!(sizes(&mut peer), [r#"{"cols":109,"rows":30}"#]);
    peer.session.set_size(size(109, 30));
    peer.drain();
    assert_eq!(sizes(&mut peer), [""; 0], "it has not changed");

    peer.writable = false;
    for rows in 31..40 {
        peer.session.set_size(size(109, rows));
        peer.drain();
    }
    peer.writable = true;
    peer.drain();
    assert_eq!(sizes(&mut peer), [r#"{"cols":109,"rows":39}"#]);
}

#[test]
fn a_size_goes_before_input_that_waits() {
    let (mut peer, stream) = begun();
    peer.writable = false;
    peer.write(stream, "x");
    peer.session.set_size(size(10, 10));
    peer.writable = true;
    peer.drain();
    assert_eq!(peer.data_lines(), ["1 Size", "2 Output x"]);
}

#[test]
fn connections_have_no_terminal() {
    let mut peer = Peer::ready(NEW);
    peer.session.set_size(size(10, 10));
    peer.drain();
    assert_eq!((peer.data_lines(), peer.session.exit_code()), (vec![], None));
}

#[test]
fn a_shell_is_kept_alive_with_its_own_size() {
    let mut peer = Peer::with(|config| {
        config.kinds = SessionKinds::Shell;
        config.keep_alive = Some(ms(60_000));
        config.terminal = size(90, 20);
    });
    peer.output("$ ");
    peer.acknowledge(0);
    sizes(&mut peer);
    peer.pass(ms(61_000));
    assert_eq!(sizes(&mut peer), [r#"{"cols":90,"rows":20}"#]);
    peer.pass(ms(61_000));
    assert_eq!(sizes(&mut peer), [""; 0], "not while one is under way");
}

// --- the end -------------------------------------------------------------------------------------------------------

#[test]
fn a_shell_ends_through_the_api_and_without_the_flag_when_its_input_is_delivered() {
    let mut peer = waiting(SessionKinds::Shell);
    peer.say(PayloadKind::HandshakeRequest, shell_request("Standard_Stream", ""));
    peer.acknowledge(0);
    peer.say(PayloadKind::HandshakeComplete, "{}");
    peer.acknowledge(1);
    let stream = peer.open();
    peer.write(stream, "exit\n");
    peer.session.end(peer.now);
    peer.drain();
    peer.events();
    assert_eq!(peer.data_lines(), ["open", "0 HandshakeResponse", "1 Size", "2 Output exit\\n"]);
    assert_eq!(peer.session.closed(), None, "it is under way");
    peer.acknowledge(2);
    let requested = CloseReason::new(Initiator::Us, Cause::Requested);
    assert_eq!(closed(&mut peer), Some((requested, true)));
    assert_eq!(peer.data_lines(), [""; 0]);
}

#[test]
fn an_end_is_not_waited_for_for_ever() {
    let (mut peer, stream) = begun();
    peer.write(stream, "x");
    peer.session.end(peer.now);
    peer.drain();
    peer.pass(limits::DRAIN);
    assert!(closed(&mut peer).is_some_and(|(_, terminate)| terminate));
    assert!(peer.data_lines().iter().all(|line| !line.contains("Flag")));
}

#[test]
fn the_agents_end_is_clean_and_any_other_is_told_after_what_came_before_it() {
    for (body, initiator, clean) in [
        (r#"{"Output":""}"#, Initiator::Agent, true),
        ("{}", Initiator::Agent, true),
        (r#"{"Output":"Plugin with name Standard_Stream is not supported"}"#, Initiator::Agent, false),
        (r#"{"Output":"Your session timed out due to inactivity."}"#, Initiator::Service, false),
    ] {
        let (mut peer, stream) = begun();
        // The end of the shell may be under way when it comes.
        peer.write(stream, "exit\n");
        peer.drain();
        peer.output("logout");
        peer.channel_closed(body);
        let (reason, terminate) = closed(&mut peer).expect("over");
        assert_eq!((reason.initiator, terminate), (initiator, false), "{body}");
        let end = if clean { Ok(OutputRead::End) } else { Err(StreamError::SessionEnded(reason)) };
        assert_eq!(output(&mut peer, stream), (vec![(ShellChannel::Output, b"logout".to_vec())], end), "{body}");
    }
}

#[test]
fn a_command_that_is_over_before_anybody_asks_can_still_be_read() {
    let mut peer = waiting(SessionKinds::Shell);
    peer.output("done");
    peer.say(PayloadKind::ExitCode, "EXIT_CODE: 9");
    peer.channel_closed("{}");
    assert!(peer.session.left_something() && peer.session.mode() == Some(Mode::Shell));
    let stream = peer.open();
    assert!(!peer.session.left_something());
    assert_eq!(output(&mut peer, stream).0, [(ShellChannel::Output, b"done".to_vec())]);
    assert!(matches!(peer.session.open_stream(), Err(OpenError::Closed(_))));
    assert_eq!(peer.session.exit_code(), Some(9));
}

#[test]
fn a_command_without_output_was_a_shell_if_only_shells_are_served() {
    let mut peer = waiting(SessionKinds::Shell);
    peer.publication(MessageKind::StartPublication);
    peer.channel_closed("{}");
    let reason = CloseReason::new(Initiator::Agent, Cause::ChannelClosed(String::new()));
    let ready = Event::Ready { mode: Mode::Shell, agent_version: String::new() };
    assert_eq!(peer.events(), [ready, Event::Closed { reason, terminate: false }]);
    let stream = peer.open();
    assert_eq!(output(&mut peer, stream), (vec![], Ok(OutputRead::End)));

    let early = |kinds, published: bool, body: &str| {
        let mut peer = waiting(kinds);
        if published {
            peer.publication(MessageKind::StartPublication);
        }
        peer.channel_closed(body);
        (peer.session.mode(), closed(&mut peer).map(|(reason, _)| reason.initiator))
    };
    assert_eq!(early(SessionKinds::Shell, false, "{}"), (None, Some(Initiator::Service)), "no agent was there");
    assert_eq!(early(SessionKinds::Any, true, "{}"), (None, Some(Initiator::Service)), "of which kind?");
    assert_eq!(early(SessionKinds::Shell, true, r#"{"Output":"no"}"#), (None, Some(Initiator::Service)));
}

// --- interruptions -------------------------------------------------------------------------------------------------

#[test]
fn a_websocket_that_is_lost_before_the_first_output_is_replaced() {
    let mut peer = waiting(SessionKinds::Shell);
    assert!(peer.session.is_resumable() && !peer.session.is_ready());
    peer.publication(MessageKind::StartPublication);
    peer.input(Input::Disconnected);
    peer.pass(limits::HANDSHAKE * 2);
    assert!(peer.events().contains(&Event::Reconnect));
    peer.connect();
    peer.lines();
    peer.output("$ ");
    assert_eq!(peer.data_lines(), ["0 Size"]);
    // And once more before the size is taken.
    peer.input(Input::Disconnected);
    let stream = peer.open();
    peer.write(stream, "ls\n");
    peer.session.set_size(size(5, 5));
    peer.connect();
    assert_eq!(peer.data_lines(), ["open", "again 0 Size"]);
    peer.acknowledge(0);
    assert_eq!(peer.data_lines(), ["1 Size", "2 Output ls\\n"]);
    assert_eq!(output(&mut peer, stream).0, [(ShellChannel::Output, b"$ ".to_vec())]);
}

// --- what a raw connection owes its destination ----------------------------------------------------------------------

#[test]
fn it_is_told_when_everything_is_delivered() {
    let mut peer = Peer::raw();
    let stream = peer.open();
    assert!(peer.session.is_drained(), "nothing was written");
    let mut written = 0;
    while written < 300_000 {
        written += peer.session.write(stream, &[1; 10_000]).expect("open");
        peer.drain();
        assert!(!peer.session.is_drained());
        peer.acknowledge_all();
        assert!(peer.session.is_drained());
        assert_eq!(peer.events().iter().filter(|event| **event == Event::Drained).count(), 1);
    }
    // The end of input says nothing, and loses nothing.
    peer.write(stream, [2; 3000]);
    peer.finish(stream);
    assert!(!peer.session.is_drained());
    peer.input(Input::Disconnected);
    peer.connect();
    assert!(!peer.events().contains(&Event::Drained));
    peer.acknowledge_all();
    assert!(peer.events().contains(&Event::Drained));
}

#[test]
fn a_raw_connection_that_has_ended_before_anybody_asks_can_still_be_read() {
    let mut peer = Peer::raw();
    peer.output("goodbye");
    peer.channel_closed("{}");
    assert!(peer.session.left_something());
    let stream = peer.open();
    assert_eq!(peer.read(stream), (b"goodbye".to_vec(), Ok(Read::End)));

    let mut peer = Peer::raw();
    peer.output("good");
    peer.channel_closed(r#"{"Output":"maintenance"}"#);
    assert!(!peer.session.left_something(), "that is not all of it");
    assert!(matches!(peer.session.open_stream(), Err(OpenError::Closed(_))));
}

#[test]
fn a_destination_that_does_not_answer_is_told_from_an_agent_that_does_not() {
    let mut peer = Peer::connected();
    peer.say(PayloadKind::HandshakeRequest, crate::peer::request(NEW, r#"{"portNumber":"22"}"#));
    peer.acknowledge(0);
    peer.say(PayloadKind::HandshakeComplete, "{}");
    peer.pass(limits::HANDSHAKE);
    assert!(closed(&mut peer).is_some_and(|(reason, _)| reason.is_destination_unreachable()));
    let mut peer = Peer::connected();
    peer.pass(limits::HANDSHAKE);
    assert!(closed(&mut peer).is_some_and(|(reason, _)| !reason.is_destination_unreachable()));
    let mut peer = Peer::raw();
    peer.channel_closed(r#"{"Output":"Unable to connect to specified port: connection refused"}"#);
    assert!(closed(&mut peer).is_some_and(|(reason, _)| reason.is_destination_unreachable()));
}
