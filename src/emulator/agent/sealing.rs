//! Payloads sealed with a data key (`proto-notes/handshake.md#encryption`), and seals that are wrong on order.

use std::{collections::BTreeSet, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::wire::{DataKey, NONCE_LEN, PayloadKey};

/// Nonces of the client that are remembered.
const MAX_NONCES: usize = 100_000;
/// A nonce as a number.
const NONCE_MASK: u128 = (1 << 96) - 1;

/// One wrong seal on order, to see what a client makes of it. The genuine agent never does any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealFault {
    /// What is wrong.
    pub kind: SealFaultKind,
    /// So many sealed payloads come right before it. Not counted: the challenge.
    #[serde(default)]
    pub after: u64,
}

/// What is wrong with a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealFaultKind {
    /// One bit of the ciphertext is another.
    Tampered,
    /// The payload before it comes again, as another message. If there is none, the next one does.
    Replayed,
    /// The end is missing.
    Truncated,
    /// It is not sealed at all.
    Plain,
    /// It is sealed with the client's half of the key.
    WrongKey,
    /// The challenge is sealed with the client's half of the key.
    WrongChallenge,
    /// There is no challenge: the handshake is complete without it.
    NoChallenge,
}

/// `KIND` or `KIND:AFTER`, in the words of JSON.
impl FromStr for SealFault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, after) = text.split_once(':').unwrap_or((text, "0"));
        let kind = serde_json::from_value(kind.into()).map_err(|_| format!("`{kind}` is not a wrong seal"))?;
        let after = after.parse().map_err(|_| format!("`{after}` is not a number of payloads"))?;
        Ok(Self { kind, after })
    }
}

/// Why a payload of the client was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unopened {
    /// It is plain, damaged, or sealed with another key.
    NotSealed,
    /// Its nonce was used before.
    NonceReused,
}

/// Both directions of a sealed session.
pub(super) struct Sealer {
    ours: PayloadKey,
    theirs: PayloadKey,
    /// Random at first, then counted, its lowest byte first.
    nonce: u128,
    fault: Option<SealFault>,
    sealed: u64,
    previous: Bytes,
    seen: BTreeSet<[u8; NONCE_LEN]>,
}

