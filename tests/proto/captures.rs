//! Recorded traffic of the genuine client and the genuine agent: where the description and a recording differ, the
//! recording is right.

use std::collections::BTreeMap;

use bytes::{Buf as _, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use ssmfwd::wire::smux::{Command, FrameHeader, HEADER_LEN, StreamId};
use ssmfwd::wire::{
    Acknowledge, AgentFeatures, AgentSessionState, AgentTaskComplete, ChannelClosed, ClientAction, ClientFeatures,
    FlagKind, Flags, HandshakeComplete, HandshakeRequest, HandshakeResponse, InteractiveShell, Message, MessageId,
    MessageKind, OpenDataChannel, PayloadKind, SequenceNumber, from_json, to_json,
};

use crate::recording::{Direction, Line, Operation, Recording};

/// The one recording whose client was hand-made, so that its bodies are not the genuine client's.
const HAND_MADE_CLIENT: &str = "x-agent-not-ready-reject";

/// How often each thing was checked, so that a check that never ran is seen.
#[derive(Debug, Default)]
struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    #[track_caller]
    fn expect(&self, names: &[&'static str]) {
        for name in names {
            assert!(self.0.contains_key(name), "no {name} was checked: {:?}", self.0);
        }
    }
}

#[track_caller]
fn decode(line: &Line) -> Message {
    Message::decode(line.bytes.clone()).unwrap_or_else(|error| panic!("{}: {error}", line.place))
}

fn binary(recording: &Recording) -> impl Iterator<Item = &Line> {
    recording.lines.iter().filter(|line| line.operation == Operation::Binary)
}

/// Reads a body and checks that it is written as the same bytes again.
#[track_caller]
fn body<T: Serialize + DeserializeOwned>(line: &Line, payload: &Bytes) -> T {
    let body: T = from_json("body", payload).unwrap_or_else(|error| panic!("{}: {error}", line.place));
    assert_eq!(to_json(&body), payload, "{}", line.place);
    body
}

#[test]
fn every_message_decodes_and_matches_its_digest() {
    let recordings = Recording::all();
    assert_eq!(recordings.len(), 25, "recordings");
    let mut checked = 0;
    for line in recordings.iter().flat_map(binary) {
        let message = decode(line);
        assert_eq!(message.check_digest(), Ok(()), "{}", line.place);
        assert_eq!(message.declared_len as usize, message.payload.len(), "{}", line.place);
        assert!(!matches!(message.header.kind, MessageKind::Unknown(_)), "{}: {:?}", line.place, message.header);
        assert!(!matches!(message.header.payload_kind, PayloadKind::Unknown(_)), "{}", line.place);
        checked += 1;
    }
    assert_eq!(checked, 4787, "messages");
}

#[test]
fn what_a_genuine_end_sent_is_encoded_as_the_same_bytes() {
    let mut tally = Tally::default();
    for recording in Recording::all() {
        for line in binary(&recording).filter(|line| line.direction.is_genuine_data()) {
            let message = decode(line);
            assert_eq!(message.encode(), line.bytes, "{}", line.place);
            assert_eq!(message.header.schema_version, 1, "{}", line.place);
            check_flags(line, &message);
            let by_hand = line.direction == Direction::ClientToGateway && recording.name == HAND_MADE_CLIENT;
            if !by_hand {
                check_body(line, &message, &mut tally);
            }
        }
    }
    tally.expect(&[
        "acknowledge",
        "agent_session_state",
        "output",
        "handshake request",
        "handshake response",
        "handshake complete",
        "DisconnectToPort",
        "TerminateSession",
        "ConnectToPortError",
    ]);
}

/// The flags are read by nobody, but the genuine ends always set them in the same way.
fn check_flags(line: &Line, message: &Message) {
    let header = &message.header;
    let expected = match header.kind {
        MessageKind::InputStreamData => Flags::NONE,
        MessageKind::OutputStreamData if header.sequence == SequenceNumber::ZERO => Flags::SYN,
        MessageKind::OutputStreamData => Flags::NONE,
        _ => Flags::SYN_FIN,
    };
    assert_eq!(header.flags, expected, "{}", line.place);
}

fn check_body(line: &Line, message: &Message, tally: &mut Tally) {
    let payload = &message.payload;
    match message.header.kind {
        MessageKind::Acknowledge => {
            let acknowledge: Acknowledge = body(line, payload);
            assert_eq!(Acknowledge::decode(payload).as_ref(), Ok(&acknowledge), "{}", line.place);
            let id = MessageId(acknowledge.id.parse().expect("a UUID"));
            let mut by_hand = BytesMut::new();
            Acknowledge::encode_into(&mut by_hand, &acknowledge.kind, id, SequenceNumber(acknowledge.sequence));
            assert_eq!(by_hand, payload, "{}", line.place);
            tally.count("acknowledge");
        }
        MessageKind::AgentSessionState => {
            let state: AgentSessionState = body(line, payload);
            assert!(["Connected", "Terminating"].contains(&state.session_state.as_str()), "{}", line.place);
            tally.count("agent_session_state");
        }
        MessageKind::InputStreamData | MessageKind::OutputStreamData => check_stream_data(line, message, tally),
        ref other => panic!("{}: {other} is not for a data channel", line.place),
    }
}

fn check_stream_data(line: &Line, message: &Message, tally: &mut Tally) {
    let payload = &message.payload;
    match message.header.payload_kind {
        PayloadKind::Output => {
            assert!((1..=1024).contains(&payload.len()), "{}: {} bytes", line.place, payload.len());
            tally.count("output");
        }
        PayloadKind::HandshakeRequest => {
            let request: HandshakeRequest = body(line, payload);
            let known = |action: &ClientAction| matches!(action, ClientAction::SessionType(_));
            assert!(request.requested_client_actions.iter().all(known), "{}: {request:?}", line.place);
            tally.count("handshake request");
        }
        PayloadKind::HandshakeResponse => {
            let response: HandshakeResponse = body(line, payload);
            assert_eq!(response.processed_client_actions.len(), 1, "{}", line.place);
            tally.count("handshake response");
        }
        PayloadKind::HandshakeComplete => {
            let complete: HandshakeComplete = body(line, payload);
            assert!(complete.handshake_time_to_complete > 0, "{}: {complete:?}", line.place);
            tally.count("handshake complete");
        }
        PayloadKind::Flag => {
            let flag = FlagKind::decode(payload).unwrap_or_else(|error| panic!("{}: {error}", line.place));
            assert_eq!(flag.encode(), payload[..], "{}", line.place);
            tally.count(match flag {
                FlagKind::DisconnectToPort => "DisconnectToPort",
                FlagKind::TerminateSession => "TerminateSession",
                FlagKind::ConnectToPortError => "ConnectToPortError",
                other => panic!("{}: {other:?}", line.place),
            });
        }
        other => panic!("{}: {other:?} does not occur in a port session", line.place),
    }
}

#[test]
fn open_messages_are_written_as_the_same_text() {
    let mut tally = Tally::default();
    for recording in Recording::all() {
        for line in recording.lines.iter().filter(|line| line.operation == Operation::Text) {
            let open: OpenDataChannel = from_json("open message", line.text.as_bytes()).expect(&line.place);
            assert_eq!(open.message_schema_version, OpenDataChannel::SCHEMA, "{}", line.place);
            assert!(open.request_id.parse::<uuid::Uuid>().is_ok(), "{}", line.place);
            assert!(!format!("{open:?}").contains(&open.token_value), "{}: Debug shows the token", line.place);
            match line.direction {
                Direction::ClientToGateway if recording.name == HAND_MADE_CLIENT => {}
                Direction::ClientToGateway => {
                    assert_eq!(to_json(&open), line.text.as_bytes(), "{}", line.place);
                    tally.count("client");
                }
                // The agent names its instance too, which no client does.
                Direction::AgentToGateway => tally.count("agent"),
                other => panic!("{}: text from {other:?}", line.place),
            }
        }
    }
    tally.expect(&["client", "agent"]);
}

#[test]
fn what_the_gateway_and_the_control_channel_said_decodes() {
    let mut tally = Tally::default();
    for recording in Recording::all() {
        for line in binary(&recording).filter(|line| !line.direction.is_genuine_data()) {
            let Message { header, payload, .. } = decode(line);
            match header.kind {
                MessageKind::StartPublication => tally.count("start_publication"),
                MessageKind::PausePublication => tally.count("pause_publication"),
                MessageKind::ChannelClosed => {
                    let closed: ChannelClosed = from_json("channel_closed", &payload).expect(&line.place);
                    assert_eq!(closed.message_type, "channel_closed", "{}", line.place);
                    assert!(!closed.session_id.is_empty(), "{}", line.place);
                    tally.count("channel_closed");
                }
                MessageKind::InteractiveShell => {
                    let shell: InteractiveShell = from_json("interactive_shell", &payload).expect(&line.place);
                    assert!(shell.topic.starts_with("aws.ssm.startSession"), "{}", line.place);
                    let content: serde_json::Value = from_json("content", shell.content.as_bytes()).expect(&line.place);
                    assert_eq!(content["SessionId"], shell.task_id, "{}", line.place);
                    tally.count("interactive_shell");
                }
                MessageKind::AgentTaskComplete => {
                    let complete: AgentTaskComplete = from_json("agent_task_complete", &payload).expect(&line.place);
                    assert!(!complete.task_id.is_empty() && !complete.final_task_status.is_empty(), "{}", line.place);
                    tally.count("agent_task_complete");
                }
                MessageKind::AgentTaskAcknowledge => tally.count("agent_task_acknowledge"),
                other => panic!("{}: unexpected {other}", line.place),
            }
        }
    }
    tally.expect(&[
        "start_publication",
        "pause_publication",
        "channel_closed",
        "interactive_shell",
        "agent_task_complete",
        "agent_task_acknowledge",
    ]);
}

#[test]
fn a_refused_remote_host_is_named_by_channel_closed() {
    let recordings = Recording::all();
    let forbidden = recordings.iter().find(|recording| recording.name == "c2-remote-host-forbidden").expect("recorded");
    let texts: Vec<String> = binary(forbidden)
        .filter(|line| line.direction == Direction::GatewayToClient)
        .map(decode)
        .filter(|message| message.header.kind == MessageKind::ChannelClosed)
        .filter_map(|message| from_json::<ChannelClosed>("channel_closed", &message.payload).ok()?.output)
        .collect();
    assert_eq!(texts, ["Forwarding to IP address 169.254.169.254 is forbidden."]);
}

/// One direction of a session: stream data by its number, every number once.
#[derive(Default)]
struct Sequenced {
    first_seen: BTreeMap<i64, Message>,
    frames: BTreeMap<i64, Bytes>,
    repeated: usize,
}

impl Sequenced {
    fn add(&mut self, line: &Line, message: Message) {
        let sequence = message.header.sequence.0;
        if let Some(earlier) = self.frames.get(&sequence) {
            assert_eq!(*earlier, line.bytes, "{}: message {sequence} sent again, but changed", line.place);
            self.repeated += 1;
            return;
        }
        self.frames.insert(sequence, line.bytes.clone());
        self.first_seen.insert(sequence, message);
    }

    /// All data without gap from the start.
    fn data(&self) -> BytesMut {
        let in_order = (0..).map_while(|sequence| self.first_seen.get(&sequence));
        let data = in_order.filter(|message| message.header.payload_kind == PayloadKind::Output);
        data.flat_map(|message| message.payload.clone()).collect()
    }

    fn has_gap(&self) -> bool {
        self.first_seen.last_key_value().is_some_and(|(last, _)| *last + 1 != self.first_seen.len() as i64)
    }
}

/// Both directions of a session, and whether both ends chose smux.
fn reassemble(recording: &Recording) -> (Sequenced, Sequenced, bool) {
    let (mut up, mut down) = (Sequenced::default(), Sequenced::default());
    let (mut agent_side, mut client_side) = (None, None);
    for line in binary(recording).filter(|line| line.direction.is_genuine_data()) {
        let message = decode(line);
        match message.header.payload_kind {
            PayloadKind::HandshakeRequest => {
                let request: HandshakeRequest = from_json("request", &message.payload).expect(&line.place);
                let forwarding = request.requested_client_actions.iter().any(|action| {
                    matches!(action, ClientAction::SessionType(parameters)
                        if parameters.property("type") == "LocalPortForwarding")
                });
                agent_side = Some(forwarding && AgentFeatures::of(&request.agent_version).smux);
            }
            PayloadKind::HandshakeResponse => {
                let response: HandshakeResponse = from_json("response", &message.payload).expect(&line.place);
                client_side = Some(ClientFeatures::of(&response.client_version).smux);
            }
            _ => {}
        }
        match message.header.kind {
            MessageKind::InputStreamData => up.add(line, message),
            MessageKind::OutputStreamData => down.add(line, message),
            _ => {}
        }
    }
    (up, down, agent_side == Some(true) && client_side == Some(true))
}

#[test]
fn retransmissions_are_the_same_bytes_again() {
    let mut repeated = 0;
    for recording in Recording::all() {
        let (up, down, _) = reassemble(&recording);
        repeated += up.repeated + down.repeated;
    }
    assert!(repeated > 400, "only {repeated} retransmissions were compared");
}

#[test]
fn numbers_start_at_0_and_leave_no_gap() {
    for recording in Recording::all() {
        let (up, down, _) = reassemble(&recording);
        for (direction, side) in [("up", &up), ("down", &down)] {
            assert!(side.first_seen.contains_key(&0), "{} {direction}", recording.name);
            assert!(!side.has_gap(), "{} {direction}", recording.name);
        }
    }
}

#[test]
fn smux_streams_parse_as_frames() {
    let mut tally = Tally::default();
    for recording in Recording::all() {
        let (up, down, mux) = reassemble(&recording);
        if !mux {
            tally.count("session without smux");
            continue;
        }
        tally.count("session with smux");
        let opened = parse_frames(&recording.name, up.data(), None, &mut tally);
        let answered = parse_frames(&recording.name, down.data(), Some(&opened), &mut tally);
        assert!(answered.iter().all(|stream| opened.contains(stream)), "{}", recording.name);
    }
    tally.expect(&["session with smux", "session without smux", "SYN", "FIN", "PSH"]);
}

/// Reads all frames; gives the streams that occur. Without `opened`, this is the client's direction, which opens them.
fn parse_frames(place: &str, mut data: BytesMut, opened: Option<&[StreamId]>, tally: &mut Tally) -> Vec<StreamId> {
    let mut streams = Vec::new();
    while let Some(bytes) = data.first_chunk::<HEADER_LEN>() {
        let header = FrameHeader::decode(*bytes).unwrap_or_else(|error| panic!("{place}: {error}"));
        assert_eq!(header.encode(), *bytes, "{place}");
        match header.command {
            Command::Syn => {
                assert!(opened.is_none(), "{place}: the agent opens no streams");
                let next = streams.last().map_or(StreamId::FIRST, |StreamId(last)| StreamId(last + 2));
                assert_eq!(header.stream, next, "{place}: streams are numbered 3, 5, 7");
                streams.push(header.stream);
                tally.count("SYN");
            }
            Command::Fin => tally.count("FIN"),
            Command::Psh => {
                let known = opened.unwrap_or(&streams);
                assert!(known.contains(&header.stream), "{place}: data for {} before its SYN", header.stream);
                tally.count("PSH");
            }
            Command::Nop => {
                assert_eq!(header.stream, StreamId::SESSION, "{place}");
                tally.count("NOP");
            }
        }
        if opened.is_some() && !streams.contains(&header.stream) && header.command != Command::Nop {
            streams.push(header.stream);
        }
        let whole = HEADER_LEN + header.data_len();
        if data.len() < whole {
            break;
        }
        data.advance(whole);
    }
    assert!(data.is_empty(), "{place}: {} bytes behind the last whole frame", data.len());
    streams
}
