//! Handles open alerts that were stored without a due time: ends those untouched for long and
//! sets the due time of the others. They are due nowhere, so they are found through the lists of
//! open alerts.

use watchbill_alerts::StoredAlerts;
use watchbill_core::ports::{ListRange, Query, WhichList};
use watchbill_core::repo;
use watchbill_core::service::{Core, ServiceError, TENANTS_A_CALL};
use watchbill_domain::TenantId;

use crate::turn::Deadline;

/// Alerts read at once.
const PAGE_SIZE: usize = 100;
/// Alerts updated per sweep, each with one write. The next sweep continues.
const MAX_ENDED: usize = 200;
/// Pages of a tenant's open alerts read per sweep; a tenant can't have more.
const MAX_PAGES: usize = 40;

/// How far a sweep got.
pub enum Progress {
    /// All open alerts up to this tenant are done; `None`: those of all tenants.
    Tenant(Option<TenantId>),
    /// The first tenant has more. Alerts that have a due time now are skipped next time.
    Within,
}

/// Continues after a tenant, as long as there is time.
pub async fn look(
    core: &Core,
    after: Option<&TenantId>,
    within: &Deadline,
) -> Result<Progress, ServiceError> {
    let tenants = core.tenants().after(after, TENANTS_A_CALL).await?;
    let all = tenants.len() < TENANTS_A_CALL;
    let (mut ended, mut last) = (0, None);
    for tenant in tenants {
        ended += end(core, &tenant, MAX_ENDED - ended, within).await?;
        if ended >= MAX_ENDED || within.is_over() {
            return Ok(last.map_or(Progress::Within, |last| Progress::Tenant(Some(last))));
        }
        last = Some(tenant);
    }
    Ok(Progress::Tenant(last.filter(|_| !all)))
}

/// Ends or schedules up to `most` of a tenant's alerts without a due time. Returns how many.
async fn end(
    core: &Core,
    tenant: &TenantId,
    most: usize,
    within: &Deadline,
) -> Result<usize, ServiceError> {
    let alerts = StoredAlerts::new(core.clone());
    let (mut ended, mut cursor) = (0, None);
    for _ in 0..MAX_PAGES {
        let query = Query {
            list: WhichList::Second,
            partition: repo::open_alerts_list(tenant),
            range: ListRange::default(),
            descending: false,
            limit: PAGE_SIZE,
            cursor,
        };
        let page = core.store().query(query).await?;
        let items = core.context().get_readable(&page.entries).await?;
        for item in items.iter().flatten().filter(|item| item.due.is_none()) {
            match alerts.end_if_untouched(item).await {
                Ok(_) => ended += 1,
                // The others must not wait for it; the next day's round retries it.
                Err(error) => {
                    tracing::error!(key = %item.key, %error, "an alert can't be ended");
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
