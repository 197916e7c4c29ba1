//! The agent's part of the handshake (`proto-notes/handshake.md`): the session type is asked for, and in shell sessions
//! with a KMS key that payloads are sealed with a data key. On order in port sessions too, to see what a client makes
//! of it.

use std::{collections::BTreeMap, time::Instant};

use bytes::Bytes;

use super::{AgentOptions, DecryptRequest, HANDSHAKE_TIMEOUT, SessionType, challenge};
use crate::wire::{
    ActionStatus, ClientAction, ClientFeatures, EncChallenge, HandshakeComplete, HandshakeRequest, HandshakeResponse,
    KmsParameters, KmsResult, SessionTypeParameters, agent_newer_than, from_json, to_json,
};

/// Agents newer than this bind the data key to a random challenge.
const CHALLENGE_SINCE: &str = "3.3.808.0";
const KMS_ACTION: &str = "KMSEncryption";
/// What the genuine agent has shown to the user of a sealed session.
const SEALED: &str = "This session is encrypted using AWS KMS.";

/// What the client's answer comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The session can start.
    Accepted(ClientFeatures),
    /// It can start when this data key is decrypted.
    Key(ClientFeatures, DecryptRequest),
    /// It cannot, for this reason.
    Failed(String),
    /// Not an answer: not acknowledged, the client may try again.
    Malformed,
}

/// What is waited for.
enum Stage {
    Response,
    /// KMS decrypts the client's data key.
    Key(ClientFeatures),
    /// The client proves that it has the key too.
    Challenge(ClientFeatures, Bytes),
}

/// A handshake that waits.
pub(super) struct Handshake {
    started: Instant,
    since: Instant,
    stage: Stage,
    key_id: Option<String>,
    challenge: Option<String>,
}

impl Handshake {
    /// Whether a session has one.
    pub(super) fn is_needed(options: &AgentOptions) -> bool {
        options.session_type.always_shakes_hands() || options.behaviour.kms_key.is_some()
    }

    /// Starts one; the second value is the request to send.
    pub(super) fn start(options: &AgentOptions, random: &mut fastrand::Rng, now: Instant) -> (Self, Bytes) {
        let behaviour = &options.behaviour;
        let name = behaviour.session_type.clone().unwrap_or_else(|| options.session_type.name().to_owned());
        let properties = if options.session_type == SessionType::Port {
            options.properties.clone()
        } else {
            serde_json::Value::Null
        };
        let parameters = SessionTypeParameters { session_type: name, properties };
        let key_id = behaviour.kms_key.clone();
        let challenged = key_id.is_some() && agent_newer_than(&options.version, CHALLENGE_SINCE);
        let challenge = challenged.then(|| challenge::text(random.u128(..)));
        let encryption = key_id
            .clone()
            .map(|key_id| ClientAction::KmsEncryption(KmsParameters { key_id, challenge: challenge.clone() }));
        let session_type = ClientAction::SessionType(parameters);
        let request = HandshakeRequest {
            agent_version: options.version.clone(),
            requested_client_actions: [session_type].into_iter().chain(encryption).collect(),
        };
        (Self { started: now, since: now, stage: Stage::Response, key_id, challenge }, to_json(&request))
    }

    /// When the agent stops waiting.
    pub(super) fn deadline(&self) -> Instant {
        self.since + HANDSHAKE_TIMEOUT
    }

    /// Whether what the session carries is to be sealed.
    pub(super) fn seals(&self) -> bool {
        self.key_id.is_some()
    }

    /// Reads the client's response.
    pub(super) fn answer(&self, options: &AgentOptions, payload: &Bytes) -> Answer {
        if !matches!(self.stage, Stage::Response) {
            return Answer::Malformed;
        }
        let Ok(response) = from_json::<HandshakeResponse>("handshake response", payload) else {
            return Answer::Malformed;
        };
        let actions = &response.processed_client_actions;
        if let Some(action) = actions.iter().find(|done| done.action_status != ActionStatus::Success) {
            return Answer::Failed(format!("{} failed at the client: {}", action.action_type, action.error));
        }
        let features = ClientFeatures::of(&response.client_version);
        let Some(key_id) = &self.key_id else { return Answer::Accepted(features) };
        let result = actions.iter().find(|action| action.action_type == KMS_ACTION);
        let result = result.and_then(|action| serde_json::from_value::<KmsResult>(action.action_result.clone()).ok());
        let Some(KmsResult { cipher_text_key: Some(ciphertext), challenge_acknowledgement, .. }) = result else {
            return Answer::Failed(format!("{KMS_ACTION} gave no data key at the client."));
        };
        let challenge = self.challenge.clone().filter(|_| challenge_acknowledgement);
        if options.behaviour.require_challenge && challenge.is_none() {
            return Answer::Failed("The client did not acknowledge the KMS challenge.".into());
        }
        let mut context = BTreeMap::from([
            ("aws:ssm:SessionId".to_owned(), options.session_id.clone()),
            ("aws:ssm:TargetId".to_owned(), options.target.clone()),
        ]);
        context.extend(challenge.map(|challenge| ("aws:ssm:RandomChallenge".to_owned(), challenge)));
        Answer::Key(features, DecryptRequest { key_id: key_id.clone(), ciphertext, context })
    }

    /// The response was right, and its data key is being decrypted.
    pub(super) fn decrypting(&mut self, client: ClientFeatures) {
        self.stage = Stage::Key(client);
    }

    /// The client that waits for its key to be decrypted.
    pub(super) fn awaits_key(&self) -> Option<ClientFeatures> {
        if let Stage::Key(client) = self.stage { Some(client) } else { None }
    }

    /// The client is asked for a proof; the payload holds the challenge as it was sealed.
    pub(super) fn challenge(&mut self, now: Instant, client: ClientFeatures, expected: Bytes, sealed: &Bytes) -> Bytes {
        self.since = now;
        self.stage = Stage::Challenge(client, expected);
        to_json(&EncChallenge { challenge: Some(sealed.to_vec()) })
    }

    /// Reads the client's proof. `open` opens what the client has sealed.
    pub(super) fn proof(&self, payload: &Bytes, open: impl FnOnce(&[u8]) -> Option<Bytes>) -> Answer {
        let Stage::Challenge(client, expected) = &self.stage else { return Answer::Malformed };
        let body = from_json::<EncChallenge>("challenge response", payload);
        let Ok(EncChallenge { challenge: Some(sealed) }) = body else { return Answer::Malformed };
        if open(&sealed).as_ref() == Some(expected) {
            Answer::Accepted(*client)
        } else {
            Answer::Failed("Encryption challenge failed: the client's answer does not match.".into())
        }
    }

    /// The message that ends the handshake.
    pub(super) fn complete(&self, now: Instant) -> Bytes {
        let took = now.saturating_duration_since(self.started).as_nanos();
        to_json(&HandshakeComplete {
            handshake_time_to_complete: i64::try_from(took).unwrap_or(i64::MAX),
            customer_message: if self.seals() { SEALED.to_owned() } else { String::new() },
        })
    }
}
