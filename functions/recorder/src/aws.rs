//! The Lambda handler of the table's stream.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::Change;
use watchbill_lambda::{LeftOut, StreamHandler};

use crate::Recorder;

pub struct RecorderHandler(pub Recorder);

#[async_trait]
impl StreamHandler for RecorderHandler {
    async fn handle(&self, changes: &[Change], left: Duration) -> Result<(), HandlerError> {
        self.0.record_invocation(changes, left).await
    }

    async fn keep(&self, left_out: &LeftOut, reason: &str) -> Result<(), HandlerError> {
        self.0.keep(&left_out.key, left_out.version, reason).await
    }
}
