//! Bodies of the handshake (`proto-notes/handshake.md`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::body::base64_bytes;

/// Payload kind 5: the agent says who it is and what the client must do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HandshakeRequest {
    /// Four numbers, such as `3.3.987.0`.
    pub agent_version: String,
    /// What to do before the session can start.
    #[serde(deserialize_with = "null_is_empty")]
    pub requested_client_actions: Vec<ClientAction>,
}

/// One thing the agent asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ActionType", content = "ActionParameters")]
#[non_exhaustive]
pub enum ClientAction {
    /// Serve this type of session.
    SessionType(SessionTypeParameters),
    /// Encrypt payloads with a data key from AWS KMS.
    #[serde(rename = "KMSEncryption")]
    KmsEncryption(KmsParameters),
    /// An action this library does not know, by name; it is answered as unsupported.
    #[serde(untagged)]
    Unknown(UnknownAction),
}

/// An action of a kind this library does not know, as received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UnknownAction {
    /// Its name.
    pub action_type: String,
    /// Its parameters.
    #[serde(default)]
    pub action_parameters: Value,
}

impl ClientAction {
    /// The name, as it is repeated in the response.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::SessionType(_) => "SessionType",
            Self::KmsEncryption(_) => "KMSEncryption",
            Self::Unknown(action) => &action.action_type,
        }
    }
}

/// Parameters of [`ClientAction::SessionType`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SessionTypeParameters {
    /// `Port`, `Standard_Stream`, `InteractiveCommands` or `NonInteractiveCommands`.
    pub session_type: String,
    /// The document's properties for port sessions, null for the others.
    #[serde(default)]
    pub properties: Value,
}

impl SessionTypeParameters {
    /// A property that is text, or empty.
    #[must_use]
    pub fn property(&self, name: &str) -> &str {
        self.properties.get(name).and_then(Value::as_str).unwrap_or("")
    }
}

/// Parameters of [`ClientAction::KmsEncryption`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsParameters {
    /// The key to generate a data key with.
    #[serde(rename = "KMSKeyId")]
    pub key_id: String,
    /// Base64 text for the encryption context; agents before 3.3.808.0 send none.
    #[serde(rename = "Challenge", default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
}

/// Payload kind 6: the client's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HandshakeResponse {
    /// The plugin version that the client claims; agents choose the session's mode by it.
    #[serde(default)]
    pub client_version: String,
    /// One answer for each requested action.
    #[serde(deserialize_with = "null_is_empty")]
    pub processed_client_actions: Vec<ProcessedAction>,
    /// Texts of what went wrong; null when nothing did.
    #[serde(default)]
    pub errors: Option<Vec<String>>,
}

/// The answer to one action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProcessedAction {
    /// The name of the action.
    pub action_type: String,
    /// How it went.
    pub action_status: ActionStatus,
    /// Null for `SessionType`, a [`KmsResult`] for `KMSEncryption`.
    #[serde(default)]
    pub action_result: Value,
    /// Text of what went wrong, or empty.
    #[serde(default)]
    pub error: String,
}

/// How an action went: 1, 2 or 3. The agent ends the session unless it is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum ActionStatus {
    /// 1.
    Success,
    /// 2.
    Failed,
    /// 3.
    Unsupported,
    /// Another number.
    Unknown(u8),
}

impl From<u8> for ActionStatus {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Success,
            2 => Self::Failed,
            3 => Self::Unsupported,
            other => Self::Unknown(other),
        }
    }
}

impl From<ActionStatus> for u8 {
    fn from(status: ActionStatus) -> Self {
        match status {
            ActionStatus::Success => 1,
            ActionStatus::Failed => 2,
            ActionStatus::Unsupported => 3,
            ActionStatus::Unknown(other) => other,
        }
    }
}

/// Result of a `KMSEncryption` action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsResult {
    /// The encrypted data key.
    #[serde(rename = "KMSCipherTextKey", with = "base64_bytes")]
    pub cipher_text_key: Option<Vec<u8>>,
    /// Its hash; the reference leaves it null.
    #[serde(rename = "KMSCipherTextHash", with = "base64_bytes", default)]
    pub cipher_text_hash: Option<Vec<u8>>,
    /// Whether the request's challenge is part of the key's encryption context.
    #[serde(rename = "ChallengeAcknowledgement", default)]
    pub challenge_acknowledgement: bool,
}

/// Payload kind 7: the handshake is over and data may flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct HandshakeComplete {
    /// How long the agent says it took, in nanoseconds.
    pub handshake_time_to_complete: i64,
    /// Text to show to the user, if not empty.
    pub customer_message: String,
}

/// Payload kinds 8 and 9: a sealed challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EncChallenge {
    /// Nonce, ciphertext and tag.
    #[serde(with = "base64_bytes")]
    pub challenge: Option<Vec<u8>>,
}

/// Go writes an empty slice that was never made as null.
fn null_is_empty<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
