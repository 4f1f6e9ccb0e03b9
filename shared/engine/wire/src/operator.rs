//! Derives the operator key from the first admin key where a secret store holds one secret for
//! both.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Domain separation, so that the same secret gives no other key.
const PURPOSE: &[u8] = b"watchbill operator key v1";

/// The operator key of an installation, derived from its first admin key: HMAC-SHA256 as 64 hex
/// digits. Whoever has the first key can compute the operator key, but not the reverse.
pub fn operator_key(first_key: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(first_key.as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(PURPOSE);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'watchbill operator key v1' | openssl dgst -sha256 -hmac first -r`, as in
    /// docs/aws.md.
    #[test]
    fn it_is_what_openssl_makes_of_it() {
        let key = operator_key("first");
        assert_eq!(key, "67e0aa5c482effcf466e1ed18ed41cf5463016ff4147b28b3cdf2f7effce73f9");
    }
}
