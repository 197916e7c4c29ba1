//! The binary message: a fixed header of 116 bytes, a payload length, a payload (`proto-notes/messages.md`).

use bytes::{BufMut, Bytes, BytesMut};

use super::{DecodeError, Flags, MessageId, MessageKind, PayloadKind, SequenceNumber};

/// Length of the header in bytes, and its own first field: the payload length that follows is not counted.
pub const HEADER_LEN: usize = 116;
/// Where the payload starts in every message we send: the header and the payload length.
pub const PAYLOAD_OFFSET: usize = HEADER_LEN + 4;

const KIND_AT: usize = 4;
const SCHEMA_AT: usize = 36;
const CREATED_AT: usize = 40;
const SEQUENCE_AT: usize = 48;
const FLAGS_AT: usize = 56;
const ID_AT: usize = 64;
const DIGEST_AT: usize = 80;
const PAYLOAD_KIND_AT: usize = 112;
const PAYLOAD_LEN_AT: usize = HEADER_LEN;

/// What a header says, without the digest and the lengths, which follow from the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub kind: MessageKind,
    /// Version of the header; 1 everywhere.
    pub schema_version: u32,
    /// Milliseconds since the Unix epoch. Receivers only check that it is not zero.
    pub created_ms: u64,
    /// Position among the stream data of this direction; 0 in messages that are not stream data.
    pub sequence: SequenceNumber,
    /// Sent as the genuine programs do; read by nobody.
    pub flags: Flags,
    /// Identity; an acknowledgement repeats it.
    pub id: MessageId,
    /// What the payload of stream data is.
    pub payload_kind: PayloadKind,
}

/// A message as received.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The header.
    pub header: Header,
    /// SHA-256 of the payload as the sender computed it.
    pub digest: [u8; 32],
    /// The payload: all bytes after the header. A slice of the websocket frame, not a copy.
    pub payload: Bytes,
    /// The payload length that the sender wrote; both references ignore it and take the rest of the frame.
    pub declared_len: u32,
}

/// Payloads are the tunnelled data of the user: `Debug` shows their length only.
impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("header", &self.header)
            .field("payload_len", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl Message {
    /// Reads one websocket frame. Does not hash: see [`check_digest`](Self::check_digest).
    ///
    /// `start_publication` and `pause_publication` are accepted with any header, however short: the reference reads
    /// only their kind, and nobody has documented what the service puts into the rest.
    ///
    /// # Errors
    /// When the frame is too short, its header length is out of range, or a field that must be set is not.
    pub fn decode(frame: Bytes) -> Result<Self, DecodeError> {
        if frame.len() < SCHEMA_AT {
            return Err(DecodeError::Truncated { what: "message header", need: PAYLOAD_OFFSET, got: frame.len() });
        }
        let kind = MessageKind::from_field(&frame[KIND_AT..SCHEMA_AT])?;
        if kind.is_publication() {
            return Ok(Self::publication(kind, &frame));
        }
        if frame.len() < PAYLOAD_OFFSET {
            return Err(DecodeError::Truncated { what: "message header", need: PAYLOAD_OFFSET, got: frame.len() });
        }
        let header_len = u32::from_be_bytes(array(&frame, 0));
        let max = frame.len() - 4;
        let offset = usize::try_from(header_len).unwrap_or(usize::MAX);
        if !(HEADER_LEN..=max).contains(&offset) {
            return Err(DecodeError::HeaderLength { got: header_len, max });
        }
        if kind.as_str().is_empty() {
            return Err(DecodeError::Missing { what: "message kind", offset: KIND_AT });
        }
        let header = Self::read_header(kind, &frame);
        if header.created_ms == 0 {
            return Err(DecodeError::Missing { what: "created date", offset: CREATED_AT });
        }
        Ok(Self {
            header,
            digest: array(&frame, DIGEST_AT),
            declared_len: u32::from_be_bytes(array(&frame, offset)),
            payload: frame.slice(offset + 4..),
        })
    }

    /// Compares the payload with its digest.
    ///
    /// # Errors
    /// [`DecodeError::DigestMismatch`]. Messages without payload pass, as in the reference.
    pub fn check_digest(&self) -> Result<(), DecodeError> {
        if self.declared_len == 0 || self.header.kind.is_publication() || sha256(&self.payload) == self.digest {
            return Ok(());
        }
        Err(DecodeError::DigestMismatch { len: self.payload.len() })
    }

    /// The frame a genuine program would send for this header and payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut draft = Draft::new(&self.header, self.payload.len());
        draft.payload_mut().extend_from_slice(&self.payload);
        draft.seal()
    }

    fn publication(kind: MessageKind, frame: &Bytes) -> Self {
        let mut padded = [0; PAYLOAD_OFFSET];
        let known = frame.len().min(PAYLOAD_OFFSET);
        padded[..known].copy_from_slice(&frame[..known]);
        Self {
            header: Self::read_header(kind, &padded),
            digest: array(&padded, DIGEST_AT),
            declared_len: u32::from_be_bytes(array(&padded, PAYLOAD_LEN_AT)),
            payload: frame.slice(known..),
        }
    }

    fn read_header(kind: MessageKind, bytes: &[u8]) -> Header {
        Header {
            kind,
            schema_version: u32::from_be_bytes(array(bytes, SCHEMA_AT)),
            created_ms: u64::from_be_bytes(array(bytes, CREATED_AT)),
            sequence: SequenceNumber(i64::from_be_bytes(array(bytes, SEQUENCE_AT))),
            flags: Flags(u64::from_be_bytes(array(bytes, FLAGS_AT))),
            id: MessageId::from_wire(array(bytes, ID_AT)),
            payload_kind: PayloadKind::from_wire(u32::from_be_bytes(array(bytes, PAYLOAD_KIND_AT))),
        }
    }
}

