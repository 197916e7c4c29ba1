//! Sealed sessions: the emulated KMS, the challenge, and payloads under the data key, by a client made by hand.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    super::{Emulator, EmulatorConfig, EndedBy, SealFault, SessionDocument},
    client::{Answer, Client, Last, Signer, call, call_service, soon},
    ideal,
};
use crate::wire::{
    ActionStatus, ClientAction, DataKey, EncChallenge, HandshakeResponse, KmsResult, PayloadKey, PayloadKind,
    ProcessedAction, from_json, to_json,
};

const KEY: &str = "alias/sessions";
const SESSION: &str = "aws:ssm:SessionId";
const TARGET: &str = "aws:ssm:TargetId";
const CHALLENGE: &str = "aws:ssm:RandomChallenge";

fn sealing(change: impl FnOnce(&mut EmulatorConfig)) -> Emulator {
    let mut config = EmulatorConfig { kms_key: Some(KEY.into()), ..ideal() };
    change(&mut config);
    Emulator::start(config).expect("an emulator")
}

async fn generate(emulator: &Emulator, input: &Value) -> Answer {
    call_service(emulator, &Signer::default(), "kms", "TrentService.GenerateDataKey", input).await
}

/// A session whose handshake request has come.
async fn asked(emulator: &Emulator, document: Option<&str>) -> (Client, String) {
    let mut input = json!({"Target": emulator.target()});
    if let Some(name) = document {
        input["DocumentName"] = name.into();
    }
    let grant = call(emulator, "StartSession", &input).await;
    let mut client = Client::open(&grant).await;
    client.by_hand = true;
    client.until(|client| client.request.is_some()).await;
    (client, grant.text("SessionId"))
}

fn challenge_of(client: &Client) -> Option<String> {
    let actions = &client.request.as_ref().expect("a request").requested_client_actions;
    actions.iter().find_map(|action| match action {
        ClientAction::KmsEncryption(parameters) => {
            assert_eq!(parameters.key_id, KEY);
            parameters.challenge.clone()
        }
        _ => None,
    })
}

fn context(emulator: &Emulator, id: &str, challenge: Option<&str>) -> Value {
    let mut context = json!({SESSION: id, TARGET: emulator.target()});
    if let Some(challenge) = challenge {
        context[CHALLENGE] = challenge.into();
    }
    context
}

/// Answers the handshake with a data key made for this context.
async fn respond(emulator: &Emulator, client: &mut Client, context: &Value, acknowledged: bool) -> DataKey {
    let answer = generate(emulator, &json!({"KeyId": KEY, "NumberOfBytes": 64, "EncryptionContext": context})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.text("KeyId").starts_with("arn:aws:kms:us-east-1:"), "{answer:?}");
    let decoded = |name| STANDARD.decode(answer.text(name)).expect("base64");
    let result = KmsResult {
        cipher_text_key: Some(decoded("CiphertextBlob")),
        cipher_text_hash: None,
        challenge_acknowledgement: acknowledged,
    };
    let processed = |action_type: &str, action_result| ProcessedAction {
        action_type: action_type.into(),
        action_status: ActionStatus::Success,
        action_result,
        error: String::new(),
    };
    let response = HandshakeResponse {
        client_version: client.client_version.into(),
        processed_client_actions: vec![
            processed("KMSEncryption", serde_json::to_value(result).expect("JSON")),
            processed("SessionType", Value::Null),
        ],
        errors: None,
    };
    client.send(PayloadKind::HandshakeResponse, &to_json(&response)).await;
    DataKey::new(&decoded("Plaintext")).expect("64 bytes")
}

/// Both directions as the client has them, and its nonces.
struct Seal {
    ours: PayloadKey,
    theirs: PayloadKey,
    nonce: u8,
}

impl Seal {
    fn of(key: &DataKey) -> Self {
        Self { ours: key.client_to_agent(), theirs: key.agent_to_client(), nonce: 0 }
    }

