//! Runs the blob suite on S3, at the emulator in `WATCHBILL_AWS_ENDPOINT`.

use std::sync::Arc;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_types::SdkConfig;
use bytes::Bytes;
use watchbill_aws::blobs::{S3Blobs, client};
use watchbill_core::ports::{BlobError, BlobKey, Blobs};
use watchbill_domain::{TaskId, TenantId};
use watchbill_testkit::blobs_suite::BlobsUnderTest;

struct UnderTest(S3Blobs);

impl BlobsUnderTest for UnderTest {
    fn blobs(&self) -> Arc<dyn Blobs> {
        Arc::new(self.0.clone())
    }
}

fn config() -> SdkConfig {
    let Ok(endpoint) = std::env::var("WATCHBILL_AWS_ENDPOINT") else {
        panic!(
            "WATCHBILL_AWS_ENDPOINT is not set: this test needs an emulator of S3; run it with `cargo xtask test`, which starts one"
        );
    };
    let credentials = Credentials::new("test", "test", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(endpoint)
        .build()
}

/// One bucket per test, because they run concurrently.
async fn bucket(name: &str) -> UnderTest {
    let client = client(&config());
    let made = client.create_bucket().bucket(name).send().await;
    if let Err(error) = made {
        let there = error.into_service_error();
        assert!(there.is_bucket_already_owned_by_you(), "no bucket {name}: {there:?}");
    }
    UnderTest(S3Blobs::new(client, name))
}

mod suite {
    watchbill_testkit::blobs_suite!(super::bucket("watchbill-blobs-suite"));
}

#[tokio::test]
async fn objects_stand_below_the_prefix_of_the_lifecycle_rule() {
    let bucket_name = "watchbill-blobs-prefix";
    let under_test = bucket(bucket_name).await;
    let task = TaskId::parse("t-1").unwrap();
    let key = BlobKey::of(&TenantId::default(), &task, b"result");
    under_test.0.put(&key, Bytes::from_static(b"result")).await.unwrap();
    let found = client(&config()).list_objects_v2().bucket(bucket_name).send().await.unwrap();
    let names: Vec<_> = found.contents().iter().filter_map(|object| object.key()).collect();
    assert_eq!(names, [format!("blobs/default/t-1/{}", key.as_str().rsplit('/').next().unwrap())]);
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named() {
    let blobs = S3Blobs::new(client(&config()), "watchbill-blobs-absent");
    let key = BlobKey::of(&TenantId::default(), &TaskId::parse("t-1").unwrap(), b"result");
    for refused in
        [blobs.put(&key, Bytes::from_static(b"result")).await.err(), blobs.get(&key).await.err()]
    {
        let Some(BlobError::Down { reason }) = refused else { panic!("{refused:?}") };
        assert!(
            reason.contains("watchbill-blobs-absent") && reason.contains("NoSuchBucket"),
            "{reason}"
        );
    }
}
