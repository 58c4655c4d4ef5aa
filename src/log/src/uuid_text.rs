//! Kafka's text form of a 128-bit id: URL-safe base64 without padding, 22 characters.

use std::fmt;
use std::str::FromStr;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// 16 bytes are 128 bits: 21 whole characters and one that carries the last two bits.
const TEXT_LEN: usize = 22;

/// Writes an id.
pub fn encode(id: &[u8; 16]) -> String {
    // Four zero bits behind the id fill the last character.
    let bits = u128::from_be_bytes(*id);
    let digit = |i: usize| {
        let shift = 122 - 6 * i as i32;
        let six = if shift >= 0 { bits >> shift } else { bits << -shift };
        char::from(ALPHABET[(six & 63) as usize])
    };
    (0..TEXT_LEN).map(digit).collect()
}

/// Reads an id; `None` if the text is none, or if bits behind the id are set.
pub fn decode(text: &str) -> Option<[u8; 16]> {
    if text.len() != TEXT_LEN {
        return None;
    }
    let mut bits = 0u128;
    for (i, c) in text.bytes().enumerate() {
        let six = ALPHABET.iter().position(|known| *known == c)? as u128;
        if i == TEXT_LEN - 1 {
            if six & 0b1111 != 0 {
                return None;
            }
            bits = bits << 2 | six >> 4;
        } else {
            bits = bits << 6 | six;
        }
    }
    Some(bits.to_be_bytes())
}

/// Names a data directory for life, so that its partitions are known again when it is mounted elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId(pub [u8; 16]);

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectoryId({self})")
    }
}

/// The text is not 22 characters of URL-safe base64 that hold 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 22 characters of URL-safe base64")]
pub struct NotAnId;

impl FromStr for DirectoryId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        decode(text).map(DirectoryId).ok_or(NotAnId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_is_kafkas() {
        assert_eq!(encode(&[0; 16]), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(encode(&[0xff; 16]), "_____________________w");
        // Kafka's metadata topic has the id 00000000-0000-0000-0000-000000000001.
        assert_eq!(encode(&1u128.to_be_bytes()), "AAAAAAAAAAAAAAAAAAAAAQ");
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in [
            "",
            "AAAAAAAAAAAAAAAAAAAAAA==",
            "AAAAAAAAAAAAAAAAAAAAAB",
            "AAAAAAAAAAAAAAAAAAAA+A",
            "äAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_id_reads_back(id: [u8; 16]) {
            prop_assert_eq!(encode(&id).len(), TEXT_LEN);
            prop_assert_eq!(decode(&encode(&id)), Some(id));
        }
    }
}
