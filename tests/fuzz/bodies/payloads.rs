//! Bodies of messages: JSON in the conventions of Go, flags, sealed payloads.

use std::fmt::Debug;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use ssmfwd::wire::{
    Acknowledge, AgentSessionState, AgentTaskComplete, ChannelClosed, DataKey, EncChallenge, FlagKind,
    HandshakeComplete, HandshakeRequest, HandshakeResponse, InteractiveShell, KmsResult, Message, MessageKind,
    OpenDataChannel, PayloadKind, SEAL_OVERHEAD, Size, from_json, to_json,
};

/// Selects the body of an acknowledgement. Numbers below are those of [`PayloadKind`].
pub(crate) const ACKNOWLEDGE: u8 = 32;
/// Selects the body of `channel_closed`.
pub(crate) const CHANNEL_CLOSED: u8 = 33;
/// Selects the body of `agent_session_state`.
pub(crate) const AGENT_SESSION_STATE: u8 = 34;

/// The first byte selects a body, the rest is read as one.
pub(crate) fn payloads(data: &[u8]) {
    let Some((selector, payload)) = data.split_first() else { return };
    let payload = Bytes::copy_from_slice(payload);
    match *selector {
        ACKNOWLEDGE => acknowledge(&payload),
        CHANNEL_CLOSED => json::<ChannelClosed>(&payload),
        AGENT_SESSION_STATE => json::<AgentSessionState>(&payload),
        35 => json::<InteractiveShell>(&payload),
        36 => json::<AgentTaskComplete>(&payload),
        37 => json::<OpenDataChannel>(&payload),
        38 => json::<KmsResult>(&payload),
        number => stream_data(PayloadKind::from_wire(number.into()), &payload),
    }
}

/// Reads the payload of a message as what its kinds announce.
pub(crate) fn body_of(message: &Message) {
    let payload = &message.payload;
    match message.header.kind {
        MessageKind::Acknowledge => acknowledge(payload),
        MessageKind::ChannelClosed => json::<ChannelClosed>(payload),
        MessageKind::AgentSessionState => json::<AgentSessionState>(payload),
        MessageKind::InteractiveShell => json::<InteractiveShell>(payload),
        MessageKind::AgentTaskComplete => json::<AgentTaskComplete>(payload),
        _ => stream_data(message.header.payload_kind, payload),
    }
}

fn stream_data(kind: PayloadKind, payload: &Bytes) {
    match kind {
        PayloadKind::Size => json::<Size>(payload),
        PayloadKind::HandshakeRequest => json::<HandshakeRequest>(payload),
        PayloadKind::HandshakeResponse => json::<HandshakeResponse>(payload),
        PayloadKind::HandshakeComplete => json::<HandshakeComplete>(payload),
        PayloadKind::EncChallengeRequest | PayloadKind::EncChallengeResponse => json::<EncChallenge>(payload),
        PayloadKind::Flag => flag(payload),
        _ => sealed(payload),
    }
}

/// What is read is written in a form that reads the same and is stable.
fn json<T: Serialize + DeserializeOwned + PartialEq + Debug>(payload: &[u8]) {
    let body: T = match from_json("body", payload) {
        Ok(body) => body,
        Err(error) => return drop(error.to_string()),
    };
    let written = to_json(&body);
    assert!(!written.iter().any(|byte| b"<>&".contains(byte)), "Go escapes these");
    let back: T = from_json("body", &written).expect("our own body");
    assert_eq!(back, body);
    assert_eq!(to_json(&back), written);
}

fn acknowledge(payload: &Bytes) {
    json::<Acknowledge>(payload);
    assert_eq!(Acknowledge::decode(payload), from_json("acknowledge", payload));
}

fn flag(payload: &Bytes) {
    match FlagKind::decode(payload) {
        Ok(flag) => assert_eq!(flag.encode(), payload[..]),
        Err(_) => assert_ne!(payload.len(), 4),
    }
}

/// Nobody can make a payload that opens without the key; ours opens to what went in.
fn sealed(payload: &Bytes) {
    let key = DataKey::new(&[7; 64]).expect("64 bytes").client_to_agent();
    assert!(key.open(payload).is_err(), "arbitrary bytes must not open");
    let sealed = key.seal([9; 12], payload);
    assert_eq!(sealed.len(), payload.len() + SEAL_OVERHEAD);
    assert_eq!(key.open(&sealed).as_ref(), Ok(payload));
}
