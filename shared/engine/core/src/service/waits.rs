//! Places of calls that wait for something new, where each call may run in a process of its own: kept
//! in the store, so that all of them count the same. One that is not given back is free again once
//! its time is over.

use std::sync::Arc;
use std::time::Duration;

use watchbill_domain::TenantId;

use super::{Context, ServiceError};
use crate::ports::{Expect, Write};
use crate::repo::{self, Entity as _, WaitPlace, decode, encode};

/// How often a place that another took meanwhile is looked for anew.
const MAX_ATTEMPTS: u32 = 8;
/// What a call may take beyond the time that it waits.
const GRACE: Duration = Duration::from_secs(5);

/// How many calls may wait at once, over all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitBounds {
    pub all: usize,
    pub tenant: usize,
}

/// Whose places are all taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    Tenant,
    All,
}

/// A tenant's place and one of all, with the versions under which they were taken.
#[derive(Debug)]
pub struct WaitPlaces([(WaitPlace, u64); 2]);

/// Gives calls that wait their places. Cheap to clone.
#[derive(Clone)]
pub struct Waits {
    context: Context,
}

impl Waits {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// A place for a call that waits so long.
    pub async fn take(
        &self,
        tenant: &TenantId,
        bounds: WaitBounds,
        how_long: Duration,
    ) -> Result<Result<WaitPlaces, NoPlace>, ServiceError> {
        for _ in 0..MAX_ATTEMPTS {
            let until = self.context.clock().now().plus(how_long + GRACE);
            let (own, taken_by_it) =
                self.free_place(repo::waits_partition(tenant), bounds.tenant, 0).await?;
            let Some(own) = own else { return Ok(Err(NoPlace::Tenant)) };
            // A quarter is for tenants that have none.
            let kept_free = if taken_by_it > 0 { bounds.all / 4 } else { 0 };
            let of_all = self.free_place(repo::ALL_WAITS.into(), bounds.all, kept_free).await?;
            let (Some(of_all), _) = of_all else { return Ok(Err(NoPlace::All)) };
            let places =
                [own, of_all].map(|(place, version)| (WaitPlace { until, ..place }, version));
            let writes = places.iter().map(|(place, version)| taken(place, *version)).collect();
            if self.context.transact(writes).await?.is_ok() {
                return Ok(Ok(WaitPlaces(places.map(|(place, version)| (place, version + 1)))));
            }
        }
        Err(ServiceError::Busy { after: Duration::from_secs(1) })
    }

    /// Others may take it at once. Where that fails it is free a little later.
    pub async fn give_back(&self, WaitPlaces(places): WaitPlaces) {
        let now = self.context.clock().now();
        let back = |(place, version): &(WaitPlace, u64)| {
            taken(&WaitPlace { until: now, ..place.clone() }, *version)
        };
        if let Err(error) = self.context.transact(places.iter().map(back).collect()).await {
            tracing::debug!("the place of a call that waited is not given back: {error}");
        }
    }

    /// Any that is free beyond those that are kept, so that two who look at once rarely meet, with its
    /// version, 0 where none stands there; and how many are taken.
    async fn free_place(
        &self,
        partition: Arc<str>,
        bound: usize,
        kept_free: usize,
    ) -> Result<(Option<(WaitPlace, u64)>, usize), ServiceError> {
        let now = self.context.clock().now();
        let mut free: Vec<(WaitPlace, u64)> = (0..bound)
            .map(|number| (WaitPlace { partition: partition.clone(), number, until: now }, 0))
            .collect();
        for item in self.context.store().collect(&partition, "").await? {
            let is_this = |of: &(WaitPlace, u64)| of.0.key() == item.key;
            let Some(at) = free.iter().position(is_this) else { continue };
            match decode::<WaitPlace>(&item) {
                Ok(place) if place.value.until <= now => free[at].1 = item.version,
                // One that can't be read is nobody's.
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

fn taken(place: &WaitPlace, version: u64) -> Write {
    let expect = match version {
        0 => Expect::Absent,
        version => Expect::Version(version),
    };
    Write::Put { item: encode(place, None), expect }
}
