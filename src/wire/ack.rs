//! The body of an `acknowledge` message (`proto-notes/reliability.md#acknowledgements`).

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{DecodeError, MessageId, SequenceNumber, from_json};

/// Says that one stream-data message has arrived. Individual, never cumulative, never acknowledged itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledge {
    /// Kind of the acknowledged message.
    #[serde(rename = "AcknowledgedMessageType", default)]
    pub kind: String,
    /// Its identity.
    #[serde(rename = "AcknowledgedMessageId", default)]
    pub id: String,
    /// Its number: the only field a receiver uses.
    #[serde(rename = "AcknowledgedMessageSequenceNumber")]
    pub sequence: i64,
    /// Always true.
    #[serde(rename = "IsSequentialMessage", default)]
    pub sequential: bool,
}

impl Acknowledge {
    /// Reads the body.
    ///
    /// # Errors
    /// When it is not JSON or has no sequence number.
    pub fn decode(payload: &Bytes) -> Result<Self, DecodeError> {
        from_json("acknowledge", payload)
    }

    /// Reads the sequence number alone, the only field a receiver uses: without allocations, because it is read for
    /// every message sent.
    ///
    /// # Errors
    /// When it is not JSON or has no sequence number.
    pub fn decode_sequence(payload: &Bytes) -> Result<SequenceNumber, DecodeError> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(rename = "AcknowledgedMessageSequenceNumber")]
            sequence: i64,
        }
        from_json("acknowledge", payload).map(|Body { sequence }| SequenceNumber(sequence))
    }

    /// Appends the body for one message: written by hand, because it is written for every message received.
    pub fn encode_into(out: &mut BytesMut, kind: &str, id: MessageId, sequence: SequenceNumber) {
        // Writing to a BytesMut cannot fail: it grows.
        let written = write!(
            out,
            "{{\"AcknowledgedMessageType\":\"{kind}\",\"AcknowledgedMessageId\":\"{id}\",\
             \"AcknowledgedMessageSequenceNumber\":{sequence},\"IsSequentialMessage\":true}}"
        );
        debug_assert!(written.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_written_body_is_what_serde_writes() {
        let id = MessageId(uuid::uuid!("00112233-4455-6677-8899-aabbccddeeff"));
        let mut by_hand = BytesMut::new();
        Acknowledge::encode_into(&mut by_hand, "output_stream_data", id, SequenceNumber(7));
        let body = Acknowledge { kind: "output_stream_data".into(), id: id.to_string(), sequence: 7, sequential: true };
        let by_hand = by_hand.freeze();
        assert_eq!(by_hand, super::super::to_json(&body));
        assert_eq!(Acknowledge::decode(&by_hand), Ok(body));
        assert_eq!(Acknowledge::decode_sequence(&by_hand), Ok(SequenceNumber(7)));
        assert!(Acknowledge::decode_sequence(&Bytes::from_static(b"{}")).is_err());
    }
}
