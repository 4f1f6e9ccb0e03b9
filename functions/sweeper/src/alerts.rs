//! Gives an end to the open alerts that were stored before there was one: they are due nowhere,
//! and are found in the lists of open alerts.

use watchbill_alerts::StoredAlerts;
use watchbill_core::ports::{ListRange, Query, WhichList};
use watchbill_core::repo;
use watchbill_core::service::{Core, ServiceError, TENANTS_A_CALL};
use watchbill_domain::TenantId;

use crate::turn::Within;

/// Alerts read at once.
const PAGE: usize = 100;
/// Alerts that one sweep gives an end: each is a write. The rest comes with the next.
const MAX_ENDED: usize = 200;
/// Open alerts of a tenant that one sweep looks through; more can't be opened any more.
const MAX_PAGES: usize = 40;

/// How far a sweep came.
pub enum Reached {
    /// All open alerts up to this tenant have an end; with none, those of all tenants.
    Tenant(Option<TenantId>),
    /// There are more of the first tenant. Those that have an end now are not looked at again.
    Within,
}

/// Goes on after a tenant, as long as there is time.
pub async fn look(
    core: &Core,
    after: Option<&TenantId>,
    within: &Within,
) -> Result<Reached, ServiceError> {
    let tenants = core.tenants().after(after, TENANTS_A_CALL).await?;
    let all = tenants.len() < TENANTS_A_CALL;
    let (mut ended, mut last) = (0, None);
    for tenant in tenants {
        ended += end(core, &tenant, MAX_ENDED - ended, within).await?;
        if ended >= MAX_ENDED || within.is_over() {
            return Ok(last.map_or(Reached::Within, |last| Reached::Tenant(Some(last))));
        }
        last = Some(tenant);
    }
    Ok(Reached::Tenant(last.filter(|_| !all)))
}

/// Gives an end to so many of a tenant's alerts that have none. Answers how many it did.
async fn end(
    core: &Core,
    tenant: &TenantId,
    most: usize,
    within: &Within,
) -> Result<usize, ServiceError> {
    let book = StoredAlerts::new(core.clone());
    let (mut ended, mut cursor) = (0, None);
    for _ in 0..MAX_PAGES {
        let query = Query {
            list: WhichList::Second,
            partition: repo::open_alerts_list(tenant),
            range: ListRange::default(),
            descending: false,
            limit: PAGE,
            cursor,
        };
        let page = core.store().query(query).await?;
        let items = core.context().get_readable(&page.entries).await?;
        for item in items.iter().flatten().filter(|item| item.due.is_none()) {
            match book.end_if_untouched(item).await {
                Ok(_) => ended += 1,
                // The others must not wait for it; the next day's round comes to it again.
                Err(error) => {
                    tracing::error!(key = %item.key, "{} gets no end: {error}", item.key);
                }
            }
            if ended >= most || within.is_over() {
                return Ok(ended);
            }
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    Ok(ended)
}
