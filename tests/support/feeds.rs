//! Router and recorder as handlers of the stream.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::Change;
use watchbill_lambda::{LeftOut, StreamHandler};
use watchbill_recorder::Recorder;
use watchbill_router::Router;

/// Router and recorder behind the stream's loop, wired as in their mains, but `Recording`
/// ignores the time that is left.
pub struct Routing(pub Router);

#[async_trait]
impl StreamHandler for Routing {
    async fn handle(&self, changes: &[Change], _: Duration) -> Result<(), HandlerError> {
        self.0.route(changes).await
    }
}

pub struct Recording(pub Recorder);

#[async_trait]
impl StreamHandler for Recording {
    async fn handle(&self, changes: &[Change], _: Duration) -> Result<(), HandlerError> {
        self.0.record(changes).await.map(drop)
    }

    async fn keep(&self, left_out: &LeftOut, reason: &str) -> Result<(), HandlerError> {
        self.0.keep(&left_out.key, left_out.version, reason).await
    }
}
