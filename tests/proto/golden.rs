//! Golden vectors: the exact bytes of every part of the wire format.
//!
//! They were computed from the description of the format alone, so that neither end of this crate can agree with
//! itself while both are wrong. The bytes stand in `tests/data/golden.txt`; what they mean stands here.

use bytes::{Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use ssmfwd::wire::smux::{Command, FrameHeader, HEADER_LEN, StreamId};
use ssmfwd::wire::{
    Acknowledge, ActionStatus, AgentFeatures, ChannelClosed, ClientAction, ClientFeatures, DataKey, DecodeError, Draft,
    FlagKind, Flags, HandshakeComplete, HandshakeRequest, HandshakeResponse, Header, Message, MessageId, MessageKind,
    NONCE_LEN, PAYLOAD_OFFSET, PayloadKind, ProcessedAction, SequenceNumber, SessionTypeParameters, Size, from_json,
    to_json,
};

const VECTORS: &str = include_str!("../data/golden.txt");

const MESSAGE_ID: MessageId = MessageId(uuid::uuid!("00112233-4455-6677-8899-aabbccddeeff"));
const ACK_ID: MessageId = MessageId(uuid::uuid!("fedcba98-7654-4321-8fed-cba987654321"));
const CREATED_MS: u64 = 1_700_000_000_000;

/// The bytes of a named vector.
fn vector(name: &str) -> Bytes {
    let named = VECTORS.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    unhex(named.unwrap_or_else(|| panic!("no vector {name}")))
}

fn unhex(text: &str) -> Bytes {
    assert!(text.len().is_multiple_of(2), "half a byte in {text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

fn stream_data(kind: MessageKind, sequence: i64, flags: Flags, payload_kind: PayloadKind) -> Header {
    Header {
        kind,
        schema_version: 1,
        created_ms: CREATED_MS,
        sequence: SequenceNumber(sequence),
        flags,
        id: MESSAGE_ID,
        payload_kind,
    }
}

fn unsequenced(kind: MessageKind, id: MessageId) -> Header {
    Header { id, ..stream_data(kind, 0, Flags::SYN_FIN, PayloadKind::Undefined) }
}

/// Checks one message vector in both directions and gives its payload back.
#[track_caller]
fn pin(name: &str, header: &Header, payload: &[u8]) -> Bytes {
    let frame = vector(name);
    let message = Message::decode(frame.clone()).expect(name);
    assert_eq!(&message.header, header, "{name}");
    assert_eq!(message.payload, payload, "{name}");
    assert_eq!(message.declared_len as usize, payload.len(), "{name}");
    assert_eq!(message.check_digest(), Ok(()), "{name}");
    assert_eq!(hex(&message.encode()), hex(&frame), "{name} encoded again");

    let mut draft = Draft::new(header, payload.len());
    draft.payload_mut().extend_from_slice(payload);
    assert_eq!(draft.payload_len(), payload.len(), "{name}");
    assert_eq!(hex(&draft.seal()), hex(&frame), "{name} written from its fields");
    message.payload
}

/// Checks that a JSON body reads as `expected` and that `expected` is written as exactly these bytes.
#[track_caller]
fn pin_body<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(payload: &[u8], expected: &T) {
    assert_eq!(&from_json::<T>("body", payload).expect("a body"), expected);
    assert_eq!(to_json(expected), payload);
}

#[test]
fn a1_a2_stream_data_both_ways() {
    let upward = stream_data(MessageKind::InputStreamData, 0, Flags::NONE, PayloadKind::Output);
    pin("A1", &upward, b"hello");
    let downward = stream_data(MessageKind::OutputStreamData, 0, Flags::SYN, PayloadKind::Output);
    pin("A2", &downward, b"hello");
}

#[test]
fn a3_a4_acknowledgements_both_ways() {
    for (name, kind, sequence) in [("A3", "output_stream_data", 0), ("A4", "input_stream_data", 7)] {
        let text = format!(
            r#"{{"AcknowledgedMessageType":"{kind}","AcknowledgedMessageId":"00112233-4455-6677-8899-aabbccddeeff","AcknowledgedMessageSequenceNumber":{sequence},"IsSequentialMessage":true}}"#
        );
        let payload = pin(name, &unsequenced(MessageKind::Acknowledge, ACK_ID), text.as_bytes());
        let body = Acknowledge { kind: kind.into(), id: MESSAGE_ID.to_string(), sequence, sequential: true };
        assert_eq!(Acknowledge::decode(&payload), Ok(body.clone()));
        pin_body(&payload, &body);
        let mut by_hand = BytesMut::new();
        Acknowledge::encode_into(&mut by_hand, kind, MESSAGE_ID, SequenceNumber(sequence));
        assert_eq!(by_hand, payload, "{name} written by hand");
    }
}

#[test]
fn a5_a6_flags() {
    let upward = stream_data(MessageKind::InputStreamData, 1, Flags::NONE, PayloadKind::Flag);
    let payload = pin("A5", &upward, &[0, 0, 0, 2]);
    assert_eq!(FlagKind::decode(&payload), Ok(FlagKind::TerminateSession));
    assert_eq!(FlagKind::TerminateSession.encode(), payload[..]);

    let downward = stream_data(MessageKind::OutputStreamData, 3, Flags::NONE, PayloadKind::Flag);
    let payload = pin("A6", &downward, &[0, 0, 0, 3]);
    assert_eq!(FlagKind::decode(&payload), Ok(FlagKind::ConnectToPortError));
    assert_eq!(FlagKind::ConnectToPortError.encode(), payload[..]);
}

#[test]
fn a7_size() {
    let header = stream_data(MessageKind::InputStreamData, 0, Flags::NONE, PayloadKind::Size);
    let payload = pin("A7", &header, br#"{"cols":80,"rows":24}"#);
    pin_body(&payload, &Size { cols: 80, rows: 24 });
}

#[test]
fn a8_handshake_request() {
    let header = stream_data(MessageKind::OutputStreamData, 0, Flags::SYN, PayloadKind::HandshakeRequest);
    let text = br#"{"AgentVersion":"3.3.987.0","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Port","Properties":{"localPortNumber":"9000","portNumber":"80","type":"LocalPortForwarding"}}}]}"#;
    let payload = pin("A8", &header, text);
    let parameters = SessionTypeParameters {
        session_type: "Port".into(),
        properties: json!({"type": "LocalPortForwarding", "portNumber": "80", "localPortNumber": "9000"}),
    };
    assert_eq!(parameters.property("portNumber"), "80");
    assert_eq!(parameters.property("host"), "", "a property that is not there");
    let request = HandshakeRequest {
        agent_version: "3.3.987.0".into(),
        requested_client_actions: vec![ClientAction::SessionType(parameters)],
    };
    pin_body(&payload, &request);
}

#[test]
fn a9_handshake_response() {
    let header = stream_data(MessageKind::InputStreamData, 0, Flags::NONE, PayloadKind::HandshakeResponse);
    let text = br#"{"ClientVersion":"1.2.764.0","ProcessedClientActions":[{"ActionType":"SessionType","ActionStatus":1,"ActionResult":null,"Error":""}],"Errors":null}"#;
    let payload = pin("A9", &header, text);
    let response = HandshakeResponse {
        client_version: "1.2.764.0".into(),
        processed_client_actions: vec![ProcessedAction {
            action_type: "SessionType".into(),
            action_status: ActionStatus::Success,
            action_result: serde_json::Value::Null,
            error: String::new(),
        }],
        errors: None,
    };
    pin_body(&payload, &response);
}

#[test]
fn a10_handshake_complete() {
    let header = stream_data(MessageKind::OutputStreamData, 1, Flags::NONE, PayloadKind::HandshakeComplete);
    let payload = pin("A10", &header, br#"{"HandshakeTimeToComplete":1500000,"CustomerMessage":""}"#);
    pin_body(&payload, &HandshakeComplete { handshake_time_to_complete: 1_500_000, customer_message: String::new() });
}

#[test]
fn a11_start_publication() {
    pin("A11", &unsequenced(MessageKind::StartPublication, MESSAGE_ID), b"");
    // Nothing but the kind is read of such a message, so that every shorter header means the same.
    let frame = vector("A11");
    for len in 36..frame.len() {
        let message = Message::decode(frame.slice(..len)).expect("a short publication message");
        assert_eq!(message.header.kind, MessageKind::StartPublication, "{len} bytes");
        assert_eq!(message.check_digest(), Ok(()), "{len} bytes");
    }
    let kind_only = [&[0; 4], &frame[4..36], &[0; 84]].concat();
    assert_eq!(Message::decode(kind_only.into()).expect("zeroed fields").header.kind, MessageKind::StartPublication);
}

#[test]
fn a12_channel_closed() {
    let text = br#"{"MessageId":"00112233-4455-6677-8899-aabbccddeeff","CreatedDate":"1700000000000","DestinationId":"i-0123456789abcdef0","SessionId":"user-0123456789abcdef0","MessageType":"channel_closed","SchemaVersion":1,"Output":""}"#;
    let payload = pin("A12", &unsequenced(MessageKind::ChannelClosed, MESSAGE_ID), text);
    let body = ChannelClosed {
        message_id: MESSAGE_ID.to_string(),
        created_date: CREATED_MS.to_string(),
        destination_id: "i-0123456789abcdef0".into(),
        session_id: "user-0123456789abcdef0".into(),
        message_type: "channel_closed".into(),
        schema_version: 1,
        output: Some(String::new()),
    };
    pin_body(&payload, &body);
}

#[test]
fn b1_to_b6_smux_frames() {
    let three = StreamId::FIRST;
    assert_eq!(three, StreamId(3));
    let table = [
        ("B1", FrameHeader::syn(three)),
        ("B2", FrameHeader::psh(three, 5)),
        ("B3", FrameHeader::fin(three)),
        ("B4", FrameHeader::nop()),
        ("B5", FrameHeader::syn(StreamId(5))),
        ("B6", FrameHeader { command: Command::Psh, length: 0x0102, stream: StreamId(0x0102_0304) }),
    ];
    for (name, header) in table {
        let bytes = vector(name);
        assert_eq!(header.encode(), bytes[..HEADER_LEN], "{name}");
        assert_eq!(FrameHeader::decode(bytes[..HEADER_LEN].try_into().expect("eight bytes")), Ok(header), "{name}");
    }
    assert_eq!(&vector("B2")[HEADER_LEN..], b"hello");
}

#[test]
fn b7_version_2_is_refused() {
    let bytes = vector("B7");
    assert_eq!(
        FrameHeader::decode(bytes[..HEADER_LEN].try_into().expect("eight bytes")),
        Err(DecodeError::SmuxVersion(2))
    );
    // The same command under version 1 does not exist either.
    assert_eq!(FrameHeader::decode([1, 4, 0, 0, 3, 0, 0, 0]), Err(DecodeError::SmuxCommand(4)));
}

#[test]
fn b8_a_stream_cut_into_messages() {
    let data: Vec<u8> = (0..=255).cycle().take(2048).collect();
    let stream = [
        &FrameHeader::syn(StreamId::FIRST).encode()[..],
        &FrameHeader::psh(StreamId::FIRST, 2048).encode(),
        &data,
        &FrameHeader::fin(StreamId::FIRST).encode(),
    ]
    .concat();
    assert_eq!(stream.len(), 2072);
    assert_eq!(sha256(&stream), "2d00ba388113e6d9b579232625b89ff4c66b5eea854380a7cf315a8958aa5c40");

    let expected = [
        (
            1024,
            "b0576d0810439078c1ba581735bfc76d2abdbc7d432307f41c92812815e57efe",
            "cd70762944a36d075142d195083e83483d23eb242817a05e4e64418e3bb9777e",
        ),
        (
            1024,
            "3199379088a429523ca04f3e49ba3e5a5707b3090acb891e52f1de3d891641bd",
            "44904fe29dc75dcc5207557ebfda724b097eab726808a777065f1070c5950a15",
        ),
        (
            24,
            "2b1af4040cb5a05fac05e297a2ebee9b610d26c3aa9cdc17d280aa452262e879",
            "65a88288aa922aee701c3c74517995caf1bbafdee8cd27f6a219bcb03fb226a6",
        ),
    ];
    assert_eq!(stream.chunks(1024).count(), expected.len());
    for (sequence, (chunk, (len, chunk_hash, frame_hash))) in (1..).zip(stream.chunks(1024).zip(expected)) {
        assert_eq!((chunk.len(), sha256(chunk).as_str()), (len, chunk_hash), "chunk {sequence}");
        let header = stream_data(MessageKind::InputStreamData, sequence, Flags::NONE, PayloadKind::Output);
        let mut draft = Draft::new(&header, chunk.len());
        draft.payload_mut().extend_from_slice(chunk);
        let frame = draft.seal();
        assert_eq!(frame.len(), PAYLOAD_OFFSET + len, "message {sequence}");
        assert_eq!(sha256(&frame), frame_hash, "message {sequence}");
        assert_eq!(Message::decode(frame).expect("our own message").payload, chunk, "message {sequence}");
    }
}

#[test]
fn c_payload_cipher() {
    let sixty_four: Vec<u8> = (0..64).collect();
    let key = DataKey::new(&sixty_four).expect("64 bytes");
    let down_nonce: [u8; NONCE_LEN] = std::array::from_fn(|index| index as u8);
    let up_nonce: [u8; NONCE_LEN] = std::array::from_fn(|index| 0xf0 + index as u8);
    for (name, payload_key, nonce, plaintext) in [
        ("C1", key.agent_to_client(), down_nonce, &b"hello"[..]),
        ("C2", key.client_to_agent(), up_nonce, b"hello"),
        ("C3", key.agent_to_client(), down_nonce, &sixty_four),
        ("C4", key.client_to_agent(), up_nonce, &sixty_four),
    ] {
        let sealed = vector(name);
        assert_eq!(hex(&payload_key.seal(nonce, plaintext)), hex(&sealed), "{name}");
        assert_eq!(payload_key.open(&sealed).as_deref(), Ok(plaintext), "{name}");
    }
    // The halves must not be taken for each other.
    let wrong = key.client_to_agent().open(&vector("C1"));
    assert_eq!(wrong, Err(DecodeError::Sealed { len: vector("C1").len() }));
    assert!(DataKey::new(&sixty_four[..32]).is_err());
}

#[test]
fn f_what_an_agent_version_means() {
    let table = [
        ("2.3.722.0", [false, false, false]),
        ("2.3.750.0", [true, false, false]),
        ("3.0.196.0", [true, false, false]),
        ("3.0.196.1", [true, true, false]),
        ("3.0.222.0", [true, true, false]),
        ("3.1.1511.0", [true, true, false]),
        ("3.1.1575.0", [true, true, true]),
        ("3.3.987.0", [true, true, true]),
        ("4.0.0.0", [true, true, true]),
        ("", [false; 3]),
        ("3,0.0.0", [false; 3]),
        ("1.4.1.2.4.1", [false; 3]),
        ("abc", [false; 3]),
    ];
    for (version, [terminate_flag, smux, keepalive_off]) in table {
        assert_eq!(
            AgentFeatures::of(version),
            AgentFeatures { terminate_flag, smux, keepalive_off },
            "agent version {version:?}"
        );
    }
}

#[test]
fn f_what_a_client_version_means() {
    let table = [
        (&["", "0.1.0", "1.1.0", "1.1.69"][..], [false, false]),
        (&["1.1.70", "1.1.70.0", "1.2.0.0", "1.2.331.0"], [true, false]),
        (&["1.2.331.1", "1.2.339.0", "1.2.764.0", "1.3.0.0", "2.0.0"], [true, true]),
    ];
    for (versions, [smux, keepalive_off]) in table {
        for version in versions {
            let features = ClientFeatures { smux, keepalive_off };
            assert_eq!(ClientFeatures::of(version), features, "client version {version:?}");
        }
    }
}

#[test]
fn message_ids_stand_low_half_first() {
    assert_eq!(hex(&MESSAGE_ID.to_wire()), "8899aabbccddeeff0011223344556677");
    assert_eq!(MessageId::from_wire(MESSAGE_ID.to_wire()), MESSAGE_ID);
    assert_eq!(MESSAGE_ID.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
    assert_eq!(&vector("A1")[64..80], MESSAGE_ID.to_wire());
}
