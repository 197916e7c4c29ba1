//! Why a session ended, and who ended it.

use std::fmt;

/// Who ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Initiator {
    /// The application: it asked for the end.
    Us,
    /// This library: the peer broke the protocol, or a limit was reached.
    Library,
    /// The agent on the target.
    Agent,
    /// The Session Manager service: idle timeout, maximum duration, an administrator.
    Service,
    /// The network or the websocket.
    Transport,
}

impl fmt::Display for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Us => "this program",
            Self::Library => "ssmfwd",
            Self::Agent => "the agent",
            Self::Service => "the Session Manager service",
            Self::Transport => "the network",
        })
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Ended as asked.
    Requested,
    /// The gateway sent `channel_closed`, with the text that the service or the agent gave, if any, as it came.
    ChannelClosed(String),
    /// The handshake could not be completed.
    Handshake(String),
    /// The session is to be sealed with a key of KMS, and cannot be, or what came is not sealed as it has to be.
    Encryption(String),
    /// The peer broke the protocol.
    Protocol(String),
    /// A limit of this library was exceeded by the peer.
    Limit(String),
    /// The websocket was lost, and the session is not one that can be resumed.
    ConnectionLost(String),
    /// The websocket was lost, and ResumeSession will not give another.
    NotResumable(String),
    /// The service has no more use for the session: an idle timeout, the maximum duration, an administrator.
    SessionOver,
    /// Nothing was heard for too long.
    Timeout(&'static str),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("ended as asked"),
            Self::ChannelClosed(text) if text.is_empty() => f.write_str("the session was closed"),
            Self::ChannelClosed(text) => write!(f, "the session was closed: {}", text.trim()),
            Self::Handshake(text) => write!(f, "handshake failed: {text}"),
            Self::Encryption(text) => write!(f, "encryption failed: {text}"),
            Self::Protocol(text) => write!(f, "protocol violation: {text}"),
            Self::Limit(text) => write!(f, "limit exceeded: {text}"),
            Self::ConnectionLost(text) => write!(f, "connection lost: {text}"),
            Self::NotResumable(text) => write!(f, "the session cannot be resumed: {text}"),
            Self::SessionOver => {
                f.write_str("the session is over: an idle timeout, its maximum duration or an administrator ended it")
            }
            Self::Timeout(what) => write!(f, "timed out: {what}"),
        }
    }
}

/// The end of a session: who and why. Every session has exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseReason {
    /// Who ended it.
    pub initiator: Initiator,
    /// Why.
    pub cause: Cause,
}

/// What a session that carries one connection comes to when nothing that is for the destination is acknowledged.
pub(super) const DESTINATION_SILENT: &str =
    "the agent acknowledges no data: the destination refused the connection or did not answer";
/// How the agent begins its words on a destination that it cannot dial.
pub(super) const CANNOT_DIAL: &str = "Unable to connect to specified port";

impl CloseReason {
    /// A reason.
    #[must_use]
    pub const fn new(initiator: Initiator, cause: Cause) -> Self {
        Self { initiator, cause }
    }

    /// Whether the agent has ended it without a word, as it does when what the session carried has come to its end.
    #[must_use]
    pub fn is_end_of_data(&self) -> bool {
        self.initiator == Initiator::Agent && matches!(&self.cause, Cause::ChannelClosed(text) if text.is_empty())
    }

    /// Whether the destination is why: in a session that carries one connection at a time it refused the connection or
    /// did not answer, which the agent mostly shows by silence (`proto-notes/port-sessions.md#refusals`).
    #[must_use]
    pub fn is_destination_unreachable(&self) -> bool {
        match &self.cause {
            Cause::Timeout(what) => *what == DESTINATION_SILENT,
            Cause::ChannelClosed(text) => text.starts_with(CANNOT_DIAL),
            _ => false,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A lost connection says by itself what happened; whether the network or the gateway did it is a guess.
        if self.cause == Cause::Requested || self.initiator == Initiator::Transport {
            return self.cause.fmt(f);
        }
        write!(f, "{} (by {})", self.cause, self.initiator)
    }
}

impl std::error::Error for CloseReason {}