    fn seal(&mut self, text: &[u8]) -> Vec<u8> {
        self.nonce += 1;
        self.ours.seal([self.nonce; 12], text).to_vec()
    }

    /// What of the payloads of one kind opens.
    fn opened(&self, client: &Client, kind: PayloadKind) -> String {
        let payloads = client.payloads.iter().filter(|(of, _)| *of == kind);
        let opened = payloads.filter_map(|(_, payload)| self.theirs.open(payload).ok()).flat_map(|text| text.to_vec());
        String::from_utf8(opened.collect()).expect("text")
    }

    /// Sends the agent's challenge back.
    async fn prove(&mut self, client: &mut Client) {
        client.until(|client| !client.payloads.is_empty()).await;
        let (kind, payload) = client.payloads.remove(0);
        assert_eq!(kind, PayloadKind::EncChallengeRequest);
        let body: EncChallenge = from_json("challenge", &payload).expect("a challenge");
        let plaintext = self.theirs.open(&body.challenge.expect("a sealed one")).expect("the agent's key");
        assert_eq!(plaintext.len(), 64);
        let challenge = Some(self.seal(&plaintext));
        client.send(PayloadKind::EncChallengeResponse, &to_json(&EncChallenge { challenge })).await;
    }
}

/// A session that is sealed and ready.
async fn sealed(emulator: &Emulator, document: Option<&str>) -> (Client, Seal, String) {
    let (mut client, id) = asked(emulator, document).await;
    let challenge = challenge_of(&client);
    let context = context(emulator, &id, challenge.as_deref());
    let mut seal = Seal::of(&respond(emulator, &mut client, &context, challenge.is_some()).await);
    seal.prove(&mut client).await;
    client.until(|client| client.complete).await;
    (client, seal, id)
}

#[tokio::test]
async fn a_shell_is_sealed_both_ways() {
    let emulator = sealing(|_| ());
    let (mut client, mut seal, id) = sealed(&emulator, None).await;
    assert_eq!(challenge_of(&client).map(|challenge| STANDARD.decode(challenge).expect("base64").len()), Some(16));
    let line = seal.seal(b"echo $((6 * 7))\n");
    client.send_surely(PayloadKind::Output, &line).await;
    client.until(|client| seal.opened(client, PayloadKind::Output).contains("42\r\n")).await;
    assert!(!client.has("42"));
    let line = seal.seal(b"exit\n");
    client.send(PayloadKind::Output, &line).await;
    assert!(matches!(client.last().await, Last::ChannelClosed(text) if text.is_empty()));
    let state = emulator.state();
    let session = &state.sessions[&id];
    assert_eq!((session.sealed, session.unsealed_inputs, state.violation_count), (true, 0, 0));
}

#[tokio::test]
async fn separate_output_and_its_status_are_sealed() {
    let document: SessionDocument = serde_json::from_value(json!({
        "sessionType": "NonInteractiveCommands",
        "properties": {"commands": "sh -c 'echo out; echo err >&2; exit 3'", "separateOutputStream": true},
    }))
    .expect("a document");
    let emulator = sealing(|config| config.documents = [("Apart".to_owned(), document)].into());
    let (mut client, seal, _) = sealed(&emulator, Some("Apart")).await;
    assert!(matches!(client.last().await, Last::ChannelClosed(_)));
    for (kind, text) in
        [(PayloadKind::Output, "out\n"), (PayloadKind::StdErr, "err\n"), (PayloadKind::ExitCode, "EXIT_CODE: 3")]
    {
        assert_eq!(seal.opened(&client, kind), text);
    }
}

