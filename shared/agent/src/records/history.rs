use async_trait::async_trait;
use watchbill_core::domain::{TenantId, Timestamp};
use watchbill_core::service::{Core, FullTask, TaskFilter};

use super::port_error;
use crate::ports::{History, PortError, TaskSummary};

/// Tasks looked at in search of recent ones. Older ones are not reached: lists are ordered
/// by creation, and what was made long ago rarely ends now.
const LOOK_AT: usize = 500;

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
        limit: usize,
    ) -> Result<Vec<TaskSummary>, PortError> {
        let mut found = Vec::new();
        let mut cursor = None;
        for _ in 0..LOOK_AT / 100 {
            let page = self
                .core
                .tasks(tenant, &TaskFilter::default(), 100, cursor)
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
