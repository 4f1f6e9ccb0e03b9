//! The operator's key where a secret store keeps one secret for both keys that everything begins with.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// What the key is made for, so that the same secret gives no other.
const PURPOSE: &[u8] = b"watchbill operator key v1";

/// The operator's key of an installation, from its first admin key: HMAC-SHA256 in 64 hex digits. Whoever
/// has the first key has both; nobody gets from the operator's key to the first one.
pub fn operator_key(first_key: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(first_key.as_bytes()).expect("any length is fine");
    mac.update(PURPOSE);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'watchbill operator key v1' | openssl dgst -sha256 -hmac first -r`, as docs/aws.md says.
    #[test]
    fn it_is_what_openssl_makes_of_it() {
        let key = operator_key("first");
        assert_eq!(key, "67e0aa5c482effcf466e1ed18ed41cf5463016ff4147b28b3cdf2f7effce73f9");
    }
}
