//! Lists approvals, and decides them together with their tasks.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use watchbill_domain::{
    Approval, ApprovalId, ApprovalStatus, Caller, Role, Status, Task, TenantId, Timestamp,
};

use super::cursor::cursors::{HISTORY, PENDING};
use super::records::SYSTEM;
use super::store_list::{InList, StoreList};
use super::walk::StoreWalk;
use super::weight::{FIELDS, PageRoom};
use super::{
    CommandBuilder, CommandError, CommandWithWrites, Context, FullApproval, Listed, ServiceError,
    Tasks,
};
use crate::decide::{ApprovalCommand, ApprovalRejection, Command, decide_approval};
use crate::ports::{ListRange, Precondition, WhichList, Write};
use crate::repo::{self, StoredTask, UsedLink, Versioned, decode, encode};

/// How long a used link is remembered after its expiry: clocks may differ.
const KEEP_USED: Duration = Duration::from_secs(24 * 60 * 60);

/// A link used for a decision, verified by the caller that received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkUse {
    pub nonce: String,
    pub plan_hash: String,
    /// The recipient of the link, who counts as the decider.
    pub to: String,
    pub expires: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkDecision {
    Approve,
    Reject { reason: Option<String> },
}

/// Lists approvals, and decides them together with their tasks. Cheap to clone.
#[derive(Clone)]
pub struct Approvals {
    context: Context,
    tasks: Tasks,
}

pub(super) async fn stored_approval(
    context: &Context,
    tenant: &TenantId,
    id: &ApprovalId,
) -> Result<Versioned<Approval>, ServiceError> {
    let found = context.load(&repo::approval_key(tenant, id)).await?;
    found.ok_or_else(|| ServiceError::NotFound { what: "approval", id: id.to_string() })
}

impl Approvals {
    pub(super) fn new(context: Context, tasks: Tasks) -> Self {
        Self { context, tasks }
    }

    pub async fn get(
        &self,
        tenant: &TenantId,
        id: &ApprovalId,
    ) -> Result<FullApproval, ServiceError> {
        let stored = stored_approval(&self.context, tenant, id).await?;
        Ok(FullApproval { approval: stored.value, version: stored.version })
    }

