use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::domain::{Approval, ApprovalStatus, Decision, TaskType, Timestamp};

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
        ApprovalCommand::Approve { by, .. } => (ApprovalStatus::Approved, by.clone(), None),
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
    next.use_by = (status == ApprovalStatus::Approved).then(|| now.plus(rules.use_within));
    next.decision = Some(Decision { by, at: now, reason });
    Ok(next)
}

/// Binds an approval to what was shown: SHA-256, hex, over type, payload, target and plan
/// in canonical JSON (keys sorted, no white space).
pub fn plan_hash(
    task_type: TaskType,
    payload: &Map<String, Value>,
    plan: &Map<String, Value>,
) -> String {
    let shown = serde_json::json!({ "type": task_type, "payload": payload, "plan": plan });
    canonical_hash(&shown)
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
