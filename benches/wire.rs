//! Codecs: what one message costs, without any state.

use bytes::{Bytes, BytesMut};
use divan::{Bencher, black_box, counter::BytesCount};
use ssmfwd::wire::{
    Acknowledge, Draft, Flags, Header, Message, MessageId, MessageKind, PayloadKind, SequenceNumber,
    smux::{FrameHeader, HEADER_LEN, StreamId},
};

/// Payload sizes, bytes: what the genuine client sends, a usual chunk of other clients, our cap.
const PAYLOADS: [usize; 3] = [1 << 10, 8 << 10, 32 << 10];

const ID: MessageId = MessageId(uuid::uuid!("00112233-4455-4677-8899-aabbccddeeff"));

fn header(kind: MessageKind, payload_kind: PayloadKind) -> Header {
    Header {
        kind,
        schema_version: 1,
        created_ms: 1_700_000_000_000,
        sequence: SequenceNumber(123_456),
        flags: Flags::NONE,
        id: ID,
        payload_kind,
    }
}

fn data_message(payload: &[u8]) -> Bytes {
    let mut draft = Draft::new(&header(MessageKind::InputStreamData, PayloadKind::Output), payload.len());
    draft.payload_mut().extend_from_slice(payload);
    draft.seal()
}

fn acknowledgement() -> Bytes {
    let mut draft = Draft::new(&header(MessageKind::Acknowledge, PayloadKind::Undefined), 256);
    Acknowledge::encode_into(draft.payload_mut(), "output_stream_data", ID, SequenceNumber(123_456));
    draft.seal()
}

/// Header, copy of the payload, digest.
#[divan::bench(args = PAYLOADS)]
fn encode_data(bencher: Bencher<'_, '_>, len: usize) {
    let payload = vec![0x5a; len];
    bencher.counter(BytesCount::new(len)).bench(|| data_message(black_box(&payload)));
}

/// Header only: the payload stays where it is.
#[divan::bench(args = PAYLOADS)]
fn decode_data(bencher: Bencher<'_, '_>, len: usize) {
    let frame = data_message(&vec![0x5a; len]);
    bencher.counter(BytesCount::new(len)).bench(|| Message::decode(black_box(frame.clone())));
}

/// The digest that is compared beside it.
#[divan::bench(args = PAYLOADS)]
fn check_digest(bencher: Bencher<'_, '_>, len: usize) {
    let message = Message::decode(data_message(&vec![0x5a; len])).expect("our own message");
    bencher.counter(BytesCount::new(len)).bench(|| black_box(&message).check_digest());
}

/// The answer to every message received.
#[divan::bench]
fn encode_acknowledgement(bencher: Bencher<'_, '_>) {
    bencher.counter(BytesCount::new(acknowledgement().len())).bench(acknowledgement);
}

/// Header, digest and JSON body.
#[divan::bench]
fn decode_acknowledgement(bencher: Bencher<'_, '_>) {
    let frame = acknowledgement();
    bencher.counter(BytesCount::new(frame.len())).bench(|| {
        let message = Message::decode(black_box(frame.clone()))?;
        message.check_digest()?;
        Acknowledge::decode(&message.payload)
    });
}

#[divan::bench]
fn encode_smux_header(bencher: Bencher<'_, '_>) {
    let mut out = BytesMut::with_capacity(HEADER_LEN);
    bencher.counter(BytesCount::new(HEADER_LEN)).bench_local(|| {
        out.clear();
        out.extend_from_slice(&FrameHeader::psh(black_box(StreamId(301)), black_box(1016)).encode());
    });
}

#[divan::bench]
fn decode_smux_header(bencher: Bencher<'_, '_>) {
    let bytes = FrameHeader::psh(StreamId(301), 1016).encode();
    bencher.counter(BytesCount::new(HEADER_LEN)).bench(|| FrameHeader::decode(black_box(bytes)));
}
