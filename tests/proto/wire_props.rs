//! Properties of the wire format over arbitrary input: what is written is read back, what is not valid is an error
//! and never a panic.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use ssmfwd::wire::smux::{self, Command, FrameHeader, StreamId};
use ssmfwd::wire::{
    Acknowledge, ActionStatus, AgentFeatures, ChannelClosed, ClientAction, ClientFeatures, DataKey, DecodeError,
    EncChallenge, FlagKind, Flags, HEADER_LEN, HandshakeRequest, HandshakeResponse, Header, KmsParameters, KmsResult,
    Message, MessageId, MessageKind, NONCE_LEN, PAYLOAD_OFFSET, PayloadKind, ProcessedAction, SEAL_OVERHEAD,
    SequenceNumber, SessionTypeParameters, Size, from_json, to_json,
};

fn message_kind() -> impl Strategy<Value = MessageKind> {
    prop_oneof![
        4 => Just(MessageKind::InputStreamData),
        4 => Just(MessageKind::OutputStreamData),
        2 => Just(MessageKind::Acknowledge),
        1 => Just(MessageKind::ChannelClosed),
        1 => Just(MessageKind::StartPublication),
        1 => Just(MessageKind::PausePublication),
        1 => Just(MessageKind::AgentSessionState),
        1 => Just(MessageKind::AgentJobReplyAck),
        1 => "zz[!-~]{1,30}".prop_map(|text| MessageKind::Unknown(text.into())),
    ]
}

prop_compose! {
    fn header()(
        kind in message_kind(),
        schema_version: u32,
        created_ms in 1..=u64::MAX,
        sequence: i64,
        flags: u64,
        id: u128,
        payload_kind: u32,
    ) -> Header {
        Header {
            kind,
            schema_version,
            created_ms,
            sequence: SequenceNumber(sequence),
            flags: Flags(flags),
            id: MessageId(uuid::Uuid::from_u128(id)),
            payload_kind: PayloadKind::from_wire(payload_kind),
        }
    }
}

prop_compose! {
    /// What an honest sender would send.
    fn valid_message()(header in header(), payload in vec(any::<u8>(), 0..2000)) -> Message {
        let unsealed =
            Message { header, digest: [0; 32], declared_len: 0, payload: payload.into() };
        Message::decode(unsealed.encode()).expect("what was encoded decodes")
    }
}

/// Text with everything that Go's encoder escapes in a way of its own.
fn awkward_text() -> impl Strategy<Value = String> {
    let awkward = prop_oneof![
        Just('<'),
        Just('>'),
        Just('&'),
        Just('\u{2028}'),
        Just('\u{2029}'),
        Just('\u{2027}'),
        Just('\u{20ac}'),
        Just('"'),
        Just('\\'),
        Just('\n'),
        Just('\0'),
        any::<char>(),
    ];
    vec(awkward, 0..40).prop_map(String::from_iter)
}

