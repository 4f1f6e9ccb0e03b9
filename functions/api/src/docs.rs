//! The page that shows the OpenAPI document. It is self-contained: no other files, no network.

use http::HeaderValue;
use sha2::{Digest as _, Sha256};

pub const PAGE: &str = include_str!("docs.html");

/// The content security policy: allows the page's own script and style by their hashes, and
/// calls to its own origin.
pub fn policy() -> HeaderValue {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; \
         img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash_of(PAGE, "script"),
        hash_of(PAGE, "style"),
    );
    HeaderValue::from_str(&policy).expect("a policy is ASCII")
}

/// The hash of the content of the page's only element of this name, in the format of policies.
pub fn hash_of(page: &str, tag: &str) -> String {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let inside = page.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
    let inside = inside.map_or("", |(inside, _)| inside);
    format!("sha256-{}", base64(&Sha256::digest(inside.as_bytes())))
}

/// Base64 of RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let sextet = (word >> (18 - 6 * place)) & 63;
            let c = if place <= chunk.len() { ALPHABET[sextet as usize] } else { b'=' };
            out.push(char::from(c));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_the_rfc() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for outside in ["http://", "https://", "src=", "@import", "style=\"", "onclick"] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        assert!(PAGE.contains("<script>") && PAGE.contains("<style>"));
        assert!(PAGE.lines().count() <= 400);
    }
}
