//! Pieces of a terminal's output, cut again where no character is broken (`proto-notes/agent.md#shells`).

use bytes::{Bytes, BytesMut};

/// Longest beginning of a character that is not whole, bytes.
const MAX_HELD: usize = 3;

/// Holds back the beginning of a character until the rest of it comes. Bytes that begin no character pass.
#[derive(Default)]
pub(super) struct WholeCharacters {
    held: Bytes,
}

impl WholeCharacters {
    /// What can be sent of this piece and of what was held back before it.
    pub(super) fn pass(&mut self, piece: Bytes) -> Bytes {
        let mut whole = if self.held.is_empty() {
            piece
        } else {
            let mut joined = BytesMut::from(&self.take_held()[..]);
            joined.extend_from_slice(&piece);
            joined.freeze()
        };
        let broken = (1..=MAX_HELD.min(whole.len())).find(|count| {
            let tail = whole.get(whole.len() - count..).unwrap_or_default();
            // Nothing before it is valid and nothing in it is wrong: it only ends too early.
            std::str::from_utf8(tail).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        });
        if let Some(count) = broken {
            self.held = whole.split_off(whole.len() - count);
        }
        whole
    }

    /// Whether something is held back.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// What is held back, when nothing more will come.
    pub(super) fn take_held(&mut self) -> Bytes {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_stay_whole_however_they_are_cut() {
        let text = "aé€😀z".as_bytes();
        for size in 1..=text.len() {
            let mut whole = WholeCharacters::default();
            let mut all = Vec::new();
            for piece in text.chunks(size) {
                let passed = whole.pass(Bytes::copy_from_slice(piece));
                assert!(std::str::from_utf8(&passed).is_ok(), "cut into {size}: {passed:?}");
                assert!(passed.len() <= size + MAX_HELD);
                all.extend(passed);
            }
            assert!(all == text && !whole.is_holding(), "cut into {size}");
        }
    }

    #[test]
    fn bytes_that_are_no_characters_pass_at_once() {
        let mut whole = WholeCharacters::default();
        for piece in [&b"\xff"[..], b"\x80\x80\x80", b"a\xc3(", b"\xe2(", b"\xf5\x80"] {
            assert_eq!(whole.pass(Bytes::from_static(piece)), piece, "{piece:?}");
            assert!(!whole.is_holding());
        }
        assert_eq!(whole.pass(Bytes::from_static(b"x\xf0\x9f\x98")), &b"x"[..]);
        assert_eq!(whole.pass(Bytes::new()), &b""[..]);
        assert_eq!(whole.take_held(), &b"\xf0\x9f\x98"[..]);
    }
}
