//! What keeps the payloads of a session with a KMS key from others: both keys, our nonces, the agent's nonces
//! (`proto-notes/handshake.md#encryption`).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use zeroize::Zeroizing;

use super::{limits, nonces::NonceSet};
use crate::wire::{DataKey, DecodeError, NONCE_LEN, PayloadKey, SEAL_OVERHEAD};

/// A data key in both forms that KMS gives.
pub struct SealedKey {
    /// What both ends seal and open with. Wiped when dropped.
    pub plaintext: DataKey,
    /// For the agent, who has KMS open it.
    pub ciphertext: Vec<u8>,
}

/// Shows no key.
impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedKey").field("ciphertext_len", &self.ciphertext.len()).finish_non_exhaustive()
    }
}

/// Why a payload of the agent was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SealError {
    /// In the clear, cut off, changed, or sealed with another key: the cipher does not tell these apart.
    #[error("a payload of {0} bytes is not sealed with the key of this session")]
    NotOpened(usize),
    /// The same nonce twice.
    #[error("a sealed payload came twice")]
    Replayed,
}

/// Seals and opens the payloads of one session. Nonces of ours never repeat: each session has a key of its own, and
/// they are counted.
pub(super) struct Sealing {
    ours: PayloadKey,
    agents: PayloadKey,
    next: u128,
    seen: NonceSet,
}

impl Sealing {
    /// `start`: of our nonces, of which the lower 96 bits count.
    pub(super) fn new(key: &DataKey, start: u128) -> Self {
        Self { ours: key.client_to_agent(), agents: key.agent_to_client(), next: start, seen: NonceSet::default() }
    }

    /// Seals a payload and appends it.
    pub(super) fn seal(&mut self, plaintext: &[u8], out: &mut BytesMut) {
        let bytes = self.next.to_le_bytes();
        self.next = self.next.wrapping_add(1);
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&bytes[..NONCE_LEN]);
        out.put_slice(&self.ours.seal(nonce, plaintext));
    }

    /// Opens a payload of the agent.
    pub(super) fn open(&mut self, sealed: &[u8]) -> Result<Bytes, SealError> {
        let opened = self.agents.open(sealed);
        let plaintext = opened.map_err(|_: DecodeError| SealError::NotOpened(sealed.len()))?;
        // Only of those that open: nobody else can fill the memory of nonces.
        let nonce = sealed.first_chunk::<NONCE_LEN>().ok_or(SealError::NotOpened(sealed.len()))?;
        if self.seen.insert(*nonce) { Ok(plaintext) } else { Err(SealError::Replayed) }
    }
}

/// Shows no key.
impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealing(redacted)")
    }
}

/// Whether the payloads of a shell are sealed: whatever is said or heard has to pass through here, so that a session
/// that has a key cannot fall back to the clear.
#[derive(Debug)]
pub(super) enum Cover {
    /// The account wants no encryption.
    Clear,
    /// With a key.
    Sealed(Box<Sealing>),
}

impl Cover {
    /// How much longer a payload becomes, bytes.
    pub(super) fn overhead(&self) -> usize {
        match self {
            Self::Clear => 0,
            Self::Sealed(_) => SEAL_OVERHEAD,
        }
    }

    /// Appends what `write` gives as the payload of a message. `write` must not touch what is before it.
    pub(super) fn put<R>(&mut self, out: &mut BytesMut, write: impl FnOnce(&mut BytesMut) -> R) -> R {
        match self {
            Self::Clear => write(out),
            Self::Sealed(sealing) => {
                let mut plaintext = BytesMut::with_capacity(limits::PAYLOAD);
                let result = write(&mut plaintext);
                let plaintext = Zeroizing::new(Vec::from(plaintext));
                if !plaintext.is_empty() {
                    sealing.seal(&plaintext, out);
                }
                result
            }
        }
    }

    /// What a payload of the agent says.
    pub(super) fn open(&mut self, payload: Bytes) -> Result<Bytes, SealError> {
        match self {
            Self::Clear => Ok(payload),
            Self::Sealed(sealing) => sealing.open(&payload),
        }
    }
}
