//! The agent's part of the handshake (`proto-notes/handshake.md`). Port sessions are never sealed, so one action is
//! asked for: the session type. On order also encryption, to see what a client makes of it.

use std::time::Instant;

use bytes::Bytes;

use super::{AgentOptions, HANDSHAKE_TIMEOUT};
use crate::wire::{
    ActionStatus, ClientAction, ClientFeatures, HandshakeComplete, HandshakeRequest, HandshakeResponse, KmsParameters,
    SessionTypeParameters, from_json, to_json,
};

/// What the client's answer comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The session can start.
    Accepted(ClientFeatures),
    /// It cannot, for this reason.
    Failed(String),
    /// Not an answer: not acknowledged, the client may try again.
    Malformed,
}

/// A handshake that waits for the client's answer.
#[derive(Debug)]
pub(super) struct Handshake {
    started: Instant,
}

impl Handshake {
    /// Starts one; the second value is the request to send.
    pub(super) fn start(options: &AgentOptions, now: Instant) -> (Self, Bytes) {
        let session_type = options.behaviour.session_type.clone().unwrap_or_else(|| "Port".to_owned());
        let parameters = SessionTypeParameters { session_type, properties: options.properties.clone() };
        let encryption = options.behaviour.kms_key.clone();
        let encryption =
            encryption.map(|key_id| ClientAction::KmsEncryption(KmsParameters { key_id, challenge: None }));
        let session_type = ClientAction::SessionType(parameters);
        let request = HandshakeRequest {
            agent_version: options.version.clone(),
            requested_client_actions: encryption.into_iter().chain([session_type]).collect(),
        };
        (Self { started: now }, to_json(&request))
    }

    /// When the agent stops waiting.
    pub(super) fn deadline(&self) -> Instant {
        self.started + HANDSHAKE_TIMEOUT
    }

    pub(super) fn answer(payload: &Bytes) -> Answer {
        let Ok(response) = from_json::<HandshakeResponse>("handshake response", payload) else {
            return Answer::Malformed;
        };
        let failed = response.processed_client_actions.iter().find(|done| done.action_status != ActionStatus::Success);
        match failed {
            Some(action) => Answer::Failed(format!("{} failed at the client: {}", action.action_type, action.error)),
            None => Answer::Accepted(ClientFeatures::of(&response.client_version)),
        }
    }

    /// The message that ends the handshake.
    pub(super) fn complete(&self, now: Instant) -> Bytes {
        let took = now.saturating_duration_since(self.started).as_nanos();
        to_json(&HandshakeComplete {
            handshake_time_to_complete: i64::try_from(took).unwrap_or(i64::MAX),
            customer_message: String::new(),
        })
    }
}