    pub async fn pending(
        &self,
        tenant: &TenantId,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Listed<FullApproval>, ServiceError> {
        let list = (WhichList::Second, repo::open_approvals_list(tenant));
        let list = StoreList::new(PENDING, tenant, list, ListRange::default());
        self.list_approvals(&list, limit, cursor, |_| true).await
    }

    /// The decided approvals, newest first.
    pub async fn history(
        &self,
        tenant: &TenantId,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Listed<FullApproval>, ServiceError> {
        let decided = |approval: &Approval| approval.status != ApprovalStatus::Pending;
        let list = (WhichList::First, repo::approvals_list(tenant));
        let list = StoreList::new(HISTORY, tenant, list, ListRange::default());
        self.list_approvals(&list, limit, cursor, decided).await
    }

    /// A page ends at its limit, at its size in bytes, or at the limit of one call's walk.
    async fn list_approvals(
        &self,
        list: &StoreList,
        limit: usize,
        cursor: Option<String>,
        wanted: impl Fn(&Approval) -> bool,
    ) -> Result<Listed<FullApproval>, ServiceError> {
        let mut last = list.open(cursor)?;
        let (mut walk, mut room) =
            (StoreWalk::of_items(&**self.context.clock()), PageRoom::of_page());
        let (mut entries, mut unreadable) = (Vec::new(), 0);
        loop {
            let chunk = list.chunk(&self.context, last.as_ref()).await?;
            walk.read_many(chunk.items.len(), chunk.bytes);
            let mut items = chunk.items.into_iter().peekable();
            // Unreadable items before the last position reached; the next page begins after it.
            let mut skipped = 0;
            while let Some(item) = items.next() {
                let read = match item {
                    InList::Item(item, place) => self
                        .context
                        .past_unreadable(decode::<Approval>(&item))?
                        .map(|stored: Versioned<Approval>| (stored, place, item.body.len())),
                    InList::Gone => continue,
                    InList::Unreadable => None,
                };
                let Some((stored, place, bytes)) = read else {
                    skipped += 1;
                    continue;
                };
                if wanted(&stored.value) {
                    // The response contains the stored texts, so it is about as large.
                    if !room.takes(FIELDS + bytes) {
                        let next = last.map(|last| list.seal(&last));
                        return Ok(Listed { entries, next, unreadable });
                    }
                    entries.push(FullApproval { approval: stored.value, version: stored.version });
                }
                unreadable += std::mem::take(&mut skipped);
                if entries.len() == limit {
                    let more = items.peek().is_some() || chunk.next.is_some();
                    let next = more.then(|| list.seal(&place));
                    return Ok(Listed { entries, next, unreadable });
                }
                last = Some(place);
            }
            unreadable += skipped;
            let next = chunk.next.as_ref().filter(|_| walk.is_over()).map(|next| list.seal(next));
            if next.is_some() || chunk.next.is_none() {
                return Ok(Listed { entries, next, unreadable });
            }
            last = chunk.next;
        }
    }

    pub async fn approve(
        &self,
        caller: &Caller,
        id: &ApprovalId,
    ) -> Result<FullApproval, ServiceError> {
        self.demand_decider(caller, id).await?;
        let command = |approval: &Approval| ApprovalCommand::Approve {
            by: caller.name.clone(),
            made_by: caller.made_by.clone(),
            own: approval.is_requested_by(&caller.person()),
        };
        self.decide_approval(&caller.tenant, id, &command, None).await
    }

    pub async fn reject(
        &self,
        caller: &Caller,
        id: &ApprovalId,
        reason: Option<String>,
    ) -> Result<FullApproval, ServiceError> {
        self.demand_decider(caller, id).await?;
        let command = |_: &Approval| ApprovalCommand::Reject {
            by: caller.name.clone(),
            reason: reason.clone(),
        };
        self.decide_approval(&caller.tenant, id, &command, None).await
    }

    /// Agents may decide only where the rules allow it, and never on what they submitted:
    /// `approve_own` is for an installation with one person.
    async fn demand_decider(&self, caller: &Caller, id: &ApprovalId) -> Result<(), ServiceError> {
        let forbidden = |message: String| Err(ServiceError::Forbidden { message });
        if caller.role != Role::Agent {
            return Ok(());
        }
        if !self.context.rules().agents_approve {
            let name = &caller.name;
            return forbidden(format!(
                "'{name}' is an agent, and agents may not decide on approvals here; ask an \
                 approver, or set approvals.agents"
            ));
        }
        let stored = stored_approval(&self.context, &caller.tenant, id).await?;
        match stored.value.is_requested_by(&caller.person()) {
            true => forbidden(
                "an agent may not decide on its own tasks; ask a person or another agent"
                    .to_owned(),
            ),
            false => Ok(()),
        }
    }

    /// Decides by a link from a notification and uses it up: its mark is written in the same
    /// commit, so that a second click finds it, whatever the first response was.
    pub async fn decide_by_link(
        &self,
        tenant: &TenantId,
        id: &ApprovalId,
        link: &LinkUse,
        decision: LinkDecision,
    ) -> Result<FullApproval, ServiceError> {
        let command = |_: &Approval| match &decision {
            LinkDecision::Approve => ApprovalCommand::ApproveByLink { by: link.to.clone() },
            LinkDecision::Reject { reason } => {
                ApprovalCommand::Reject { by: link.to.clone(), reason: reason.clone() }
            }
        };
        self.decide_approval(tenant, id, &command, Some(link)).await
    }

    /// The write that uses a link up, if the link is valid for this approval as it is now.
    async fn use_link(
        &self,
        tenant: &TenantId,
        approval: &Approval,
        link: &LinkUse,
    ) -> Result<Write, ServiceError> {
        if let Some(used) = self.context.store().get(&repo::link_key(tenant, &link.nonce)).await? {
            let used: UsedLink = decode(&used)?.value;
            let message = format!(
                "this link was already used at {}; the approval is {}",
                used.at,
                approval.status.as_str()
            );
            return Err(ServiceError::Conflict { message });
        }
        if approval.plan_hash != link.plan_hash {
            let message = "this link is for another plan; wait for the next notice".to_owned();
            return Err(ServiceError::Conflict { message });
        }
        let used = UsedLink {
            tenant: tenant.clone(),
            nonce: link.nonce.clone(),
            approval: approval.id.clone(),
            by: link.to.clone(),
            at: self.context.clock().now(),
            expires: link.expires.plus(KEEP_USED),
        };
        Ok(Write::Put { item: encode(&used, None), expect: Precondition::Absent })
    }

    /// Whether a decision has used a link up.
    pub async fn is_link_used(&self, tenant: &TenantId, nonce: &str) -> Result<bool, ServiceError> {
        Ok(self.context.store().get(&repo::link_key(tenant, nonce)).await?.is_some())
    }

    /// Checks a due approval: escalates it at half of its time, and closes it and its task when
    /// its time is over. Returns `true` if this call did so.
    pub async fn escalate_or_expire(
        &self,
        tenant: &TenantId,
        id: &ApprovalId,
    ) -> Result<bool, ServiceError> {
        let command = |approval: &Approval| match self.context.clock().now() > approval.decide_by {
            true => ApprovalCommand::Expire,
            false => ApprovalCommand::Escalate,
        };
        match self.decide_approval(tenant, id, &command, None).await {
            Ok(_) => Ok(true),
            Err(ServiceError::Conflict { .. } | ServiceError::NotFound { what: "task", .. }) => {
                self.close_orphan(tenant, id).await
            }
            Err(error) => Err(error),
        }
    }

    /// Closes an approval that no task waits for, as earlier builds could leave behind. Returns
    /// `true` if it was one.
    async fn close_orphan(&self, tenant: &TenantId, id: &ApprovalId) -> Result<bool, ServiceError> {
        let stored = stored_approval(&self.context, tenant, id).await?;
        let task = self.tasks.stored(tenant, &stored.value.task_id).await?;
        if task.as_ref().is_some_and(|task| waits_for(&task.value, id)) {
            return Ok(false);
        }
        let command = ApprovalCommand::Close {
            by: SYSTEM.to_owned(),
            reason: Some("its task does not wait for it".to_owned()),
        };
        let now = self.context.clock().now();
        let Ok(closed) = decide_approval(&stored.value, &command, now, self.context.rules()) else {
            return Ok(false);
        };
        let item = encode(&closed, stored.unknown.as_deref());
        let expect = task.map_or(Precondition::Absent, |task| Precondition::Version(task.version));
        let writes = vec![
            Write::Put { item, expect: Precondition::Version(stored.version) },
            Write::Check { key: repo::task_key(tenant, &stored.value.task_id), expect },
        ];
        Ok(self.context.transact(writes).await?.is_ok())
    }

    /// Changes approval and task in one conditional commit: of two concurrent deciders the
    /// second finds the decision of the first.
    async fn decide_approval(
        &self,
        tenant: &TenantId,
        id: &ApprovalId,
        command: &(dyn Fn(&Approval) -> ApprovalCommand + Send + Sync),
        link: Option<&LinkUse>,
    ) -> Result<FullApproval, ServiceError> {
        let first = stored_approval(&self.context, tenant, id).await?;
        let task_id = first.value.task_id.clone();
        let task = self
            .tasks
            .stored(tenant, &task_id)
            .await?
            .ok_or_else(|| ServiceError::NotFound { what: "task", id: task_id.to_string() })?;
        let deciding = DecideApproval {
            approvals: self,
            id,
            command,
            link,
            first: Mutex::new(Some(first)),
            decided: Mutex::new(None),
        };
        self.tasks
            .execute_with_writes(task, &deciding)
            .await
            .map_err(|error| error.into_service(&task_id))?;
        let decided = deciding.decided.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(decided.expect("the commit follows the decision"))
    }
}

pub(super) fn waits_for(task: &Task, id: &ApprovalId) -> bool {
    matches!(task.status, Status::Pending | Status::Blocked)
        && task.approval.as_ref().is_some_and(|open| open.id == *id && open.proof.is_none())
}

struct DecideApproval<'a> {
    approvals: &'a Approvals,
    id: &'a ApprovalId,
    command: &'a (dyn Fn(&Approval) -> ApprovalCommand + Send + Sync),
    /// The link that is used for the decision and used up by it.
    link: Option<&'a LinkUse>,
    /// Read to find the task; serves the first attempt.
    first: Mutex<Option<Versioned<Approval>>>,
    decided: Mutex<Option<FullApproval>>,
}

#[async_trait]
impl CommandBuilder for DecideApproval<'_> {
    async fn build(&self, state: &StoredTask) -> Result<CommandWithWrites, CommandError> {
        let context = &self.approvals.context;
        let tenant = &state.value.tenant;
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let stored = match first {
            Some(first) => first,
            None => stored_approval(context, tenant, self.id).await?,
        };
        let mut extra_writes = Vec::new();
        if let Some(link) = self.link {
            extra_writes.push(self.approvals.use_link(tenant, &stored.value, link).await?);
        }
        let command = (self.command)(&stored.value);
        let next = decide_approval(&stored.value, &command, context.clock().now(), context.rules())
            .map_err(refused)?;
        if !waits_for(&state.value, self.id) {
            let message = format!(
                "task '{}' no longer waits for approval {}; it is {}",
                state.value.id, self.id, state.value.status
            );
            return Err(ServiceError::Conflict { message }.into());
        }
        let item = encode(&next, stored.unknown.as_deref());
        extra_writes.push(Write::Put { item, expect: Precondition::Version(stored.version) });
        let command = on_task(&command, &next);
        let decided = FullApproval { approval: next, version: stored.version + 1 };
        *self.decided.lock().unwrap_or_else(PoisonError::into_inner) = Some(decided);
        Ok(CommandWithWrites { command, extra_writes })
    }
}

