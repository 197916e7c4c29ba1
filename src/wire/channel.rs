//! Bodies of the messages that open and close a data channel, and the terminal size.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The first message of a client: a websocket *text* frame (`proto-notes/websocket.md#opening-the-data-channel`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OpenDataChannel {
    /// `1.0`.
    pub message_schema_version: String,
    /// A fresh UUID.
    pub request_id: String,
    /// The token of StartSession or ResumeSession.
    pub token_value: String,
    /// A UUID that stays the same for all websockets of a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The plugin version that the client claims compatibility with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_version: Option<String>,
}

impl OpenDataChannel {
    /// The schema version both genuine programs send.
    pub const SCHEMA: &'static str = "1.0";
}

/// Hides the token.
impl fmt::Debug for OpenDataChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenDataChannel")
            .field("request_id", &self.request_id)
            .field("client_id", &self.client_id)
            .field("client_version", &self.client_version)
            .finish_non_exhaustive()
    }
}

/// The gateway says that the session is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct ChannelClosed {
    /// Identity of the message.
    pub message_id: String,
    /// Milliseconds since the epoch, as text.
    pub created_date: String,
    /// The target.
    pub destination_id: String,
    /// The session.
    pub session_id: String,
    /// `channel_closed`.
    pub message_type: String,
    /// 1.
    pub schema_version: i64,
    /// Why, for people; empty when the session simply ended. The agent does not get this field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// The agent tells the gateway where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentSessionState {
    /// 1.
    pub schema_version: i64,
    /// `Connected` or `Terminating`.
    pub session_state: String,
    /// The session.
    pub session_id: String,
}

/// Terminal size in characters. Harmless to a port session, which acknowledges and ignores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    pub cols: u32,
    /// Rows.
    pub rows: u32,
}
