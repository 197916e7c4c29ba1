//! Bodies of the agent's control channel: read in recorded traffic, written by the emulator's tests only.

use serde::{Deserialize, Serialize};

/// Starts a session at the agent. `content` is JSON again, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InteractiveShell {
    /// Document, parameters and session id, as JSON text.
    pub content: String,
    /// 1.
    pub schema_version: i64,
    /// The task, which is the session id.
    pub task_id: String,
    /// A topic that starts with `aws.ssm.startSession`.
    pub topic: String,
}

/// The agent's session ended; `output` becomes the text of the client's `channel_closed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentTaskComplete {
    /// The task, which is the session id.
    #[serde(default)]
    pub task_id: String,
    /// `Success`, `Failed`, `Cancelled`, ...
    #[serde(default)]
    pub final_task_status: String,
    /// What the agent has to say to people.
    #[serde(default)]
    pub output: String,
}
