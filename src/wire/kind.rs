//! Names and numbers that say what a message or payload is (`proto-notes/messages.md#kinds`).

use std::fmt;

use bytes::Bytes;

use super::DecodeError;

/// The `MessageType` field of a header.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageKind {
    /// Stream data from client to agent. Sequenced.
    InputStreamData,
    /// Stream data from agent to client. Sequenced.
    OutputStreamData,
    /// Acknowledgement of one stream-data message, either way.
    Acknowledge,
    /// The gateway says that the session is over.
    ChannelClosed,
    /// The gateway says that the peer is (again) there to receive.
    StartPublication,
    /// The gateway says that the peer is away or behind.
    PausePublication,
    /// The agent tells the gateway that it is connected or ending.
    AgentSessionState,
    /// Control channel: start a session.
    InteractiveShell,
    /// Control channel: the agent has the task.
    AgentTaskAcknowledge,
    /// Control channel: progress of a task.
    AgentTaskReply,
    /// Control channel: the agent's session ended.
    AgentTaskComplete,
    /// Control channel: a job for the agent.
    AgentJob,
    /// Control channel: the agent has the job.
    AgentJobAck,
    /// Control channel: result of a job.
    AgentJobReply,
    /// Control channel: the service has the result.
    AgentJobReplyAck,
    /// A kind this library does not know, as received.
    Unknown(Box<str>),
}

impl MessageKind {
    const KNOWN: [(Self, &'static str); 15] = [
        (Self::InputStreamData, "input_stream_data"),
        (Self::OutputStreamData, "output_stream_data"),
        (Self::Acknowledge, "acknowledge"),
        (Self::ChannelClosed, "channel_closed"),
        (Self::StartPublication, "start_publication"),
        (Self::PausePublication, "pause_publication"),
        (Self::AgentSessionState, "agent_session_state"),
        (Self::InteractiveShell, "interactive_shell"),
        (Self::AgentTaskAcknowledge, "agent_task_acknowledge"),
        (Self::AgentTaskReply, "agent_task_reply"),
        (Self::AgentTaskComplete, "agent_task_complete"),
        (Self::AgentJob, "agent_job"),
        (Self::AgentJobAck, "agent_job_ack"),
        (Self::AgentJobReply, "agent_job_reply"),
        (Self::AgentJobReplyAck, "agent_job_reply_ack"),
    ];

    /// The text of the field, without padding.
    #[must_use]
    pub fn as_str(&self) -> &str {
        if let Self::Unknown(text) = self {
            return text;
        }
        Self::KNOWN.iter().find(|(kind, _)| kind == self).map_or("", |(_, text)| text)
    }

    /// Reads the 32 bytes of the field: padding is spaces from the genuine programs, NULs from others.
    pub(super) fn from_field(field: &[u8]) -> Result<Self, DecodeError> {
        let text = std::str::from_utf8(field).map_err(|_| DecodeError::KindNotText)?;
        let text = text.trim_matches('\0').trim();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(DecodeError::KindNotText);
        }
        let known = Self::KNOWN.iter().find(|(_, name)| *name == text);
        Ok(known.map_or_else(|| Self::Unknown(text.into()), |(kind, _)| kind.clone()))
    }

    /// Whether the reference reads nothing but the kind of such a message, so that we must not either.
    pub(super) fn is_publication(&self) -> bool {
        matches!(self, Self::StartPublication | Self::PausePublication)
    }
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The `PayloadType` field of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PayloadKind {
    /// 0: messages that are not stream data.
    Undefined,
    /// 1: data, both ways.
    Output,
    /// 2: error text.
    Error,
    /// 3: terminal size, see [`Size`](super::Size).
    Size,
    /// 4: parameters.
    Parameter,
    /// 5: see [`HandshakeRequest`](super::HandshakeRequest).
    HandshakeRequest,
    /// 6: see [`HandshakeResponse`](super::HandshakeResponse).
    HandshakeResponse,
    /// 7: see [`HandshakeComplete`](super::HandshakeComplete).
    HandshakeComplete,
    /// 8: see [`EncChallenge`](super::EncChallenge).
    EncChallengeRequest,
    /// 9: see [`EncChallenge`](super::EncChallenge).
    EncChallengeResponse,
    /// 10: see [`FlagKind`].
    Flag,
    /// 11: standard error of a command with separate output.
    StdErr,
    /// 12: exit status of a command with separate output.
    ExitCode,
    /// A number this library does not know.
    Unknown(u32),
}

impl PayloadKind {
    /// The number on the wire.
    #[must_use]
    pub fn to_wire(self) -> u32 {
        match self {
            Self::Undefined => 0,
            Self::Output => 1,
            Self::Error => 2,
            Self::Size => 3,
            Self::Parameter => 4,
            Self::HandshakeRequest => 5,
            Self::HandshakeResponse => 6,
            Self::HandshakeComplete => 7,
            Self::EncChallengeRequest => 8,
            Self::EncChallengeResponse => 9,
            Self::Flag => 10,
            Self::StdErr => 11,
            Self::ExitCode => 12,
            Self::Unknown(number) => number,
        }
    }

