//! Fetches an identity provider's key set from a URL.

use std::str::FromStr;
use std::time::Duration;

use tokio::sync::OnceCell;

/// Key sets are small.
const MAX_BYTES: usize = 256 * 1024;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeySetError {
    #[error("jwks_url '{url}' is not a valid URL")]
    Url { url: String, source: <reqwest::Url as FromStr>::Err },
    #[error("jwks_url '{url}': must be https, because its keys decide who may call")]
    Plain { url: String },
}

/// Creates its client on first use.
pub struct KeySetUrl {
    url: String,
    client: OnceCell<reqwest::Client>,
}

impl KeySetUrl {
    pub fn new(url: &str) -> Result<Self, KeySetError> {
        let parsed = reqwest::Url::parse(url)
            .map_err(|source| KeySetError::Url { url: url.to_owned(), source })?;
        let local = matches!(parsed.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        if parsed.scheme() != "https" && !local {
            return Err(KeySetError::Plain { url: url.to_owned() });
        }
        Ok(Self { url: url.to_owned(), client: OnceCell::new() })
    }

    /// Returns the document, or why it could not be fetched.
    pub async fn fetch(&self) -> Result<String, String> {
        let text = self.get().await.map_err(|error| crate::with_causes(&error))?;
        if text.len() > MAX_BYTES {
            return Err(format!(
                "{} returned {} bytes; the maximum is {MAX_BYTES}",
                self.url,
                text.len()
            ));
        }
        Ok(text)
    }

    async fn get(&self) -> Result<String, reqwest::Error> {
        let build =
            || async { reqwest::Client::builder().timeout(Duration::from_secs(10)).build() };
        let client = self.client.get_or_try_init(build).await?;
        client.get(&self.url).send().await?.error_for_status()?.text().await
    }
}
