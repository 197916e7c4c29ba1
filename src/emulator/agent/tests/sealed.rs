//! Sessions with a KMS key: who waits for what, and what is sealed.

use super::*;
use crate::wire::{DataKey, EncChallenge, to_json};

const KEY: &str = "alias/sessions";
const CONTEXT: &str = "aws:ssm:SessionId=lab-0effd47c3e7e46d79 aws:ssm:TargetId=i-0123456789abcdef0";

fn key() -> DataKey {
    let plaintext: Vec<u8> = (0..64).collect();
    DataKey::new(&plaintext).expect("64 bytes")
}

fn asking(change: impl FnOnce(&mut AgentOptions)) -> Rig {
    let behaviour = Behaviour { kms_key: Some(KEY.to_owned()), ..Behaviour::ideal() };
    let mut options = AgentOptions { session_type: SessionType::StandardStream, ..options(Value::Null, behaviour) };
    change(&mut options);
    let mut rig = Rig::new(options);
    let lines = rig.input(AgentInput::Connected);
    assert!(lines[1].starts_with("0 HandshakeRequest") && lines[1].contains(KEY), "{lines:?}");
    rig.ack(0);
    rig
}

fn challenge(rig: &Rig) -> Option<String> {
    let request = Message::decode(rig.transmitted[1].clone()).expect("a message").payload;
    let request: Value = serde_json::from_slice(&request).expect("JSON");
    let parameters = &request["RequestedClientActions"][1]["ActionParameters"];
    parameters["Challenge"].as_str().map(str::to_owned)
}

/// The client's response with a data key, acknowledging the challenge or not.
fn respond(rig: &mut Rig, acknowledged: bool) -> Vec<String> {
    let body = json!({
        "ClientVersion": "1.2.764.0",
        "ProcessedClientActions": [
            {"ActionType": "KMSEncryption", "ActionStatus": 1, "Error": "", "ActionResult": {
                "KMSCipherTextKey": "AAAA", "KMSCipherTextHash": null, "ChallengeAcknowledgement": acknowledged}},
            {"ActionType": "SessionType", "ActionStatus": 1, "ActionResult": null, "Error": ""},
        ],
        "Errors": null,
    });
    rig.send(PayloadKind::HandshakeResponse, body.to_string().as_bytes())
}

fn sealed_challenge(rig: &Rig) -> Vec<u8> {
    let message = rig.last();
    assert_eq!(message.header.payload_kind, PayloadKind::EncChallengeRequest);
    from_json::<EncChallenge>("challenge", &message.payload).expect("a body").challenge.expect("a challenge")
}

#[test]
fn the_response_is_acknowledged_when_its_key_is_decrypted_and_the_shell_starts_after_the_proof() {
    let mut rig = asking(|_| ());
    let text = challenge(&rig).expect("a challenge");
    assert_eq!(text.len(), 24);
    assert_eq!(respond(&mut rig, true), [format!("decrypt {KEY} aws:ssm:RandomChallenge={text} {CONTEXT}")]);
    assert!(!rig.agent.wants_messages() && !rig.agent.is_sealed());
    let lines = rig.input(AgentInput::Decrypted(Ok(key())));
    assert!(lines[0] == "ack 0" && lines[1].starts_with("1 EncChallengeRequest") && lines.len() == 2, "{lines:?}");

    let plaintext = key().agent_to_client().open(&sealed_challenge(&rig)).expect("the agent's half");
    assert_eq!(plaintext.len(), 64);
    let proof = EncChallenge { challenge: Some(key().client_to_agent().seal([9; 12], &plaintext).to_vec()) };
    let lines = rig.send(PayloadKind::EncChallengeResponse, &to_json(&proof));
    assert!(lines[0] == "ack 1" && lines[1].starts_with("2 HandshakeComplete"), "{lines:?}");
    assert_eq!(lines[2..], ["start 1 Pty shell"]);

    rig.input(AgentInput::Started(ConnectionId(1)));
    rig.received(1, b"$ ");
    assert_eq!(key().agent_to_client().open(&rig.last().payload).as_deref(), Ok(&b"$ "[..]));
    let line = key().client_to_agent().seal([8; 12], b"ls\n");
    assert_eq!(rig.data(&line), ["write 1 ls\n"]);
    rig.written(1, 3);
    // Sizes are not sealed.
    assert_eq!(rig.send(PayloadKind::Size, br#"{"cols":80,"rows":24}"#), ["resize 1 80x24", "ack 3"]);
    assert_eq!((rig.data(b"ls\n"), rig.agent.unsealed()), (vec![], 1));
    assert_eq!(rig.send_as(4, PayloadKind::Output, &line), NOTHING);
    assert_eq!((rig.agent.nonces_reused(), rig.agent.expected_sequence()), (1, 4));
}

#[test]
fn a_key_that_is_not_decrypted_ends_the_session_with_the_words_of_kms() {
    let mut rig = asking(|_| ());
    respond(&mut rig, false);
    let lines = rig.input(AgentInput::Decrypted(Err("AccessDeniedException: no".to_owned())));
    let end = lines.last().expect("an end");
    assert!(end.contains("Fetching data key failed") && end.ends_with("AccessDeniedException: no\""), "{lines:?}");
    assert!(!lines.contains(&"ack 0".to_owned()));
}

#[test]
fn old_agents_have_no_challenge_and_strict_ones_insist_on_it() {
    let mut rig = asking(|options| options.version = "3.3.808.0".to_owned());
    assert_eq!(challenge(&rig), None);
    assert_eq!(respond(&mut rig, true), [format!("decrypt {KEY} {CONTEXT}")]);
    let mut rig = asking(|options| options.behaviour.require_challenge = true);
    assert!(respond(&mut rig, false).last().is_some_and(|end| end.starts_with("ended")));
    let mut rig = asking(|_| ());
    assert_eq!(respond(&mut rig, false), [format!("decrypt {KEY} {CONTEXT}")]);
}

#[test]
fn fifteen_seconds_for_the_response_and_as_many_for_the_proof() {
    let mut rig = asking(|_| ());
    assert_eq!(rig.wait(ms(14_000)), NOTHING);
    respond(&mut rig, true);
    rig.input(AgentInput::Decrypted(Ok(key())));
    rig.ack(1);
    assert_eq!(rig.wait(ms(14_999)), NOTHING);
    assert_eq!(rig.wait(ms(1)), ["29000: state Terminating", "29000: ended \"Handshake timed out.\""]);
}

#[test]
fn a_client_without_a_key_or_with_another_proof_is_sent_away() {
    let mut rig = asking(|_| ());
    let lines = rig.respond("1.2.764.0", 1);
    assert!(lines.last().is_some_and(|end| end.contains("no data key")), "{lines:?}");

    for sealed in [key().client_to_agent().seal([9; 12], &[1; 64]), Bytes::from_static(b"plain")] {
        let mut rig = asking(|_| ());
        respond(&mut rig, true);
        rig.input(AgentInput::Decrypted(Ok(key())));
        let proof = EncChallenge { challenge: Some(sealed.to_vec()) };
        let lines = rig.send(PayloadKind::EncChallengeResponse, &to_json(&proof));
        assert_eq!(lines[0], "ack 1");
        assert_eq!(rig.ack(1).last().map(|end| end.contains("challenge failed")), Some(true));
    }
}