fn properties() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        awkward_text().prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::btree_map(awkward_text(), inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn client_action() -> impl Strategy<Value = ClientAction> {
    prop_oneof![
        (awkward_text(), properties()).prop_map(|(session_type, properties)| ClientAction::SessionType(
            SessionTypeParameters { session_type, properties }
        )),
        (awkward_text(), proptest::option::of(awkward_text()))
            .prop_map(|(key_id, challenge)| ClientAction::KmsEncryption(KmsParameters { key_id, challenge })),
    ]
}

fn bytes_or_null() -> impl Strategy<Value = Option<Vec<u8>>> {
    proptest::option::of(vec(any::<u8>(), 0..100))
}

fn processed_action() -> impl Strategy<Value = ProcessedAction> {
    (awkward_text(), any::<u8>(), properties(), awkward_text()).prop_map(
        |(action_type, status, action_result, error)| ProcessedAction {
            action_type,
            action_status: ActionStatus::from(status),
            action_result,
            error,
        },
    )
}

fn data_key() -> impl Strategy<Value = DataKey> {
    vec(any::<u8>(), 64).prop_map(|bytes| DataKey::new(&bytes).expect("64 bytes"))
}

proptest! {
    #[test]
    fn messages_round_trip(header in header(), payload in vec(any::<u8>(), 0..2000)) {
        let message = Message { header, digest: [0; 32], declared_len: 0, payload: payload.into() };
        let frame = message.encode();
        prop_assert_eq!(frame.len(), PAYLOAD_OFFSET + message.payload.len());
        let back = Message::decode(frame.clone()).expect("what was encoded decodes");
        prop_assert_eq!(&back.header, &message.header);
        prop_assert_eq!(&back.payload, &message.payload);
        prop_assert_eq!(back.declared_len as usize, message.payload.len());
        prop_assert_eq!(back.check_digest(), Ok(()));
        prop_assert_eq!(back.encode(), frame);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        if let Ok(message) = Message::decode(bytes.into()) {
            // The outcome does not matter; that there is one does.
            drop((message.check_digest(), message.encode(), format!("{message:?}")));
        }
    }

    #[test]
    fn changed_messages_never_panic(
        message in valid_message(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        keep in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut frame = message.encode().to_vec();
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        if let Some(keep) = keep {
            frame.truncate(keep.index(frame.len() + 1));
        }
        let frame = Bytes::from(frame);
        if let Ok(read) = Message::decode(frame.clone()) {
            prop_assert!(frame.ends_with(&read.payload), "a payload is the rest of its frame");
            drop((read.check_digest(), read.encode()));
        }
    }

    #[test]
    fn header_lengths_are_checked_against_the_frame(
        message in valid_message(),
        claimed in prop_oneof![0..4000u32, any::<u32>()],
    ) {
        let publication =
            matches!(message.header.kind, MessageKind::StartPublication | MessageKind::PausePublication);
        let mut frame = message.encode().to_vec();
        frame[..4].copy_from_slice(&claimed.to_be_bytes());
        let max = frame.len() - 4;
        let fits = (HEADER_LEN..=max).contains(&(claimed as usize));
        match Message::decode(frame.clone().into()) {
            Ok(read) if publication => prop_assert_eq!(&read.payload[..], &frame[PAYLOAD_OFFSET..]),
            Ok(read) => {
                prop_assert!(fits);
                prop_assert_eq!(&read.payload[..], &frame[claimed as usize + 4..]);
            }
            Err(error) => {
                prop_assert!(!fits && !publication);
                prop_assert_eq!(error, DecodeError::HeaderLength { got: claimed, max });
            }
        }
    }

    #[test]
    fn a_changed_payload_does_not_match_its_digest(
        message in valid_message(),
        at: prop::sample::Index,
        change in 1..=u8::MAX,
    ) {
        let publication =
            matches!(message.header.kind, MessageKind::StartPublication | MessageKind::PausePublication);
        prop_assume!(!message.payload.is_empty() && !publication);
        let mut frame = message.encode().to_vec();
        let at = PAYLOAD_OFFSET + at.index(message.payload.len());
        frame[at] ^= change;
        let read = Message::decode(frame.into()).expect("only the payload was changed");
        prop_assert_eq!(read.check_digest(), Err(DecodeError::DigestMismatch { len: message.payload.len() }));
    }

    #[test]
    fn smux_headers_round_trip(command in 0..4u8, length: u16, stream: u32) {
        let command = [Command::Syn, Command::Fin, Command::Psh, Command::Nop][usize::from(command)];
        let header = FrameHeader { command, length, stream: StreamId(stream) };
        prop_assert_eq!(FrameHeader::decode(header.encode()), Ok(header));
        prop_assert_eq!(header.data_len(), if command == Command::Psh { usize::from(length) } else { 0 });
    }

    #[test]
    fn smux_headers_are_refused_exactly_outside_version_1(bytes: [u8; smux::HEADER_LEN]) {
        match FrameHeader::decode(bytes) {
            Ok(header) => prop_assert_eq!(header.encode(), bytes),
            Err(DecodeError::SmuxVersion(version)) => prop_assert!(version == bytes[0] && version != 1),
            Err(DecodeError::SmuxCommand(command)) => {
                prop_assert!(bytes[0] == 1 && command == bytes[1] && command > 3);
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn acknowledgements_round_trip(kind in "[a-z_]{1,32}", id: u128, sequence: i64) {
        let id = MessageId(uuid::Uuid::from_u128(id));
        let mut payload = BytesMut::new();
        Acknowledge::encode_into(&mut payload, &kind, id, SequenceNumber(sequence));
        let payload = payload.freeze();
        let body = Acknowledge { kind, id: id.to_string(), sequence, sequential: true };
        prop_assert_eq!(Acknowledge::decode(&payload), Ok(body.clone()));
        prop_assert_eq!(to_json(&body), payload);
    }

    #[test]
    fn message_ids_round_trip(id: u128) {
        let id = MessageId(uuid::Uuid::from_u128(id));
        prop_assert_eq!(MessageId::from_wire(id.to_wire()), id);
    }

    #[test]
    fn texts_are_escaped_as_go_does(text in awkward_text()) {
        let written = to_json(&text);
        let shown = std::str::from_utf8(&written).expect("JSON is UTF-8");
        prop_assert!(!shown.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{}", shown);
        prop_assert_eq!(from_json::<String>("text", &written), Ok(text.clone()));
        // Other JSON readers see the same text.
        prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&written).expect("JSON"), text);
    }

    #[test]
    fn handshake_requests_round_trip(agent_version in awkward_text(), actions in vec(client_action(), 0..4)) {
        let request = HandshakeRequest { agent_version, requested_client_actions: actions };
        prop_assert_eq!(from_json::<HandshakeRequest>("request", &to_json(&request)), Ok(request));
    }

    #[test]
    fn unknown_actions_keep_their_name(name in "[A-Z][a-z]{1,12}X", parameters in properties()) {
        let text = serde_json::json!({
            "AgentVersion": "3.3.987.0",
            "RequestedClientActions": [{"ActionType": name, "ActionParameters": parameters}],
        });
        let request: HandshakeRequest = from_json("request", text.to_string().as_bytes()).expect("a request");
        prop_assert!(matches!(&request.requested_client_actions[..], [ClientAction::Unknown(_)]));
        prop_assert_eq!(request.requested_client_actions[0].name(), name);
        prop_assert_eq!(from_json::<serde_json::Value>("request", &to_json(&request)), Ok(text));
    }

    #[test]
    fn handshake_responses_round_trip(
        client_version in awkward_text(),
        actions in vec(processed_action(), 0..4),
        errors in proptest::option::of(vec(awkward_text(), 0..3)),
    ) {
        let response = HandshakeResponse { client_version, processed_client_actions: actions, errors };
        prop_assert_eq!(from_json::<HandshakeResponse>("response", &to_json(&response)), Ok(response));
    }

    #[test]
    fn kms_results_and_challenges_round_trip(
        cipher_text_key in bytes_or_null(),
        cipher_text_hash in bytes_or_null(),
        challenge_acknowledgement: bool,
        challenge in bytes_or_null(),
    ) {
        let result = KmsResult { cipher_text_key, cipher_text_hash, challenge_acknowledgement };
        prop_assert_eq!(from_json::<KmsResult>("result", &to_json(&result)), Ok(result));
        let challenge = EncChallenge { challenge };
        prop_assert_eq!(from_json::<EncChallenge>("challenge", &to_json(&challenge)), Ok(challenge));
    }

    #[test]
    fn channel_closed_texts_round_trip(output in proptest::option::of(awkward_text()), session_id in awkward_text()) {
        let closed = ChannelClosed { output, session_id, ..ChannelClosed::default() };
        prop_assert_eq!(from_json::<ChannelClosed>("channel_closed", &to_json(&closed)), Ok(closed));
    }

    #[test]
    fn sizes_are_read_with_padding_behind_them(cols: u32, rows: u32, padding in 0..4096usize) {
        let size = Size { cols, rows };
        let padded = [&to_json(&size)[..], &vec![b' '; padding]].concat();
        prop_assert_eq!(from_json::<Size>("size", &padded), Ok(size));
    }

    #[test]
    fn flags_are_exactly_four_bytes(payload in vec(any::<u8>(), 0..9)) {
        let payload = Bytes::from(payload);
        match FlagKind::decode(&payload) {
            Ok(flag) => prop_assert_eq!(&flag.encode()[..], &payload[..]),
            Err(error) => {
                prop_assert_eq!(error, DecodeError::WrongLength { what: "flag payload", expected: 4, got: payload.len() });
            }
        }
    }

    #[test]
    fn sealed_payloads_open_with_the_same_key_only(
        key in data_key(),
        nonce: [u8; NONCE_LEN],
        plaintext in vec(any::<u8>(), 0..2000),
    ) {
        let sealed = key.client_to_agent().seal(nonce, &plaintext);
        prop_assert_eq!(sealed.len(), plaintext.len() + SEAL_OVERHEAD);
        prop_assert!(sealed.starts_with(&nonce));
        prop_assert_eq!(key.client_to_agent().open(&sealed), Ok(Bytes::from(plaintext)));
        let failed = Err(DecodeError::Sealed { len: sealed.len() });
        prop_assert_eq!(key.agent_to_client().open(&sealed), failed);
    }

    #[test]
    fn a_sealed_payload_cannot_be_changed_or_cut(
        key in data_key(),
        nonce: [u8; NONCE_LEN],
        plaintext in vec(any::<u8>(), 0..200),
        at: prop::sample::Index,
        change in 1..=u8::MAX,
    ) {
        let key = key.agent_to_client();
        let sealed = key.seal(nonce, &plaintext);
        let at = at.index(sealed.len());
        let mut changed = sealed.to_vec();
        changed[at] ^= change;
        prop_assert_eq!(key.open(&changed), Err(DecodeError::Sealed { len: changed.len() }));
        prop_assert_eq!(key.open(&sealed[..at]), Err(DecodeError::Sealed { len: at }));
    }

    #[test]
    fn any_version_text_is_decided(version in prop_oneof![".*", "[0-9.+-]{0,20}"]) {
        // A client that can be told to end a session, or to speak smux, is never one whose version cannot be read.
        let agent = AgentFeatures::of(&version);
        prop_assert!(!agent.smux || agent.terminate_flag);
        prop_assert!(!agent.keepalive_off || agent.smux);
        let client = ClientFeatures::of(&version);
        prop_assert!(!client.keepalive_off || client.smux);
    }
}
