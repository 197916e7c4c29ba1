//! The events of `--output json`: one object a line.
//!
//! Fields and events are only ever added. Every `reason` comes from a closed list: those of connections from
//! [`ConnectionEnd`](crate::forward::ConnectionEnd), those of sessions from [`session_end`].

use serde::Serialize;

use super::clock::Timestamp;
use crate::proto::{Cause, CloseReason, Initiator};

/// Who or what ended the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum By {
    /// COMMAND, by ending.
    Command,
    /// A signal.
    Signal,
    /// ssmfwd itself, because something failed.
    Ssmfwd,
}

/// An event without its name and time.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Body<'a> {
    Listening {
        forward: &'a str,
        address: String,
    },
    /// Whose credentials are used.
    Identity {
        account: &'a str,
        arn: &'a str,
        profile: Option<&'a str>,
        region: Option<&'a str>,
    },
    SessionStarted {
        forward: &'a str,
        session_id: &'a str,
        target: &'a str,
        member: u32,
    },
    Ready {
        forwards: Vec<ReadyForward>,
        elapsed_ms: u64,
    },
    ConnectionOpened {
        forward: &'a str,
        peer: String,
    },
    ConnectionClosed {
        forward: &'a str,
        peer: String,
        bytes_up: u64,
        bytes_down: u64,
        duration_ms: u64,
        reason: &'a str,
    },
    /// More connect than may be connected at a time.
    ConnectionsLimited {
        forward: &'a str,
        limit: usize,
    },
    DestinationRefused {
        forward: &'a str,
        peer: String,
        destination: String,
    },
    DestinationSilent {
        forward: &'a str,
        destination: String,
        connections: usize,
    },
    Backpressure {
        forward: &'a str,
        active: bool,
    },
    Stalled {
        forward: &'a str,
        active: bool,
        session_id: &'a str,
    },
    /// Without a session while a new one is started in the place of one that was lost.
    Reconnecting {
        forward: &'a str,
        session_id: Option<&'a str>,
        attempt: u32,
        cause: &'a str,
    },
    Resumed {
        forward: &'a str,
        session_id: &'a str,
        outage_ms: u64,
    },
    /// What one session has carried, every ten seconds if it has carried anything.
    SessionRates {
        forward: &'a str,
        session_id: &'a str,
        member: u32,
        bytes_up_per_s: u64,
        bytes_down_per_s: u64,
        connections: usize,
    },
    SessionReplaced {
        forward: &'a str,
        /// The new one.
        session_id: &'a str,
        /// The old one.
        replaces: &'a str,
        member: u32,
        /// Why the old one was lost.
        #[serde(flatten)]
        lost: End,
    },
    /// A session may live on until its idle timeout.
    NotTerminated {
        forward: &'a str,
        session_id: &'a str,
        /// Why it could not be ended.
        detail: &'a str,
    },
    Dormant {
        forward: &'a str,
        #[serde(flatten)]
        end: End,
        /// Its row in the error table.
        #[serde(skip_serializing_if = "Option::is_none")]
        symptom: Option<&'a str>,
    },
    CredentialsExpired {
        forward: &'a str,
        message: &'a str,
        hint: &'a str,
    },
    SessionEnded {
        forward: &'a str,
        session_id: &'a str,
        member: u32,
        #[serde(flatten)]
        end: End,
        bytes_up: u64,
        bytes_down: u64,
    },
    /// One of the checks of `doctor`.
    Check {
        name: &'a str,
        /// `null`: skipped, or it could not be found out.
        ok: Option<bool>,
        outcome: &'a str,
        elapsed_ms: Option<u64>,
        detail: &'a str,
    },
    /// Where the admin endpoint listens.
    Admin {
        address: String,
    },
    /// The configuration has been read again.
    Reloaded {
        /// Forwards that are started now.
        added: &'a [String],
        /// Forwards that are stopped now.
        removed: &'a [String],
        /// Forwards that go on as they were.
        unchanged: usize,
    },
    /// The configuration could not be read again: everything goes on as it was.
    ReloadFailed {
        message: &'a str,
        causes: &'a [String],
        hint: Option<&'a str>,
    },
    Error {
        status: u8,
        message: &'a str,
        causes: &'a [String],
        hint: Option<&'a str>,
        /// Its row in the error table.
        #[serde(skip_serializing_if = "Option::is_none")]
        symptom: Option<&'a str>,
    },
    Stopped {
        exit: u8,
        by: By,
    },
}