    /// The inverse of [`to_wire`](Self::to_wire).
    #[must_use]
    pub fn from_wire(number: u32) -> Self {
        match number {
            0 => Self::Undefined,
            1 => Self::Output,
            2 => Self::Error,
            3 => Self::Size,
            4 => Self::Parameter,
            5 => Self::HandshakeRequest,
            6 => Self::HandshakeResponse,
            7 => Self::HandshakeComplete,
            8 => Self::EncChallengeRequest,
            9 => Self::EncChallengeResponse,
            10 => Self::Flag,
            11 => Self::StdErr,
            12 => Self::ExitCode,
            other => Self::Unknown(other),
        }
    }
}

/// What a payload of kind [`PayloadKind::Flag`] says: one big-endian u32 (`proto-notes/port-sessions.md#flags`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlagKind {
    /// 1, to the agent, basic mode: the local connection closed; close yours.
    DisconnectToPort,
    /// 2, to the agent: end the session.
    TerminateSession,
    /// 3, from the agent, mux mode: a destination could not be dialled. Carries no stream id.
    ConnectToPortError,
    /// A number this library does not know.
    Unknown(u32),
}

impl FlagKind {
    /// The payload.
    #[must_use]
    pub fn encode(self) -> [u8; 4] {
        let number: u32 = match self {
            Self::DisconnectToPort => 1,
            Self::TerminateSession => 2,
            Self::ConnectToPortError => 3,
            Self::Unknown(number) => number,
        };
        number.to_be_bytes()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it is not four bytes long.
    pub fn decode(payload: &Bytes) -> Result<Self, DecodeError> {
        let number: [u8; 4] = payload[..].try_into().map_err(|_| DecodeError::WrongLength {
            what: "flag payload",
            expected: 4,
            got: payload.len(),
        })?;
        Ok(match u32::from_be_bytes(number) {
            1 => Self::DisconnectToPort,
            2 => Self::TerminateSession,
            3 => Self::ConnectToPortError,
            other => Self::Unknown(other),
        })
    }
}

/// The `Flags` field of a header. Neither end looks at it on receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u64);

impl Flags {
    /// Client stream data, and agent stream data after the first.
    pub const NONE: Self = Self(0);
    /// The agent's stream data with sequence number 0.
    pub const SYN: Self = Self(1);
    /// Messages that are not stream data.
    pub const SYN_FIN: Self = Self(3);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_kind_survives_its_field() {
        for (kind, text) in MessageKind::KNOWN {
            assert_eq!(kind.as_str(), text);
            let mut spaces = [b' '; 32];
            spaces[..text.len()].copy_from_slice(text.as_bytes());
            assert_eq!(MessageKind::from_field(&spaces), Ok(kind.clone()));
            let mut nuls_first = [0; 32];
            nuls_first[32 - text.len()..].copy_from_slice(text.as_bytes());
            assert_eq!(MessageKind::from_field(&nuls_first), Ok(kind));
        }
    }

    #[test]
    fn unknown_kinds_are_kept_and_garbage_is_named() {
        assert_eq!(MessageKind::from_field(b"stream_teleport  "), Ok(MessageKind::Unknown("stream_teleport".into())));
        assert_eq!(MessageKind::from_field(b"a b"), Err(DecodeError::KindNotText));
        assert_eq!(MessageKind::from_field(&[0xff; 32]), Err(DecodeError::KindNotText));
    }

    #[test]
    fn payload_kinds_and_flags_round_trip() {
        for number in 0..20 {
            assert_eq!(PayloadKind::from_wire(number).to_wire(), number);
            let payload = Bytes::copy_from_slice(&number.to_be_bytes());
            let flag = FlagKind::decode(&payload).expect("four bytes");
            assert_eq!(flag.encode(), payload[..]);
        }
        assert!(FlagKind::decode(&Bytes::from_static(b"123")).is_err());
    }
}
