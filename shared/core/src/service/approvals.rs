//! Approvals: listed, and decided together with their tasks.

use std::time::Duration;

use super::core::Core;
use super::cursor::cursors::{HISTORY, PENDING};
use super::store_list::StoreList;
use super::walk::Walk;
use super::weight::{FIELDS, Room};
use super::{FullApproval, ServiceError};
use crate::decide::{ApprovalCommand, ApprovalRejection, Command, decide_approval};
use crate::domain::{Approval, ApprovalId, ApprovalStatus, Caller, TenantId, Timestamp};
use crate::ports::{Expect, ListRange, Page, WhichList, Write};
use crate::repo::{self, UsedLink, Versioned, decode, encode};

/// How long a used link is remembered after it has run out: clocks may differ.
const KEEP_USED: Duration = Duration::from_secs(24 * 60 * 60);

/// A link that someone decides by, proved by whoever took it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkUse {
    pub nonce: String,
    pub plan_hash: String,
    /// To whom it was given: this is who decides.
    pub to: String,
    pub expires: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkDecision {
    Approve,
    Reject { reason: Option<String> },
}

impl Core {
    async fn stored_approval(
        &self,
        tenant: &TenantId,
        id: &ApprovalId,
    ) -> Result<Versioned<Approval>, ServiceError> {
        let item = self.store().get(&repo::approval_key(tenant, id)).await?;
        match item {
            Some(item) => Ok(decode(&item)?),
            None => Err(ServiceError::NotFound { what: "approval", id: id.to_string() }),
        }
    }

    pub async fn approval(
        &self,
        tenant: &TenantId,
        id: &ApprovalId,
    ) -> Result<FullApproval, ServiceError> {
        let stored = self.stored_approval(tenant, id).await?;
        Ok(FullApproval { approval: stored.value, version: stored.version })
    }

