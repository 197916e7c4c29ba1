//! The pump: takes what is in the pipe, up to a message's worth, and sleeps after each message, on a thread of its own,
//! because tokio's timer is too coarse.

use bytes::{Bytes, BytesMut};
use ssmfwd::wire::{Draft, Flags, Header, MessageId, MessageKind, PayloadKind, SequenceNumber};
use tokio::sync::mpsc;

use super::Shape;

/// Pieces in the pipe: with pieces of 32 KiB about what a local socket holds.
const PIPE: usize = 6;
/// Messages between the pump and the websocket.
const SENDING: usize = 64;
/// What the system adds to every sleep.
const TIMER_SLACK: std::time::Duration = std::time::Duration::from_micros(55);

pub(super) type Pipe = mpsc::Sender<Bytes>;
/// A message with its number.
pub(super) type Outgoing = (i64, Bytes);

pub(super) fn pipe() -> (Pipe, mpsc::Receiver<Bytes>) {
    mpsc::channel(PIPE)
}

/// A data message: hashed when it is sealed.
pub(super) fn data(sequence: i64, kind: PayloadKind, payload: &[u8]) -> Bytes {
    let header = Header {
        kind: MessageKind::InputStreamData,
        schema_version: 1,
        created_ms: 1_700_000_000_000,
        sequence: SequenceNumber(sequence),
        flags: if sequence == 0 { Flags::SYN } else { Flags::NONE },
        id: MessageId::from_random(fastrand::u128(..)),
        payload_kind: kind,
    };
    let mut draft = Draft::new(&header, payload.len());
    draft.payload_mut().extend_from_slice(payload);
    draft.seal()
}

/// Starts the pump; it ends with the pipe or with the channel. Message 0 was the handshake's.
pub(super) fn start(mut pipe: mpsc::Receiver<Bytes>, shape: Shape) -> mpsc::Receiver<Outgoing> {
    let (sender, receiver) = mpsc::channel(SENDING);
    std::thread::spawn(move || {
        let (mut waiting, mut sequence) = (BytesMut::new(), 1);
        loop {
            let mut alone = false;
            if waiting.is_empty() {
                let piece = match pipe.try_recv() {
                    Ok(piece) => Some(piece),
                    Err(_) => {
                        // A reader that waits gets what the first write brings, as the genuine plugin's does: a SYN
                        // comes alone, and what follows it waits for the end of the sleep.
                        alone = !shape.sleep.is_zero();
                        pipe.blocking_recv()
                    }
                };
                let Some(piece) = piece else { return };
                waiting.extend_from_slice(&piece);
            }
            while !alone
                && waiting.len() < shape.payload
                && let Ok(piece) = pipe.try_recv()
            {
                waiting.extend_from_slice(&piece);
            }
            let payload = waiting.split_to(waiting.len().min(shape.payload));
            if sender.blocking_send((sequence, data(sequence, PayloadKind::Output, &payload))).is_err() {
                return;
            }
            sequence += 1;
            if !shape.sleep.is_zero() {
                rest(shape);
            }
        }
    });
    receiver
}

#[expect(clippy::disallowed_methods, reason = "the sleep is what is compared with")]
fn rest(shape: Shape) {
    std::thread::sleep(shape.sleep.saturating_sub(TIMER_SLACK));
}
