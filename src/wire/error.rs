//! Why bytes of a peer could not be read. Never contains payload bytes.

/// A message, body or frame that does not have the form the protocol asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ends before a field does.
    #[error("{what} ends at byte {got}, expected at least {need}")]
    Truncated {
        /// The field or structure that was being read.
        what: &'static str,
        /// Bytes needed for it, counted from the start of the input.
        need: usize,
        /// Bytes there are.
        got: usize,
    },
    /// The header length is smaller than the fixed header or points past the end of the frame.
    #[error("header length {got} at offset 0 is outside 116..={max}")]
    HeaderLength {
        /// The value on the wire.
        got: u32,
        /// The largest value this frame could hold.
        max: usize,
    },
    /// A field that must not be empty or zero is.
    #[error("{what} at offset {offset} is missing")]
    Missing {
        /// The field.
        what: &'static str,
        /// Its offset in bytes.
        offset: usize,
    },
    /// The message kind is not printable ASCII.
    #[error("message kind at offset 4 is not ASCII text")]
    KindNotText,
    /// The payload does not hash to the digest in the header.
    #[error("payload of {len} bytes does not match its SHA-256 digest")]
    DigestMismatch {
        /// Length of the payload in bytes.
        len: usize,
    },
    /// A JSON body has the wrong form. The text of the body is not repeated, only where reading stopped.
    #[error("{what} is not the expected JSON (line {line}, column {column}, {category})")]
    Json {
        /// The body that was expected.
        what: &'static str,
        /// Line at which reading stopped, from 1.
        line: usize,
        /// Column at which reading stopped, from 1.
        column: usize,
        /// What kind of mistake: syntax, data, end of input.
        category: &'static str,
    },
    /// A fixed-size payload has another size.
    #[error("{what} has {got} bytes, expected {expected}")]
    WrongLength {
        /// The payload that was expected.
        what: &'static str,
        /// Its size in bytes.
        expected: usize,
        /// The size found.
        got: usize,
    },
    /// A smux frame of another protocol version.
    #[error("smux version {0}, expected 1")]
    SmuxVersion(u8),
    /// A smux command that version 1 does not have.
    #[error("smux command {0} does not exist in version 1")]
    SmuxCommand(u8),
    /// A sealed payload could not be opened: wrong key, or changed on the way.
    #[error("sealed payload of {len} bytes could not be opened")]
    Sealed {
        /// Length of the sealed payload in bytes.
        len: usize,
    },
}
