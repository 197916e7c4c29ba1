//! Numbers that must not be mixed up.

use std::fmt;

/// Position of a stream-data message within its direction, from 0 (`proto-notes/reliability.md#sequence-numbers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SequenceNumber(pub i64);

impl SequenceNumber {
    /// The first number of a direction.
    pub const ZERO: Self = Self(0);

    /// The number after this one. Saturates: a peer that gets there is not speaking the protocol.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of one message. Retransmissions keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MessageId(pub uuid::Uuid);

impl MessageId {
    /// A version 4 identifier from 128 random bits of the caller.
    #[must_use]
    pub fn from_random(bits: u128) -> Self {
        Self(uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid())
    }

    /// The 16 bytes as they stand in a header: the low half of the UUID first, then the high half
    /// (`proto-notes/messages.md#message-id`).
    #[must_use]
    pub fn to_wire(self) -> [u8; 16] {
        swap_halves(self.0.into_bytes())
    }

    /// The inverse of [`to_wire`](Self::to_wire).
    #[must_use]
    pub fn from_wire(bytes: [u8; 16]) -> Self {
        Self(uuid::Uuid::from_bytes(swap_halves(bytes)))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

fn swap_halves(bytes: [u8; 16]) -> [u8; 16] {
    u128::from_be_bytes(bytes).rotate_left(64).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_id_swaps_its_halves_on_the_wire() {
        let id = MessageId(uuid::uuid!("00112233-4455-6677-8899-aabbccddeeff"));
        let wire = id.to_wire();
        assert_eq!(wire, 0x8899_aabb_ccdd_eeff_0011_2233_4455_6677_u128.to_be_bytes());
        assert_eq!(MessageId::from_wire(wire), id);
    }

    #[test]
    fn random_ids_are_version_4() {
        assert_eq!(MessageId::from_random(u128::MAX).0.get_version_num(), 4);
    }
}
