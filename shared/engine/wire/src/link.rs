//! Links by which a person decides on an approval from a notification.
//!
//! A token is two base64url parts joined by a dot: the content as JSON, and the HMAC-SHA256 of
//! the first part. The content names the approval, the hash of the approval document and the
//! recipient. A token expires, and one decision uses it up.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use watchbill_domain::{ApprovalId, TenantId, Timestamp};

/// Maximum length in bytes of a token that is parsed. Ids have at most 160.
const MAX_LINK_BYTES: usize = 2_048;
/// Domain separation of the key, so that the same secret signs nothing else.
const PURPOSE: &[u8] = b"watchbill approval link v1";

/// Authorizes one person to decide once on one approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalLink {
    #[serde(rename = "t")]
    pub tenant: TenantId,
    #[serde(rename = "a")]
    pub approval: ApprovalId,
    /// The approval's `plan_hash`.
    #[serde(rename = "h")]
    pub plan_hash: String,
    /// The recipient.
    #[serde(rename = "to")]
    pub to: String,
    /// Random, in hex. Identifies a used link.
    #[serde(rename = "n")]
    pub nonce: String,
    #[serde(rename = "e")]
    pub expires: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("this link was not created here, or it is incomplete; open it exactly as it was sent")]
    Forged,
    #[error(
        "this link expired at {0}; open the approval with `watchbill approvals` or wait for the \
         next notice"
    )]
    Expired(Timestamp),
}

/// Signs and verifies links.
#[derive(Clone)]
pub struct LinkKey(Hmac<Sha256>);

impl LinkKey {
    /// Derives the key from a secret. Returns `None` if the secret has fewer than 16 bytes.
    pub fn new(secret: &[u8]) -> Option<Self> {
        if secret.len() < 16 {
            return None;
        }
        let mut derive = keyed(secret);
        derive.update(PURPOSE);
        Some(Self(keyed(&derive.finalize().into_bytes())))
    }

    pub fn sign(&self, link: &ApprovalLink) -> String {
        let json = serde_json::to_vec(link).expect("a link serializes to JSON");
        let body = BASE64.encode(json);
        let mac = self.mac(body.as_bytes()).finalize().into_bytes();
        format!("{body}.{}", BASE64.encode(mac))
    }

    /// Returns the link if it was signed with this key and has not expired.
    pub fn open(&self, token: &str, now: Timestamp) -> Result<ApprovalLink, LinkError> {
        if token.len() > MAX_LINK_BYTES {
            return Err(LinkError::Forged);
        }
        let (body, mac) = token.split_once('.').ok_or(LinkError::Forged)?;
        let mac = BASE64.decode(mac).map_err(|_| LinkError::Forged)?;
        // Constant-time comparison. The body is not parsed before it is verified.
        self.mac(body.as_bytes()).verify_slice(&mac).map_err(|_| LinkError::Forged)?;
        let json = BASE64.decode(body).map_err(|_| LinkError::Forged)?;
        let link: ApprovalLink = serde_json::from_slice(&json).map_err(|_| LinkError::Forged)?;
        if now >= link.expires {
            return Err(LinkError::Expired(link.expires));
        }
        Ok(link)
    }

    fn mac(&self, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(body);
        mac
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn key(secret: &str) -> LinkKey {
        LinkKey::new(secret.as_bytes()).unwrap()
    }

    fn link() -> ApprovalLink {
        ApprovalLink {
            tenant: TenantId::default(),
            approval: ApprovalId::parse("approval_t-1").unwrap(),
            plan_hash: "ab".repeat(32),
            to: "on-call".into(),
            nonce: "00112233".into(),
            expires: Timestamp::from_millis(2_000),
        }
    }

    #[test]
    fn a_signed_link_is_valid_until_it_expires() {
        let token = key("0123456789abcdef").sign(&link());
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
        assert_eq!(key("0123456789abcdef").open(&token, NOW), Ok(link()));
        let last = Timestamp::from_millis(1_999);
        assert_eq!(key("0123456789abcdef").open(&token, last), Ok(link()));
        let late = key("0123456789abcdef").open(&token, link().expires);
        assert_eq!(late, Err(LinkError::Expired(link().expires)));
    }

    #[test]
    fn any_other_token_is_forged() {
        let key = key("0123456789abcdef");
        let token = key.sign(&link());
        let (body, mac) = token.split_once('.').unwrap();
        // Every bit of the token matters.
        for (place, byte) in token.bytes().enumerate() {
            for bit in 0..7 {
                let mut bytes = token.clone().into_bytes();
                bytes[place] = byte ^ (1 << bit);
                let Ok(other) = String::from_utf8(bytes) else { continue };
                assert_eq!(key.open(&other, NOW), Err(LinkError::Forged), "{place} {bit}");
            }
        }
        let other = |change: fn(&mut ApprovalLink)| {
            let mut link = link();
            change(&mut link);
            let json = serde_json::to_vec(&link).unwrap();
            format!("{}.{mac}", BASE64.encode(json))
        };
        let of_another_key = LinkKey::new(b"another secret of 16").unwrap().sign(&link());
        for forged in [
            other(|link| link.tenant = TenantId::parse("acme").unwrap()),
            other(|link| link.approval = ApprovalId::parse("approval_t-2").unwrap()),
            other(|link| link.expires = Timestamp::from_millis(9_000)),
            other(|link| link.to = "alex".into()),
            of_another_key,
            body.to_owned(),
            format!("{body}."),
            format!(".{mac}"),
            format!("{body}.{mac}.{mac}"),
            format!("{body}.{}", &mac[..mac.len() - 4]),
            String::new(),
            "x".repeat(10_000),
        ] {
            assert_eq!(key.open(&forged, NOW), Err(LinkError::Forged), "{forged}");
        }
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert!(LinkKey::new(b"0123456789abcde").is_none());
    }
}
