use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::domain::{Approval, ApprovalStatus, Decision, Timestamp, Vote};

#[derive(Clone, Debug)]
pub enum ApprovalCommand {
    /// `own`: whether the approver submitted the task.
    Approve {
        by: String,
        own: bool,
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
        ApprovalCommand::Approve { .. } | ApprovalCommand::Reject { .. } if over => {
            return Err(ApprovalRejection::TooLate { at: approval.decide_by });
        }
        ApprovalCommand::Approve { own: true, .. } if !rules.approve_own => {
            return Err(ApprovalRejection::Own);
        }
        ApprovalCommand::Approve { by, .. } => {
            if approval.votes.iter().any(|vote| vote.by == *by) {
                return Err(ApprovalRejection::VotedAlready { by: by.clone() });
            }
            let mut next = approval.clone();
            next.votes.push(Vote { by: by.clone(), at: now });
            if next.votes.len() >= usize::from(next.quorum) {
                next.status = ApprovalStatus::Approved;
                next.use_by = Some(now.plus(rules.use_within));
                let by = next.votes.iter().map(|v| v.by.as_str()).collect::<Vec<_>>().join(", ");
                next.decision = Some(Decision { by, at: now, reason: None });
            }
            return Ok(next);
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

/// When half of the time for a decision is gone.
pub fn escalates_at(approval: &Approval) -> Timestamp {
    approval.requested_at.plus(approval.decide_by.since(approval.requested_at) / 2)
}

/// SHA-256, hex, of a value with its keys sorted: equal content, equal hash, whatever the
/// order it was written in.
pub fn canonical_hash(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    crate::domain::hex(&Sha256::digest(text.as_bytes()))
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, value)) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}