/// A message being written: one buffer that holds header and payload, so that a payload byte is copied once.
///
/// The digest is left open until [`seal`](Self::seal), which costs about 1 µs per KiB: whoever holds a lock makes the
/// draft, and seals it after letting go.
pub struct Draft {
    buffer: BytesMut,
}

/// Shows the length only: see [`Message`].
impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft").field("len", &self.buffer.len()).finish()
    }
}

impl Draft {
    /// Starts a message with room for `payload_capacity` bytes.
    #[must_use]
    pub fn new(header: &Header, payload_capacity: usize) -> Self {
        Self::within(BytesMut::with_capacity(PAYLOAD_OFFSET + payload_capacity), header)
    }

    /// Starts a message in an empty buffer, which grows if it has to. What is behind the message can be taken back with
    /// [`give_back`](Self::give_back).
    #[must_use]
    pub fn within(mut buffer: BytesMut, header: &Header) -> Self {
        buffer.put_u32(HEADER_LEN as u32);
        let mut kind = [b' '; 32];
        let text = header.kind.as_str().as_bytes();
        let text = &text[..text.len().min(kind.len())];
        kind[..text.len()].copy_from_slice(text);
        buffer.put_slice(&kind);
        buffer.put_u32(header.schema_version);
        buffer.put_u64(header.created_ms);
        buffer.put_i64(header.sequence.0);
        buffer.put_u64(header.flags.0);
        buffer.put_slice(&header.id.to_wire());
        buffer.put_bytes(0, 32);
        buffer.put_u32(header.payload_kind.to_wire());
        buffer.put_u32(0);
        Self { buffer }
    }

    /// The buffer, to append payload to. What is before [`PAYLOAD_OFFSET`] belongs to the header.
    pub fn payload_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Gives back the room behind what is written so far: nothing can be appended without a copy any more.
    #[must_use]
    pub fn give_back(&mut self) -> BytesMut {
        self.buffer.split_off(self.buffer.len())
    }

    /// Bytes of header and payload written so far.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "the header is always there")]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes of payload written so far.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.buffer.len().saturating_sub(PAYLOAD_OFFSET)
    }

    /// Fills in the payload length and the digest.
    #[must_use]
    pub fn seal(mut self) -> Bytes {
        let len = u32::try_from(self.payload_len()).unwrap_or(u32::MAX);
        let digest = sha256(&self.buffer[PAYLOAD_OFFSET..]);
        self.buffer[DIGEST_AT..DIGEST_AT + 32].copy_from_slice(&digest);
        self.buffer[PAYLOAD_LEN_AT..PAYLOAD_OFFSET].copy_from_slice(&len.to_be_bytes());
        self.buffer.freeze()
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    array(digest.as_ref(), 0)
}

/// `N` bytes from `offset`; callers have checked that they are there.
fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}
