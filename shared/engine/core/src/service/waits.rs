//! Slots of calls that wait for something new. They are kept in the store, because each call
//! may run in a process of its own and all must count the same. A slot that is not released is
//! free again once its time is over.

use std::sync::Arc;
use std::time::Duration;

use watchbill_domain::TenantId;

use super::{Context, ServiceError};
use crate::ports::{Precondition, Write};
use crate::repo::{self, Entity as _, WaitSlot, decode, encode};

/// How often another slot is tried after a concurrent call took the chosen one.
const MAX_ATTEMPTS: u32 = 8;
/// How long a call may take beyond its wait.
const GRACE: Duration = Duration::from_secs(5);

/// How many calls may wait at once, over all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitBounds {
    pub all: usize,
    pub tenant: usize,
}

/// Which slots are all taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitLimitReached {
    Tenant,
    All,
}

/// A tenant's slot and one of the global slots, with the versions under which they were taken.
#[derive(Debug)]
pub struct HeldWaitSlots([(WaitSlot, u64); 2]);

/// Gives slots to waiting calls. Cheap to clone.
#[derive(Clone)]
pub struct Waits {
    context: Context,
}

impl Waits {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// Takes the slots for a call that waits this long.
    pub async fn take(
        &self,
        tenant: &TenantId,
        bounds: WaitBounds,
        how_long: Duration,
    ) -> Result<Result<HeldWaitSlots, WaitLimitReached>, ServiceError> {
        for _ in 0..MAX_ATTEMPTS {
            let until = self.context.clock().now().plus(how_long + GRACE);
            let (own, taken_by_it) =
                self.free_place(repo::waits_partition(tenant), bounds.tenant, 0).await?;
            let Some(own) = own else { return Ok(Err(WaitLimitReached::Tenant)) };
            // A quarter is reserved for tenants that have none.
            let kept_free = if taken_by_it > 0 { bounds.all / 4 } else { 0 };
            let of_all = self.free_place(repo::ALL_WAITS.into(), bounds.all, kept_free).await?;
            let (Some(of_all), _) = of_all else { return Ok(Err(WaitLimitReached::All)) };
            let places =
                [own, of_all].map(|(place, version)| (WaitSlot { until, ..place }, version));
            let writes = places.iter().map(|(place, version)| taken(place, *version)).collect();
            if self.context.transact(writes).await?.is_ok() {
                return Ok(Ok(HeldWaitSlots(places.map(|(place, version)| (place, version + 1)))));
            }
        }
        Err(ServiceError::Busy { after: Duration::from_secs(1) })
    }

    /// Releases the slots at once. If that fails they are free a little later.
    pub async fn release(&self, HeldWaitSlots(places): HeldWaitSlots) {
        let now = self.context.clock().now();
        let back = |(place, version): &(WaitSlot, u64)| {
            taken(&WaitSlot { until: now, ..place.clone() }, *version)
        };
        if let Err(error) = self.context.transact(places.iter().map(back).collect()).await {
            tracing::debug!("the slot of a waiting call is not released: {error}");
        }
    }

    /// A random free slot outside the reserved number, so that concurrent callers rarely choose
    /// the same, with its version, 0 if it is not stored; and the number of taken slots.
    async fn free_place(
        &self,
        partition: Arc<str>,
        bound: usize,
        kept_free: usize,
    ) -> Result<(Option<(WaitSlot, u64)>, usize), ServiceError> {
        let now = self.context.clock().now();
        let mut free: Vec<(WaitSlot, u64)> = (0..bound)
            .map(|number| (WaitSlot { partition: partition.clone(), number, until: now }, 0))
            .collect();
        for item in self.context.store().collect(&partition, "").await? {
            let is_this = |of: &(WaitSlot, u64)| of.0.key() == item.key;
            let Some(at) = free.iter().position(is_this) else { continue };
            match decode::<WaitSlot>(&item) {
                Ok(place) if place.value.until <= now => free[at].1 = item.version,
                // An unreadable slot is not used.
                _ => _ = free.swap_remove(at),
            }
        }
        let taken = bound.saturating_sub(free.len());
        if free.len() <= kept_free {
            return Ok((None, taken));
        }
        let any = self.context.entropy().next_u64() % free.len() as u64;
        Ok((Some(free.swap_remove(any as usize)), taken))
    }
}

fn taken(place: &WaitSlot, version: u64) -> Write {
    let expect = match version {
        0 => Precondition::Absent,
        version => Precondition::Version(version),
    };
    Write::Put { item: encode(place, None), expect }
}
