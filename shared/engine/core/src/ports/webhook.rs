use async_trait::async_trait;

use crate::handler::HandlerError;

/// Someone's HTTP endpoint that is told of things. `Retry`: it may take the same again.
#[async_trait]
pub trait Webhook: Send + Sync {
    /// Delivers a JSON body. `id` is the same for each try of the same message, so that the
    /// other side can tell a repeat.
    async fn post(&self, id: &str, body: &[u8]) -> Result<(), HandlerError>;
}
