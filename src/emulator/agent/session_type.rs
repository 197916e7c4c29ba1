//! The four types of session that a document can ask for (`proto-notes/control-plane.md#documents`).

use serde::{Deserialize, Serialize};

/// What kind of session a document asks for, in the words of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SessionType {
    /// Connections to a destination.
    #[default]
    Port,
    /// The shell of the node, on a pty.
    #[serde(rename = "Standard_Stream")]
    StandardStream,
    /// A command on a pty.
    InteractiveCommands,
    /// A command without a pty.
    NonInteractiveCommands,
}

impl SessionType {
    /// Its name in documents and handshakes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Port => "Port",
            Self::StandardStream => "Standard_Stream",
            Self::InteractiveCommands => "InteractiveCommands",
            Self::NonInteractiveCommands => "NonInteractiveCommands",
        }
    }

    /// Whether the agent starts with a handshake even when nothing is to be sealed.
    pub(super) fn always_shakes_hands(self) -> bool {
        matches!(self, Self::Port | Self::NonInteractiveCommands)
    }
}
