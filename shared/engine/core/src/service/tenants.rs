//! The list of tenants.

use watchbill_domain::TenantId;

use super::{Context, Keys, ServiceError};
use crate::ports::{ListRange, Query, WhichList};
use crate::repo;

/// Lists tenants. Cheap to clone.
#[derive(Clone)]
pub struct Tenants {
    context: Context,
    keys: Keys,
}

impl Tenants {
    pub(super) fn new(context: Context, keys: Keys) -> Self {
        Self { context, keys }
    }

    /// Whether a tenant has, or had, anything here: a key, or anything recorded.
    pub async fn exists(&self, tenant: &TenantId) -> Result<bool, ServiceError> {
        if !self.keys.list(tenant, 1, None).await?.keys.is_empty() {
            return Ok(true);
        }
        let fold = repo::fold_key(tenant, repo::STATS_FOLD);
        Ok(self.context.store().get(&fold).await?.is_some())
    }

    /// Up to `limit` tenants that come after one, in order of their names.
    pub async fn after(
        &self,
        after: Option<&TenantId>,
        limit: usize,
    ) -> Result<Vec<TenantId>, ServiceError> {
        // The next possible text after a name is the name followed by the smallest character.
        let from = after.map(|tenant| format!("{tenant}\0").into());
        let mut tenants = Vec::new();
        let mut cursor = None;
        loop {
            let query = Query {
                list: WhichList::First,
                partition: repo::TENANTS.into(),
                range: ListRange { from: Clone::clone(&from), to: None },
                descending: false,
                limit: limit - tenants.len(),
                cursor,
            };
            let page = self.context.store().query(query).await?;
            for key in &page.entries {
                match repo::tenant_of(key) {
                    Some(tenant) => tenants.push(tenant),
                    None => {
                        tracing::error!(%key, "skipping a tenant list entry that names no tenant");
                    }
                }
            }
            if page.next.is_none() || tenants.len() >= limit {
                return Ok(tenants);
            }
            cursor = page.next;
        }
    }
}