#[tokio::test]
async fn what_is_not_sealed_is_refused_and_counted() {
    let emulator = sealing(|_| ());
    let (mut client, mut seal, id) = sealed(&emulator, None).await;
    let line = seal.seal(b"echo one\n");
    client.send_surely(PayloadKind::Output, &line).await;
    // In the clear, then under a nonce that was used.
    let sequence = client.sequence;
    client.send(PayloadKind::Output, b"echo plain; echo and longer than a nonce and a tag\n").await;
    soon(emulator.wait_for(|state| state.violation_count == 1)).await;
    client.sequence = sequence;
    client.send(PayloadKind::Output, &line).await;
    let state = soon(emulator.wait_for(|state| state.violation_count == 2)).await;
    assert_eq!(state.sessions[&id].unsealed_inputs, 1);
    assert!(state.violations[0].contains("not sealed") && state.violations[1].contains("nonce"), "{state:?}");
    client.sequence = sequence;
    let line = seal.seal(b"echo a''gain\n");
    client.send(PayloadKind::Output, &line).await;
    client.until(|client| seal.opened(client, PayloadKind::Output).contains("again\r\n")).await;
    assert!(!seal.opened(&client, PayloadKind::Output).contains("plain"));
}

#[tokio::test]
async fn plain_data_before_the_seal_counts_too() {
    let emulator = sealing(|_| ());
    let (mut client, id) = asked(&emulator, None).await;
    client.send(PayloadKind::Output, b"secret").await;
    let state = soon(emulator.wait_for(|state| state.violation_count == 1)).await;
    assert_eq!((state.sessions[&id].sealed, state.sessions[&id].unsealed_inputs), (false, 1));
    assert!(!state.violations[0].contains("secret"));
}

#[tokio::test]
async fn a_key_of_another_context_ends_the_session() {
    let emulator = sealing(|_| ());
    let other = |name: &str, value: &str| (name.to_owned(), Value::from(value));
    for (name, value) in [other(SESSION, "user-0"), other(TARGET, "i-0"), other(CHALLENGE, "AAAA")] {
        let (mut client, id) = asked(&emulator, None).await;
        let mut context = context(&emulator, &id, challenge_of(&client).as_deref());
        context[&name] = value;
        respond(&emulator, &mut client, &context, true).await;
        let last = client.last().await;
        let Last::ChannelClosed(text) = &last else { panic!("{last:?}") };
        assert!(text.contains("Fetching data key failed") && text.contains("InvalidCiphertext"), "{name}: {text}");
    }
    assert_eq!(emulator.state().ended_by(EndedBy::Agent), 3);
}

#[tokio::test]
async fn old_agents_send_no_challenge_and_strict_ones_require_it() {
    let emulator = sealing(|config| config.agent_version = "3.3.808.0".into());
    let (client, ..) = sealed(&emulator, None).await;
    assert_eq!(challenge_of(&client), None);

    // A client that does not know the challenge is served, unless the agent is strict.
    for strict in [false, true] {
        let emulator = sealing(|config| config.require_kms_challenge = strict);
        let (mut client, id) = asked(&emulator, None).await;
        let key = respond(&emulator, &mut client, &context(&emulator, &id, None), false).await;
        if strict {
            assert!(matches!(client.last().await, Last::ChannelClosed(text) if text.contains("challenge")));
        } else {
            Seal::of(&key).prove(&mut client).await;
            client.until(|client| client.complete).await;
        }
    }
}

#[tokio::test]
async fn the_wrong_proof_ends_the_session() {
    let emulator = sealing(|_| ());
    let (mut client, id) = asked(&emulator, None).await;
    let challenge = challenge_of(&client);
    let key = respond(&emulator, &mut client, &context(&emulator, &id, challenge.as_deref()), true).await;
    client.until(|client| !client.payloads.is_empty()).await;
    let challenge = Some(Seal::of(&key).seal(&[7; 64]));
    client.send(PayloadKind::EncChallengeResponse, &to_json(&EncChallenge { challenge })).await;
    assert!(matches!(client.last().await, Last::ChannelClosed(text) if text.contains("challenge failed")));
}

