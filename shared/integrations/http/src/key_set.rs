//! An identity provider's keys at a URL.

use std::time::Duration;

use tokio::sync::OnceCell;

/// A key set is small.
const MOST: usize = 256 * 1024;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeySetError {
    #[error("jwks_url '{url}': {reason}")]
    Url { url: String, reason: String },
    #[error("jwks_url '{url}': keys that decide who may call come over https only")]
    Plain { url: String },
}

/// The client is made when first needed.
pub struct KeySetUrl {
    url: String,
    client: OnceCell<reqwest::Client>,
}

impl KeySetUrl {
    pub fn new(url: &str) -> Result<Self, KeySetError> {
        let parsed = reqwest::Url::parse(url)
            .map_err(|error| KeySetError::Url { url: url.to_owned(), reason: error.to_string() })?;
        let local = matches!(parsed.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        if parsed.scheme() != "https" && !local {
            return Err(KeySetError::Plain { url: url.to_owned() });
        }
        Ok(Self { url: url.to_owned(), client: OnceCell::new() })
    }

    /// The document; an error says why there is none.
    pub async fn fetch(&self) -> Result<String, String> {
        let text = self.get().await.map_err(|error| error.to_string())?;
        if text.len() > MOST {
            return Err(format!("{} answers {} bytes, {MOST} are the most", self.url, text.len()));
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
