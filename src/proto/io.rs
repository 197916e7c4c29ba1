//! What goes into the state machine and what comes out.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use zeroize::Zeroizing;

use super::{CloseReason, Mode, SealedKey, StreamId, Token};
use crate::wire::{DecodeError, Draft, Message};

/// What happens to a session.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// A websocket is open; the token is for its first message.
    Connected(Token),
    /// A message came in.
    Message(Inbound),
    /// A pong, or anything else that shows that the peer lives and carries no message.
    Pong,
    /// The ping of an [`Output::Ping`] has left the machine.
    PingSent,
    /// The websocket is lost.
    Disconnected,
    /// An attempt that [`Event::Reconnect`] asked for has failed, in a way that may pass.
    ConnectFailed,
    /// What came of [`Event::DataKeyWanted`]: a data key, or why there is none, in words for people. Ignored at any
    /// other time.
    DataKey(Result<SealedKey, String>),
    /// The machine or the network may have woken: what is waited for is tried at once, and whether the websocket still
    /// lives is found out quickly.
    Wake,
    /// The deadline of the last [`Output::Timeout`] has come. Harmless at any other time.
    Timeout,
}

/// A frame from the peer, taken apart and checked against its digest.
///
/// A step of its own so that the caller can hash outside its lock.
#[derive(Debug)]
pub struct Inbound {
    pub(super) message: Result<Message, DecodeError>,
    /// Bytes of the whole frame.
    pub(super) len: usize,
}

impl From<Bytes> for Inbound {
    fn from(frame: Bytes) -> Self {
        let len = frame.len();
        Self { message: Message::decode(frame).and_then(|message| message.check_digest().map(|()| message)), len }
    }
}

/// What a session wants done. Drain until [`Timeout`](Output::Timeout) after every mutation.
#[derive(Debug)]
#[must_use]
pub enum Output {
    /// Send this; in order, and only on the websocket of the last [`Input::Connected`].
    Transmit(Transmit),
    /// Send a websocket ping and report [`Input::PingSent`] when it is flushed.
    Ping,
    /// Tell the application.
    Event(Event),
    /// Nothing more to do until then.
    Timeout(Option<Instant>),
}

/// Something to send.
#[must_use]
pub enum Transmit {
    /// A websocket text frame: the message that opens the data channel. Holds the token.
    Text(Zeroizing<String>),
    /// A websocket binary frame.
    Binary(Frame),
}

/// Shows no content: the text holds the token, frames hold the user's data.
impl fmt::Debug for Transmit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text(redacted)",
            Self::Binary(_) => "Binary(..)",
        })
    }
}

/// A message to send. New ones still have to be hashed: turn it into bytes outside any lock.
#[must_use]
pub struct Frame(pub(super) FrameState);

pub(super) enum FrameState {
    /// Not acknowledged by the peer, so not kept.
    Once(Draft),
    /// Kept for retransmission as soon as it is sealed.
    Kept(Draft, Arc<OnceLock<Bytes>>),
    /// Sent before.
    Again(Bytes),
}

impl Frame {
    /// The bytes of the websocket frame. Hashes the payload: about 1 µs per KiB.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            FrameState::Once(draft) => draft.seal(),
            FrameState::Kept(draft, keep) => keep.get_or_init(|| draft.seal()).clone(),
            FrameState::Again(bytes) => bytes,
        }
    }

    /// Whether the message was sent before.
    #[must_use]
    pub fn is_retransmission(&self) -> bool {
        matches!(self.0, FrameState::Again(_))
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Frame(..)")
    }
}

/// What an application is told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Data may flow: streams can be opened.
    Ready {
        /// How connections are carried.
        mode: Mode,
        /// What the agent says it is; empty if it has not said.
        agent_version: String,
    },
    /// The session is to be sealed: have KMS make a data key of 64 bytes with this key, for the session, the target and,
    /// if there is one, the challenge, and answer with [`Input::DataKey`].
    DataKeyWanted {
        /// Id, ARN or alias of the key, as the account's preferences have it.
        key_id: String,
        /// What the encryption context has to say under `aws:ssm:RandomChallenge`.
        challenge: Option<String>,
    },
    /// Text that the administrator wants users to see.
    CustomerMessage(String),
    /// A stream has data, an end or an error to read.
    Readable(StreamId),
    /// A stream that could not take more data can again, or will never.
    Writable(StreamId),
    /// A session that carries one connection at a time is free for the next.
    CanOpen,
    /// Everything that was written is acknowledged, which [`Session::is_drained`](super::Session::is_drained) had to
    /// deny.
    Drained,
    /// The agent could not reach the destination of this stream, as well as the protocol lets us tell.
    DestinationRefused(StreamId),
    /// The peer is (or is no longer) behind: new data is held.
    Paused(bool),
    /// The agent has acknowledged nothing and said nothing for [`limits::STALLED`](super::limits::STALLED) (true), or
    /// does again (false).
    Stalled(bool),
    /// So many streams have waited for their first byte for [`limits::UNANSWERED`](super::limits::UNANSWERED), and no
    /// later one has got any: the agent may be dialling a destination that does not answer. Told again only after one
    /// of them got an answer, or none was left.
    Unanswered(usize),
    /// Local readers are behind: the websocket must not be read (true), or may be again (false).
    Backpressure(bool),
    /// The stream was reset because its reader held up the others.
    SlowReader(StreamId),
    /// The peer has been silent for two ping intervals, or did not answer the probe after [`Input::Wake`]: close the
    /// websocket.
    Unresponsive,
    /// No websocket is there: get permission for another and open it now, then [`Input::Connected`] or
    /// [`Input::ConnectFailed`]. For a session that cannot be resumed, [`Session::abort`](super::Session::abort).
    Reconnect,
    /// A message came in on the websocket that replaced a lost one, or it has answered pings for
    /// [`limits::STEADY`](super::limits::STEADY): the session goes on.
    Resumed,
    /// The session is over. `terminate`: the agent is not known to have ended it, so the API must be called.
    Closed {
        /// Who ended it and why.
        reason: CloseReason,
        /// Whether TerminateSession has to be called.
        terminate: bool,
    },
}
