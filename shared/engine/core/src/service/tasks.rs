//! What is asked of tasks: lists, and what callers and people do to them.

use std::iter::Peekable;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use serde_json::Value;

use super::approvals::waits_for;
use super::bodies::listed_bytes;
use super::core::{CommandError, Core};
use super::cursor::cursors::TASKS;
use super::execute::{CommandBuilder, CommandWithWrites};
use super::external::{ExternalChange, outside_owner};
use super::store_list::{InList, StoreList};
use super::walk::Walk;
use super::weight::Room;
use super::{FullTask, Identity, Listed, NewTask, ServiceError, StatusChange};
use super::{StatusSet, TaskFilter, WorkerClaim};
use crate::decide::{ApprovalCommand, Claimant, Command, Ending, Rejection, decide_approval};
use crate::offload::SMALL;
use crate::ports::{Expect, ListCursor, ListRange, WhichList, Write};
use crate::repo::{self, StoredTask, Versioned, decode, encode};
use watchbill_domain::{
    Approval, Caller, Earned, ReputationEvent, Role, Status, Task, TaskId, TenantId,
};
use watchbill_redact as redact;

/// Tasks of a list whose bodies are loaded at once.
const GROUP: usize = 16;

impl Core {
    /// Newest first. A page ends at its limit, at its bytes, or where one call has looked far
    /// enough: then it may be empty, and its cursor goes on.
    pub async fn tasks(
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
        let (room, entries) = (Room::of_page(), Vec::new());
        let mut page = TaskPage { limit, room, entries, unreadable: 0 };
        let mut walk = Walk::of_items(&**self.clock());
        loop {
            let chunk = list.chunk(self, last.as_ref()).await?;
            walk.read_many(chunk.items.len(), chunk.bytes);
            let (core, filter) = (self.clone(), filter.clone());
            let much = chunk.bytes > SMALL;
            let (wanted, unreadable) =
                self.offload().run_if(much, move |_| decoded(&core, chunk.items, &filter)).await?;
            let mut wanted = wanted.into_iter().peekable();
            // Of those before a page's end in this chunk; the next page begins behind that.
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

    /// What a worker outside may claim: the filter's own first, then those that are blocked because
    /// nobody here does their agent's work. A page that is full of the former leaves the latter to
    /// the next look.
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
        // Of an agent that nobody here works for and none of whose types is left outside, no task is
        // ever assigned: to look for one would be to walk over all tasks of the tenant.
        let none_assigned = filter.agent.is_some_and(|agent| self.rules().leaves_to_nobody(agent));
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

    /// Headers with what stands beside them.
    async fn load_listed(
        &self,
        group: Vec<(StoredTask, WantedAt)>,
    ) -> Result<Vec<(FullTask, WantedAt)>, ServiceError> {
        let load = async |(stored, at)| Ok((self.listed_task(stored).await?, at));
        try_join_all(group.into_iter().map(load)).await
    }

    /// The list that holds the fewest tasks besides the wanted ones.
    fn best_list(
        &self,
        tenant: &TenantId,
        filter: &TaskFilter,
    ) -> (WhichList, std::sync::Arc<str>) {
        let rules = self.rules();
        match (filter.status, filter.agent) {
            (Some(status @ (Status::Pending | Status::Blocked | Status::Failed)), _) => {
                (WhichList::Second, repo::attention_list(tenant, status))
            }
            // Of an agent that has some types run here, the list lacks those.
            (Some(Status::Assigned), Some(agent))
                if rules.external.contains(&agent)
                    || filter.task_type.is_some_and(|of| rules.external_types.contains(&of)) =>
            {
                (WhichList::Second, repo::outside_list(tenant, agent))
            }
            _ => (WhichList::First, repo::tasks_list(tenant)),
        }
    }

    /// A worker's or caller's word on a task's status.
    pub async fn set_status(
        &self,
        caller: &Caller,
        id: &TaskId,
        change: StatusChange,
    ) -> Result<FullTask, ServiceError> {
        let set = self.set_status_as(caller, id, change, WorkerClaim::default()).await?;
        Ok(set.task)
    }

    /// The same of one of the workers that share the caller's key.
    pub async fn set_status_as(
        &self,
        caller: &Caller,
        id: &TaskId,
        change: StatusChange,
        of: WorkerClaim,
    ) -> Result<StatusSet, ServiceError> {
        let reason = change.error.map(|error| redact::text(&error).into_owned());
        let mut result = None;
        let ending = match change.status {
            Status::Cancelled => return self.cancel_as(caller, id, reason, of.fence).await,
            Status::InProgress => None,
            Status::Completed => {
                // What it did may be shown and sent from here on.
                let mut object = change.result.unwrap_or_default();
                redact::object(&mut object);
                let placed = self.place_result(&caller.tenant, id, &object)?;
                let ending = Ending::Succeeded { result: placed.body.clone() };
                result = Some(placed);
                Some(ending)
            }
            Status::Failed => {
                let error = reason.unwrap_or_else(|| "failed, no reason given".to_owned());
                Some(Ending::FailedForGood { error })
            }
            Status::Blocked => {
                let reason = reason.unwrap_or_else(|| "blocked, no reason given".to_owned());
                Some(Ending::Blocked { reason, question: None })
            }
            status @ (Status::Pending | Status::Assigned) => {
                let message = format!(
                    "no caller sets a task to {status}; use /retry or /answer to put it back to work"
                );
                return Err(ServiceError::Conflict { message });
            }
        };
        let state = self.stored_task(&caller.tenant, id).await?.ok_or_else(|| not_found(id))?;
        let change = ExternalChange {
            by: Claimant { owner: outside_owner(caller), worker: of.worker, fence: of.fence },
            ending,
            result,
            may_have_approved: (self.rules().agents_approve && caller.role == Role::Agent)
                .then(|| caller.name.clone()),
            withheld: Mutex::new(None),
        };
        let set = self.execute_with_writes(state, &change).await;
        let fence = set.map_err(|error| error.into_service(id))?.value.fence;
        match change.withheld.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(StatusSet { task: self.task(&caller.tenant, id).await?, fence }),
            Some(why) => Err(ServiceError::Conflict { message: format!("task '{id}': {why}") }),
        }
    }

    pub async fn cancel_task(
        &self,
        caller: &Caller,
        id: &TaskId,
        reason: Option<String>,
    ) -> Result<FullTask, ServiceError> {
        Ok(self.cancel_as(caller, id, reason, None).await?.task)
    }

    async fn cancel_as(
        &self,
        caller: &Caller,
        id: &TaskId,
        reason: Option<String>,
        fence: Option<u64>,
    ) -> Result<StatusSet, ServiceError> {
        let state = self.stored_task(&caller.tenant, id).await?.ok_or_else(|| not_found(id))?;
        let cancel = Cancel { by: caller.name.clone(), reason, fence };
        let set = self.execute_with_writes(state, &cancel).await;
        let fence = set.map_err(|error| error.into_service(id))?.value.fence;
        Ok(StatusSet { task: self.task(&caller.tenant, id).await?, fence })
    }

    /// The write that closes the open approval of a task, where it has one.
    async fn close_approval(
        &self,
        state: &StoredTask,
        command: &ApprovalCommand,
    ) -> Result<Vec<Write>, ServiceError> {
        let Some(open) =
            state.value.approval.as_ref().filter(|open| waits_for(&state.value, &open.id))
        else {
            return Ok(Vec::new());
        };
        let Some(item) =
            self.store().get(&repo::approval_key(&state.value.tenant, &open.id)).await?
        else {
            return Ok(Vec::new());
        };
        let stored: Versioned<Approval> = decode(&item)?;
        let now = self.clock().now();
        let Ok(closed) = decide_approval(&stored.value, command, now, self.rules()) else {
            return Ok(Vec::new());
        };
        let item = encode(&closed, stored.unknown.as_deref());
        Ok(vec![Write::Put { item, expect: Expect::Version(stored.version) }])
    }

    /// Tries again: at once what waits for a next try or for a person; of a task that has
    /// failed or was cancelled a new one is made, because what has ended stays ended.
    pub async fn retry_task(&self, caller: &Caller, id: &TaskId) -> Result<FullTask, ServiceError> {
        let command = Command::RetryNow { by: caller.name.clone() };
        match self.command(&caller.tenant, id, &command).await {
            Ok(_) => self.task(&caller.tenant, id).await,
            Err(CommandError::Rejected {
                rejection: Rejection::Illegal { status: Status::Failed | Status::Cancelled, .. },
                ..
            }) => self.retry_ended(caller, id).await,
            Err(error) => Err(error.into_service(id)),
        }
    }

    async fn retry_ended(&self, caller: &Caller, id: &TaskId) -> Result<FullTask, ServiceError> {
        let ended = self.task(&caller.tenant, id).await?;
        let mut metadata = ended.task.metadata.clone();
        metadata.insert("retry_of".into(), Value::from(id.as_str()));
        let new = NewTask {
            tenant: caller.tenant.clone(),
            task_type: ended.task.task_type,
            priority: ended.task.priority,
            source: ended.task.source.clone(),
            payload: ended.payload,
            metadata,
            sla_target: None,
            sla_deadline: None,
            parent: ended.task.parent.clone(),
            trace_id: Some(ended.task.trace_id.clone()),
            max_retries: Some(ended.task.max_retries),
            created_by: caller.name.clone(),
            also_requested_by: requesters(caller, &ended.task),
            // One retry of a task, however often it is asked for; the next is of the retry.
            identity: Identity::Retry {
                of: id.clone(),
                failure_counted: failure_has_counted(&ended.task),
            },
            hops: ended.task.hops,
        };
        Ok(self.create_task(new).await?.task)
    }

    pub async fn answer_task(
        &self,
        caller: &Caller,
        id: &TaskId,
        answer: String,
    ) -> Result<FullTask, ServiceError> {
        let command = Command::Answer { by: caller.name.clone(), answer };
        self.command(&caller.tenant, id, &command).await.map_err(|e| e.into_service(id))?;
        self.task(&caller.tenant, id).await
    }
}

/// Cancels a task, and closes the approval that it waits for.
struct Cancel {
    by: String,
    reason: Option<String>,
    fence: Option<u64>,
}

#[async_trait]
impl CommandBuilder for Cancel {
    async fn build(
        &self,
        core: &Core,
        state: &StoredTask,
    ) -> Result<CommandWithWrites, CommandError> {
        let (by, reason) = (self.by.clone(), self.reason.clone());
        let close = ApprovalCommand::Close { by: by.clone(), reason: reason.clone() };
        let extra_writes = core.close_approval(state, &close).await?;
        let command = Command::Cancel { by, reason, fence: self.fence };
        Ok(CommandWithWrites { command, extra_writes })
    }
}

/// Who asked for a task that is tried again as another one, the first of them first.
fn requesters(caller: &Caller, ended: &Task) -> Vec<String> {
    let first = std::iter::once(&ended.created_by).chain(&ended.also_requested_by);
    first.chain(&caller.made_by).cloned().collect()
}

/// Whether it has failed and that has cost its agent points, here or in a task that it is the
/// retry of.
fn failure_has_counted(task: &Task) -> bool {
    let failure = |earned: &Earned| earned.0 == ReputationEvent::TaskFailure;
    let counted = task.outcome.iter().any(|outcome| outcome.reputation.iter().any(failure));
    task.failure_counted || (task.status == Status::Failed && counted)
}

fn not_found(id: &TaskId) -> ServiceError {
    ServiceError::NotFound { what: "task", id: id.to_string() }
}

/// A page in the making.
struct TaskPage {
    limit: usize,
    room: Room,
    entries: Vec<FullTask>,
    unreadable: usize,
}

/// Where a wanted task stands in its list.
struct WantedAt {
    /// The place behind it.
    place: ListCursor,
    /// So many of its chunk that stand before it can't be read.
    unreadable: usize,
}

impl TaskPage {
    /// The next few whose bodies fit together, by what their headers say; one at least.
    fn next_group(
        &self,
        wanted: &mut Peekable<impl Iterator<Item = (StoredTask, WantedAt)>>,
    ) -> Vec<(StoredTask, WantedAt)> {
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

    /// False where there is no room for it.
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

/// The wanted ones of a chunk, and how many of it can't be read.
fn decoded(
    core: &Core,
    items: Vec<InList>,
    filter: &TaskFilter,
) -> Result<(Vec<(StoredTask, WantedAt)>, usize), ServiceError> {
    let (mut wanted, mut unreadable) = (Vec::new(), 0);
    for item in items {
        let read = match item {
            InList::Item(item, place) => {
                core.past_unreadable(decode::<Task>(&item))?.map(|stored| (stored, place))
            }
            InList::Gone => continue,
            InList::Unreadable => None,
        };
        match read {
            Some((stored, place)) if fits(&stored.value, filter) => {
                wanted.push((stored, WantedAt { place, unreadable }));
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
