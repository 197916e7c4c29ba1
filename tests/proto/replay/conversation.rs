//! One client's side of a session, as it went over the wire; what must be true of it whoever the client is.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use ssmfwd::{
    proto::Mode,
    wire::{Acknowledge, Flags, Message, MessageId, MessageKind, PayloadKind, SequenceNumber},
};

use super::words::{Places, places};

/// What one client has sent.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// The text that opens each data channel.
    pub(super) opened: Vec<String>,
    pub(super) pings: usize,
    /// Bodies of the acknowledgements, in order.
    pub(super) acknowledgements: Vec<Bytes>,
    /// Stream data by its number, as it was sent first.
    pub(super) messages: BTreeMap<i64, Message>,
    /// How often each was sent.
    pub(super) times: BTreeMap<i64, usize>,
}

impl Conversation {
    /// Takes a message. Gives the number of stream data.
    #[track_caller]
    pub(super) fn sends(&mut self, place: &str, frame: &Bytes) -> Option<i64> {
        let message = Message::decode(frame.clone()).unwrap_or_else(|error| panic!("{place}: {error}"));
        message.check_digest().unwrap_or_else(|error| panic!("{place}: {error}"));
        let header = &message.header;
        assert_eq!((header.schema_version, message.declared_len as usize), (1, message.payload.len()), "{place}");
        assert!(header.created_ms > 1_600_000_000_000, "{place}: {}", header.created_ms);
        if header.kind == MessageKind::Acknowledge {
            assert_eq!((header.sequence, header.flags), (SequenceNumber::ZERO, Flags::SYN_FIN), "{place}");
            assert_eq!(header.payload_kind, PayloadKind::Undefined, "{place}");
            self.acknowledgements.push(message.payload);
            return None;
        }
        assert_eq!((&header.kind, header.flags), (&MessageKind::InputStreamData, Flags::NONE), "{place}");
        let number = header.sequence.0;
        *self.times.entry(number).or_default() += 1;
        if let Some(first) = self.messages.get(&number) {
            assert_eq!(first.encode(), frame, "{place}: message {number} is sent again, but changed");
        } else {
            let expected = self.messages.last_key_value().map_or(0, |(last, _)| last + 1);
            assert_eq!(number, expected, "{place}: the next number");
            let ids = self.messages.values().map(|message| message.header.id);
            assert!(ids.into_iter().all(|id| id != header.id), "{place}: an id of its own");
            self.messages.insert(number, message);
        }
        Some(number)
    }

    /// How much was sent, all in all.
    pub(super) fn count(&self) -> usize {
        self.acknowledgements.len() + self.times.values().sum::<usize>()
    }

    /// What its messages say, by their numbers.
    #[track_caller]
    pub(super) fn places(&self, mode: Mode) -> BTreeMap<i64, Places> {
        let said =
            |(number, message): (&i64, &'_ Message)| (*number, message.header.payload_kind, message.payload.clone());
        let all: Vec<_> = self.messages.iter().map(said).collect();
        places(mode, all.iter().map(|(number, kind, payload)| (*number, *kind, payload)))
    }
}

/// The body that acknowledges a message.
pub(super) fn acknowledgement(kind: &MessageKind, id: MessageId, sequence: SequenceNumber) -> Bytes {
    let mut body = BytesMut::new();
    Acknowledge::encode_into(&mut body, kind.as_str(), id, sequence);
    body.freeze()
}
