use watchbill_domain::{Approval, ApprovalStatus, Decision, Timestamp, Vote, folded_name};

#[derive(Clone, Debug)]
pub enum ApprovalCommand {
    /// `own`: whether the approver has a part in submitting the task.
    Approve {
        by: String,
        /// See [`Caller::made_by`](watchbill_domain::Caller::made_by).
        made_by: Option<String>,
        own: bool,
    },
    /// By a link that several people can read: nobody knows who it is.
    ApproveByLink {
        by: String,
    },
    Reject {
        by: String,
        reason: Option<String>,
    },
    Expire,
    /// Half of the time is gone.
    Escalate,
    /// Its task was cancelled.
    Close {
        by: String,
        reason: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalRejection {
    #[error("the approval is {}{} already", status.as_str(), by.as_deref().map(|b| format!(" by {b}")).unwrap_or_default())]
    Decided { status: ApprovalStatus, by: Option<String> },
    #[error("the approval ran out at {at}; submit the task again")]
    TooLate { at: Timestamp },
    #[error("{by} has approved already; another approver must")]
    VotedAlready { by: String },
    #[error(
        "{by} counts as {voted}, who has approved already: one's key was made by the other, or both by the same; another approver must"
    )]
    SamePerson { by: String, voted: String },
    #[error(
        "a shared link does not say who you are, so it can't approve {why}; approve with a key or token of your own, or reject by the link"
    )]
    SharedLink { why: &'static str },
    #[error("the approval is open until {at}")]
    NotYet { at: Timestamp },
    #[error(
        "nobody approves what they submitted themselves; ask another approver, or set APPROVAL_SELF=allow where there is only one person"
    )]
    Own,
}

/// What may happen to an approval, with the approval as it is afterwards.
pub fn decide_approval(
    approval: &Approval,
    command: &ApprovalCommand,
    now: Timestamp,
    rules: &super::Rules,
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

/// One more yes, which may be the last that is needed.
fn approve(
    approval: &Approval,
    vote: Vote,
    rules: &super::Rules,
) -> Result<Approval, ApprovalRejection> {
    let person = vote.person();
    if let Some(there) = approval.votes.iter().find(|there| there.person().is(&person)) {
        let (by, voted) = (vote.by, there.by.clone());
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

/// Why it must be known who approves, where that is so.
pub fn demands_a_person(approval: &Approval, rules: &super::Rules) -> Option<&'static str> {
    if approval.quorum > 1 {
        Some("what several people must approve")
    } else if !rules.approve_own {
        Some("where nobody may approve what they submitted themselves")
    } else {
        None
    }
}

/// When half of the time for a decision is gone.
pub fn escalates_at(approval: &Approval) -> Timestamp {
    approval.requested_at.plus(approval.decide_by.since(approval.requested_at) / 2)
}