impl Sealer {
    pub(super) fn new(key: &DataKey, nonce: u128, fault: Option<SealFault>) -> Self {
        Self {
            ours: key.agent_to_client(),
            theirs: key.client_to_agent(),
            nonce: nonce & NONCE_MASK,
            fault,
            sealed: 0,
            previous: Bytes::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Seals what the client is to send back.
    pub(super) fn challenge(&mut self, plaintext: &[u8]) -> Bytes {
        let wrong = self.is_due(SealFaultKind::WrongChallenge);
        let nonce = self.next_nonce();
        if wrong { &self.theirs } else { &self.ours }.seal(nonce, plaintext)
    }

    /// Whether the client is spared the challenge.
    pub(super) fn skips_challenge(&self) -> bool {
        self.fault.is_some_and(|fault| fault.kind == SealFaultKind::NoChallenge)
    }

    /// Seals a payload for the client, wrongly if its turn has come.
    pub(super) fn seal(&mut self, plaintext: &Bytes) -> Bytes {
        let fault = self.fault.filter(|fault| self.sealed >= fault.after).map(|fault| fault.kind);
        self.sealed += 1;
        if fault == Some(SealFaultKind::Replayed) && !self.previous.is_empty() {
            self.fault = None;
            return self.previous.clone();
        }
        let nonce = self.next_nonce();
        let sealed = self.ours.seal(nonce, plaintext);
        self.previous = sealed.clone();
        let wrong = match fault {
            Some(SealFaultKind::Tampered) => {
                let mut tampered = sealed.to_vec();
                if let Some(byte) = tampered.get_mut(NONCE_LEN) {
                    *byte ^= 1;
                }
                tampered.into()
            }
            Some(SealFaultKind::Truncated) => sealed.slice(..sealed.len() - 1), // never empty: nonce and tag
            Some(SealFaultKind::Plain) => plaintext.clone(),
            Some(SealFaultKind::WrongKey) => self.theirs.seal(nonce, plaintext),
            _ => return sealed,
        };
        self.fault = None;
        wrong
    }

    /// Opens a payload of the client.
    pub(super) fn open(&mut self, sealed: &[u8]) -> Result<Bytes, Unopened> {
        let plaintext = self.theirs.open(sealed).map_err(|_| Unopened::NotSealed)?;
        let nonce = sealed.first_chunk::<NONCE_LEN>().ok_or(Unopened::NotSealed)?;
        if self.seen.len() < MAX_NONCES && !self.seen.insert(*nonce) {
            return Err(Unopened::NonceReused);
        }
        Ok(plaintext)
    }

    fn is_due(&self, kind: SealFaultKind) -> bool {
        self.fault.is_some_and(|fault| fault.kind == kind)
    }

    fn next_nonce(&mut self) -> [u8; NONCE_LEN] {
        let bytes = self.nonce.to_le_bytes();
        self.nonce = (self.nonce + 1) & NONCE_MASK;
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&bytes[..NONCE_LEN]);
        nonce
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> DataKey {
        let plaintext: Vec<u8> = (0..64).collect();
        DataKey::new(&plaintext).expect("64 bytes")
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn sealer(fault: Option<&str>) -> Sealer {
        // The nonce of vectors C1 and C3, as a little-endian number.
        let nonce = u128::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 0, 0, 0]);
        Sealer::new(&key(), nonce, fault.map(|fault| fault.parse().expect("a fault")))
    }

    fn client() -> [PayloadKey; 2] {
        [key().client_to_agent(), key().agent_to_client()]
    }

    #[test]
    fn seals_and_opens_the_golden_vectors() {
        let mut agent = sealer(None);
        let c1 = "000102030405060708090a0b2f67ba77aa2797ff353b8a046d28236dcd9d057bbb";
        assert_eq!(hex(&agent.seal(&Bytes::from_static(b"hello"))), c1);
        let c2 = "f0f1f2f3f4f5f6f7f8f9fafb872dafa414d82e3b2641b9ed7c81a4308217c4b452";
        let c2: Vec<u8> =
            (0..c2.len()).step_by(2).map(|at| u8::from_str_radix(&c2[at..at + 2], 16).expect("hex")).collect();
        assert_eq!(agent.open(&c2).as_deref(), Ok(&b"hello"[..]));
        assert_eq!(agent.open(&c2), Err(Unopened::NonceReused));
        let challenge: Vec<u8> = (0..64).collect();
        let c3 = concat!(
            "000102030405060708090a0b4703d418c1e0c41c85489d80bde4766293c79527e46e496b207eff9e01741ead21318cdf8be434bf",
            "5c8d55c6a4aa0617de6852be6ee395ed07ae102224decbd144fb31796b7c5af2318f12e1ec2c4362",
        );
        assert_eq!(hex(&sealer(None).challenge(&challenge)), c3);
    }

    #[test]
    fn nonces_are_counted_with_their_lowest_byte_first_and_wrap() {
        let mut agent = Sealer::new(&key(), 0x00ff, None);
        let plaintext = Bytes::from_static(b"x");
        assert_eq!(hex(&agent.seal(&plaintext)[..NONCE_LEN]), "ff0000000000000000000000");
        assert_eq!(hex(&agent.seal(&plaintext)[..NONCE_LEN]), "000100000000000000000000");
        let mut agent = Sealer::new(&key(), u128::MAX, None);
        assert_eq!(hex(&agent.seal(&plaintext)[..NONCE_LEN]), "ff".repeat(12));
        assert_eq!(hex(&agent.seal(&plaintext)[..NONCE_LEN]), "00".repeat(12));
    }

    #[test]
    fn what_is_not_sealed_for_the_agent_is_not_opened() {
        let mut agent = sealer(None);
        let [to_agent, to_client] = client();
        assert_eq!(agent.open(b"hello"), Err(Unopened::NotSealed));
        assert_eq!(agent.open(&to_client.seal([1; 12], b"hello")), Err(Unopened::NotSealed));
        assert_eq!(agent.open(&to_agent.seal([1; 12], b"hello")).as_deref(), Ok(&b"hello"[..]));
    }

    #[test]
    fn a_fault_strikes_once_and_in_its_turn() {
        let [_, from_agent] = client();
        for kind in ["tampered", "truncated", "plain", "wrong_key"] {
            let mut agent = sealer(Some(&format!("{kind}:1")));
            let opened: Vec<_> =
                (0..3).map(|_| from_agent.open(&agent.seal(&Bytes::from_static(b"hello"))).is_ok()).collect();
            assert_eq!(opened, [true, false, true], "{kind}");
        }
        let mut agent = sealer(Some("replayed"));
        let pieces = ["one", "two", "three"].map(|text| agent.seal(&Bytes::from_static(text.as_bytes())));
        assert_eq!(pieces[0], pieces[1]);
        assert_eq!(from_agent.open(&pieces[2]).as_deref(), Ok(&b"three"[..]));
        assert!(from_agent.open(&sealer(Some("wrong_challenge")).challenge(b"x")).is_err());
        assert!(sealer(Some("no_challenge")).skips_challenge());
        assert!("sealed".parse::<SealFault>().is_err() && "plain:x".parse::<SealFault>().is_err());
    }
}
