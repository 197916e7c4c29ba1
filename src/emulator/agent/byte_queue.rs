//! Bytes in order, as a local socket or a stream buffer holds them.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// A queue of bytes whose pieces are shared, not copied. Its owner bounds it.
#[derive(Default)]
pub(super) struct ByteQueue {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl ByteQueue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// The first `max` bytes, or what there is, regardless of how they came.
    pub(super) fn take(&mut self, max: usize) -> Bytes {
        let want = max.min(self.len);
        if self.pieces.front().is_none_or(|front| front.len() >= want) {
            return self.take_piece(want).unwrap_or_default();
        }
        let mut out = BytesMut::with_capacity(want);
        while out.len() < want {
            let Some(piece) = self.take_piece(want - out.len()) else { break };
            out.extend_from_slice(&piece);
        }
        out.freeze()
    }

    /// At most `max` bytes as one shared piece, without copying.
    pub(super) fn take_piece(&mut self, max: usize) -> Option<Bytes> {
        let front = self.pieces.front_mut().filter(|_| max > 0)?;
        let piece = front.split_to(max.min(front.len()));
        if front.is_empty() {
            self.pieces.pop_front();
        }
        self.len -= piece.len();
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_across_pieces_and_never_more_than_there_is() {
        let mut queue = ByteQueue::default();
        for piece in ["ab", "", "cde", "f"] {
            queue.push(Bytes::from_static(piece.as_bytes()));
        }
        assert_eq!((queue.len(), queue.take(3)), (6, Bytes::from_static(b"abc")));
        assert_eq!(queue.take_piece(9), Some(Bytes::from_static(b"de")));
        assert_eq!(queue.take(0), Bytes::new());
        assert_eq!(queue.take(9), Bytes::from_static(b"f"));
        assert_eq!((queue.take(9), queue.take_piece(9), queue.is_empty()), (Bytes::new(), None, true));
    }
}
