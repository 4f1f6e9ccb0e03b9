//! The handler of the table's stream on Lambda.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::Change;
use watchbill_lambda::{FeedHandler, LeftOut};

use crate::Recorder;

pub struct Recording(pub Recorder);

#[async_trait]
impl FeedHandler for Recording {
    async fn handle(&self, changes: &[Change], left: Duration) -> Result<(), HandlerError> {
        self.0.record_invocation(changes, left).await
    }

    async fn keep(&self, left_out: &LeftOut, reason: &str) -> Result<(), HandlerError> {
        self.0.keep(&left_out.key, left_out.version, reason).await
    }
}
