//! Received stream data that nobody has read yet.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Data is copied: a slice of the websocket's read buffer, however small, would keep all of that alive for as long as
/// nobody reads. The first piece is copied as it is, what waits behind it into chunks of this size, so that what is held
/// is what is counted.
const CHUNK: usize = 16 << 10;

/// Bytes in order.
#[derive(Debug, Default)]
pub(super) struct ReceiveBuffer {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl ReceiveBuffer {
    pub(super) fn push(&mut self, data: Bytes) {
        self.len += data.len();
        if self.chunks.is_empty() && self.tail.is_empty() {
            self.chunks.push_back(Bytes::copy_from_slice(&data));
            return;
        }
        let mut data = data;
        while data.has_remaining() {
            if self.tail.capacity() == self.tail.len() {
                self.close_tail();
                self.tail.reserve(CHUNK);
            }
            let room = self.tail.capacity() - self.tail.len();
            self.tail.put(data.split_to(room.min(data.len())));
        }
    }

    /// Moves bytes into `out`, as many as fit.
    pub(super) fn read(&mut self, out: &mut impl BufMut) -> usize {
        let mut moved = 0;
        while out.has_remaining_mut() {
            if self.chunks.is_empty() {
                self.close_tail();
            }
            let Some(chunk) = self.chunks.front_mut() else { break };
            let count = chunk.len().min(out.remaining_mut());
            out.put(chunk.split_to(count));
            moved += count;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
        self.len -= moved;
        if self.len == 0 {
            // An idle stream does not keep the rest of its last chunk.
            self.tail = BytesMut::new();
        }
        moved
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
        for _ in 0..2000 {
            if random.bool() {
                let mut data = vec![0; random.usize(..40_000)];
                random.fill(&mut data);
                model.extend(&data);
                buffer.push(data.into());
            } else {
                let mut out = vec![0; random.usize(..60_000)];
                let read = buffer.read(&mut &mut out[..]);
                assert_eq!(read, out.len().min(model.len()));
                assert!(model.drain(..read).eq(out[..read].iter().copied()));
            }
            assert_eq!(buffer.len(), model.len());
        }
    }

    #[test]
    fn what_waits_does_not_pin_the_buffer_it_came_in() {
        let mut buffer = ReceiveBuffer::default();
        let big = Bytes::from(vec![1; 1 << 20]);
        for at in 0..100 {
            buffer.push(big.slice(at..at + 10));
        }
        assert!(big.is_unique(), "every slice was copied out");
        assert_eq!(buffer.len(), 1000);
        assert_eq!(buffer.read(&mut &mut [0; 2000][..]), 1000);
        assert_eq!(buffer.tail.capacity(), 0, "nothing is kept when nothing is held");
    }
}
