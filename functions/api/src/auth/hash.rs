//! A hash of an API key that can only be compared in constant time.

use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// The SHA-256 of an API key. Its bytes are private and `==` runs in constant time, so keys
/// can't be compared in any other way.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Parses the 64 hex characters that `hash_key` writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }
}

impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyHash {}

impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchbill_domain::hash_key;

    /// A comparison that stopped early, or covered only a part, would fail here.
    #[test]
    fn every_bit_counts() {
        let known = KeyHash::of(b"a key");
        for bit in 0..256 {
            let mut other = known;
            other.0[bit / 8] ^= 1 << (bit % 8);
            assert!(known != other, "bit {bit}");
        }
        assert!(known == KeyHash::of(b"a key"));
    }

    /// `==` uses only `ConstantTimeEq`: this file alone sees the bytes, and compares them with
    /// the crate `subtle`.
    #[test]
    fn hashes_are_compared_in_constant_time_alone() {
        let source = include_str!("hash.rs");
        let code = source.split("#[cfg(test)]").next().expect("the first part");
        assert!(code.contains("self.0.ct_eq(&other.0)"));
        assert!(!code.contains("pub [u8; 32]") && !code.contains("derive(Clone, Copy, PartialEq"));
        for keys in [include_str!("keys.rs"), include_str!("mod.rs")] {
            assert!(!keys.contains("[u8; 32]"), "bytes of a hash outside of its type");
            assert!(!keys.contains("key_hash =="), "a hash compared as a text");
        }
    }

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        assert!(KeyHash::parse(&hash_key("a key")) == Some(KeyHash::of(b"a key")));
        for wrong in ["", "ab", &"g".repeat(64), &"é".repeat(32)] {
            assert!(KeyHash::parse(wrong).is_none(), "{wrong}");
        }
    }
}
