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
    /// The agent's websocket is lost, with what is under way either way; it reconnects 100 to 199 ms later.
    DisconnectAgent,
    /// The agent's worker for the session dies; nobody is told.
    KillAgent,
    /// The agents of the sessions' targets, or all agents, die with all their sessions, and nobody is told. Until they
    /// are connected again, after `agent_restart`, their targets are `TargetNotConnected`. Then the service ends the
    /// sessions. Needs no live session.
    RestartAgent,
    /// The client gets `pause_publication`; nothing but [`Start`](Self::Start) or a new websocket ends that pause.
    Pause,
    /// The client gets `start_publication`.
    Start,
    /// The service ends the session, as an administrator's TerminateSession does. A client without a websocket learns
    /// it only from ResumeSession.
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
    RestartAgent,
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
            ActionName::RestartAgent => Action::RestartAgent,
            ActionName::Pause => Action::Pause,
            ActionName::Start => Action::Start,
            ActionName::ChannelClosed => Action::ChannelClosed { output: self.output },
        };
        (self.session, action)
    }
}
