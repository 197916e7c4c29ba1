//! The payload cipher of sessions with a KMS key: AES-256-GCM without additional data; the nonce stands before the
//! ciphertext, the tag behind it (`proto-notes/handshake.md#encryption`). Port sessions never use it.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use super::DecodeError;

/// Length of a nonce in bytes.
pub const NONCE_LEN: usize = 12;
/// Bytes that sealing adds: nonce and tag.
pub const SEAL_OVERHEAD: usize = NONCE_LEN + 16;

/// The 64 bytes of plaintext that KMS gives to both ends. Wiped when dropped.
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; 64]>);

impl DataKey {
    /// Takes the plaintext of a KMS data key.
    ///
    /// # Errors
    /// When it is not 64 bytes long.
    pub fn new(plaintext: &[u8]) -> Result<Self, DecodeError> {
        let bytes = plaintext.try_into().map_err(|_| DecodeError::WrongLength {
            what: "KMS data key",
            expected: 64,
            got: plaintext.len(),
        })?;
        Ok(Self(Zeroizing::new(bytes)))
    }

    /// The first half: what the agent seals and the client opens with.
    #[must_use]
    pub fn agent_to_client(&self) -> PayloadKey {
        PayloadKey::new(&self.0[..32])
    }

    /// The second half: what the client seals and the agent opens with.
    #[must_use]
    pub fn client_to_agent(&self) -> PayloadKey {
        PayloadKey::new(&self.0[32..])
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(redacted)")
    }
}

/// The key of one direction.
pub struct PayloadKey(LessSafeKey);

impl PayloadKey {
    fn new(half: &[u8]) -> Self {
        #[expect(clippy::expect_used, reason = "the length is fixed by the type of DataKey")]
        let key = UnboundKey::new(&AES_256_GCM, half).expect("32 bytes make an AES-256 key");
        Self(LessSafeKey::new(key))
    }

    /// Seals a payload. A nonce must never be used twice with one key.
    #[must_use]
    pub fn seal(&self, nonce: [u8; NONCE_LEN], plaintext: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(plaintext.len() + SEAL_OVERHEAD);
        out.extend_from_slice(&nonce);
        let mut body = out.split_off(NONCE_LEN);
        body.extend_from_slice(plaintext);
        #[expect(clippy::expect_used, reason = "fails only for more than 64 GiB")]
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut body)
            .expect("a message is far below the cipher's limit");
        body.extend_from_slice(tag.as_ref());
        out.unsplit(body);
        out.freeze()
    }

    /// Opens a sealed payload.
    ///
    /// # Errors
    /// [`DecodeError::Sealed`] when it is too short, was changed, or was sealed with another key.
    pub fn open(&self, sealed: &[u8]) -> Result<Bytes, DecodeError> {
        let failed = || DecodeError::Sealed { len: sealed.len() };
        let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(failed)?;
        let mut body = body.to_vec();
        let opened = self.0.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut body);
        let len = opened.map_err(|_| failed())?.len();
        body.truncate(len);
        Ok(body.into())
    }
}

impl fmt::Debug for PayloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PayloadKey(redacted)")
    }
}
