use std::sync::Arc;

use async_trait::async_trait;

/// A secret that someone else keeps.
#[async_trait]
pub trait SecretSource: Send + Sync {
    /// The secret as it is now; an error says why it can't be told, for the log.
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
