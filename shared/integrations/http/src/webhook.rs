//! Webhooks over HTTP(S), signed as in Standard Webhooks (<https://www.standardwebhooks.com>):
//! `webhook-id`, `webhook-timestamp` in seconds, and `webhook-signature`, which is `v1,` and
//! the base64 of HMAC-SHA256 over id, timestamp and body, joined by dots.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use tokio::sync::OnceCell;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Clock, Webhook};

/// Timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Retry delay if the endpoint does not name one.
const RETRY_DELAY: Duration = Duration::from_secs(60);
const SECRET_PREFIX: &str = "whsec_";

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WebhookError {
    #[error("webhook URL '{0}' is not an http or https URL")]
    Url(String),
    #[error("the webhook secret must be whsec_ and base64 of at least 24 bytes")]
    Secret,
}

pub struct HttpWebhook {
    url: reqwest::Url,
    key: Option<hmac::Key>,
    clock: Arc<dyn Clock>,
    client: OnceCell<reqwest::Client>,
}

impl HttpWebhook {
    /// `secret`: `whsec_` and base64, or `None` to send unsigned.
    pub fn new(
        url: &str,
        secret: Option<&str>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WebhookError> {
        let wrong = || WebhookError::Url(url.to_owned());
        let url = reqwest::Url::parse(url).map_err(|_| wrong())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong());
        }
        let key = secret.map(key_of).transpose()?;
        Ok(Self { url, key, clock, client: OnceCell::new() })
    }

    async fn client(&self) -> Result<&reqwest::Client, reqwest::Error> {
        let build = || async {
            let policy = reqwest::redirect::Policy::none();
            reqwest::Client::builder().timeout(TIMEOUT).redirect(policy).build()
        };
        self.client.get_or_try_init(build).await
    }
}

fn key_of(secret: &str) -> Result<hmac::Key, WebhookError> {
    let text = secret.strip_prefix(SECRET_PREFIX).ok_or(WebhookError::Secret)?;
    let bytes = STANDARD.decode(text).map_err(|_| WebhookError::Secret)?;
    if bytes.len() < 24 {
        return Err(WebhookError::Secret);
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn signature(key: &hmac::Key, id: &str, seconds: i64, body: &[u8]) -> String {
    let mut signed = format!("{id}.{seconds}.").into_bytes();
    signed.extend_from_slice(body);
    format!("v1,{}", STANDARD.encode(hmac::sign(key, &signed)))
}

#[async_trait]
impl Webhook for HttpWebhook {
    async fn post(&self, id: &str, body: &[u8]) -> Result<(), HandlerError> {
        let retry = |reason: String| HandlerError::retry(RETRY_DELAY, reason);
        let client = self.client().await.map_err(|error| retry(crate::with_causes(&error)))?;
        let seconds = self.clock.now().millis() / 1000;
        let mut request = client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds.to_string());
        if let Some(key) = &self.key {
            request = request.header("webhook-signature", signature(key, id, seconds, body));
        }
        let answer = request.body(body.to_vec()).send().await;
        // The URL may hold a secret, so it is not reported.
        let answer = answer.map_err(|error| retry(crate::with_causes(&error.without_url())))?;
        let status = answer.status();
        let after = answer.headers().get("retry-after").and_then(|text| text.to_str().ok());
        let after = after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let reason = format!("the webhook returned {status} for {id}");
        match status {
            _ if status.is_success() => Ok(()),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Err(HandlerError::retry(after.unwrap_or(RETRY_DELAY), reason))
            }
            _ if status.is_server_error() => {
                Err(HandlerError::retry(after.unwrap_or(RETRY_DELAY), reason))
            }
            _ => Err(HandlerError::Reject { reason }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example from the tests of the Standard Webhooks libraries.
    #[test]
    fn signs_as_the_form_says() {
        let key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn a_short_or_plain_secret_is_refused() {
        for secret in ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_!!"] {
            assert_eq!(key_of(secret).unwrap_err(), WebhookError::Secret, "{secret}");
        }
    }
}
