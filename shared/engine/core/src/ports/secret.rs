//! The port for secrets.

use std::sync::Arc;

use async_trait::async_trait;

/// A secret that is stored elsewhere.
#[async_trait]
pub trait SecretSource: Send + Sync {
    /// The current secret; an error gives the reason for the log.
    async fn fetch(&self) -> Result<Arc<str>, String>;
}

/// A secret that the process was given.
pub struct FixedSecret(pub Arc<str>);

#[async_trait]
impl SecretSource for FixedSecret {
    async fn fetch(&self) -> Result<Arc<str>, String> {
        Ok(self.0.clone())
    }
}
