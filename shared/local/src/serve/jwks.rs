use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use tokio::sync::OnceCell;
use watchbill_api::JwksSource;

/// A key set is small.
const MOST: usize = 256 * 1024;

/// An identity provider's keys at a URL. The client is made when first needed.
pub struct UrlJwks {
    url: String,
    client: OnceCell<reqwest::Client>,
}

impl UrlJwks {
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let parsed = reqwest::Url::parse(url).with_context(|| format!("jwks_url '{url}'"))?;
        let local = matches!(parsed.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        if parsed.scheme() != "https" && !local {
            bail!("jwks_url '{url}': keys that decide who may call come over https only");
        }
        Ok(Self { url: url.to_owned(), client: OnceCell::new() })
    }

    async fn get(&self) -> Result<String, reqwest::Error> {
        let client = self
            .client
            .get_or_try_init(|| async {
                reqwest::Client::builder().timeout(Duration::from_secs(10)).build()
            })
            .await?;
        client.get(&self.url).send().await?.error_for_status()?.text().await
    }
}

#[async_trait]
impl JwksSource for UrlJwks {
    async fn fetch(&self) -> Result<String, String> {
        match self.get().await {
            Ok(text) if text.len() <= MOST => Ok(text),
            Ok(text) => {
                Err(format!("{} answers {} bytes, {MOST} are the most", self.url, text.len()))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}
