use super::*;
use crate::{proto::Mode, wire::DataKey};

fn request(version: &str, properties: &str) -> String {
    format!(
        r#"{{"AgentVersion":"{version}","RequestedClientActions":[{{"ActionType":"SessionType",
        "ActionParameters":{{"SessionType":"Port","Properties":{properties}}}}}]}}"#
    )
}

fn handshake() -> Handshake {
    Handshake::new(SessionKinds::Connections)
}

fn mode(agreed: Agreed) -> Mode {
    crate::proto::port::Port::new(agreed.service, crate::wire::Size { cols: 80, rows: 24 }).mode()
}

#[test]
fn the_agents_version_and_the_document_decide_the_mode() {
    for (version, properties, expected) in [
        ("3.3.987.0", r#"{"type":"LocalPortForwarding"}"#, Mode::Mux),
        ("3.0.196.0", r#"{"type":"LocalPortForwarding"}"#, Mode::Basic),
        ("2.3.672.0", r#"{"type":"LocalPortForwarding"}"#, Mode::Basic),
        ("3.3.987.0", r#"{"portNumber":"22"}"#, Mode::Raw),
        ("3.3.987.0", "null", Mode::Raw),
    ] {
        let mut handshake = handshake();
        let answer = handshake.request(request(version, properties).as_bytes(), "1.2.764.0").expect("valid");
        let response = r#"{"ClientVersion":"1.2.764.0","ProcessedClientActions":[{"ActionType":"SessionType","ActionStatus":1,"ActionResult":null,"Error":""}],"Errors":null}"#;
        assert_eq!(answer, Reply::Respond(response.into()));
        let done = handshake.complete(br#"{"HandshakeTimeToComplete":1,"CustomerMessage":"hi"}"#);
        let (agreed, message) = done.expect("valid").expect("the request was answered");
        assert_eq!((mode(agreed), message.as_str()), (expected, "hi"), "{version} {properties}");
    }
}

#[test]
fn what_we_cannot_do_is_answered_as_unsupported() {
    let body = br#"{"AgentVersion":"3.3.987.0","RequestedClientActions":[
        {"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"k"}},
        {"ActionType":"Dance","ActionParameters":{}},
        {"ActionType":"SessionType","ActionParameters":{"SessionType":"Standard_Stream","Properties":null}}]}"#;
    let mut handshake = handshake();
    let Ok(Reply::Respond(response)) = handshake.request(body, "1.2.764.0") else { panic!("it is answered") };
    let response: HandshakeResponse = from_json("response", &response).expect("our own");
    let refusal = "the client action KMSEncryption is not supported";
    assert_eq!(handshake.refusal, Some(Cause::Handshake(refusal.into())));
    assert!(matches!(handshake.complete(b"{}"), Ok(None)));
    assert!(response.processed_client_actions.iter().all(|a| a.action_status == ActionStatus::Unsupported));
    assert_eq!(response.processed_client_actions[1].action_type, "Dance");
}

#[test]
fn each_kind_of_session_is_served_only_where_it_is_wanted() {
    let port = ["Port"];
    for (kinds, served, refused, word) in [
        (SessionKinds::Connections, &port[..], &SHELLS[..], "not for port forwarding"),
        (SessionKinds::Shell, &SHELLS[..], &port[..], "not shells"),
        (SessionKinds::Any, &["Port", SHELLS[0], SHELLS[1], SHELLS[2]][..], &["Dance"][..], "not supported"),
    ] {
        for (types, is_served) in [(served, true), (refused, false)] {
            for named in types {
                let body = request("3.3.987.0", "null").replace("Port", named);
                let mut handshake = Handshake::new(kinds);
                assert!(matches!(handshake.request(body.as_bytes(), "1.2.764.0"), Ok(Reply::Respond(_))));
                assert_eq!(handshake.complete(b"{}").expect("valid").is_some(), is_served, "{kinds:?} {named}");
                let why = handshake.refusal.map(|cause| cause.to_string()).unwrap_or_default();
                assert_eq!(why.contains(&format!("sessions of type {named} are {word}")), !is_served, "{why}");
            }
        }
    }
}

fn shell(actions: &str) -> String {
    format!(
        r#"{{"AgentVersion":"3.3.987.0","RequestedClientActions":[{actions}{{"ActionType":"SessionType","ActionParameters":{{"SessionType":"Standard_Stream","Properties":null}}}}]}}"#
    )
}

fn key() -> SealedKey {
    let bytes: Vec<u8> = (0..64).collect();
    SealedKey { plaintext: DataKey::new(&bytes).expect("64 bytes"), ciphertext: vec![1, 2, 3] }
}

#[test]
fn a_key_is_asked_for_once_and_only_where_the_rest_is_served() {
    let kms = r#"{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"k","Challenge":"c"}},"#;
    for (actions, wants) in [
        (kms.to_owned(), true),
        (format!("{kms}{kms}"), false),
        (kms.replace("\"k\"", "\"\""), false),
        (kms.replace("\"k\"", &format!("\"{}\"", "k".repeat(2049))), false),
        (kms.replace("\"c\"", &format!("\"{}\"", "c".repeat(1025))), false),
        (format!(r#"{kms}{{"ActionType":"Dance"}},"#), false),
        (format!(r#"{kms}{{"ActionType":"SessionType","ActionParameters":{{"SessionType":"Port"}}}},"#), false),
    ] {
        let mut handshake = Handshake::new(SessionKinds::Any);
        match handshake.request(shell(&actions).as_bytes(), "1.2.764.0").expect("valid") {
            Reply::WantKey { key_id, challenge } => {
                assert!(wants && key_id == "k" && challenge.as_deref() == Some("c"), "{actions}");
            }
            Reply::Respond(response) => {
                let response: HandshakeResponse = from_json("response", &response).expect("our own");
                assert!(!wants, "{actions}");
                let of_key = |action: &&ProcessedAction| action.action_type == "KMSEncryption";
                let first = response.processed_client_actions.iter().find(of_key).expect("an answer");
                assert_eq!(first.action_status, ActionStatus::Unsupported, "{actions}");
                assert!(matches!(handshake.refusal, Some(Cause::Handshake(_))));
                assert_eq!(handshake.data_key(Ok(key()), 0, "1.2.764.0"), None, "nobody waits for it");
            }
            Reply::Nothing => panic!("{actions}"),
        }
        assert_eq!(handshake.request(b"{", "1"), Ok(Reply::Nothing), "a request is answered once");
    }
}

#[test]
fn a_challenge_is_acknowledged_only_where_there_was_one() {
    for (challenge, acknowledged) in [(r#","Challenge":"abc=""#, true), (r#","Challenge":"""#, false), ("", false)] {
        let kms = format!(r#"{{"ActionType":"KMSEncryption","ActionParameters":{{"KMSKeyId":"k"{challenge}}}}},"#);
        let mut handshake = Handshake::new(SessionKinds::Shell);
        let reply = handshake.request(shell(&kms).as_bytes(), "1.2.764.0").expect("valid");
        assert!(matches!(reply, Reply::WantKey { challenge, .. } if challenge.is_some() == acknowledged));
        let response = handshake.data_key(Ok(key()), 0, "1.2.764.0").expect("it was waited for");
        let response: HandshakeResponse = from_json("response", &response).expect("our own");
        let [kms, session] = &response.processed_client_actions[..] else { panic!("{response:?}") };
        assert_eq!((kms.action_status, session.action_status), (ActionStatus::Success, ActionStatus::Success));
        let result: KmsResult = serde_json::from_value(kms.action_result.clone()).expect("our own");
        assert_eq!(result.challenge_acknowledgement, acknowledged);
        assert_eq!(result.cipher_text_key.as_deref(), Some(&[1, 2, 3][..]));
        assert_eq!(handshake.data_key(Ok(key()), 0, "1.2.764.0"), None, "one is enough");
    }
}

#[test]
fn completion_before_the_request_is_ignored_and_garbage_is_an_error() {
    assert!(matches!(handshake().complete(b"{}"), Ok(None)));
    assert!(handshake().request(b"{", "1.2.764.0").is_err());
    assert!(handshake().request(b"{}", "1.2.764.0").is_err());
    let empty = br#"{"AgentVersion":"3.3.987.0","RequestedClientActions":null}"#;
    let mut handshake = handshake();
    assert!(matches!(handshake.request(empty, "1"), Ok(Reply::Respond(_))) && handshake.refusal.is_some());
    assert_eq!(handshake.request(empty, "1"), Ok(Reply::Nothing), "a request is answered once");
}
