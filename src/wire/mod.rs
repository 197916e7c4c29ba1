//! Bytes to types and back: the vocabulary of the data channel.
//!
//! What lives here: the message header and its payload, message and payload kinds, every JSON body in the
//! conventions of the Go peers, the smux version 1 frame header, version thresholds and the payload cipher.
//! What never does: state, time, randomness, IO. Both ends of the protocol (`crate::proto` and, behind the
//! feature `emulator`, the emulated agent) share this module and nothing else; golden vectors and recorded
//! traffic of the genuine programs pin it.
//!
//! ```text
//! websocket binary frame = one Message
//! ┌────────────┬──────────────┬─────────┬────────┬───────┬──────┬─────────┬────────┬──────────────┬─────────┬─────────┐
//! │ header len │ message kind │ schema  │ created│ seq   │ flags│ id      │ digest │ payload kind │ pay len │ payload │
//! │ u32 = 116  │ 32 bytes     │ u32 = 1 │ u64 ms │ i64   │ u64  │ 16 bytes│ SHA-256│ u32          │ u32     │         │
//! └────────────┴──────────────┴─────────┴────────┴───────┴──────┴─────────┴────────┴──────────────┴─────────┴─────────┘
//! ```
//!
//! All integers of a message are big-endian, those of a smux frame little-endian
//! (`proto-notes/messages.md`, `proto-notes/smux.md`).

mod ack;
mod body;
mod channel;
mod control;
mod error;
mod handshake;
mod ids;
mod kind;
mod message;
mod seal;
pub mod smux;
mod version;

pub use ack::Acknowledge;
pub use body::{from_json, to_json};
pub use channel::{AgentSessionState, ChannelClosed, OpenDataChannel, Size};
pub use control::{AgentTaskComplete, InteractiveShell};
pub use error::DecodeError;
pub use handshake::{
    ActionStatus, ClientAction, EncChallenge, HandshakeComplete, HandshakeRequest, HandshakeResponse, KmsParameters,
    KmsResult, ProcessedAction, SessionTypeParameters,
};
pub use ids::{MessageId, SequenceNumber};
pub use kind::{FlagKind, Flags, MessageKind, PayloadKind};
pub use message::{Draft, HEADER_LEN, Header, Message, PAYLOAD_OFFSET};
pub use seal::{DataKey, NONCE_LEN, PayloadKey, SEAL_OVERHEAD};
pub use version::{AgentFeatures, ClientFeatures, agent_newer_than};
