//! Secrets from Secrets Manager and SSM: read on first use, cached, and re-read so that a
//! rotation is noticed without a deployment.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use watchbill_core::ports::{Clock, SecretSource};

/// Cache TTL.
const FRESH: Duration = Duration::from_secs(300);
/// Delay after a failed read, during which the cached secret is used.
const PAUSE: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
#[error("can't read the secret {name}: {reason}")]
pub struct SecretError {
    pub name: String,
    pub reason: String,
}

#[derive(Clone, Debug)]
pub enum SecretLocation {
    /// A field of a JSON secret in Secrets Manager, by its ARN or name.
    Manager { id: String, field: &'static str },
    /// A SecureString in SSM, by its name.
    Parameter { name: String },
}

impl SecretLocation {
    fn name(&self) -> &str {
        match self {
            SecretLocation::Manager { id, .. } => id,
            SecretLocation::Parameter { name } => name,
        }
    }
}

/// A secret and its cache.
pub struct Secret {
    config: aws_types::SdkConfig,
    place: SecretLocation,
    clock: Arc<dyn Clock>,
    known: Mutex<CachedSecret>,
}

#[derive(Default)]
struct CachedSecret {
    value: Option<Arc<str>>,
    again_at: Duration,
}

impl Secret {
    pub fn new(
        config: &aws_types::SdkConfig,
        place: SecretLocation,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { config: config.clone(), place, clock, known: Mutex::default() }
    }

    /// Fails only if the secret was never read.
    pub async fn get(&self) -> Result<Arc<str>, SecretError> {
        let mut known = self.known.lock().await;
        let now = self.clock.monotonic();
        if let Some(value) = known.value.as_ref().filter(|_| now < known.again_at) {
            return Ok(value.clone());
        }
        match self.read().await {
            Ok(value) => {
                let value: Arc<str> = value.into();
                *known = CachedSecret { value: Some(value.clone()), again_at: now + FRESH };
                Ok(value)
            }
            Err(reason) => {
                known.again_at = now + PAUSE;
                let name = self.place.name().to_owned();
                let Some(value) = known.value.clone() else {
                    return Err(SecretError { name, reason });
                };
                tracing::warn!(
                    %name,
                    %reason,
                    "can't refresh a secret; the cached value stays in use"
                );
                Ok(value)
            }
        }
    }

    async fn read(&self) -> Result<String, String> {
        match &self.place {
            SecretLocation::Manager { id, field } => {
                let client = aws_sdk_secretsmanager::Client::new(&self.config);
                let answer = client.get_secret_value().secret_id(id).send().await;
                let answer = answer.map_err(|error| crate::explained(&error))?;
                let text = answer.secret_string().ok_or("it has no text value")?;
                field_of(text, field)
            }
            SecretLocation::Parameter { name } => read_parameter(&self.config, name).await,
        }
    }
}

/// An SSM parameter's current value, decrypted if it is a SecureString.
pub(crate) async fn read_parameter(
    config: &aws_types::SdkConfig,
    name: &str,
) -> Result<String, String> {
    let client = aws_sdk_ssm::Client::new(config);
    let call = client.get_parameter().name(name).with_decryption(true);
    let answer = call.send().await.map_err(|error| crate::explained(&error))?;
    let value = answer.parameter().and_then(|parameter| parameter.value());
    value.map(str::to_owned).ok_or_else(|| "it has no value".to_owned())
}

#[async_trait]
impl SecretSource for Secret {
    async fn fetch(&self) -> Result<Arc<str>, String> {
        self.get().await.map_err(|error| error.to_string())
    }
}

fn field_of(text: &str, field: &str) -> Result<String, String> {
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|_| "it is not JSON".to_owned())?;
    let text = value[field].as_str().filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or_else(|| format!("it has no string field '{field}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_a_json_secret() {
        assert_eq!(field_of(r#"{"key":"s3cr3t"}"#, "key"), Ok("s3cr3t".to_owned()));
        for wrong in ["s3cr3t", "{}", r#"{"key":""}"#, r#"{"key":7}"#] {
            let error = field_of(wrong, "key").unwrap_err();
            assert!(!error.contains("s3cr3t"), "an error must not contain the secret: {error}");
        }
    }
}
