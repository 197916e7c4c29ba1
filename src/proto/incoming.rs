//! The receiving direction: order, duplicates, acknowledgements (`proto-notes/reliability.md`).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::limits;
use crate::wire::{Message, MessageId, SequenceNumber};

/// An acknowledgement to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) sequence: SequenceNumber,
    pub(super) id: MessageId,
}

/// Puts the agent's stream data in order.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    expected: SequenceNumber,
    early: BTreeMap<SequenceNumber, Message>,
    early_bytes: usize,
    waiting: VecDeque<Receipt>,
    remembered: VecDeque<Receipt>,
}

impl Incoming {
    /// Takes one message. Returns it if it is to be processed now; what follows it comes out of [`next`](Self::next).
    ///
    /// *differs from the plugin:* duplicates are acknowledged again. The agent resends only its oldest message, and
    /// for ever, if the acknowledgement of it was lost.
    pub(super) fn receive(&mut self, message: Message) -> Option<Message> {
        let receipt = Receipt { sequence: message.header.sequence, id: message.header.id };
        if receipt.sequence < self.expected || self.early.contains_key(&receipt.sequence) {
            // Not remembered once more: a storm of duplicates would push out what a resume needs.
            self.queue(receipt);
            return None;
        }
        if receipt.sequence == self.expected {
            self.acknowledge(receipt);
            self.expected = self.expected.next();
            return Some(message);
        }
        let room = self.early.len() < limits::EARLY_MESSAGES
            && self.early_bytes + message.payload.len() <= limits::EARLY_BYTES;
        if room {
            self.acknowledge(receipt);
            self.early_bytes += message.payload.len();
            // It may stay for long, and must not keep the websocket's whole read buffer alive.
            let message = Message { payload: Bytes::copy_from_slice(&message.payload), ..message };
            self.early.insert(receipt.sequence, message);
        }
        None
    }

    /// The next message in order, once, of those that came early.
    pub(super) fn next(&mut self) -> Option<Message> {
        let message = self.early.remove(&self.expected)?;
        self.early_bytes -= message.payload.len();
        self.expected = self.expected.next();
        Some(message)
    }

    fn queue(&mut self, receipt: Receipt) {
        if self.waiting.len() < limits::WAITING_ACKNOWLEDGEMENTS {
            self.waiting.push_back(receipt);
        }
    }

    fn acknowledge(&mut self, receipt: Receipt) {
        self.queue(receipt);
        if self.remembered.len() == limits::REMEMBERED_RECEIPTS {
            self.remembered.pop_front();
        }
        self.remembered.push_back(receipt);
    }

    /// The next acknowledgement to write.
    pub(super) fn next_acknowledgement(&mut self) -> Option<Receipt> {
        self.waiting.pop_front()
    }

    /// A new websocket: acknowledgements on the old one may be lost.
    pub(super) fn resumed(&mut self) {
        self.waiting.clear();
        self.waiting.extend(self.remembered.iter());
    }

    /// The websocket is gone: what was to be written on it goes with the next one.
    pub(super) fn disconnected(&mut self) {
        self.waiting.clear();
    }

    pub(super) fn early(&self) -> (usize, usize) {
        (self.early.len(), self.early_bytes)
    }

    pub(super) fn waiting_acknowledgements(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Flags, Header, MessageKind, PayloadKind};

    fn message(sequence: i64, len: usize) -> Message {
        let header = Header {
            kind: MessageKind::OutputStreamData,
            schema_version: 1,
            created_ms: 1,
            sequence: SequenceNumber(sequence),
            flags: Flags::NONE,
            id: MessageId::from_random(sequence.unsigned_abs().into()),
            payload_kind: PayloadKind::Output,
        };
        Message { header, digest: [0; 32], payload: vec![7; len].into(), declared_len: 0 }
    }

    fn acknowledged(incoming: &mut Incoming) -> Vec<i64> {
        std::iter::from_fn(|| incoming.next_acknowledgement()).map(|receipt| receipt.sequence.0).collect()
    }

    /// Takes messages of one length; returns the numbers of those that are processed.
    fn receive(incoming: &mut Incoming, sequences: impl IntoIterator<Item = i64>, len: usize) -> Vec<i64> {
        let mut delivered = Vec::new();
        for sequence in sequences {
            let mut next = incoming.receive(message(sequence, len));
            while let Some(message) = next {
                delivered.push(message.header.sequence.0);
                next = incoming.next();
            }
        }
        delivered
    }

    #[test]
    fn reordered_messages_come_out_in_order_and_once() {
        let mut incoming = Incoming::default();
        assert_eq!(receive(&mut incoming, [2, 1, 1, 0, 0, 2], 10), [0, 1, 2]);
        assert_eq!(acknowledged(&mut incoming), [2, 1, 1, 0, 0, 2]);
        assert_eq!(receive(&mut incoming, [1], 10), [0; 0]);
        assert_eq!(acknowledged(&mut incoming), [1], "a duplicate is acknowledged again");
        assert_eq!(incoming.early(), (0, 0));
    }

    #[test]
    fn too_many_early_messages_are_neither_stored_nor_acknowledged() {
        let mut incoming = Incoming::default();
        let limit = i64::try_from(limits::EARLY_MESSAGES).expect("small");
        assert_eq!(receive(&mut incoming, 1..=limit + 5, 1), [0; 0]);
        assert_eq!(incoming.early().0, limits::EARLY_MESSAGES);
        assert_eq!(acknowledged(&mut incoming).last(), Some(&limit));
        assert_eq!(receive(&mut incoming, [0], 1).len(), limits::EARLY_MESSAGES + 1);
    }

    #[test]
    fn early_bytes_are_bounded_too() {
        let mut incoming = Incoming::default();
        receive(&mut incoming, 1..20, limits::EARLY_BYTES / 8);
        assert_eq!(incoming.early(), (8, limits::EARLY_BYTES));
    }

    #[test]
    fn a_resume_acknowledges_the_last_receipts_again() {
        let mut incoming = Incoming::default();
        assert_eq!(receive(&mut incoming, 0..2000, 1).len(), 2000);
        assert_eq!(acknowledged(&mut incoming).len(), 2000);
        incoming.disconnected();
        incoming.resumed();
        assert_eq!(acknowledged(&mut incoming), (976..2000).collect::<Vec<_>>());
        assert_eq!(receive(&mut incoming, [1999; 5000], 1), [0; 0]);
        incoming.resumed();
        assert_eq!(acknowledged(&mut incoming), (976..2000).collect::<Vec<_>>(), "each once, duplicates or not");
    }

    #[test]
    fn an_acknowledgement_backlog_is_bounded() {
        let mut incoming = Incoming::default();
        receive(&mut incoming, std::iter::repeat_n(0, limits::WAITING_ACKNOWLEDGEMENTS + 1000), 1);
        assert_eq!(incoming.waiting_acknowledgements(), limits::WAITING_ACKNOWLEDGEMENTS);
    }
}
