//! The bundle's own tasks, as evidence.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::ports::{ListRange, Query, WhichList};
use watchbill_core::repo;
use watchbill_core::service::{Core, FullTask, TaskFilter};
use watchbill_domain::{Status, TenantId, Timestamp};

use crate::evidence::{CappedCount, TaskSummary};
use crate::port_error::{PortError, port_error};

/// Recent tasks of this bundle.
#[async_trait]
pub trait History: Send + Sync {
    /// Tasks created or finished between the two times, newest first. With `status`, only those
    /// with that status.
    async fn recent_tasks(
        &self,
        tenant: &TenantId,
        from: Timestamp,
        to: Timestamp,
        status: Option<Status>,
        limit: usize,
    ) -> Result<Vec<TaskSummary>, PortError>;

    /// How many tasks created since then have failed. Reads only an index.
    async fn failed_since(
        &self,
        tenant: &TenantId,
        from: Timestamp,
    ) -> Result<CappedCount, PortError>;
}

/// Tasks read in search of recent ones. Each is read whole, and reads are charged where the
/// store is a paid service.
const MAX_TASKS_READ: usize = 100;
/// Keys read to count the failed tasks.
const MAX_COUNTED: usize = 100;
const PAGE_SIZE: usize = 50;
/// Lists are ordered by creation. A task created this long before `from` rarely finishes within
/// the requested time, and is not read.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

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
        // Each status has a list of its own, usually a short one. Tasks created long before are
        // not read at all, because reads are charged where the store is a paid service.
        let filter =
            TaskFilter { status, created_from: Some(from.minus(MAX_AGE)), ..TaskFilter::default() };
        let mut found = Vec::new();
        let mut cursor = None;
        for _ in 0..MAX_TASKS_READ / PAGE_SIZE {
            let page = self
                .core
                .tasks()
                .list(tenant, &filter, PAGE_SIZE, cursor)
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

    async fn failed_since(
        &self,
        tenant: &TenantId,
        from: Timestamp,
    ) -> Result<CappedCount, PortError> {
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
        Ok(CappedCount { count: page.entries.len(), more: page.next.is_some() })
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
