//! Blobs on S3: objects `blobs/<tenant>/<task>/<hash>`. A lifecycle rule on that prefix
//! removes them by age; it must keep them for a year longer than tasks (ADR 14).

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

/// What every object's name begins with: the lifecycle rule and the functions' rights name it.
const PREFIX: &str = "blobs/";
/// Before a bucket that asked for patience is asked again.
const BUSY: Duration = Duration::from_millis(500);

/// A client whose time-outs fit a function's short life. Behind another endpoint than AWS's
/// own there is no host name for each bucket, so the bucket stands in the path.
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

/// The [`Blobs`] on AWS; clones share their connections.
#[derive(Clone)]
pub struct S3Blobs {
    client: Client,
    bucket: Arc<str>,
}

impl S3Blobs {
    /// The client is best made by [`client`].
    pub fn new(client: Client, bucket: impl Into<Arc<str>>) -> Self {
        Self { client, bucket: bucket.into() }
    }

    fn refused<E, R>(&self, what: &str, key: &BlobKey, error: &SdkError<E, R>) -> BlobError
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
        R: std::fmt::Debug,
    {
        let code = error.code().unwrap_or_default();
        let asks_for_patience = matches!(
            code,
            "SlowDown" | "ServiceUnavailable" | "InternalError" | "RequestTimeout" | "Throttling"
        );
        if asks_for_patience || matches!(error, SdkError::TimeoutError(_)) {
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
            // Without the right to list the bucket S3 says 403 of what is not there.
            Err(error) if error.code() == Some("NoSuchKey") => return Ok(None),
            Err(error) => return Err(self.refused("read", key, &error)),
        };
        let bytes = found.body.collect().await.map_err(|error| {
            tracing::warn!("answer for {PREFIX}{key} broke off: {error}");
            BlobError::Busy { after: BUSY }
        })?;
        Ok(Some(bytes.into_bytes()))
    }
}

/// For functions that neither write nor read large bodies: they need no rights for it, and no
/// client, which would be a good part of what they are.
pub struct NoBlobs;

impl NoBlobs {
    fn refused<T>() -> Result<T, BlobError> {
        let reason = "this function is set up without blobs".to_owned();
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
