//! The emulated SSM agent: what sits on the node, speaks the data channel, dials destinations and runs shells.
//!
//! Sans-IO and deterministic: time comes in as `now`, randomness as a seed, and dialling, reading and writing are left
//! to the shell around it. Written from the genuine agent's behaviour, defects included, and from recorded traffic of
//! it; it shares `crate::wire` with the client and nothing of the client's state machine, so that the two cannot be
//! wrong in the same way (`proto-notes/agent.md`, `proto-notes/emulator.md`).
//!
//! ```text
//!             handle(now, AgentInput)                            poll_output(now) -> AgentOutput
//!                       │                                                  ▲
//!                       ▼                                                  │
//!  gateway ──▶ Channel: sequence, ─▶ Port: Mux ─▶ local socket ─▶ frames ─▶ bucket ─▶ Write ──▶ destination
//!              acknowledgements,       or Basic ───────────────────────────────────▶ Write
//!  gateway ◀── resend of the head ◀─ pump: 1024 bytes, then a sleep ◀── queue ◀── Received ◀── destination
//! ```
//!
//! A shell session has a program in the place of the destination, and nothing between it and the channel but the seal
//! of sessions with a KMS key.
//!
//! The contract of the shell: after every [`AgentCore::handle`], call [`AgentCore::poll_output`] until it returns
//! [`AgentOutput::Timeout`]; deliver messages and websocket pongs only while [`AgentCore::wants_messages`], and read a
//! destination only while [`AgentCore::wants_data`]. Both can change with every input.

mod basic;
mod behaviour;
mod byte_queue;
mod challenge;
mod channel;
mod characters;
mod destination;
mod frames;
mod handshake;
mod keepalive;
mod mux;
mod outgoing;
mod plugin;
mod port;
mod program;
mod rto;
mod sealing;
mod session;
mod session_type;
mod shell;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;

pub use behaviour::Behaviour;
pub use port::Mode;
pub use program::{Program, ProgramSignal, Streams};
pub use sealing::{SealFault, SealFaultKind};
pub use session::AgentCore;
pub use session_type::SessionType;

use crate::wire::{DataKey, Size};

/// How long the agent waits for the client's handshake response (`proto-notes/handshake.md`).
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an ending session waits for the acknowledgements of what it has sent.
pub const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);

/// One local connection of the agent to a destination, numbered by the core from 1 in the order of dialling; or the one
/// program of a shell session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What the agent needs to know to start a session.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Version it announces, such as `3.3.987.0`: decides handshake contents and modes.
    pub version: String,
    /// The session.
    pub session_id: String,
    /// The node, as StartSession named it: data keys are bound to it.
    pub target: String,
    /// What kind of session the document asks for.
    pub session_type: SessionType,
    /// Properties of the document after substitution: `type`, `host`, `portNumber`, `commands`, ...
    pub properties: serde_json::Value,
    /// Behaviour.
    pub behaviour: Behaviour,
    /// Seed of everything random.
    pub seed: u64,
    /// Wall clock at the `now` of construction, milliseconds since the epoch.
    pub epoch_ms: u64,
}

/// What happens to the agent.
pub enum AgentInput {
    /// Its websocket is open. The first time starts the session, later times resume it.
    Connected,
    /// Its websocket is lost.
    Disconnected,
    /// A message from the gateway. Those that come while [`AgentCore::wants_messages`] is false wait in a short queue,
    /// and beyond it are lost like on a cut connection; only `channel_closed` is always heard, because the genuine
    /// agent gets it on its control channel too.
    Binary(Bytes),
    /// The deadline of the last `Timeout` output has come. Harmless when it has not.
    Timeout,
    /// A destination was dialled.
    Dialled(ConnectionId),
    /// A destination could not be dialled.
    DialFailed(ConnectionId, String),
    /// A destination sent data.
    Received(ConnectionId, Bytes),
    /// A destination ended its direction, or reset.
    Eof(ConnectionId),
    /// The destination's socket took this many bytes of what was written.
    Written(ConnectionId, usize),
    /// A program runs. From now on it is a connection: it sends, ends, and takes what is written.
    Started(ConnectionId),
    /// A program could not be started.
    StartFailed(ConnectionId, String),
    /// A program with separate streams sent error output.
    ReceivedError(ConnectionId, Bytes),
    /// A program is over, and all of its output was told. Its status; -1 if a signal ended it.
    Exited(ConnectionId, i32),
    /// KMS has decrypted the data key, or why not.
    Decrypted(Result<DataKey, String>),
}

