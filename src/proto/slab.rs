//! Memory for messages: many share an allocation, and it is used again when the last of them is gone.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::limits;
use crate::wire::{Draft, Header, PAYLOAD_OFFSET};

/// Least size of an allocation, bytes: some fifty messages of 1024 bytes.
const LEAST: usize = 64 << 10;
/// An allocation has room for at least so many of the largest message.
const MESSAGES: usize = 8;
/// Bytes of allocations whose messages may be in flight: twice what may be. Beyond it the oldest is left to its
/// messages.
const RETIRED: usize = 2 * limits::IN_FLIGHT_BYTES;

/// Messages lie in it in the order in which they are made, and go in about that order: when the oldest allocation is
/// free, it is the next to be filled. So a steady transfer allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Slab {
    /// Nothing is in it but room.
    current: BytesMut,
    /// Handles of those that are full, oldest first.
    retired: VecDeque<BytesMut>,
    /// Size of each of them.
    size: usize,
}

impl Slab {
    /// Starts a message with room for `capacity` bytes of payload. No other may be started before
    /// [`finish`](Self::finish).
    pub(super) fn draft(&mut self, header: &Header, capacity: usize) -> Draft {
        let need = PAYLOAD_OFFSET + capacity;
        if self.current.capacity() < need && !self.current.try_reclaim(need) {
            self.next(need);
        }
        Draft::within(std::mem::take(&mut self.current), header)
    }

    /// Takes back the room that the message does not need.
    pub(super) fn finish(&mut self, draft: &mut Draft) {
        self.current = draft.give_back();
    }

    fn next(&mut self, need: usize) {
        let size = (need * MESSAGES).max(LEAST);
        if size > self.size {
            // Messages have grown: the smaller ones are left to what lies in them.
            *self = Self { size, current: BytesMut::with_capacity(size), ..Self::default() };
            return;
        }
        let next = self.retired.pop_front_if(|oldest| oldest.try_reclaim(need));
        let next = next.unwrap_or_else(|| BytesMut::with_capacity(self.size));
        if self.retired.len() * self.size > RETIRED {
            self.retired.pop_front();
        }
        self.retired.push_back(std::mem::replace(&mut self.current, next));
    }

    /// Nothing is in flight: a quiet session keeps one allocation at most.
    pub(super) fn rest(&mut self) {
        self.retired.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::{BufMut, Bytes};

    use super::*;
    use crate::wire::{Flags, MessageId, MessageKind, PayloadKind, SequenceNumber};

    fn header() -> Header {
        Header {
            kind: MessageKind::InputStreamData,
            schema_version: 1,
            created_ms: 1,
            sequence: SequenceNumber(7),
            flags: Flags::NONE,
            id: MessageId::from_random(7),
            payload_kind: PayloadKind::Output,
        }
    }

    fn message(slab: &mut Slab, len: usize, capacity: usize) -> Bytes {
        let mut draft = slab.draft(&header(), capacity);
        draft.payload_mut().put_bytes(len as u8, len);
        slab.finish(&mut draft);
        draft.seal()
    }

    #[test]
    fn a_steady_transfer_goes_round_in_the_same_memory() {
        for (window, len) in [(1, 1000), (100, 1024), (1000, 500), (64, 32 << 10)] {
            let mut slab = Slab::default();
            let (mut in_flight, mut places) = (VecDeque::new(), BTreeSet::new());
            for number in 0..20_000 {
                let bytes = message(&mut slab, len, 32 << 10);
                if number > 3000 {
                    places.insert(bytes.as_ptr() as usize);
                }
                in_flight.push_back(bytes);
                if in_flight.len() > window {
                    let oldest: Bytes = in_flight.pop_front().expect("some");
                    assert!(oldest[PAYLOAD_OFFSET..].iter().all(|byte| *byte == len as u8), "overwritten");
                }
            }
            let room = (slab.retired.len() + 1) * slab.size;
            assert!(room <= 2 * window * (len + PAYLOAD_OFFSET) + 4 * slab.size, "{window} {len}: {room}");
            assert!(places.len() <= room / len, "{window} {len}: {} places", places.len());
        }
    }

    #[test]
    fn room_that_is_not_needed_is_used_by_the_next_message() {
        let mut slab = Slab::default();
        let first = message(&mut slab, 1, 32 << 10);
        let second = message(&mut slab, 2, 32 << 10);
        assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, PAYLOAD_OFFSET + 1);
    }

    #[test]
    fn a_message_that_stays_is_never_overwritten() {
        let mut slab = Slab::default();
        let kept: Vec<_> = (0..40).map(|_| message(&mut slab, 200, 1024)).collect();
        for _ in 0..10_000 {
            message(&mut slab, 100, 1024);
        }
        assert!(kept.iter().all(|bytes| bytes[PAYLOAD_OFFSET..] == [200; 200]));
        slab.rest();
        assert!(slab.retired.is_empty());
    }
}
