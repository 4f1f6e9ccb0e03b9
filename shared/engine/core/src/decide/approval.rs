//! The decisions on an approval.

use watchbill_domain::{Approval, ApprovalStatus, Decision, Timestamp, Vote, folded_name};

#[derive(Clone, Debug)]
pub enum ApprovalCommand {
    /// `own`: whether the approver is one of the task's requesters.
    Approve {
        by: String,
        /// See [`Caller::made_by`](watchbill_domain::Caller::made_by).
        made_by: Option<String>,
        own: bool,
    },
    /// By a link that several people can read: who uses it is unknown.
    ApproveByLink {
        by: String,
    },
    Reject {
        by: String,
        reason: Option<String>,
    },
    Expire,
    /// Half of the time to decide has passed.
    Escalate,
    /// Its task was cancelled.
    Close {
        by: String,
        reason: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalRejection {
    #[error("the approval is already {}{}", status.as_str(), by_name(by.as_deref()))]
    Decided { status: ApprovalStatus, by: Option<String> },
    #[error("the approval expired at {at}; submit the task again")]
    TooLate { at: Timestamp },
    #[error("{by} has already approved; another approver must approve")]
    VotedAlready { by: String },
    #[error(
        "{by} and {voted}, who has already approved, count as one person: one created the other's \
         key, or a third created both; another approver must approve"
    )]
    SamePerson { by: String, voted: String },
    #[error(
        "a shared link does not identify you, so it can't approve {why}; approve with your own \
         key or token, or reject with the link"
    )]
    SharedLink { why: &'static str },
    #[error("the approval is open until {at}")]
    NotYet { at: Timestamp },
    #[error(
        "requesters may not approve their own tasks; ask another approver, or set \
         APPROVAL_SELF=allow if there is only one person"
    )]
    Own,
}

fn by_name(name: Option<&str>) -> String {
    name.map(|name| format!(" by {name}")).unwrap_or_default()
}

/// Decides on an approval and returns it as it is afterwards.
pub fn decide_approval(
    approval: &Approval,
    command: &ApprovalCommand,
    now: Timestamp,
    rules: &super::EngineConfig,
) -> Result<Approval, ApprovalRejection> {
    if approval.status != ApprovalStatus::Pending {
        let by = approval.decision.as_ref().map(|d| d.by.clone()).filter(|by| !by.is_empty());
        return Err(ApprovalRejection::Decided { status: approval.status, by });
    }
    let over = now > approval.decide_by;
    let (status, by, reason) = match command {
        ApprovalCommand::Approve { .. }
        | ApprovalCommand::ApproveByLink { .. }
        | ApprovalCommand::Reject { .. }
            if over =>
        {
            return Err(ApprovalRejection::TooLate { at: approval.decide_by });
        }
        ApprovalCommand::Approve { own: true, .. } if !rules.approve_own => {
            return Err(ApprovalRejection::Own);
        }
        ApprovalCommand::Approve { by, made_by, .. } => {
            let vote = Vote { by: by.clone(), at: now, made_by: made_by.clone() };
            return approve(approval, vote, rules);
        }
        ApprovalCommand::ApproveByLink { by } => {
            if let Some(why) = demands_a_person(approval, rules) {
                return Err(ApprovalRejection::SharedLink { why });
            }
            let vote = Vote { by: by.clone(), at: now, made_by: None };
            return approve(approval, vote, rules);
        }
        ApprovalCommand::Escalate => {
            let at = escalates_at(approval);
            if approval.escalated_at.is_some() || now < at {
                return Err(ApprovalRejection::NotYet { at: approval.decide_by });
            }
            return Ok(Approval { escalated_at: Some(now), ..approval.clone() });
        }
        ApprovalCommand::Reject { by, reason } => {
            (ApprovalStatus::Rejected, by.clone(), reason.clone())
        }
        ApprovalCommand::Expire if !over => {
            return Err(ApprovalRejection::NotYet { at: approval.decide_by });
        }
        ApprovalCommand::Expire => (ApprovalStatus::Expired, String::new(), None),
        ApprovalCommand::Close { by, reason } => {
            (ApprovalStatus::Cancelled, by.clone(), reason.clone())
        }
    };
    let mut next = approval.clone();
    next.status = status;
    next.decision = Some(Decision { by, at: now, reason });
    Ok(next)
}

/// Adds an approving vote, which may complete the quorum.
fn approve(
    approval: &Approval,
    vote: Vote,
    rules: &super::EngineConfig,
) -> Result<Approval, ApprovalRejection> {
    let person = vote.person();
    if let Some(earlier) = approval.votes.iter().find(|earlier| earlier.person().is(&person)) {
        let (by, voted) = (vote.by, earlier.by.clone());
        return Err(match folded_name(&by) == folded_name(&voted) {
            true => ApprovalRejection::VotedAlready { by },
            false => ApprovalRejection::SamePerson { by, voted },
        });
    }
    let now = vote.at;
    let mut next = approval.clone();
    next.votes.push(vote);
    if next.votes.len() >= usize::from(next.quorum) {
        next.status = ApprovalStatus::Approved;
        next.use_by = Some(now.plus(rules.use_within));
        let by = next.votes.iter().map(|v| v.by.as_str()).collect::<Vec<_>>().join(", ");
        next.decision = Some(Decision { by, at: now, reason: None });
    }
    Ok(next)
}

/// Why the approver's identity must be known, where that is required.
pub fn demands_a_person(approval: &Approval, rules: &super::EngineConfig) -> Option<&'static str> {
    if approval.quorum > 1 {
        Some("a task that needs several approvers")
    } else if !rules.approve_own {
        Some("while requesters may not approve their own tasks")
    } else {
        None
    }
}

/// When half of the time for a decision has passed.
pub fn escalates_at(approval: &Approval) -> Timestamp {
    approval.requested_at.plus(approval.decide_by.since(approval.requested_at) / 2)
}
