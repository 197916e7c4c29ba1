//! What a client says upwards, freed of how it is cut into messages.
//!
//! Everything that is said has a place: the third byte of stream 5, the second DisconnectToPort. So it can be told
//! whether one client has said what the other has, however either cuts it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ssmfwd::{
    proto::{Mode, StreamId},
    wire::{
        FlagKind, PayloadKind,
        smux::{Command, FrameHeader, HEADER_LEN},
    },
};

/// What something is said about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Response,
    /// A connection's beginning, a byte of it, its end.
    Begin(StreamId),
    Byte(StreamId),
    End(StreamId),
    Terminate,
}

/// Places. A message that means nothing has none.
pub(super) type Places = BTreeSet<(Subject, usize)>;

/// One smux frame, and where it begins in the bytes of its direction.
pub(super) struct Frame {
    pub(super) at: usize,
    pub(super) header: FrameHeader,
    pub(super) data: Bytes,
}

/// Takes apart what consists of whole frames.
#[track_caller]
pub(super) fn frames(all: &Bytes) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < all.len() {
        let header = all[at..].first_chunk::<HEADER_LEN>().expect("a whole header");
        let header = FrameHeader::decode(*header).expect("a frame");
        let begin = at + HEADER_LEN;
        assert!(begin + header.data_len() <= all.len(), "a whole frame");
        let data = all.slice(begin..begin + header.data_len());
        frames.push(Frame { at, header, data });
        at = begin + header.data_len();
    }
    frames
}

/// One message of a client: its number, kind and payload.
pub(super) type Said<'a> = (i64, PayloadKind, &'a Bytes);

/// Where what the messages say has its place, by their numbers. They begin with the first one and leave no gap.
#[track_caller]
pub(super) fn places<'a>(mode: Mode, messages: impl Iterator<Item = Said<'a>>) -> BTreeMap<i64, Places> {
    let mut counts = BTreeMap::<Subject, usize>::new();
    let mut place = |subject: Subject| {
        let count = counts.entry(subject).or_default();
        *count += 1;
        (subject, *count - 1)
    };
    let mut places = BTreeMap::new();
    let (mut carried, mut owners) = (Vec::new(), Vec::new());
    let mut connection = StreamId::FIRST;
    for (number, kind, payload) in messages {
        let of_message: &mut Places = places.entry(number).or_default();
        match kind {
            PayloadKind::HandshakeResponse => {
                of_message.insert(place(Subject::Response));
            }
            PayloadKind::Flag => match FlagKind::decode(payload).expect("a flag") {
                FlagKind::DisconnectToPort => {
                    of_message.insert(place(Subject::End(connection)));
                    connection = StreamId(connection.0 + 2);
                }
                FlagKind::TerminateSession => {
                    of_message.insert(place(Subject::Terminate));
                }
                other => panic!("a client does not say {other:?}"),
            },
            PayloadKind::Output if mode == Mode::Mux => {
                carried.extend_from_slice(payload);
                owners.resize(carried.len(), number);
            }
            PayloadKind::Output => of_message.extend(payload.iter().map(|_| place(Subject::Byte(connection)))),
            PayloadKind::Size => {}
            other => panic!("a client does not say {other:?}"),
        }
    }
    for Frame { at, header, data } in frames(&carried.into()) {
        let last = at + HEADER_LEN - 1;
        let mut add = |at: usize, subject| {
            places.entry(owners[at]).or_default().insert(place(subject));
        };
        match header.command {
            Command::Syn => add(last, Subject::Begin(header.stream)),
            Command::Fin => add(last, Subject::End(header.stream)),
            Command::Psh => (1..=data.len()).for_each(|byte| add(last + byte, Subject::Byte(header.stream))),
            Command::Nop => {}
        }
    }
    places
}
