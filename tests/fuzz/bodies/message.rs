//! Arbitrary bytes as one websocket frame.

use bytes::Bytes;
use ssmfwd::wire::{DecodeError, HEADER_LEN, Message, MessageKind, PAYLOAD_OFFSET};

use super::payloads;

/// Decodes the input as a message and its payload as the body that its kinds announce.
pub(crate) fn message(data: &[u8]) {
    let frame = Bytes::copy_from_slice(data);
    let message = match Message::decode(frame.clone()) {
        Ok(message) => message,
        Err(error) => return check_error(&error, data.len()),
    };
    assert!(frame.ends_with(&message.payload), "a payload is the rest of its frame");
    let publication = matches!(message.header.kind, MessageKind::StartPublication | MessageKind::PausePublication);
    let before_payload = frame.len() - message.payload.len();
    if publication {
        assert_eq!(before_payload, frame.len().min(PAYLOAD_OFFSET), "their header length is not read");
    } else {
        assert_eq!(frame[..4], (before_payload as u32 - 4).to_be_bytes(), "a payload starts where the sender said");
        assert_ne!(message.header.created_ms, 0);
    }

    let again = message.encode();
    assert_eq!(again.len(), PAYLOAD_OFFSET + message.payload.len());
    if frame.len() == again.len() && is_canonical(&frame, &message) {
        assert_eq!(again, frame, "a canonical message is written as it came");
    }
    let back = Message::decode(again.clone()).expect("our own message");
    assert_eq!((&back.header, &back.payload), (&message.header, &message.payload));
    assert_eq!(back.check_digest(), Ok(()));
    assert_eq!(back.encode(), again);
    payloads::body_of(&message);
}

fn check_error(error: &DecodeError, len: usize) {
    match *error {
        DecodeError::Truncated { need, got, .. } => assert!(got == len && got < need, "{error}"),
        DecodeError::HeaderLength { got, max } => {
            assert!(max + 4 == len && !(HEADER_LEN..=max).contains(&(got as usize)), "{error}");
        }
        DecodeError::Missing { offset, .. } => assert!(offset < HEADER_LEN, "{error}"),
        DecodeError::KindNotText => {}
        ref other => panic!("a header cannot be wrong in this way: {other}"),
    }
}

/// Whether the frame has the form in which the genuine ends write.
fn is_canonical(frame: &[u8], message: &Message) -> bool {
    let mut kind = [b' '; 32];
    let text = message.header.kind.as_str().as_bytes();
    kind[..text.len()].copy_from_slice(text);
    frame[..4] == (HEADER_LEN as u32).to_be_bytes()
        && frame[4..36] == kind
        && message.declared_len as usize == message.payload.len()
        && !message.payload.is_empty()
        && message.check_digest() == Ok(())
        && !matches!(message.header.kind, MessageKind::StartPublication | MessageKind::PausePublication)
}
