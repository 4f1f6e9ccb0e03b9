//! Lists of tasks.

use std::iter::Peekable;

use futures_util::future::try_join_all;
use watchbill_domain::{Status, Task, TenantId};

use super::Tasks;
use super::bodies::listed_bytes;
use crate::offload::SMALL;
use crate::ports::{ListCursor, ListRange, WhichList};
use crate::repo::{self, StoredTask, decode};
use crate::service::cursor::cursors::TASKS;
use crate::service::store_list::{InList, StoreList};
use crate::service::walk::StoreWalk;
use crate::service::weight::PageRoom;
use crate::service::{Context, FullTask, Listed, ServiceError, TaskFilter};

/// Tasks of a list whose bodies are loaded concurrently.
const GROUP: usize = 16;

impl Tasks {
    /// Newest first. A page ends at its limit, at its size in bytes, or at the limit of one
    /// call's walk: then it may be empty, and its cursor continues.
    pub async fn list(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Listed<FullTask>, ServiceError> {
        match filter.claimable {
            true => self.claimable_tasks(tenant, filter, limit, cursor).await,
            false => self.filtered_tasks(tenant, filter, limit, cursor).await,
        }
    }

    async fn filtered_tasks(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Listed<FullTask>, ServiceError> {
        let from = filter.created_from.map(|at| at.sortable().into());
        let range = ListRange { from, to: None };
        let (limit, list) = (limit.max(1), self.best_list(tenant, filter));
        let list = StoreList::new(TASKS, tenant, list, range);
        let mut last = list.open(cursor)?;
        let (room, entries) = (PageRoom::of_page(), Vec::new());
        let mut page = TaskPage { limit, room, entries, unreadable: 0 };
        let mut walk = StoreWalk::of_items(&**self.context.clock());
        loop {
            let chunk = list.chunk(&self.context, last.as_ref()).await?;
            walk.read_many(chunk.items.len(), chunk.bytes);
            let (context, filter) = (self.context.clone(), filter.clone());
            let much = chunk.bytes > SMALL;
            let (wanted, unreadable) = self
                .context
                .offload()
                .run_if(much, move |_| decoded(&context, chunk.items, &filter))
                .await?;
            let mut wanted = wanted.into_iter().peekable();
            // Unreadable items before a page's end in this chunk; the next page begins after it.
            let before = page.unreadable;
            while wanted.peek().is_some() {
                for (task, wanted_at) in self.load_listed(page.next_group(&mut wanted)).await? {
                    if !page.takes(task) {
                        return Ok(page.ended(last.map(|last| list.seal(&last))));
                    }
                    page.unreadable = before + wanted_at.unreadable;
                    last = Some(wanted_at.place);
                    if page.entries.len() == limit {
                        let more = wanted.peek().is_some() || chunk.next.is_some();
                        if !more {
                            page.unreadable = before + unreadable;
                        }
                        return Ok(page.ended(last.filter(|_| more).map(|last| list.seal(&last))));
                    }
                }
            }
            page.unreadable = before + unreadable;
            let Some(next) = chunk.next else { return Ok(page.ended(None)) };
            if walk.is_over() {
                return Ok(page.ended(Some(list.seal(&next))));
            }
            last = Some(next);
        }
    }

    /// What an external worker may claim: the filter's own matches first, then tasks blocked
    /// because no process of this build does their agent's work. A page filled by the former
    /// leaves the latter to the next call.
    async fn claimable_tasks(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Listed<FullTask>, ServiceError> {
        let assigned = TaskFilter { claimable: false, ..filter.clone() };
        let not_built =
            TaskFilter { status: Some(Status::Blocked), not_built: true, ..assigned.clone() };
        let list =
            StoreList::new(TASKS, tenant, self.best_list(tenant, &not_built), ListRange::default());
        if cursor.is_some() && list.open(cursor.clone()).is_ok() {
            return self.filtered_tasks(tenant, &not_built, limit, cursor).await;
        }
        // If no process of this build works for an agent and none of its types is external, none of
        // its tasks is ever assigned: searching for one would walk over all tasks of the tenant.
        let none_assigned =
            filter.agent.is_some_and(|agent| self.context.rules().leaves_to_nobody(agent));
        if none_assigned && cursor.is_none() {
            return self.filtered_tasks(tenant, &not_built, limit, None).await;
        }
        let mut page = self.filtered_tasks(tenant, &assigned, limit, cursor).await?;
        let room = limit.saturating_sub(page.entries.len());
        if page.next.is_some() || room == 0 {
            return Ok(page);
        }
        let more = self.filtered_tasks(tenant, &not_built, room, None).await?;
        page.entries.extend(more.entries);
        page.next = more.next;
        page.unreadable += more.unreadable;
        Ok(page)
    }

    /// Loads the bodies of these headers.
    async fn load_listed(
        &self,
        group: Vec<(StoredTask, ListPosition)>,
    ) -> Result<Vec<(FullTask, ListPosition)>, ServiceError> {
        let load = async |(stored, at)| Ok((self.listed_task(stored).await?, at));
        try_join_all(group.into_iter().map(load)).await
    }

    /// The list that holds the fewest unwanted tasks.
    fn best_list(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
    ) -> (WhichList, std::sync::Arc<str>) {
        let rules = self.context.rules();
        match (filter.status, filter.agent) {
            (Some(status @ (Status::Pending | Status::Blocked | Status::Failed)), _) => {
                (WhichList::Second, repo::attention_list(tenant, status))
            }
            // If only some types are external, the list lacks an agent's other tasks.
            (Some(Status::Assigned), Some(agent))
                if rules.external.contains(&agent)
                    || filter.task_type.is_some_and(|of| rules.external_types.contains(&of)) =>
            {
                (WhichList::Second, repo::outside_list(tenant, agent))
            }
            _ => (WhichList::First, repo::tasks_list(tenant)),
        }
    }
}

struct TaskPage {
    limit: usize,
    room: PageRoom,
    entries: Vec<FullTask>,
    unreadable: usize,
}

/// The position of a wanted task in its list.
struct ListPosition {
    /// The position after it.
    place: ListCursor,
    /// The number of unreadable items before it in its chunk.
    unreadable: usize,
}

impl TaskPage {
    /// The next few tasks whose bodies fit together, judged by their headers; at least one.
    fn next_group(
        &self,
        wanted: &mut Peekable<impl Iterator<Item = (StoredTask, ListPosition)>>,
    ) -> Vec<(StoredTask, ListPosition)> {
        let most = GROUP.min(self.limit - self.entries.len());
        let (mut group, mut bytes) = (Vec::new(), 0);
        while group.len() < most
            && let Some((stored, _)) = wanted.peek()
        {
            bytes += stored.value.payload.bytes() + listed_bytes(stored.value.result.as_ref());
            if !group.is_empty() && bytes > self.room.left() {
                break;
            }
            group.extend(wanted.next());
        }
        group
    }

    /// Returns `false` where there is no room for it.
    fn takes(&mut self, task: FullTask) -> bool {
        let fits = self.room.takes(task.weight());
        if fits {
            self.entries.push(task);
        }
        fits
    }

    fn ended(self, next: Option<String>) -> Listed<FullTask> {
        Listed { entries: self.entries, next, unreadable: self.unreadable }
    }
}

/// The wanted tasks of a chunk, and the number of its unreadable items.
fn decoded(
    context: &Context,
    items: Vec<InList>,
    filter: &TaskFilter,
) -> Result<(Vec<(StoredTask, ListPosition)>, usize), ServiceError> {
    let (mut wanted, mut unreadable) = (Vec::new(), 0);
    for item in items {
        let read = match item {
            InList::Item(item, place) => {
                context.past_unreadable(decode::<Task>(&item))?.map(|stored| (stored, place))
            }
            InList::Gone => continue,
            InList::Unreadable => None,
        };
        match read {
            Some((stored, place)) if fits(&stored.value, filter) => {
                wanted.push((stored, ListPosition { place, unreadable }));
            }
            Some(_) => {}
            None => unreadable += 1,
        }
    }
    Ok((wanted, unreadable))
}

fn fits(task: &Task, filter: &TaskFilter) -> bool {
    filter.status.is_none_or(|status| status == task.status)
        && filter.agent.is_none_or(|agent| agent == task.agent)
        && filter.task_type.is_none_or(|t| t == task.task_type)
        && filter.priority.is_none_or(|p| p == task.priority)
        && filter.source.as_ref().is_none_or(|s| *s == task.source)
        && filter.parent.as_ref().is_none_or(|p| Some(p) == task.parent.as_ref())
        && (!filter.not_built || task.not_built)
}
