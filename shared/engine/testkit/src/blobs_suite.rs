//! Conformance suite for the blob store port, one function per guarantee. An adapter runs it
//! with [`blobs_suite!`](macro@crate::blobs_suite) and its own constructor. Other keys in the
//! store do not matter.

use std::sync::Arc;

use bytes::Bytes;
use watchbill_core::ports::{BlobKey, Blobs};
use watchbill_domain::{TaskId, TenantId};

/// Generates a `#[tokio::test]` for every guarantee: `blobs_suite!(async { MyBlobs::new() });`
/// The value that the constructor returns lives until the test ends.
#[macro_export]
macro_rules! blobs_suite {
    ($make:expr) => {
        $crate::blobs_suite! { $make;
            what_was_put_is_read_back
            a_repeat_is_the_same_blob
            what_is_absent_is_nothing
            tenants_and_tasks_are_apart
            foreign_ids_are_as_good_as_ours
            large_blobs_come_back_whole
            writers_of_one_blob_do_not_disturb_each_other
        }
    };
    ($make:expr; $($promise:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let under_test = $make.await;
                $crate::blobs_suite::$promise($crate::blobs_suite::BlobsUnderTest::blobs(&under_test)).await;
            }
        )+
    };
}

/// A blob store together with everything that must live as long as it.
pub trait BlobsUnderTest: Send + Sync {
    fn blobs(&self) -> Arc<dyn Blobs>;
}

fn key(tenant: &str, task: &str, bytes: &[u8]) -> BlobKey {
    let tenant = TenantId::parse(tenant).expect("the suite's tenant names are valid");
    let task = TaskId::parse(task).expect("the suite's task ids are valid");
    BlobKey::of(&tenant, &task, bytes)
}

async fn put(blobs: &Arc<dyn Blobs>, key: &BlobKey, bytes: &Bytes) {
    blobs.put(key, bytes.clone()).await.expect("the store accepts a blob");
}

async fn get(blobs: &Arc<dyn Blobs>, key: &BlobKey) -> Option<Bytes> {
    blobs.get(key).await.expect("the store answers")
}

pub async fn what_was_put_is_read_back(blobs: Arc<dyn Blobs>) {
    for bytes in [&b"{\"found\":\"nothing\"}"[..], &[0, 255, 10, 13, 128], b""] {
        let bytes = Bytes::from_static(bytes);
        let key = key("acme", "read-back", &bytes);
        put(&blobs, &key, &bytes).await;
        assert_eq!(get(&blobs, &key).await, Some(bytes));
    }
}

pub async fn a_repeat_is_the_same_blob(blobs: Arc<dyn Blobs>) {
    let bytes = Bytes::from_static(b"twice");
    let key = key("acme", "repeat", &bytes);
    put(&blobs, &key, &bytes).await;
    put(&blobs, &key, &bytes).await;
    assert_eq!(get(&blobs, &key).await, Some(bytes));
}

pub async fn what_is_absent_is_nothing(blobs: Arc<dyn Blobs>) {
    let key = key("acme", "absent", b"never put");
    assert_eq!(get(&blobs, &key).await, None);
}

pub async fn tenants_and_tasks_are_apart(blobs: Arc<dyn Blobs>) {
    let bytes = Bytes::from_static(b"the same for all");
    put(&blobs, &key("acme", "apart", &bytes), &bytes).await;
    for (tenant, task) in [("globex", "apart"), ("acme", "apart2"), ("acme", "apar")] {
        assert_eq!(get(&blobs, &key(tenant, task, &bytes)).await, None, "{tenant}/{task}");
    }
}

pub async fn foreign_ids_are_as_good_as_ours(blobs: Arc<dyn Blobs>) {
    let accents = "é".repeat(128);
    let ids =
        ["..", ".", "a/b", "a%2Fb", "a b+c", "a?b=c&d", "a\\b", "ä:*|<>\"'", accents.as_str()];
    for id in ids {
        let bytes = Bytes::copy_from_slice(id.as_bytes());
        put(&blobs, &key("acme", id, b"other bytes"), &Bytes::from_static(b"other bytes")).await;
        put(&blobs, &key("acme", id, &bytes), &bytes).await;
    }
    for id in ids {
        assert_eq!(
            get(&blobs, &key("acme", id, id.as_bytes())).await.as_deref(),
            Some(id.as_bytes())
        );
    }
}

pub async fn large_blobs_come_back_whole(blobs: Arc<dyn Blobs>) {
    let bytes: Bytes = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    let key = key("acme", "large", &bytes);
    put(&blobs, &key, &bytes).await;
    let back = get(&blobs, &key).await.expect("it is there");
    assert!(back == bytes, "{} bytes came back of {}, or others", back.len(), bytes.len());
}

pub async fn writers_of_one_blob_do_not_disturb_each_other(blobs: Arc<dyn Blobs>) {
    let bytes = Bytes::from(vec![7; 200_000]);
    let key = key("acme", "writers", &bytes);
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (blobs, key, bytes) = (blobs.clone(), key.clone(), bytes.clone());
            tokio::spawn(async move {
                put(&blobs, &key, &bytes).await;
                assert!(get(&blobs, &key).await == Some(bytes), "never half of it");
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer ends well");
    }
}
