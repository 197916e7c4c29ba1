//! The frame header of smux version 1, the protocol that carries many streams in one port session
//! (`proto-notes/smux.md`). Little-endian, 8 bytes: version, command, data length, stream id.

use std::fmt;

use super::DecodeError;

/// Length of a frame header in bytes.
pub const HEADER_LEN: usize = 8;
/// The only version on this wire.
pub const VERSION: u8 = 1;

/// Identity of a stream: the client's are odd and start at 3; 0 belongs to the session itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl StreamId {
    /// The session itself: NOP frames.
    pub const SESSION: Self = Self(0);
    /// The first stream a client opens.
    pub const FIRST: Self = Self(3);
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a frame does. Version 2 has a fifth command (UPD), which never occurs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// 0: opens a stream.
    Syn,
    /// 1: ends a stream; the genuine peers close both directions on it.
    Fin,
    /// 2: carries data.
    Psh,
    /// 3: does nothing; keepalive.
    Nop,
}

/// One frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame does.
    pub command: Command,
    /// Bytes of data that follow: PSH only.
    pub length: u16,
    /// The stream it belongs to.
    pub stream: StreamId,
}

impl FrameHeader {
    /// A SYN.
    #[must_use]
    pub const fn syn(stream: StreamId) -> Self {
        Self { command: Command::Syn, length: 0, stream }
    }

    /// A FIN.
    #[must_use]
    pub const fn fin(stream: StreamId) -> Self {
        Self { command: Command::Fin, length: 0, stream }
    }

    /// The header of `length` bytes of data.
    #[must_use]
    pub const fn psh(stream: StreamId, length: u16) -> Self {
        Self { command: Command::Psh, length, stream }
    }

    /// A NOP.
    #[must_use]
    pub const fn nop() -> Self {
        Self { command: Command::Nop, length: 0, stream: StreamId::SESSION }
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let command = match self.command {
            Command::Syn => 0,
            Command::Fin => 1,
            Command::Psh => 2,
            Command::Nop => 3,
        };
        let [len_low, len_high] = self.length.to_le_bytes();
        let [id0, id1, id2, id3] = self.stream.0.to_le_bytes();
        [VERSION, command, len_low, len_high, id0, id1, id2, id3]
    }

    /// Reads a header.
    ///
    /// # Errors
    /// When the version is not 1 or the command does not exist in it.
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, DecodeError> {
        let [version, command, len_low, len_high, id0, id1, id2, id3] = bytes;
        if version != VERSION {
            return Err(DecodeError::SmuxVersion(version));
        }
        let command = match command {
            0 => Command::Syn,
            1 => Command::Fin,
            2 => Command::Psh,
            3 => Command::Nop,
            other => return Err(DecodeError::SmuxCommand(other)),
        };
        let length = u16::from_le_bytes([len_low, len_high]);
        Ok(Self { command, length, stream: StreamId(u32::from_le_bytes([id0, id1, id2, id3])) })
    }

    /// Bytes of data that follow this header. The length field of other commands than PSH is not used: the genuine
    /// receiver skips nothing for them.
    #[must_use]
    pub fn data_len(self) -> usize {
        if self.command == Command::Psh { usize::from(self.length) } else { 0 }
    }
}