#[tokio::test]
async fn wrong_seals_come_on_order() {
    for (fault, opens) in [
        ("tampered:1", [true, false, true]),
        ("truncated:0", [false, true, true]),
        ("wrong_key:2", [true, true, false]),
        ("plain:1", [true, false, true]),
        ("replayed:1", [true, true, true]),
    ] {
        let document: SessionDocument = serde_json::from_value(json!({
            "sessionType": "NonInteractiveCommands",
            "properties": {"commands": "sh -c 'echo out; echo err >&2'", "separateOutputStream": true},
        }))
        .expect("a document");
        let fault: SealFault = fault.parse().expect("a fault");
        let emulator = sealing(|config| {
            config.documents = [("Apart".to_owned(), document)].into();
            config.seal_fault = Some(fault);
        });
        let (mut client, seal, _) = sealed(&emulator, Some("Apart")).await;
        client.last().await;
        let opened: Vec<_> = client.payloads.iter().map(|(_, payload)| seal.theirs.open(payload).is_ok()).collect();
        assert_eq!(opened, opens, "{fault:?}");
        let same = client.payloads.windows(2).any(|pair| pair[0].1 == pair[1].1);
        assert_eq!(same, fault == "replayed:1".parse().expect("a fault"));
    }
    let emulator = sealing(|config| config.seal_fault = "no_challenge".parse().ok());
    let (mut client, id) = asked(&emulator, None).await;
    let challenge = challenge_of(&client);
    respond(&emulator, &mut client, &context(&emulator, &id, challenge.as_deref()), true).await;
    client.until(|client| client.complete).await;
}

#[tokio::test]
async fn kms_checks_signature_key_and_permission() {
    let emulator = sealing(|_| ());
    let input = json!({"KeyId": KEY, "NumberOfBytes": 64, "EncryptionContext": {"a": "b"}});
    let wrong_service =
        call_service(&emulator, &Signer::default(), "ssm", "TrentService.GenerateDataKey", &input).await;
    assert_eq!(wrong_service.code(), "InvalidSignatureException");
    let change = |name: &str, value: Value| {
        let mut input = input.clone();
        input[name] = value;
        input
    };
    let by_alias_arn = change("KeyId", "arn:aws:kms:us-east-1:123456789012:alias/sessions".into());
    assert_eq!(generate(&emulator, &by_alias_arn).await.status, 200);
    for (code, input) in [
        ("NotFoundException", change("KeyId", "alias/other".into())),
        ("NotFoundException", change("KeyId", "11111111-2222-3333-4444-555555555555".into())),
        ("ValidationException", change("KeyId", Value::Null)),
        ("ValidationException", change("NumberOfBytes", 32.into())),
        ("ValidationException", change("KeySpec", "AES_256".into())),
    ] {
        assert_eq!(generate(&emulator, &input).await.code(), code, "{input}");
    }
    emulator.configure(|config| config.denied = vec!["GenerateDataKey".into()]);
    let denied = generate(&emulator, &input).await;
    assert_eq!(denied.code(), "AccessDeniedException");
    let text = denied.text("message");
    assert!(
        text.contains("to perform: kms:GenerateDataKey on resource: arn:aws:kms:us-east-1:123456789012:key/"),
        "{text}"
    );
    emulator.configure(|config| {
        config.denied.clear();
        config.failures = vec!["GenerateDataKey:key_not_found:1".parse().expect("a failure")];
    });
    assert_eq!(generate(&emulator, &input).await.code(), "NotFoundException");
    assert_eq!(generate(&emulator, &input).await.status, 200);
    assert_eq!(emulator.state().calls_of("GenerateDataKey"), 10);

    emulator.configure(|config| config.agent_kms_denied = true);
    let (mut client, id) = asked(&emulator, None).await;
    let challenge = challenge_of(&client);
    respond(&emulator, &mut client, &context(&emulator, &id, challenge.as_deref()), true).await;
    assert!(matches!(client.last().await, Last::ChannelClosed(text) if text.contains("kms:Decrypt")));
}
