//! Waiting for something new within one call.

use std::time::Duration;

use watchbill_core::ports::Topic;
use watchbill_core::service::Core;

/// Someone else's process can't wake us, so we look again after this long at the latest.
const LOOK: Duration = Duration::from_secs(2);
/// And so often at the most, however often we are woken.
const LOOKS: usize = 200;

/// Look, then `more`, and look again while it says so: what came between the two is not
/// slept through, because the topic's mark is from before the look.
pub struct Wait<'a> {
    core: &'a Core,
    topic: Topic,
    ends: Duration,
    mark: u64,
    looks: usize,
}

impl<'a> Wait<'a> {
    /// To be made before the first look.
    pub fn new(core: &'a Core, topic: Topic, how_long: Duration) -> Self {
        let ends = core.clock().monotonic() + how_long;
        let mark = core.wake().mark(&topic);
        Self { core, topic, ends, mark, looks: 0 }
    }

    /// Sleeps until there may be something new. `false` once the time is up, and the last
    /// look is the answer.
    pub async fn more(&mut self) -> bool {
        let left = self.ends.saturating_sub(self.core.clock().monotonic());
        self.looks += 1;
        if left.is_zero() || self.looks > LOOKS {
            return false;
        }
        self.core.wake().wait(&self.topic, self.mark, left.min(LOOK)).await;
        self.mark = self.core.wake().mark(&self.topic);
        true
    }
}
