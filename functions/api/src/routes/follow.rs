//! Waiting for something new within one call.

use std::time::Duration;

use http::StatusCode;
use watchbill_core::ports::Topic;
use watchbill_core::service::{NoPlace, WaitPlaces};
use watchbill_domain::TenantId;

use crate::auth::Session;
use crate::fault::Fault;
use crate::req::Req;
use crate::serve::no_place;
use crate::shares::{Full, Share};
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
    tenant: TenantId,
    _place: Option<Share>,
    /// Among the calls of all processes.
    places: Option<WaitPlaces>,
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
        let tenant = req.caller().tenant.clone();
        Ok(Self {
            state,
            session,
            topic,
            ends,
            mark,
            looks: 0,
            tenant,
            _place: place,
            places: None,
        })
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
        if self.looks == 1 {
            self.take_place(left).await?;
        }
        let core = self.state.core();
        core.wake().wait(&self.topic, self.mark, left.min(LOOK)).await;
        self.mark = core.wake().mark(&self.topic);
        self.session.prove().await?;
        Ok(true)
    }

    /// To be called once the wait is over, whatever it brought.
    pub async fn over(self) {
        if let Some(places) = self.places {
            self.state.core().waits().give_back(places).await;
        }
    }

    async fn take_place(&mut self, left: Duration) -> Result<(), Fault> {
        let Some(bounds) = self.state.shared().wait_bounds else { return Ok(()) };
        let taken = self.state.core().waits().take(&self.tenant, bounds, left).await?;
        let full = |none| match none {
            // Of its own making, so no fault of the server that an alarm should count.
            NoPlace::Tenant => Fault {
                retry_after: Some(RETRY_WAIT),
                ..Fault::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "this tenant has all the waiting calls that it may; try again later",
                )
            },
            NoPlace::All => no_place("waiting calls", Full::All, RETRY_WAIT),
        };
        self.places = Some(taken.map_err(full)?);
        Ok(())
    }
}
