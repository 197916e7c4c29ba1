//! Sessions with a KMS key: the handshake, what is sealed, and what ends a session that is to be sealed and is not.

use bytes::Bytes;
use ssmfwd::{
    proto::{
        Cause, Event, Initiator, Input, Mode, OutputRead, SealedKey, SessionKinds, ShellChannel, StreamId, limits,
    },
    wire::{
        ActionStatus, DataKey, EncChallenge, HandshakeResponse, KmsResult, MessageKind, NONCE_LEN, PayloadKey,
        PayloadKind, from_json, to_json,
    },
};

use crate::peer::{NEW, Peer, ms, request, shell_request};

const KEY_ID: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234";
const ACTION: &str = r#"{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"arn:aws:kms:eu-west-1:111122223333:key/1234","Challenge":"q83vASNFZ4mrze8BI0VniQ=="}},"#;
const SECRET: &[u8] = b"the user's secret";
/// Vector C1: "hello" for the client.
const C1: &str = "000102030405060708090a0b2f67ba77aa2797ff353b8a046d28236dcd9d057bbb";
/// Vector C3: the challenge 00..3f for the client.
const C3: &str = "000102030405060708090a0b4703d418c1e0c41c85489d80bde4766293c79527e46e496b207eff9e01741ead21318cdf8be434bf5c8d55c6a4aa0617de6852be6ee395ed07ae102224decbd144fb31796b7c5af2318f12e1ec2c4362";

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex"))
        .collect()
}

/// The vectors' data key: bytes 00..3f.
fn data_key() -> DataKey {
    DataKey::new(&(0..64).collect::<Vec<u8>>()).expect("64 bytes")
}

fn sealed_key() -> SealedKey {
    SealedKey { plaintext: data_key(), ciphertext: b"for the agent".to_vec() }
}

/// The agent's side of the cipher, which counts its nonces.
struct Agent {
    seals: PayloadKey,
    opens: PayloadKey,
    next: u128,
}

impl Agent {
    fn new() -> Self {
        Self { seals: data_key().agent_to_client(), opens: data_key().client_to_agent(), next: 0x00ff_fffe }
    }

    fn seal(&mut self, plaintext: impl AsRef<[u8]>) -> Bytes {
        let nonce: [u8; NONCE_LEN] = self.next.to_le_bytes()[..NONCE_LEN].try_into().expect("12 bytes");
        self.next += 1;
        self.seals.seal(nonce, plaintext.as_ref())
    }
}

fn challenge(sealed: impl Into<Vec<u8>>) -> Bytes {
    to_json(&EncChallenge { challenge: Some(sealed.into()) })
}

/// A session that was asked for encryption and waits for the data key.
fn asked() -> Peer {
    let mut peer = Peer::with(|config| config.kinds = SessionKinds::Shell);
    peer.say(PayloadKind::HandshakeRequest, shell_request("Standard_Stream", ACTION));
    let wanted =
        Event::DataKeyWanted { key_id: KEY_ID.to_owned(), challenge: Some("q83vASNFZ4mrze8BI0VniQ==".to_owned()) };
    assert_eq!(peer.events(), [wanted]);
    assert_eq!(peer.lines(), ["open", "ping", "ack 0"], "nothing is answered without the key");
    peer
}

/// The same when the key is there and the agent is to send its challenge.
fn answered() -> Peer {
    let mut peer = asked();
    peer.input(Input::DataKey(Ok(sealed_key())));
    peer.acknowledge(0);
    assert_eq!(peer.data_lines(), ["0 HandshakeResponse"]);
    peer.new_messages();
    peer
}

