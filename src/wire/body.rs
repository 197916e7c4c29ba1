//! JSON bodies as Go's encoder writes and its decoder reads them.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::DecodeError;

/// Writes a body: compact, fields in declaration order, maps sorted, and `<`, `>`, `&`, U+2028 and U+2029 escaped,
/// as Go's `encoding/json` does by default.
///
/// # Panics
/// Never for the bodies of this module: their keys are strings and their values have a JSON form.
#[must_use]
pub fn to_json<T: Serialize>(body: &T) -> Bytes {
    #[expect(clippy::expect_used, reason = "the bodies of this module always have a JSON form")]
    let plain = serde_json::to_vec(body).expect("a body of this module has a JSON form");
    let special = |byte: &u8| matches!(byte, b'<' | b'>' | b'&' | 0xe2);
    if !plain.iter().any(special) {
        return plain.into();
    }
    // These characters occur only inside strings, so replacing them anywhere is right.
    let mut out = Vec::with_capacity(plain.len() + 32);
    let mut rest = &plain[..];
    while let Some((&byte, after)) = rest.split_first() {
        let (escaped, used): (&[u8], usize) = match (byte, after) {
            (b'<', _) => (b"\\u003c", 1),
            (b'>', _) => (b"\\u003e", 1),
            (b'&', _) => (b"\\u0026", 1),
            (0xe2, [0x80, 0xa8, ..]) => (b"\\u2028", 3),
            (0xe2, [0x80, 0xa9, ..]) => (b"\\u2029", 3),
            _ => (&rest[..1], 1),
        };
        out.extend_from_slice(escaped);
        rest = &rest[used..];
    }
    out.into()
}

/// Reads a body. Unknown fields are ignored, as by Go's decoder.
///
/// # Errors
/// [`DecodeError::Json`] with the place, never the content.
pub fn from_json<T: DeserializeOwned>(what: &'static str, payload: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(payload).map_err(|error| DecodeError::Json {
        what,
        line: error.line(),
        column: error.column(),
        category: match error.classify() {
            serde_json::error::Category::Io => "input",
            serde_json::error::Category::Syntax => "syntax",
            serde_json::error::Category::Data => "unexpected data",
            serde_json::error::Category::Eof => "ends too early",
        },
    })
}

/// Go writes byte slices as standard base64 with padding, and `nil` as null.
pub(super) mod base64_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    pub(in crate::wire) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        match bytes {
            None => to.serialize_none(),
            Some(bytes) => to.serialize_str(&encode(bytes)),
        }
    }

    pub(in crate::wire) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        decode(&text).map(Some).ok_or_else(|| D::Error::custom("not standard base64"))
    }

    pub(super) fn encode(bytes: &[u8]) -> String {
        let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
        for chunk in bytes.chunks(3) {
            let group = [chunk[0], chunk.get(1).copied().unwrap_or(0), chunk.get(2).copied().unwrap_or(0)];
            let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
            for position in 0..4 {
                let index = (bits >> (18 - 6 * position)) & 0x3f;
                out.push(if position <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
            }
        }
        out
    }

    pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
        let text = text.as_bytes();
        if !text.len().is_multiple_of(4) {
            return None;
        }
        let mut out = Vec::with_capacity(text.len() / 4 * 3);
        for (index, group) in text.chunks(4).enumerate() {
            let padding = group.iter().rev().take_while(|byte| **byte == b'=').count();
            let last = (index + 1) * 4 == text.len();
            if padding > 2 || (padding > 0 && !last) {
                return None;
            }
            let mut bits = 0u32;
            for byte in &group[..4 - padding] {
                let value = ALPHABET.iter().position(|candidate| candidate == byte)?;
                bits = bits << 6 | u32::try_from(value).ok()?;
            }
            bits <<= 6 * padding;
            out.extend_from_slice(&bits.to_be_bytes()[1..4 - padding]);
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angle_brackets_ampersands_and_line_separators_are_escaped_as_go_does() {
        let body = to_json(&"a<b>c&d\u{2028}\u{2029}é\u{20ac}\"");
        assert_eq!(body, "\"a\\u003cb\\u003ec\\u0026d\\u2028\\u2029é\u{20ac}\\\"\"".as_bytes());
        assert_eq!(from_json::<String>("text", &body).as_deref(), Ok("a<b>c&d\u{2028}\u{2029}é\u{20ac}\""));
    }

    #[test]
    fn base64_matches_known_values_and_refuses_garbage() {
        for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64_bytes::encode(plain.as_bytes()), text);
            assert_eq!(base64_bytes::decode(text).as_deref(), Some(plain.as_bytes()));
        }
        for garbage in ["Zg=", "Zg", "Z===", "Zg==Zg==", "Z!==", "===="] {
            assert_eq!(base64_bytes::decode(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn errors_name_the_place_and_never_the_content() {
        let error = from_json::<Vec<u8>>("thing", b"\"secret\"").expect_err("a string is not a list");
        assert!(error.to_string().contains("thing") && !error.to_string().contains("secret"), "{error}");
    }
}
