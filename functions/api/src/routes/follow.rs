//! Long polling: waits for something new within one call.

use std::time::Duration;

use http::StatusCode;
use watchbill_core::ports::Topic;
use watchbill_core::service::{HeldWaitSlots, WaitLimitReached};
use watchbill_domain::TenantId;

use crate::auth::Session;
use crate::error::ApiError;
use crate::req::Req;
use crate::serve::no_place;
use crate::shares::{BoundReached, Share};
use crate::state::ApiState;

/// Other processes can't wake this one, so it polls at least this often.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum polls per call, however often it is woken.
const MAX_POLLS: usize = 200;
/// Retry delay of a call that found no free waiting place.
const RETRY_WAIT: Duration = Duration::from_secs(5);

/// Read, call `more`, and read again while it returns true. No change in between is missed,
/// because the topic's mark is taken before the read.
pub struct Wait {
    state: ApiState,
    session: Session,
    topic: Topic,
    ends: Duration,
    mark: u64,
    polls: usize,
    tenant: TenantId,
    _place: Option<Share>,
    /// Its place among the waiting calls of all processes.
    places: Option<HeldWaitSlots>,
}

impl Wait {
    /// Create it before the first read. A waiting call takes a share of the waiting calls.
    pub fn new(req: &mut Req, topic: Topic, how_long: Duration) -> Result<Self, ApiError> {
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
            polls: 0,
            tenant,
            _place: place,
            places: None,
        })
    }

    /// Sleeps until there may be something new, and re-authenticates the caller. Returns `false`
    /// once the time is up; the last read is then the response.
    pub async fn more(&mut self) -> Result<bool, ApiError> {
        let core = self.state.core();
        let left = self.ends.saturating_sub(core.clock().monotonic());
        self.polls += 1;
        if left.is_zero() || self.polls > MAX_POLLS {
            return Ok(false);
        }
        if self.polls == 1 {
            self.take_place(left).await?;
        }
        let core = self.state.core();
        core.wake().wait(&self.topic, self.mark, left.min(POLL_INTERVAL)).await;
        self.mark = core.wake().mark(&self.topic);
        self.session.prove().await?;
        Ok(true)
    }

    /// Call it once the wait is over, with any result.
    pub async fn over(self) {
        if let Some(places) = self.places {
            self.state.core().waits().release(places).await;
        }
    }

    async fn take_place(&mut self, left: Duration) -> Result<(), ApiError> {
        let Some(bounds) = self.state.shared().wait_bounds else { return Ok(()) };
        let taken = self.state.core().waits().take(&self.tenant, bounds, left).await?;
        let full = |none| match none {
            // Caused by the tenant itself, so not a server error that an alarm should count.
            WaitLimitReached::Tenant => ApiError {
                retry_after: Some(RETRY_WAIT),
                ..ApiError::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "this tenant has reached its limit of waiting calls; try again later",
                )
            },
            WaitLimitReached::All => no_place("waiting calls", BoundReached::All, RETRY_WAIT),
        };
        self.places = Some(taken.map_err(full)?);
        Ok(())
    }
}
