//! Bytes that show by themselves which transfer they belong to, and where: checked by comparison, without a copy.

use std::sync::LazyLock;

/// Largest piece, bytes.
pub(crate) const PIECE: usize = 64 << 10;
/// A prime: no length of a buffer, a message or a frame divides it, so what is lost, doubled or moved shows.
const PERIOD: usize = 65_521;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = vec![0; PERIOD];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    // So that a piece can start anywhere.
    bytes.repeat((PERIOD + PIECE).div_ceil(PERIOD))
});

/// The bytes of a transfer from `offset`: `most` of them, but no more than [`PIECE`].
pub(crate) fn bytes(transfer: u64, offset: u64, most: usize) -> &'static [u8] {
    // Transfers start at places that are far apart.
    let start = (transfer.wrapping_mul(7919) % PERIOD as u64 + offset % PERIOD as u64) % PERIOD as u64;
    let start = usize::try_from(start).unwrap_or(0);
    &BYTES[start..start + most.min(PIECE)]
}