/// A sealed shell that is ready, with its stream.
fn sealed() -> (Peer, Agent, StreamId) {
    let (mut peer, mut agent) = (answered(), Agent::new());
    peer.say(PayloadKind::EncChallengeRequest, challenge(agent.seal([5; 64])));
    peer.acknowledge(1);
    peer.say(PayloadKind::HandshakeComplete, r#"{"HandshakeTimeToComplete":1,"CustomerMessage":""}"#);
    peer.acknowledge(2);
    assert_eq!(peer.events(), [Event::Ready { mode: Mode::Shell, agent_version: NEW.to_owned() }]);
    assert_eq!(peer.data_lines(), ["1 EncChallengeResponse", "2 Size"]);
    let sent = peer.new_messages();
    let body: EncChallenge = from_json("challenge", &sent[0].1).expect("our own");
    let response = body.challenge.expect("a challenge");
    assert_eq!(agent.opens.open(&response).as_deref(), Ok(&[5; 64][..]));
    assert!(peer.session.is_sealed());
    let stream = peer.open();
    (peer, agent, stream)
}

/// Why the session ended; it must have, by our doing, and the API has to be told.
fn cause(peer: &mut Peer) -> Cause {
    let found = peer.events().into_iter().find_map(|event| match event {
        Event::Closed { reason, terminate } => Some((reason, terminate)),
        _ => None,
    });
    let (reason, terminate) = found.expect("the session has ended");
    assert!(terminate && reason.initiator == Initiator::Library, "{reason}");
    reason.cause
}

fn encryption(peer: &mut Peer) -> String {
    match cause(peer) {
        Cause::Encryption(text) => text,
        other => panic!("{other}"),
    }
}

/// Whether the user's data can be seen in any message.
fn shows_secret(peer: &mut Peer) -> bool {
    peer.new_messages().iter().any(|(_, payload)| payload.windows(6).any(|six| SECRET.windows(6).any(|s| s == six)))
}

// --- as it should be -----------------------------------------------------------------------------------------------

#[test]
fn the_response_carries_the_encrypted_key_and_acknowledges_the_challenge() {
    let mut peer = asked();
    peer.input(Input::DataKey(Ok(sealed_key())));
    let sent = peer.new_messages();
    let response: HandshakeResponse = from_json("response", &sent[0].1).expect("our own");
    let [kms, session] = &response.processed_client_actions[..] else { panic!("{response:?}") };
    assert_eq!((&*kms.action_type, &*session.action_type), ("KMSEncryption", "SessionType"));
    assert_eq!((kms.action_status, session.action_status), (ActionStatus::Success, ActionStatus::Success));
    let result: KmsResult = serde_json::from_value(kms.action_result.clone()).expect("our own");
    assert_eq!(result.cipher_text_key.as_deref(), Some(&b"for the agent"[..]));
    assert!(result.challenge_acknowledgement && response.errors.is_none());
    let plaintext: Vec<u8> = (0..64).collect();
    assert!(!sent[0].1.windows(8).any(|eight| plaintext.windows(8).any(|key| key == eight)));
}

#[test]
fn the_vectors_of_the_challenge_and_of_output_open() {
    let mut peer = answered();
    peer.say(PayloadKind::EncChallengeRequest, challenge(hex(C3)));
    let sent = peer.new_messages();
    let body: EncChallenge = from_json("challenge", &sent[0].1).expect("our own");
    let plaintext: Vec<u8> = (0..64).collect();
    assert_eq!(Agent::new().opens.open(&body.challenge.expect("one")).as_deref(), Ok(&plaintext[..]));

    let (mut peer, _, stream) = sealed();
    peer.output(hex(C1));
    let mut pieces = [Bytes::new()];
    let read = peer.session.read_output(stream, &mut pieces, 100);
    assert_eq!(read, Ok(OutputRead::Data(ShellChannel::Output, 1)));
    assert_eq!(&pieces[0][..], b"hello");
}

#[test]
fn input_is_sealed_with_a_nonce_of_its_own_each_and_output_of_each_kind_opens() {
    let (mut peer, mut agent, stream) = sealed();
    let mut received = Vec::new();
    let mut nonces = std::collections::HashSet::new();
    let data: Vec<u8> = SECRET.iter().copied().cycle().take(200_000).collect();
    let mut written = 0;
    while written < data.len() {
        written += peer.session.write(stream, &data[written..]).expect("open");
        peer.drain();
        peer.acknowledge_all();
        for (kind, payload) in peer.new_messages() {
            assert_eq!(kind, PayloadKind::Output);
            assert!(payload.len() <= limits::PAYLOAD);
            assert!(nonces.insert(payload[..NONCE_LEN].to_vec()), "a nonce was used twice");
            received.extend_from_slice(&agent.opens.open(&payload).expect("sealed by us"));
        }
    }
    assert!(received == data, "what is sealed is what was written");

    peer.output(agent.seal("out"));
    peer.say(PayloadKind::StdErr, agent.seal("err"));
    peer.say(PayloadKind::ExitCode, agent.seal("EXIT_CODE: 7"));
    let mut said = Vec::new();
    let mut pieces = [Bytes::new()];
    while let Ok(OutputRead::Data(channel, _)) = peer.session.read_output(stream, &mut pieces, 100) {
        said.push((channel, pieces[0].to_vec()));
    }
    assert_eq!(said, [(ShellChannel::Output, b"out".to_vec()), (ShellChannel::ErrorOutput, b"err".to_vec())]);
    assert_eq!(peer.session.exit_code(), Some(7));
    assert_eq!(peer.session.closed(), None);
}

#[test]
fn sizes_stay_in_the_clear_and_what_is_sent_again_is_the_same() {
    let (mut peer, agent, stream) = sealed();
    peer.session.set_size(ssmfwd::wire::Size { cols: 9, rows: 8 });
    peer.write(stream, SECRET);
    peer.drain();
    let sent = peer.new_messages();
    assert_eq!(sent[0].1, r#"{"cols":9,"rows":8}"#);
    assert_eq!(agent.opens.open(&sent[1].1).as_deref(), Ok(SECRET));
    peer.data_lines();
    peer.pass(ms(3000));
    assert!(peer.data_lines().iter().any(|line| line.starts_with("again")));
    assert!(peer.new_messages().is_empty());
}

#[test]
fn messages_that_overtake_each_other_are_no_replay() {
    let (mut peer, mut agent, stream) = sealed();
    let (first, second) = (agent.seal("first"), agent.seal("second"));
    let at = peer.next;
    peer.say_at(at + 1, PayloadKind::Output, &second);
    peer.say_at(at, PayloadKind::Output, &first);
    peer.say_at(at, PayloadKind::Output, &first);
    peer.say_at(at + 1, PayloadKind::Output, &second);
    assert_eq!(peer.read(stream).0, b"firstsecond");
    assert_eq!(peer.session.closed(), None, "the same message again is a duplicate");
}

// --- as it must not be ---------------------------------------------------------------------------------------------

/// Every way in which a payload can be wrong, of every kind that is sealed.
#[test]
fn a_payload_that_does_not_open_ends_the_session_and_nothing_is_said_in_the_clear() {
    let wrong = DataKey::new(&[9; 64]).expect("64 bytes");
    for kind in [PayloadKind::Output, PayloadKind::StdErr, PayloadKind::ExitCode] {
        for case in ["plain", "empty", "truncated", "short", "tampered", "nonce", "wrong key", "own half", "replayed"] {
            let (mut peer, mut agent, stream) = sealed();
            peer.writable = false;
            peer.write(stream, SECRET);
            let good = agent.seal("EXIT_CODE: 1");
            let mut bad = good.to_vec();
            match case {
                "plain" => bad = b"EXIT_CODE: 1 and some more words".to_vec(),
                "empty" => bad.clear(),
                "truncated" => drop(bad.pop()),
                "short" => bad.truncate(27),
                "tampered" => bad[14] ^= 1,
                "nonce" => bad[0] ^= 1,
                "wrong key" => bad = wrong.agent_to_client().seal([3; NONCE_LEN], b"EXIT_CODE: 1").to_vec(),
                // What we have sent comes back.
                "own half" => bad = data_key().client_to_agent().seal([3; NONCE_LEN], b"EXIT_CODE: 1").to_vec(),
                _ => peer.say(kind, &good),
            }
            let code = peer.session.exit_code();
            peer.say(kind, &bad);
            let text = encryption(&mut peer);
            let expected = if case == "replayed" { "came twice" } else { "is not sealed with the key" };
            assert!(text.contains(expected), "{kind:?} {case}: {text}");
            assert_eq!(peer.session.exit_code(), code, "{case}");
            peer.writable = true;
            peer.drain();
            assert!(!shows_secret(&mut peer), "{case}");
            assert!(peer.session.write(stream, SECRET).is_err());
            let read = peer.read(stream).0;
            assert!(read.is_empty() || case == "replayed", "{case}: {read:?}");
        }
    }
}

#[test]
fn the_challenge_cannot_be_replayed_as_output_and_a_second_one_means_nothing() {
    let (mut peer, mut agent) = (answered(), Agent::new());
    let sealed = agent.seal([5; 64]);
    peer.say(PayloadKind::EncChallengeRequest, challenge(sealed.clone()));
    peer.say(PayloadKind::EncChallengeRequest, challenge(agent.seal([6; 64])));
    peer.say(PayloadKind::HandshakeComplete, "{}");
    peer.say(PayloadKind::EncChallengeRequest, challenge(agent.seal([7; 64])));
    assert_eq!(peer.data_lines(), ["1 EncChallengeResponse", "2 Size"]);
    peer.output(sealed);
    assert!(encryption(&mut peer).contains("came twice"));
}

#[test]
fn a_challenge_that_does_not_open_ends_the_session() {
    let good = Agent::new().seal([5; 64]).to_vec();
    let wrong = DataKey::new(&[9; 64]).expect("64 bytes").agent_to_client().seal([3; NONCE_LEN], &[5; 64]);
    let mut tampered = good.clone();
    tampered[40] ^= 0x80;
    let long = Agent::new().seal(vec![5; limits::CHALLENGE + 1]);
    let cases = [
        challenge(wrong),
        challenge(tampered),
        challenge(&good[..91]),
        challenge(vec![0; 64]),
        challenge(Agent::new().seal("")),
        challenge(long),
        Bytes::from_static(br#"{"Challenge":null}"#),
    ];
    for body in cases {
        let mut peer = answered();
        peer.say(PayloadKind::EncChallengeRequest, &body);
        let text = encryption(&mut peer);
        assert!(text.starts_with("the agent's challenge"), "{text}");
        assert_eq!(peer.new_messages(), []);
    }
    let mut peer = answered();
    peer.say(PayloadKind::EncChallengeRequest, b"{");
    assert!(matches!(cause(&mut peer), Cause::Protocol(_)));
}

#[test]
fn without_a_challenge_there_is_no_session() {
    for mut peer in [asked(), answered()] {
        peer.say(PayloadKind::HandshakeComplete, "{}");
        assert!(encryption(&mut peer).contains("without a challenge"));
        assert!(peer.new_messages().is_empty() && !peer.session.left_something());
    }
}

#[test]
fn data_before_the_challenge_ends_the_session() {
    for kind in [PayloadKind::Output, PayloadKind::StdErr, PayloadKind::ExitCode] {
        let plain = Bytes::from_static(b"EXIT_CODE: 0");
        for payload in [plain, Agent::new().seal("EXIT_CODE: 0")] {
            for mut peer in [asked(), answered()] {
                peer.say(kind, &payload);
                assert!(encryption(&mut peer).contains("before it has shown"));
                assert_eq!((peer.session.mode(), peer.session.exit_code()), (None, None));
            }
        }
    }
    // And behind it, as long as the handshake is not complete.
    let mut peer = answered();
    peer.say(PayloadKind::EncChallengeRequest, challenge(Agent::new().seal([5; 64])));
    peer.output("plain");
    assert!(matches!(cause(&mut peer), Cause::Handshake(text) if text.contains("before")));
}

#[test]
fn no_connection_is_ever_sealed() {
    for kinds in [SessionKinds::Connections, SessionKinds::Any] {
        let mut peer = Peer::with(|config| config.kinds = kinds);
        let body = request(NEW, "null").replace(r#"Actions":["#, &format!(r#"Actions":[{ACTION}"#));
        peer.say(PayloadKind::HandshakeRequest, body);
        assert_eq!(peer.data_lines(), ["open", "0 HandshakeResponse"]);
        let events = peer.events();
        assert!(!events.iter().any(|event| matches!(event, Event::DataKeyWanted { .. })), "{events:?}");
        let Some(Event::Closed { reason, terminate: true }) = events.last() else { panic!("{events:?}") };
        assert!(matches!(&reason.cause, Cause::Handshake(text) if text.contains("KMSEncryption")), "{reason}");
    }
}

#[test]
fn without_a_data_key_the_agent_is_told_and_the_session_ends() {
    let mut peer = asked();
    let why = "GenerateDataKey of key/1234 failed: not authorized";
    peer.input(Input::DataKey(Err(why.to_owned())));
    let sent = peer.new_messages();
    let response: HandshakeResponse = from_json("response", &sent[0].1).expect("our own");
    let kms = &response.processed_client_actions[0];
    assert_eq!((kms.action_status, &*kms.error), (ActionStatus::Failed, why));
    assert_eq!(response.errors, Some(vec![why.to_owned()]));
    assert_eq!(encryption(&mut peer), why);

    // Without a websocket nobody is told, and it ends all the same.
    let mut peer = asked();
    peer.input(Input::Disconnected);
    peer.input(Input::DataKey(Err(why.to_owned())));
    assert_eq!(encryption(&mut peer), why);
}

#[test]
fn a_data_key_that_does_not_come_ends_the_session_at_the_deadline() {
    let mut peer = asked();
    peer.pass(limits::HANDSHAKE + ms(1));
    assert!(matches!(cause(&mut peer), Cause::Timeout(_)));
    peer.input(Input::DataKey(Ok(sealed_key())));
    assert!(peer.new_messages().is_empty());
}

#[test]
fn a_data_key_that_nobody_asked_for_changes_nothing() {
    let mut peer = Peer::ready(NEW);
    peer.input(Input::DataKey(Ok(sealed_key())));
    let mut fresh = Peer::with(|config| config.kinds = SessionKinds::Shell);
    fresh.input(Input::DataKey(Err("no".to_owned())));
    assert!(peer.session.closed().is_none() && fresh.session.closed().is_none());
    assert!(!peer.session.is_sealed());
    let (mut peer, _, stream) = sealed();
    peer.input(Input::DataKey(Ok(SealedKey { plaintext: DataKey::new(&[1; 64]).expect("64"), ciphertext: vec![1] })));
    peer.write(stream, SECRET);
    peer.drain();
    let sent = peer.new_messages();
    assert_eq!(Agent::new().opens.open(&sent[0].1).as_deref(), Ok(SECRET), "with the first key");
}

#[test]
fn nothing_shows_a_key() {
    let plaintext: Vec<u8> = (100..164).collect();
    let key = SealedKey { plaintext: DataKey::new(&plaintext).expect("64"), ciphertext: b"cipher".to_vec() };
    let shown = format!("{key:?} {:?}", Input::DataKey(Ok(key_of(&plaintext))));
    let (peer, ..) = sealed();
    let session = format!("{:?}", peer.session);
    for text in [shown, session] {
        assert!(!text.contains("100, 101") && !text.contains("cipher\"") && !text.contains("99, 105"), "{text}");
    }
}

fn key_of(plaintext: &[u8]) -> SealedKey {
    SealedKey { plaintext: DataKey::new(plaintext).expect("64"), ciphertext: b"cipher".to_vec() }
}

// --- interruptions -------------------------------------------------------------------------------------------------

/// The websocket is lost before or after each step, what was under way arrives or does not, and in the end the session
/// is sealed.
#[test]
fn the_handshake_survives_a_lost_websocket_at_every_step() {
    const STEPS: usize = 9;
    for lost_before in 0..=STEPS {
        for key_offline in [false, true] {
            let mut peer = Peer::with(|config| config.kinds = SessionKinds::Shell);
            let mut agent = Agent::new();
            for step in 0..STEPS {
                let is_key = step == 1;
                let loses = step == lost_before || (is_key && key_offline);
                if loses {
                    peer.input(Input::Disconnected);
                    peer.pass(ms(1));
                }
                if is_key && key_offline {
                    peer.input(Input::DataKey(Ok(sealed_key())));
                }
                if loses {
                    peer.connect();
                    peer.publication(MessageKind::StartPublication);
                }
                match step {
                    0 => peer.say(PayloadKind::HandshakeRequest, shell_request("InteractiveCommands", ACTION)),
                    1 if key_offline => {}
                    1 => peer.input(Input::DataKey(Ok(sealed_key()))),
                    2 => peer.acknowledge(0),
                    3 => peer.say(PayloadKind::EncChallengeRequest, challenge(agent.seal([5; 64]))),
                    4 => peer.acknowledge(1),
                    5 => peer.say(PayloadKind::HandshakeComplete, "{}"),
                    6 => peer.acknowledge(2),
                    7 => {
                        let stream = peer.open();
                        peer.write(stream, SECRET);
                        peer.drain();
                    }
                    _ => peer.acknowledge(3),
                }
            }
            let events = peer.events();
            assert!(events.iter().any(|event| matches!(event, Event::Ready { mode: Mode::Shell, .. })), "{events:?}");
            let sent = peer.new_messages();
            let kinds: Vec<_> = sent.iter().map(|(kind, _)| *kind).collect();
            use PayloadKind::{EncChallengeResponse, HandshakeResponse, Output, Size};
            assert_eq!(kinds, [HandshakeResponse, EncChallengeResponse, Size, Output], "lost before {lost_before}");
            assert_eq!(agent.opens.open(&sent[3].1).as_deref(), Ok(SECRET));
            assert_eq!(peer.session.occupancy().unacked_messages, 0);
        }
    }
}
