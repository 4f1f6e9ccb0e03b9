//! The bundle's own tasks, as evidence.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::ports::{ListRange, Query, WhichList};
use watchbill_core::repo;
use watchbill_core::service::{Core, FullTask, TaskFilter};
use watchbill_domain::{Status, TenantId, Timestamp};

use crate::evidence::{Counted, TaskSummary};
use crate::port_error::{PortError, port_error};

/// What this bundle did lately.
#[async_trait]
pub trait History: Send + Sync {
    /// Tasks created or finished between the two, newest first; those with a status only, if
    /// one is asked for.
    async fn recent_tasks(
        &self,
        tenant: &TenantId,
        from: Timestamp,
        to: Timestamp,
        status: Option<Status>,
        limit: usize,
    ) -> Result<Vec<TaskSummary>, PortError>;

    /// How many tasks that were made since then have failed; read from an index alone.
    async fn failed_since(&self, tenant: &TenantId, from: Timestamp) -> Result<Counted, PortError>;
}

/// Tasks looked at in search of recent ones: each is read whole, and reading costs money where
/// the store is rented.
const LOOK_AT: usize = 100;
/// Keys that are read to say how many have failed.
const MAX_COUNTED: usize = 100;
const PAGE: usize = 50;
/// Lists are ordered by creation; what was made so long before rarely ends within the time
/// asked for, and is not reached.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The bundle's own tasks.
pub struct TaskHistory {
    core: Core,
}

impl TaskHistory {
    pub fn new(core: Core) -> Self {
        Self { core }
    }
}

#[async_trait]
impl History for TaskHistory {
    async fn recent_tasks(
        &self,
        tenant: &TenantId,
        from: Timestamp,
        to: Timestamp,
        status: Option<Status>,
        limit: usize,
    ) -> Result<Vec<TaskSummary>, PortError> {
        // By status there is a list of its own, mostly a short one; and what was made long
        // before is not read at all, because reading costs money where the store is rented.
        let filter =
            TaskFilter { status, created_from: Some(from.minus(LONGEST)), ..TaskFilter::default() };
        let mut found = Vec::new();
        let mut cursor = None;
        for _ in 0..LOOK_AT / PAGE {
            let page = self
                .core
                .tasks()
                .list(tenant, &filter, PAGE, cursor)
                .await
                .map_err(|error| port_error("the list of tasks", error))?;
            let within = |at: Timestamp| from <= at && at <= to;
            let recent = page.entries.into_iter().filter(|full| {
                within(full.task.created_at) || full.task.finished_at.is_some_and(within)
            });
            found.extend(recent.map(summary));
            cursor = page.next;
            if cursor.is_none() || found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn failed_since(&self, tenant: &TenantId, from: Timestamp) -> Result<Counted, PortError> {
        let query = Query {
            list: WhichList::Second,
            partition: repo::attention_list(tenant, Status::Failed),
            range: ListRange { from: Some(from.sortable().into()), to: None },
            descending: true,
            limit: MAX_COUNTED,
            cursor: None,
        };
        let page = self.core.store().query(query).await;
        let page = page.map_err(|error| port_error("the list of tasks", error.into()))?;
        Ok(Counted { count: page.entries.len(), more: page.next.is_some() })
    }
}

fn summary(full: FullTask) -> TaskSummary {
    TaskSummary {
        title: full.task.title(),
        task_id: full.task.id,
        task_type: full.task.task_type,
        status: full.task.status,
        created_at: full.task.created_at,
        finished_at: full.task.finished_at,
        error: full.task.error,
        result: full.result,
    }
}