    pub async fn pending_approvals(
        &self,
        tenant: &TenantId,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<FullApproval>, ServiceError> {
        let list = (WhichList::Second, repo::open_approvals_list(tenant));
        let list = StoreList::new(PENDING, tenant, list, ListRange::default());
        self.list_approvals(&list, limit, cursor, |_| true).await
    }

    /// Those that are decided, newest first.
    pub async fn approval_history(
        &self,
        tenant: &TenantId,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<FullApproval>, ServiceError> {
        let decided = |approval: &Approval| approval.status != ApprovalStatus::Pending;
        let list = (WhichList::First, repo::approvals_list(tenant));
        let list = StoreList::new(HISTORY, tenant, list, ListRange::default());
        self.list_approvals(&list, limit, cursor, decided).await
    }

    /// A page ends at its limit, at its bytes, or where one call has looked far enough.
    async fn list_approvals(
        &self,
        list: &StoreList,
        limit: usize,
        cursor: Option<String>,
        wanted: impl Fn(&Approval) -> bool,
    ) -> Result<Page<FullApproval>, ServiceError> {
        let mut last = list.open(cursor)?;
        let (mut walk, mut room) = (Walk::of_items(&**self.clock()), Room::of_page());
        let mut entries = Vec::new();
        loop {
            let chunk = list.chunk(self, last.as_ref()).await?;
            walk.read_many(chunk.items.len(), chunk.bytes);
            let mut items = chunk.items.into_iter().flatten().peekable();
            while let Some((item, place)) = items.next() {
                let stored: Versioned<Approval> = decode(&item)?;
                if wanted(&stored.value) {
                    // What is shown has the texts of what is stored.
                    if !room.takes(FIELDS + item.body.len()) {
                        return Ok(Page { entries, next: last.map(|last| list.seal(&last)) });
                    }
                    entries.push(FullApproval { approval: stored.value, version: stored.version });
                }
                if entries.len() == limit {
                    let more = items.peek().is_some() || chunk.next.is_some();
                    let next = more.then(|| list.seal(&place));
                    return Ok(Page { entries, next });
                }
                last = Some(place);
            }
            let Some(next) = chunk.next else { return Ok(Page { entries, next: None }) };
            if walk.is_over() {
                return Ok(Page { entries, next: Some(list.seal(&next)) });
            }
            last = Some(next);
        }
    }

    pub async fn approve(
        &self,
        caller: &Caller,
        id: &ApprovalId,
    ) -> Result<FullApproval, ServiceError> {
        let stored = self.stored_approval(&caller.tenant, id).await?;
        let own = stored.value.requested_by == caller.name;
        let command = ApprovalCommand::Approve { by: caller.name.clone(), own };
        self.decide_on(stored, &command, Vec::new()).await
    }

    pub async fn reject(
        &self,
        caller: &Caller,
        id: &ApprovalId,
        reason: Option<String>,
    ) -> Result<FullApproval, ServiceError> {
        let stored = self.stored_approval(&caller.tenant, id).await?;
        let command = ApprovalCommand::Reject { by: caller.name.clone(), reason };
        self.decide_on(stored, &command, Vec::new()).await
    }

    /// Decides by a link from a notification, which is used up by it: its mark stands in the
    /// commit of the decision, so that a second click finds it, however the first one went on.
    pub async fn decide_by_link(
        &self,
        tenant: &TenantId,
        id: &ApprovalId,
        link: &LinkUse,
        decision: LinkDecision,
    ) -> Result<FullApproval, ServiceError> {
        let stored = self.stored_approval(tenant, id).await?;
        if let Some(used) = self.store().get(&repo::link_key(tenant, &link.nonce)).await? {
            let used: UsedLink = decode(&used)?.value;
            let message = format!(
                "this link was used already, at {}; the approval is {}",
                used.at,
                stored.value.status.as_str()
            );
            return Err(ServiceError::Conflict { message });
        }
        if stored.value.plan_hash != link.plan_hash {
            let message = "this link is for another plan; wait for the next notice".to_owned();
            return Err(ServiceError::Conflict { message });
        }
        let by = link.to.clone();
        let command = match decision {
            LinkDecision::Approve => {
                let own = stored.value.requested_by == by;
                ApprovalCommand::Approve { by, own }
            }
            LinkDecision::Reject { reason } => ApprovalCommand::Reject { by, reason },
        };
        let used = UsedLink {
            tenant: tenant.clone(),
            nonce: link.nonce.clone(),
            approval: id.clone(),
            by: link.to.clone(),
            at: self.clock().now(),
            expires: link.expires.plus(KEEP_USED),
        };
        let item = encode(&used, None);
        self.decide_on(stored, &command, vec![Write::Put { item, expect: Expect::Absent }]).await
    }

    /// Whether a decision has used a link up.
    pub async fn is_link_used(&self, tenant: &TenantId, nonce: &str) -> Result<bool, ServiceError> {
        Ok(self.store().get(&repo::link_key(tenant, nonce)).await?.is_some())
    }

    /// Looks at an approval that is due: points it out again at half of its time, and closes
    /// it, and its task with it, when its time is over. True if it was this call that did.
    pub async fn approval_due(
        &self,
        tenant: &TenantId,
        id: &ApprovalId,
    ) -> Result<bool, ServiceError> {
        let stored = self.stored_approval(tenant, id).await?;
        let over = self.clock().now() > stored.value.decide_by;
        let command = if over { ApprovalCommand::Expire } else { ApprovalCommand::Escalate };
        match self.decide_on(stored, &command, Vec::new()).await {
            Ok(_) => Ok(true),
            Err(ServiceError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// One conditional change of approval and task together: of two that decide at the same
    /// time the second meets a conflict.
    async fn decide_on(
        &self,
        stored: Versioned<Approval>,
        command: &ApprovalCommand,
        mut beside: Vec<Write>,
    ) -> Result<FullApproval, ServiceError> {
        let next = decide_approval(&stored.value, command, self.clock().now(), self.rules())
            .map_err(refused)?;
        let task_id = next.task_id.clone();
        let task_command = match command {
            ApprovalCommand::Approve { by, .. } if next.status == ApprovalStatus::Pending => {
                let (have, need) = (next.votes.len(), next.quorum);
                Command::Vote { by: by.clone(), have, need }
            }
            ApprovalCommand::Escalate => Command::Escalate { decide_by: next.decide_by },
            ApprovalCommand::Approve { by, .. } => Command::Approve {
                by: by.clone(),
                proof: next.plan_hash.clone(),
                use_by: next.use_by.unwrap_or(next.decide_by),
            },
            ApprovalCommand::Reject { by, reason } => {
                Command::Reject { by: by.clone(), reason: reason.clone() }
            }
            ApprovalCommand::Expire => Command::Expire,
            ApprovalCommand::Close { by, reason } => {
                Command::Cancel { by: by.clone(), reason: reason.clone() }
            }
        };
        let task = self
            .stored_task(&next.tenant, &task_id)
            .await?
            .ok_or_else(|| ServiceError::NotFound { what: "task", id: task_id.to_string() })?;
        let item = encode(&next, stored.unknown.as_deref());
        beside.push(Write::Put { item, expect: Expect::Version(stored.version) });
        self.command_on(task, &task_command, &beside)
            .await
            .map_err(|error| error.into_service(&task_id))?;
        Ok(FullApproval { approval: next, version: stored.version + 1 })
    }
}

fn refused(rejection: ApprovalRejection) -> ServiceError {
    match rejection {
        ApprovalRejection::Own => ServiceError::Forbidden { message: rejection.to_string() },
        other => ServiceError::Conflict { message: other.to_string() },
    }
}
