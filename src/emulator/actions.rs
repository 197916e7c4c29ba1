//! Levers that can be pulled while sessions run.

use serde::Deserialize;

/// Something done to a live session, or to all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// The client's websocket is reset.
    Disconnect,
    /// The client's websocket is closed with `1000 Bye`, and the agent's too, as the service does about hourly.
    Bye,
    /// The agent's websocket is lost; it reconnects 100 to 199 ms later.
    DisconnectAgent,
    /// The agent dies; nobody is told.
    KillAgent,
    /// The client gets `pause_publication`.
    Pause,
    /// The client gets `start_publication`.
    Start,
    /// The service ends the session.
    ChannelClosed {
        /// The text for the client.
        output: String,
    },
}

/// An action as the control path takes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ActionRequest {
    action: ActionName,
    /// All live sessions without it.
    session: Option<String>,
    /// For `channel_closed` only.
    #[serde(default)]
    output: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ActionName {
    Disconnect,
    Bye,
    DisconnectAgent,
    KillAgent,
    Pause,
    Start,
    ChannelClosed,
}

impl ActionRequest {
    /// The session it is for, and what is to be done.
    pub(super) fn into_parts(self) -> (Option<String>, Action) {
        let action = match self.action {
            ActionName::Disconnect => Action::Disconnect,
            ActionName::Bye => Action::Bye,
            ActionName::DisconnectAgent => Action::DisconnectAgent,
            ActionName::KillAgent => Action::KillAgent,
            ActionName::Pause => Action::Pause,
            ActionName::Start => Action::Start,
            ActionName::ChannelClosed => Action::ChannelClosed { output: self.output },
        };
        (self.session, action)
    }
}
