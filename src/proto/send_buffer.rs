//! Stream data that is not in a message yet.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};

use super::limits;

/// Size of the buffers that change hands, bytes: half of what a stream may have unsent, so that one is filled while the
/// other is sent.
pub(super) const BUFFER: usize = limits::STREAM_UNSENT / 2;
/// Below this a copy costs less than a buffer that is held for it.
const SMALL: usize = 2048;
/// Empty buffers that a session keeps at most, so that bulk transfers allocate none: as many as are emptied before the
/// writers come again, with as much as may be in flight.
const SPARE: usize = limits::IN_FLIGHT_BYTES / BUFFER;
/// What an idle session keeps of them: enough for one stream to begin with.
const IDLE_SPARE: usize = 2;

/// Bytes in order, in the buffers they came in.
#[derive(Debug, Default)]
pub(super) struct SendBuffer {
    pieces: VecDeque<Piece>,
    len: usize,
}

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    /// What of it is in messages.
    sent: usize,
}

/// Empty buffers of a session, for the next writer.
#[derive(Debug, Default)]
pub(super) struct SpareBuffers(Vec<Vec<u8>>);

impl SpareBuffers {
    /// An empty buffer, if one is there.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    pub(super) fn put(&mut self, mut buffer: Vec<u8>) {
        if (BUFFER..=2 * BUFFER).contains(&buffer.capacity()) && self.0.len() < SPARE {
            buffer.clear();
            self.0.push(buffer);
        }
    }

    /// Nothing is being sent.
    pub(super) fn rest(&mut self) {
        self.0.truncate(IDLE_SPARE);
        self.0.shrink_to_fit();
    }
}

impl SendBuffer {
    /// Appends a copy.
    pub(super) fn push(&mut self, data: &[u8], spare: &mut SpareBuffers) {
        self.len += data.len();
        match self.pieces.back_mut() {
            Some(last) if last.bytes.len() + data.len() <= BUFFER => last.bytes.extend_from_slice(data),
            _ => {
                let mut bytes = if data.len() > SMALL { spare.take() } else { Vec::new() };
                if data.len() > SMALL {
                    bytes.reserve_exact(BUFFER.max(data.len()));
                }
                bytes.extend_from_slice(data);
                self.pieces.push_back(Piece { bytes, sent: 0 });
            }
        }
    }

    /// Takes a buffer as it is and leaves another, empty one, in its place; copies what is small or fills it by less
    /// than half.
    pub(super) fn push_buffer(&mut self, buffer: &mut Vec<u8>, spare: &mut SpareBuffers) {
        // Bounds count bytes: a buffer that is mostly empty would not be counted.
        if buffer.len() <= SMALL || buffer.len() * 2 < buffer.capacity() {
            self.push(buffer, spare);
            return buffer.clear();
        }
        self.len += buffer.len();
        // What is left of small writes is not worth a place.
        self.pieces.retain(|piece| piece.sent < piece.bytes.len());
        self.pieces.push_back(Piece { bytes: std::mem::replace(buffer, spare.take()), sent: 0 });
    }

    /// Moves up to `count` bytes into a message.
    pub(super) fn take(&mut self, count: usize, out: &mut BytesMut, spare: &mut SpareBuffers) -> usize {
        let mut wanted = count.min(self.len);
        let taken = wanted;
        loop {
            let is_last = self.pieces.len() == 1;
            let Some(piece) = self.pieces.front_mut().filter(|_| wanted > 0) else { break };
            let rest = &piece.bytes[piece.sent..];
            let part = wanted.min(rest.len());
            out.put_slice(&rest[..part]);
            piece.sent += part;
            wanted -= part;
            if piece.sent < piece.bytes.len() {
                continue;
            }
            if is_last && piece.bytes.capacity() <= SMALL {
                // An idle stream keeps a little for its next small write, and no more.
                piece.bytes.clear();
                piece.sent = 0;
                break;
            }
            if let Some(piece) = self.pieces.pop_front() {
                spare.put(piece.bytes);
            }
        }
        self.len -= taken;
        taken
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_queue_of_bytes() {
        let mut random = fastrand::Rng::with_seed(1);
        let (mut buffer, mut spare) = (SendBuffer::default(), SpareBuffers::default());
        let mut model = VecDeque::<u8>::new();
        for _ in 0..5000 {
            let longest = if random.bool() { 100 } else { BUFFER };
            let mut data = vec![0; random.usize(..longest)];
            random.fill(&mut data);
            match random.u8(..3) {
                0 => {
                    buffer.push(&data, &mut spare);
                    model.extend(&data);
                }
                1 => {
                    model.extend(&data);
                    buffer.push_buffer(&mut data, &mut spare);
                    assert!(data.is_empty());
                }
                _ => {
                    let mut out = BytesMut::new();
                    let count = random.usize(..3 * BUFFER);
                    let taken = buffer.take(count, &mut out, &mut spare);
                    assert_eq!((taken, taken), (out.len(), count.min(model.len())));
                    assert!(model.drain(..taken).eq(out));
                }
            }
            assert_eq!((buffer.len(), buffer.is_empty()), (model.len(), model.is_empty()));
        }
    }

    #[test]
    fn buffers_go_round_and_are_not_copied() {
        let (mut buffer, mut spare) = (SendBuffer::default(), SpareBuffers::default());
        let mut mine = Vec::with_capacity(BUFFER);
        let mut addresses = Vec::new();
        for _ in 0..4 {
            mine.resize(BUFFER, 7);
            addresses.push(mine.as_ptr());
            buffer.push_buffer(&mut mine, &mut spare);
            assert!(mine.is_empty());
            if mine.capacity() == 0 {
                mine.reserve(BUFFER);
            }
            assert_eq!(buffer.pieces[0].bytes.as_ptr(), addresses[addresses.len() - 1]);
            buffer.take(BUFFER, &mut BytesMut::new(), &mut spare);
        }
        assert_eq!(addresses[0], addresses[2], "two buffers, over and over");
        assert_eq!(addresses[1], addresses[3]);
    }

    #[test]
    fn writers_that_come_in_crowds_find_what_was_emptied_and_an_idle_session_keeps_little() {
        let mut spare = SpareBuffers::default();
        let mut buffers: Vec<_> = (0..100).map(|_| SendBuffer::default()).collect();
        let mut addresses = [const { Vec::new() }; 2];
        for addresses in &mut addresses {
            buffers.iter_mut().for_each(|buffer| buffer.push(&[1; BUFFER], &mut spare));
            addresses.extend(buffers.iter().map(|buffer| buffer.pieces[0].bytes.as_ptr()));
            for buffer in &mut buffers {
                buffer.take(BUFFER, &mut BytesMut::new(), &mut spare);
            }
            addresses.sort();
        }
        assert_eq!(addresses[0], addresses[1]);
        spare.rest();
        assert_eq!(spare.0.len(), IDLE_SPARE);
    }

    #[test]
    fn an_idle_stream_keeps_little_and_small_writes_share_a_buffer() {
        let (mut buffer, mut spare) = (SendBuffer::default(), SpareBuffers::default());
        for _ in 0..100 {
            buffer.push(b"0123456789", &mut spare);
        }
        assert_eq!(buffer.pieces.len(), 1);
        buffer.take(1000, &mut BytesMut::new(), &mut spare);
        assert!(buffer.is_empty() && buffer.pieces.iter().all(|piece| piece.bytes.capacity() <= SMALL));
        buffer.push(&[1; BUFFER], &mut spare);
        buffer.take(BUFFER, &mut BytesMut::new(), &mut spare);
        assert!(buffer.pieces.is_empty());
    }
}
