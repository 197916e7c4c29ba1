//! Recorded SSH sessions of the genuine pair, with this agent in the place of the genuine one.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::*;

const STREAM: &str = include_str!("../../../../tests/data/captures/h-ssh-standard-stream.jsonl");
const REFUSED: &str = include_str!("../../../../tests/data/captures/h2-ssh-destination-refused.jsonl");
const CLOSED: &str = include_str!("../../../../tests/data/captures/f-agent-ends-session-destination-closed-ssh.jsonl");

/// A message of one end as it was recorded.
fn recorded(line: &Value, direction: &str) -> Option<Message> {
    if line["dir"] != direction || line["op"] != "binary" {
        return None;
    }
    let bytes = STANDARD.decode(line["base64"].as_str().expect("text")).expect("base64");
    Some(Message::decode(bytes.into()).expect("a message"))
}

fn lines(capture: &str) -> Vec<Value> {
    capture.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The properties of the recorded handshake.
fn properties(lines: &[Value]) -> Value {
    let mut sent = lines.iter().filter_map(|line| recorded(line, "agent->gw"));
    let request = sent.find(|message| message.header.payload_kind == PayloadKind::HandshakeRequest);
    let request: Value = serde_json::from_slice(&request.expect("a handshake").payload).expect("JSON");
    request["RequestedClientActions"][0]["ActionParameters"]["Properties"].clone()
}

/// Gives the agent what the client sent and what the destination must have sent, and compares all it sends but
/// identities, times and acknowledgements' ids.
fn replay(capture: &str) -> Rig {
    let lines = lines(capture);
    let mut rig = Rig::new(options(properties(&lines), Behaviour::ideal()));
    rig.input(AgentInput::Connected);
    let mut told = 0;
    for line in &lines {
        if let Some(message) = recorded(line, "client->gw") {
            let payload = message.payload.clone();
            let data = message.header.payload_kind == PayloadKind::Output;
            let mut effects = rig.input(AgentInput::Binary(message.encode()));
            if data {
                assert_eq!(effects, [format!("write 1 {}", tell_bytes(&payload))]);
                effects = rig.written(1, payload.len());
                assert!(effects.len() == 1 && effects[0].starts_with("ack "), "{effects:?}");
            } else if effects.iter().any(|line| line.starts_with("dial ")) && capture != REFUSED {
                rig.dialled(1);
            }
        }
        let Some(expected) = recorded(line, "agent->gw") else { continue };
        if expected.header.payload_kind == PayloadKind::Output {
            rig.received(1, &expected.payload);
        }
        let sent = rig.transmitted.get(told).unwrap_or_else(|| panic!("not sent: {:?}", expected.header));
        let sent = Message::decode(sent.clone()).expect("a message");
        told += 1;
        let outline = |message: &Message| {
            let Header { kind, sequence, flags, payload_kind, .. } = message.header.clone();
            let payload = match payload_kind {
                PayloadKind::Output => message.payload.clone(),
                // Versions, times and identities differ.
                _ => Bytes::new(),
            };
            (kind, sequence, flags, payload_kind, payload)
        };
        assert_eq!(outline(&sent), outline(&expected));
    }
    assert_eq!(rig.transmitted.len(), told, "more was sent than recorded");
    rig
}

#[test]
fn a_recorded_ssh_session_goes_the_same_way() {
    let mut rig = replay(STREAM);
    assert_eq!(rig.agent.mode(), Some(Mode::Raw));
    // The plugin left at the end of its input: to the agent nothing has happened.
    assert!(!rig.agent.ended() && rig.deadline.is_none());
    assert_eq!(rig.gateway(MessageKind::ChannelClosed), ["close 1", "state Terminating", "ended \"\""]);
}

#[test]
fn a_recorded_refusal_kills_the_worker_without_a_word() {
    let mut rig = replay(REFUSED);
    assert_eq!(rig.refused(1), NOTHING);
    assert!(rig.agent.crashed());
}

#[test]
fn a_recorded_end_of_the_destination_ends_the_session() {
    let mut rig = replay(CLOSED);
    assert_eq!(rig.eof(1), ["close 1", "state Terminating", "ended \"\""]);
}
