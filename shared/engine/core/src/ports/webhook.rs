//! The webhook port.

use async_trait::async_trait;

use crate::handler::HandlerError;

/// An HTTP endpoint that receives notifications. `Retry`: it may accept the same message later.
#[async_trait]
pub trait Webhook: Send + Sync {
    /// Delivers a JSON body. `id` is the same for each attempt of a message, so that the
    /// receiver can recognise a repeat.
    async fn post(&self, id: &str, body: &[u8]) -> Result<(), HandlerError>;
}
