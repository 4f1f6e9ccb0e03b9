//! The blob store port.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use watchbill_domain::{TaskId, TenantId, escape_key_part, hex};

/// Maximum length of an id in a key: file names end at 255 bytes, keys on S3 at 1024.
const TASK_PART: usize = 200;

/// The name of a blob: `<tenant>/<task>/<SHA-256 of the bytes>`. The same bytes of a task are
/// the same blob, so a repeated put changes nothing and two writers never mix; tenants are
/// separate. Each part is a safe file or folder name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobKey(Arc<str>);

impl BlobKey {
    pub fn of(tenant: &TenantId, task: &TaskId, bytes: &[u8]) -> Self {
        let escaped = escape_key_part(task.as_str());
        let task = if escaped.len() <= TASK_PART && safe(&escaped) {
            escaped
        } else {
            format!("{HASHED}{}", hex(&Sha256::digest(task.as_str()))).into()
        };
        Self(format!("{tenant}/{task}/{}", hex(&Sha256::digest(bytes))).into())
    }

    /// Parses the output of [`as_str`](Self::as_str); `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (tenant, task, hash) = (parts.next()?, parts.next()?, parts.next()?);
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let whole = parts.next().is_none()
            && TenantId::parse(tenant).is_ok()
            && (1..=TASK_PART).contains(&task.len())
            && safe(task)
            && hash.len() == 64
            && hash.bytes().all(lower_hex);
        whole.then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tenant and escaped task id; `None` where the id was too long to be in a key.
    pub fn task(&self) -> Option<(&str, &str)> {
        let mut parts = self.0.split('/');
        let (tenant, task) = (parts.next()?, parts.next()?);
        (!task.starts_with(HASHED)).then_some((tenant, task))
    }

    /// Whether these are the bytes that the key was made for.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        self.0.ends_with(&hex(&Sha256::digest(bytes)))
    }
}

/// Prefix of a key's task part that is a hash, because the id does not fit.
const HASHED: char = '~';

fn safe(part: &str) -> bool {
    part.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'/' && b != b'\\')
        && part.bytes().any(|b| b != b'.')
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum BlobError {
    #[error("the blob store is busy; try again in {after:?}")]
    Busy { after: Duration },
    /// Unreachable or broken; the reason is for the operator.
    #[error("the blob store can't be reached: {reason}")]
    Down { reason: String },
}

/// The store for bodies too large for an item. A blob is written before the commit that
/// references it, so no reference dangles. A blob whose commit failed is removed by age, in a
/// way that each adapter documents.
#[async_trait]
pub trait Blobs: Send + Sync {
    /// Durable when this returns. A repeat is the same blob, and its age restarts at the last put.
    async fn put(&self, key: &BlobKey, bytes: Bytes) -> Result<(), BlobError>;

    async fn get(&self, key: &BlobKey) -> Result<Option<Bytes>, BlobError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tenant: &str, task: &str, bytes: &[u8]) -> BlobKey {
        BlobKey::of(&TenantId::parse(tenant).unwrap(), &TaskId::parse(task).unwrap(), bytes)
    }

    #[test]
    fn a_key_names_tenant_and_task_and_matches_its_bytes() {
        let blob = key("acme", "task#1/a", b"result");
        assert!(blob.as_str().starts_with("acme/task%231%2Fa/"), "{blob}");
        assert_eq!(blob.task(), Some(("acme", "task%231%2Fa")));
        assert!(blob.is_of(b"result") && !blob.is_of(b"another"));
        assert_eq!(blob, key("acme", "task#1/a", b"result"));
        assert_ne!(blob, key("globex", "task#1/a", b"result"));
    }

    #[test]
    fn no_id_leaves_its_folder_or_is_too_long_for_a_file() {
        for id in [".", "..", "a\\..\\b", &"é".repeat(128)] {
            let blob = key("acme", id, b"result");
            let parts: Vec<&str> = blob.as_str().split('/').collect();
            assert!(parts.len() == 3 && parts[1].starts_with('~'), "{blob}");
            assert_eq!(blob.task(), None);
            assert_eq!(BlobKey::parse(blob.as_str()), Some(blob));
        }
    }

    #[test]
    fn only_keys_are_read_as_keys() {
        let whole = key("acme", "t-1", b"result");
        assert_eq!(BlobKey::parse(whole.as_str()), Some(whole.clone()));
        let hash = whole.as_str().rsplit('/').next().unwrap();
        for bad in [
            "".to_owned(),
            hash.to_owned(),
            format!("acme/{hash}"),
            format!("acme/../{hash}"),
            format!("../t-1/{hash}"),
            format!("acme//{hash}"),
            format!("acme/t-1/x/{hash}"),
            format!("acme/t-1/{}", hash.to_uppercase()),
            format!("acme/t-1/{}", &hash[1..]),
        ] {
            assert_eq!(BlobKey::parse(&bad), None, "{bad}");
        }
    }
}
