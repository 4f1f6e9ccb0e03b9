use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::Change;
use watchbill_lambda::{FeedHandler, LeftOut};
use watchbill_recorder::Recorder;
use watchbill_router::Router;

/// Router and recorder behind the stream's loop, as their mains put them there.
pub struct Routing(pub Router);

#[async_trait]
impl FeedHandler for Routing {
    async fn handle(&self, changes: &[Change], _: Duration) -> Result<(), HandlerError> {
        self.0.route(changes).await
    }
}

pub struct Recording(pub Recorder);

#[async_trait]
impl FeedHandler for Recording {
    async fn handle(&self, changes: &[Change], _: Duration) -> Result<(), HandlerError> {
        self.0.record(changes).await.map(drop)
    }

    async fn keep(&self, left_out: &LeftOut, reason: &str) -> Result<(), HandlerError> {
        self.0.keep(&left_out.key, left_out.version, reason).await
    }
}