/// The command that a decision on an approval implies for its task.
fn on_task(command: &ApprovalCommand, next: &Approval) -> Command {
    match command {
        ApprovalCommand::Approve { by, .. } | ApprovalCommand::ApproveByLink { by }
            if next.status == ApprovalStatus::Pending =>
        {
            let (have, need) = (next.votes.len(), next.quorum);
            Command::Vote { by: by.clone(), have, need }
        }
        ApprovalCommand::Escalate => Command::Escalate { decide_by: next.decide_by },
        ApprovalCommand::Approve { by, .. } | ApprovalCommand::ApproveByLink { by } => {
            Command::Approve {
                by: by.clone(),
                proof: next.plan_hash.clone(),
                use_by: next.use_by.unwrap_or(next.decide_by),
            }
        }
        ApprovalCommand::Reject { by, reason } => {
            Command::Reject { by: by.clone(), reason: reason.clone() }
        }
        ApprovalCommand::Expire => Command::Expire,
        ApprovalCommand::Close { by, reason } => {
            Command::Cancel { by: by.clone(), reason: reason.clone(), fence: None }
        }
    }
}

fn refused(rejection: ApprovalRejection) -> ServiceError {
    match rejection {
        ApprovalRejection::Own | ApprovalRejection::SharedLink { .. } => {
            ServiceError::Forbidden { message: rejection.to_string() }
        }
        other => ServiceError::Conflict { message: other.to_string() },
    }
}