/// Payloads are the tunnelled data of the user: lengths only.
impl fmt::Debug for AgentInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("Connected"),
            Self::Disconnected => f.write_str("Disconnected"),
            Self::Binary(message) => write!(f, "Binary({} bytes)", message.len()),
            Self::Timeout => f.write_str("Timeout"),
            Self::Dialled(id) => write!(f, "Dialled({})", id.0),
            Self::DialFailed(id, error) => write!(f, "DialFailed({}, {error:?})", id.0),
            Self::Received(id, data) => write!(f, "Received({}, {} bytes)", id.0, data.len()),
            Self::Eof(id) => write!(f, "Eof({})", id.0),
            Self::Written(id, len) => write!(f, "Written({}, {len})", id.0),
            Self::Started(id) => write!(f, "Started({})", id.0),
            Self::StartFailed(id, error) => write!(f, "StartFailed({}, {error:?})", id.0),
            Self::ReceivedError(id, data) => write!(f, "ReceivedError({}, {} bytes)", id.0, data.len()),
            Self::Exited(id, status) => write!(f, "Exited({}, {status})", id.0),
            Self::Decrypted(key) => write!(f, "Decrypted({key:?})"),
        }
    }
}

/// A data key that KMS is to decrypt for the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecryptRequest {
    /// The KMS key.
    pub key_id: String,
    /// The sealed data key, as the client has passed it on.
    pub ciphertext: Vec<u8>,
    /// The encryption context: session, target and, if the client has acknowledged it, the challenge.
    pub context: BTreeMap<String, String>,
}

/// What the agent does.
#[derive(PartialEq, Eq)]
pub enum AgentOutput {
    /// Send a message to the gateway. Only while connected.
    Transmit(Bytes),
    /// Dial a destination: host and port. To be answered with `Dialled` or `DialFailed`.
    Dial(ConnectionId, String, u16),
    /// Write to a destination. To be answered with `Written`, in as many pieces as it takes; never more than 128 KiB
    /// are open per destination, except for one message in basic and raw mode.
    Write(ConnectionId, Bytes),
    /// Close a destination, both directions, after what was written; or give up dialling it; or kill a program with
    /// what it has started. Nothing that happens to it afterwards matters.
    Close(ConnectionId),
    /// Start a program. To be answered with `Started` or `StartFailed`.
    Start(ConnectionId, Program),
    /// Set the size of a program's terminal.
    Resize(ConnectionId, Size),
    /// Send a signal to a program and what it has started.
    Signal(ConnectionId, ProgramSignal),
    /// Ask KMS for a data key. To be answered with `Decrypted`.
    Decrypt(DecryptRequest),
    /// The session is over; the gateway tells the client with this text. The last output but `Timeout`.
    Ended(String),
    /// Nothing more to do until this time, which is later than the `now` of the call.
    Timeout(Option<Instant>),
}

/// Payloads are the tunnelled data of the user: lengths only.
impl fmt::Debug for AgentOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transmit(message) => write!(f, "Transmit({} bytes)", message.len()),
            Self::Dial(id, host, port) => write!(f, "Dial({}, {host:?}, {port})", id.0),
            Self::Write(id, data) => write!(f, "Write({}, {} bytes)", id.0, data.len()),
            Self::Close(id) => write!(f, "Close({})", id.0),
            Self::Start(id, program) => write!(f, "Start({}, {:?})", id.0, program.streams),
            Self::Resize(id, size) => write!(f, "Resize({}, {}x{})", id.0, size.cols, size.rows),
            Self::Signal(id, signal) => write!(f, "Signal({}, {signal:?})", id.0),
            Self::Decrypt(request) => write!(f, "Decrypt({:?})", request.key_id),
            Self::Ended(text) => write!(f, "Ended({text:?})"),
            Self::Timeout(deadline) => write!(f, "Timeout({deadline:?})"),
        }
    }
}
