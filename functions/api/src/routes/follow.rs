//! Waiting for something new within one call.

use std::time::Duration;

use watchbill_core::ports::Topic;

use crate::auth::Session;
use crate::fault::Fault;
use crate::req::Req;
use crate::serve::no_place;
use crate::shares::Share;
use crate::state::ApiState;

/// Someone else's process can't wake us, so we look again after this long at the latest.
const LOOK: Duration = Duration::from_secs(2);
/// And so often at the most, however often we are woken.
const LOOKS: usize = 200;
/// When to come back with a call that had no place to wait in.
const RETRY_WAIT: Duration = Duration::from_secs(5);

/// Look, then `more`, and look again while it says so: what came between the two is not
/// slept through, because the topic's mark is from before the look.
pub struct Wait {
    state: ApiState,
    session: Session,
    topic: Topic,
    ends: Duration,
    mark: u64,
    looks: usize,
    _place: Option<Share>,
}

impl Wait {
    /// To be made before the first look. A call that waits has a place among those that do.
    pub fn new(req: &mut Req, topic: Topic, how_long: Duration) -> Result<Self, Fault> {
        let state = req.state.clone();
        let mut place = None;
        if !how_long.is_zero() {
            let taken = state.shared().waits.take(req.holder(), 1);
            let full = |full| no_place("waiting calls", full, RETRY_WAIT);
            place = Some(taken.map_err(full)?);
            req.release_call();
        }
        let core = state.core();
        let ends = core.clock().monotonic() + how_long;
        let mark = core.wake().mark(&topic);
        let session = Session::new(state.clone(), req.credential(), req.caller().clone());
        Ok(Self { state, session, topic, ends, mark, looks: 0, _place: place })
    }

    /// Sleeps until there may be something new, and proves the caller anew. `false` once the
    /// time is up, and the last look is the answer.
    pub async fn more(&mut self) -> Result<bool, Fault> {
        let core = self.state.core();
        let left = self.ends.saturating_sub(core.clock().monotonic());
        self.looks += 1;
        if left.is_zero() || self.looks > LOOKS {
            return Ok(false);
        }
        core.wake().wait(&self.topic, self.mark, left.min(LOOK)).await;
        self.mark = core.wake().mark(&self.topic);
        self.session.prove().await?;
        Ok(true)
    }
}
