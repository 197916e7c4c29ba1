//! The receiving half of the agent's smux session: client bytes in a local socket, cut into frames one by one
//! (`proto-notes/smux.md`). Message boundaries mean nothing: a header may come in pieces.

use bytes::Bytes;

use super::byte_queue::ByteQueue;
use crate::wire::smux::{Command, FrameHeader, HEADER_LEN, StreamId};

/// One whole frame of the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Syn(StreamId),
    Fin(StreamId),
    Psh(StreamId, Bytes),
    Nop,
}

/// Reads frames off the local socket. After a frame of another version it reads no more, for ever, and does not say
/// so: the genuine agent's session hangs then, it does not end.
#[derive(Default)]
pub(super) struct FrameReader {
    socket: ByteQueue,
    /// A PSH whose data is still coming. Its data has left the socket.
    partial: Option<(FrameHeader, ByteQueue)>,
    failed: bool,
    heard: bool,
}

impl FrameReader {
    pub(super) fn push(&mut self, data: Bytes) {
        self.socket.push(data);
    }

    /// Bytes the local socket holds.
    pub(super) fn socket_len(&self) -> usize {
        self.socket.len()
    }

    /// Whether a frame header was read since the last call.
    pub(super) fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// The next frame, if it is there whole.
    pub(super) fn next(&mut self) -> Option<Frame> {
        if self.failed {
            return None;
        }
        if self.partial.is_none() {
            let header = self.header()?;
            self.heard = true;
            match header.command {
                Command::Syn => return Some(Frame::Syn(header.stream)),
                Command::Fin => return Some(Frame::Fin(header.stream)),
                Command::Nop => return Some(Frame::Nop),
                Command::Psh => self.partial = Some((header, ByteQueue::default())),
            }
        }
        let (header, data) = self.partial.as_mut()?;
        while let Some(piece) = self.socket.take_piece(header.data_len() - data.len()) {
            data.push(piece);
        }
        if data.len() < header.data_len() {
            return None;
        }
        let frame = Frame::Psh(header.stream, data.take(header.data_len()));
        self.partial = None;
        Some(frame)
    }

    fn header(&mut self) -> Option<FrameHeader> {
        if self.socket.len() < HEADER_LEN {
            return None;
        }
        let bytes = self.socket.take(HEADER_LEN);
        let header = <[u8; HEADER_LEN]>::try_from(&bytes[..]).ok().and_then(|bytes| FrameHeader::decode(bytes).ok());
        self.failed = header.is_none();
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: StreamId = StreamId(3);

    fn stream() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(FrameHeader::syn(THREE).encode());
        bytes.extend(FrameHeader::psh(THREE, 5).encode());
        bytes.extend(b"hello");
        bytes.extend(FrameHeader::nop().encode());
        bytes.extend(FrameHeader::psh(THREE, 0).encode());
        bytes.extend(FrameHeader::fin(THREE).encode());
        bytes
    }

    #[test]
    fn frames_come_out_the_same_however_the_bytes_are_cut() {
        let bytes = stream();
        for size in 1..=bytes.len() {
            let mut reader = FrameReader::default();
            let mut frames = Vec::new();
            for piece in bytes.chunks(size) {
                reader.push(Bytes::copy_from_slice(piece));
                frames.extend(std::iter::from_fn(|| reader.next()));
            }
            let hello = Frame::Psh(THREE, Bytes::from_static(b"hello"));
            let empty = Frame::Psh(THREE, Bytes::new());
            let expected = [Frame::Syn(THREE), hello, Frame::Nop, empty, Frame::Fin(THREE)];
            assert_eq!(frames, expected, "cut into {size}");
            assert_eq!(reader.socket_len(), 0);
        }
    }

    #[test]
    fn another_version_stops_reading_and_the_socket_fills() {
        let mut reader = FrameReader::default();
        reader.push(Bytes::from_static(&[2, 0, 0, 0, 3, 0, 0, 0]));
        assert_eq!(reader.next(), None);
        reader.push(stream().into());
        assert_eq!((reader.next(), reader.socket_len()), (None, stream().len()));
    }
}
