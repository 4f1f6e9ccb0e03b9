use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::ports::{Clock, Topic, Wake};

/// Between two looks of a caller that waits.
const LOOK: Duration = Duration::from_millis(250);

/// Instances know nothing of each other's changes, so whoever waits looks again and again.
pub struct PollWake {
    clock: Arc<dyn Clock>,
}

impl PollWake {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

#[async_trait]
impl Wake for PollWake {
    fn mark(&self, _topic: &Topic) -> u64 {
        0
    }

    async fn wait(&self, _topic: &Topic, _seen: u64, at_most: Duration) {
        self.clock.sleep(at_most.min(LOOK)).await;
    }

    fn wake(&self, _topic: &Topic) {}
}
