//! The blob store on S3: objects `blobs/<tenant>/<task>/<hash>`. A lifecycle rule on that
//! prefix expires them by age; it must keep them a year longer than tasks (ADR 14).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::BehaviorVersion;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_types::SdkConfig;
use bytes::Bytes;
use watchbill_core::ports::{BlobError, BlobKey, Blobs};

/// Prefix of every object; the lifecycle rule and the functions' permissions name it.
const PREFIX: &str = "blobs/";
/// Delay before retrying when S3 is busy.
const BUSY: Duration = Duration::from_millis(500);

/// A client with timeouts for a function's short life. Custom endpoints use path-style
/// addressing: they have no host name per bucket.
pub fn client(config: &SdkConfig) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(1))
        .read_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(Duration::from_secs(5))
        .operation_timeout(Duration::from_secs(12))
        .build();
    let retries = RetryConfig::standard()
        .with_max_attempts(3)
        .with_initial_backoff(Duration::from_millis(100));
    let config = aws_sdk_s3::config::Builder::from(config)
        .behavior_version(BehaviorVersion::latest())
        .force_path_style(config.endpoint_url().is_some())
        .timeout_config(timeouts)
        .retry_config(retries)
        .build();
    Client::from_conf(config)
}

/// [`Blobs`] on S3. Clones share connections.
#[derive(Clone)]
pub struct S3Blobs {
    client: Client,
    bucket: Arc<str>,
}

impl S3Blobs {
    /// Use [`client`] to make the client.
    pub fn new(client: Client, bucket: impl Into<Arc<str>>) -> Self {
        Self { client, bucket: bucket.into() }
    }

    fn refused<E, R>(&self, what: &str, key: &BlobKey, error: &SdkError<E, R>) -> BlobError
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
        R: std::fmt::Debug,
    {
        let code = error.code().unwrap_or_default();
        let is_busy = matches!(
            code,
            "SlowDown" | "ServiceUnavailable" | "InternalError" | "RequestTimeout" | "Throttling"
        );
        if is_busy || matches!(error, SdkError::TimeoutError(_)) {
            return BlobError::Busy { after: BUSY };
        }
        BlobError::Down {
            reason: format!(
                "can't {what} {PREFIX}{key} in bucket {}: {}",
                self.bucket,
                DisplayErrorContext(error)
            ),
        }
    }
}

#[async_trait]
impl Blobs for S3Blobs {
    async fn put(&self, key: &BlobKey, bytes: Bytes) -> Result<(), BlobError> {
        let put = self.client.put_object().bucket(&*self.bucket).key(format!("{PREFIX}{key}"));
        let put = put.content_type("application/json").body(bytes.into());
        put.send().await.map_err(|error| self.refused("write", key, &error))?;
        Ok(())
    }

    async fn get(&self, key: &BlobKey) -> Result<Option<Bytes>, BlobError> {
        let get = self.client.get_object().bucket(&*self.bucket).key(format!("{PREFIX}{key}"));
        let found = match get.send().await {
            Ok(found) => found,
            // Without permission to list the bucket, S3 returns 403 for a missing object.
            Err(error) if error.code() == Some("NoSuchKey") => return Ok(None),
            Err(error) => return Err(self.refused("read", key, &error)),
        };
        let bytes = found.body.collect().await.map_err(|error| {
            tracing::warn!(%key, %error, "the connection broke while reading a blob from S3");
            BlobError::Busy { after: BUSY }
        })?;
        Ok(Some(bytes.into_bytes()))
    }
}

/// For functions without large bodies, which then need neither S3 permissions nor an S3 client.
pub struct NoBlobs;

impl NoBlobs {
    fn refused<T>() -> Result<T, BlobError> {
        let reason = "this function has no blob store; set it up with core_with_blobs".to_owned();
        Err(BlobError::Down { reason })
    }
}

#[async_trait]
impl Blobs for NoBlobs {
    async fn put(&self, _key: &BlobKey, _bytes: Bytes) -> Result<(), BlobError> {
        Self::refused()
    }

    async fn get(&self, _key: &BlobKey) -> Result<Option<Bytes>, BlobError> {
        Self::refused()
    }
}
