//! smux frames out of a byte stream whose message boundaries have no meaning (`proto-notes/smux.md`).

use bytes::Bytes;

use crate::wire::{
    DecodeError,
    smux::{Command, FrameHeader, HEADER_LEN, StreamId},
};

/// What a peer's frames say to us. SYN and NOP say nothing: agents open no streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Some bytes of a PSH frame: a frame is passed on as it comes, not put together first.
    Data(StreamId, Bytes),
    /// The agent has ended the stream.
    Fin(StreamId),
}

/// Keeps at most one incomplete header between messages.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    header: [u8; HEADER_LEN],
    filled: usize,
    /// The PSH frame whose data comes next, and how much of it.
    open: Option<(StreamId, usize)>,
}

impl Decoder {
    /// Takes the next part out of `input`; `None` when all of it is used up.
    ///
    /// # Errors
    /// When a frame is not of smux version 1. The decoder cannot be used after that.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Part>, DecodeError> {
        loop {
            if input.is_empty() {
                return Ok(None);
            }
            if let Some((stream, missing)) = self.open {
                let data = input.split_to(missing.min(input.len()));
                let missing = missing - data.len();
                self.open = (missing > 0).then_some((stream, missing));
                return Ok(Some(Part::Data(stream, data)));
            }
            let take = input.split_to((HEADER_LEN - self.filled).min(input.len()));
            self.header[self.filled..self.filled + take.len()].copy_from_slice(&take);
            self.filled += take.len();
            if self.filled < HEADER_LEN {
                return Ok(None);
            }
            self.filled = 0;
            let frame = FrameHeader::decode(self.header)?;
            match frame.command {
                Command::Psh if frame.length > 0 => self.open = Some((frame.stream, frame.data_len())),
                Command::Fin => return Ok(Some(Part::Fin(frame.stream))),
                Command::Psh | Command::Syn | Command::Nop => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(decoder: &mut Decoder, bytes: &[u8]) -> Result<Vec<Part>, DecodeError> {
        let mut input = Bytes::copy_from_slice(bytes);
        let mut parts = Vec::new();
        while let Some(part) = decoder.next(&mut input)? {
            parts.push(part);
        }
        Ok(parts)
    }

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in [FrameHeader::nop(), FrameHeader::syn(StreamId(2)), FrameHeader::psh(StreamId(3), 0)] {
            bytes.extend(frame.encode());
        }
        bytes.extend(FrameHeader::psh(StreamId(3), 5).encode());
        bytes.extend(b"hello");
        bytes.extend(FrameHeader::fin(StreamId(5)).encode());
        bytes
    }

    #[test]
    fn frames_survive_any_chopping() {
        let whole = sample();
        for size in 1..=whole.len() {
            let mut decoder = Decoder::default();
            let parts: Vec<_> =
                whole.chunks(size).flat_map(|chunk| decode(&mut decoder, chunk).expect("valid frames")).collect();
            let mut data = Vec::new();
            for part in &parts {
                match part {
                    Part::Data(stream, bytes) => {
                        assert_eq!(*stream, StreamId(3));
                        data.extend_from_slice(bytes);
                    }
                    Part::Fin(stream) => assert_eq!((*stream, &data[..]), (StreamId(5), &b"hello"[..])),
                }
            }
            assert_eq!(parts.last(), Some(&Part::Fin(StreamId(5))), "chunks of {size}");
        }
    }

    #[test]
    fn other_versions_and_commands_are_named() {
        let mut wrong = FrameHeader::nop().encode();
        wrong[0] = 2;
        assert_eq!(decode(&mut Decoder::default(), &wrong), Err(DecodeError::SmuxVersion(2)));
        let mut wrong = FrameHeader::nop().encode();
        wrong[1] = 4;
        assert_eq!(decode(&mut Decoder::default(), &wrong), Err(DecodeError::SmuxCommand(4)));
    }
}
