//! What the agent challenges a client with.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

/// Bytes that the client is to send back under its own half of the key.
const PROOF_LEN: usize = 64;

/// The text that binds a data key to this session: 16 random bytes in base64.
pub(super) fn text(random: u128) -> String {
    STANDARD.encode(random.to_be_bytes())
}

/// Random bytes that the client is to send back.
pub(super) fn proof(random: &mut fastrand::Rng) -> Bytes {
    std::iter::repeat_with(|| random.u8(..)).take(PROOF_LEN).collect()
}
