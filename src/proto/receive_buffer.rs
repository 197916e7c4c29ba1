//! Received stream data that nobody has read yet.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Size of the chunks that what stays is copied into, bytes.
const CHUNK: usize = 16 << 10;
/// Places for recent pieces that an empty buffer keeps: one batch of the websocket's.
const KEPT_PLACES: usize = 64;

/// Bytes in order: old ones, then recent ones.
///
/// Recent pieces are slices of the websocket's read buffers: a reader that keeps up gets them without a copy. Each,
/// however small, keeps a whole read buffer alive, so what is not read soon is [settled](Self::settle): copied out, so
/// that what is held is what is counted.
#[derive(Debug, Default)]
pub(super) struct ReceiveBuffer {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    recent: VecDeque<Recent>,
    len: usize,
}

#[derive(Debug)]
struct Recent {
    /// How much the session had received when this came.
    position: u64,
    bytes: Bytes,
}

impl ReceiveBuffer {
    /// Appends what came when the session had received `position` bytes, which never decreases.
    pub(super) fn push(&mut self, bytes: Bytes, position: u64) {
        // A message may carry nothing, and a piece of nothing is not an end.
        if bytes.is_empty() {
            return;
        }
        self.len += bytes.len();
        self.recent.push_back(Recent { position, bytes });
    }

    /// Copies out what came before `position`.
    pub(super) fn settle(&mut self, position: u64) {
        while let Some(recent) = self.recent.pop_front_if(|recent| recent.position < position) {
            let mut bytes = recent.bytes;
            while bytes.has_remaining() {
                if self.tail.capacity() == self.tail.len() {
                    self.close_tail();
                    self.tail.reserve(CHUNK);
                }
                let room = self.tail.capacity() - self.tail.len();
                self.tail.put(bytes.split_to(room.min(bytes.len())));
            }
        }
    }

    /// When the oldest piece came that is not copied out.
    pub(super) fn unsettled(&self) -> Option<u64> {
        self.recent.front().map(|recent| recent.position)
    }

    /// Moves bytes into `out`, as many as fit.
    pub(super) fn read(&mut self, out: &mut impl BufMut) -> usize {
        let mut moved = 0;
        while out.has_remaining_mut()
            && let Some(piece) = self.pop(out.remaining_mut())
        {
            moved += piece.len();
            out.put(piece);
        }
        moved
    }

    /// Takes the next piece, of up to `limit` bytes, without a copy.
    pub(super) fn pop(&mut self, limit: usize) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.close_tail();
        }
        let (front, is_recent) = match self.chunks.front_mut() {
            Some(chunk) => (chunk, false),
            None => (&mut self.recent.front_mut()?.bytes, true),
        };
        let piece = front.split_to(limit.min(front.len()));
        if front.is_empty() {
            if is_recent {
                self.recent.pop_front();
            } else {
                self.chunks.pop_front();
            }
        }
        self.len -= piece.len();
        if self.len == 0 {
            // An idle stream does not keep the rest of its last chunk.
            self.tail = BytesMut::new();
            self.recent.shrink_to(KEPT_PLACES);
        }
        Some(piece)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_queue_of_bytes() {
        let mut random = fastrand::Rng::with_seed(1);
        let (mut buffer, mut model) = (ReceiveBuffer::default(), VecDeque::<u8>::new());
        for position in 0..3000 {
            match random.u8(..3) {
                0 => {
                    let len = if random.u8(..5) == 0 { 0 } else { random.usize(..40_000) };
                    let mut data = vec![0; len];
                    random.fill(&mut data);
                    model.extend(&data);
                    buffer.push(data.into(), position);
                    assert!(buffer.recent.iter().all(|recent| !recent.bytes.is_empty()));
                }
                1 => {
                    let mut out = vec![0; random.usize(..60_000)];
                    let read = buffer.read(&mut &mut out[..]);
                    assert_eq!(read, out.len().min(model.len()));
                    assert!(model.drain(..read).eq(out[..read].iter().copied()));
                }
                _ => {
                    let limit = random.u64(..=position);
                    buffer.settle(limit);
                    assert!(buffer.unsettled().is_none_or(|oldest| oldest >= limit));
                }
            }
            assert_eq!(buffer.len(), model.len());
        }
    }

    #[test]
    fn what_is_read_soon_is_not_copied_and_what_stays_does_not_pin_the_buffer_it_came_in() {
        let mut buffer = ReceiveBuffer::default();
        let big = Bytes::from(vec![1; 1 << 20]);
        for at in 0..100 {
            buffer.push(big.slice(at..at + 10), at as u64);
        }
        assert_eq!(buffer.pop(4).expect("ten bytes").as_ptr(), big.as_ptr());
        buffer.settle(99);
        assert_eq!(buffer.unsettled(), Some(99));
        assert!(!big.is_unique(), "the last is recent");
        buffer.settle(100);
        assert!(big.is_unique(), "every slice was copied out");
        assert_eq!(buffer.len(), 996);
        assert_eq!(buffer.read(&mut &mut [0; 2000][..]), 996);
        assert_eq!(buffer.tail.capacity(), 0, "nothing is kept when nothing is held");
    }
}