/// A forward of the `ready` event.
#[derive(Debug, Serialize)]
pub(super) struct ReadyForward {
    pub(super) forward: String,
    pub(super) addresses: Vec<String>,
    /// The place in the pool of the session that is ready: others may follow. A lazy forward has none yet.
    pub(super) member: Option<u32>,
}

/// How a session ended.
#[derive(Debug, Serialize)]
pub(super) struct End {
    reason: &'static str,
    by: &'static str,
    detail: String,
}

impl From<&CloseReason> for End {
    fn from(reason: &CloseReason) -> Self {
        Self { reason: session_end(reason), by: ended_by(reason), detail: words(reason) }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    time: String,
    #[serde(flatten)]
    body: &'a Body<'a>,
    /// Events that were lost before this one, because nobody read them in time.
    #[serde(skip_serializing_if = "is_zero")]
    dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Body<'_> {
    const fn event(&self) -> &'static str {
        match self {
            Self::Listening { .. } => "listening",
            Self::Identity { .. } => "identity",
            Self::SessionStarted { .. } => "session_started",
            Self::Ready { .. } => "ready",
            Self::ConnectionOpened { .. } => "connection_opened",
            Self::ConnectionClosed { .. } => "connection_closed",
            Self::ConnectionsLimited { .. } => "connections_limited",
            Self::DestinationRefused { .. } => "destination_refused",
            Self::DestinationSilent { .. } => "destination_silent",
            Self::Backpressure { .. } => "backpressure",
            Self::Stalled { .. } => "stalled",
            Self::Reconnecting { .. } => "reconnecting",
            Self::Resumed { .. } => "resumed",
            Self::SessionRates { .. } => "session_rates",
            Self::SessionReplaced { .. } => "session_replaced",
            Self::NotTerminated { .. } => "not_terminated",
            Self::Dormant { .. } => "dormant",
            Self::CredentialsExpired { .. } => "credentials_expired",
            Self::SessionEnded { .. } => "session_ended",
            Self::Check { .. } => "check",
            Self::Admin { .. } => "admin",
            Self::Reloaded { .. } => "reloaded",
            Self::ReloadFailed { .. } => "reload_failed",
            Self::Error { .. } => "error",
            Self::Stopped { .. } => "stopped",
        }
    }

    /// Whether there may be any number of them in a long life: all but those that come once.
    pub(super) const fn can_be_spared(&self) -> bool {
        !matches!(
            self,
            Self::Listening { .. }
                | Self::Admin { .. }
                | Self::Identity { .. }
                | Self::Ready { .. }
                | Self::Check { .. }
                | Self::Error { .. }
                | Self::Stopped { .. }
        )
    }

    /// The line, with the number of events lost before it.
    pub(super) fn line(&self, dropped: u64) -> String {
        let line = Line { event: self.event(), time: Timestamp::now().to_string(), body: self, dropped };
        // Strings and numbers always serialise.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// The `reason` of a session's end.
const fn session_end(reason: &CloseReason) -> &'static str {
    match reason.cause {
        Cause::Requested => "requested",
        Cause::ChannelClosed(_) => "channel_closed",
        Cause::Handshake(_) => "handshake",
        Cause::Encryption(_) => "encryption",
        Cause::Protocol(_) => "protocol",
        Cause::Limit(_) => "limit",
        Cause::ConnectionLost(_) => "connection_lost",
        Cause::NotResumable(_) => "not_resumable",
        Cause::SessionOver => "session_over",
        Cause::Timeout(_) => "timeout",
    }
}

/// The end of a session, for people.
pub(super) fn words(reason: &CloseReason) -> String {
    match reason.cause {
        // It names the call that was denied; that ssmfwd drew the conclusion says nothing.
        Cause::NotResumable(_) => reason.cause.to_string(),
        _ => reason.to_string(),
    }
}

/// The `by` of a session's end.
const fn ended_by(reason: &CloseReason) -> &'static str {
    match reason.initiator {
        Initiator::Library if matches!(reason.cause, Cause::NotResumable(_)) => "service",
        Initiator::Us => "user",
        Initiator::Library => "ssmfwd",
        Initiator::Agent => "agent",
        Initiator::Service => "service",
        Initiator::Transport => "network",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_resumption_is_not_our_doing() {
        let end = End::from(&CloseReason::new(Initiator::Library, Cause::NotResumable("ResumeSession failed".into())));
        assert_eq!((end.by, &end.detail[..]), ("service", "the session cannot be resumed: ResumeSession failed"));
    }

    #[test]
    fn lost_events_are_counted() {
        let line = Body::Stopped { exit: 0, by: By::Signal }.line(3);
        assert!(line.ends_with(r#","dropped":3}"#), "{line}");
    }
}
