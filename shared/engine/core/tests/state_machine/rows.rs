//! The contract as tables: from which status to which each command may lead, as which change,
//! and with which events. Written by hand from the contract's task state machine, so that a
//! change of `decide` must be made twice.

use watchbill_core::decide::Command;
use watchbill_domain::{ChangeKind, Status};

use Status::{Assigned, Blocked, Cancelled, Completed, Failed, InProgress, Pending};

/// The changes that every run of the sequences must have reached.
pub const EVERY_WHAT: &[&str] = &[
    "created",
    "approved",
    "rejected",
    "expired",
    "claimed",
    "reclaimed",
    "resumed",
    "renewed",
    "completed",
    "failed",
    "retrying",
    "blocked",
    "answered",
    "suspended",
    "cancelled",
    "retried",
    "offered",
    "returned",
    "rerouted",
    "sla_warning",
    "sla_violation",
    "held",
    "overridden",
    "a change that nothing is told of",
    "reserved",
    "sent",
    "settled",
    "a log that outgrew the header twice",
];

/// Status before and after, kind of change.
pub type Row = (Status, Status, ChangeKind);

pub fn rows(command: &Command) -> &'static [Row] {
    match command {
        Command::Create(_) => &[],
        Command::Approve { .. } => {
            &[(Pending, Assigned, ChangeKind::Approved), (Blocked, Assigned, ChangeKind::Approved)]
        }
        Command::Reject { .. } => &[
            (Pending, Cancelled, ChangeKind::Rejected),
            (Blocked, Cancelled, ChangeKind::Rejected),
        ],
        Command::Expire => {
            &[(Pending, Cancelled, ChangeKind::Expired), (Blocked, Cancelled, ChangeKind::Expired)]
        }
        Command::Claim { .. } => &[
            (Assigned, InProgress, ChangeKind::Claimed),
            (InProgress, InProgress, ChangeKind::Resumed),
            (InProgress, InProgress, ChangeKind::Reclaimed),
            (InProgress, Failed, ChangeKind::Failed),
            (Assigned, Failed, ChangeKind::Failed),
            (Assigned, Blocked, ChangeKind::Blocked),
            (InProgress, Blocked, ChangeKind::Blocked),
            (Assigned, Assigned, ChangeKind::Held),
            (InProgress, InProgress, ChangeKind::Held),
        ],
        Command::ClaimExternal { .. } => &[
            (Assigned, InProgress, ChangeKind::Claimed),
            (InProgress, InProgress, ChangeKind::Renewed),
            (Assigned, Failed, ChangeKind::Failed),
            (Assigned, Blocked, ChangeKind::Blocked),
            (Assigned, Assigned, ChangeKind::Held),
        ],
        Command::End { .. } => &[
            (InProgress, Completed, ChangeKind::Completed),
            (InProgress, Failed, ChangeKind::Failed),
            (InProgress, Assigned, ChangeKind::Retrying),
            (InProgress, Blocked, ChangeKind::Blocked),
            (InProgress, InProgress, ChangeKind::Suspended),
            (InProgress, InProgress, ChangeKind::Held),
        ],
        Command::EndExternal { .. } => &[
            (InProgress, Completed, ChangeKind::Completed),
            (InProgress, Failed, ChangeKind::Failed),
            (InProgress, Assigned, ChangeKind::Retrying),
            (InProgress, Blocked, ChangeKind::Blocked),
            (Assigned, Completed, ChangeKind::Completed),
            (Assigned, Failed, ChangeKind::Failed),
            (Assigned, Assigned, ChangeKind::Retrying),
            (Assigned, Blocked, ChangeKind::Blocked),
            (Assigned, Assigned, ChangeKind::Held),
        ],
        Command::Cancel { .. } => &[
            (Pending, Cancelled, ChangeKind::Cancelled),
            (Assigned, Cancelled, ChangeKind::Cancelled),
            (InProgress, Cancelled, ChangeKind::Cancelled),
            (Blocked, Cancelled, ChangeKind::Cancelled),
        ],
        Command::Answer { .. } => &[(Blocked, Assigned, ChangeKind::Answered)],
        Command::RetryNow { .. } => &[
            (Blocked, Assigned, ChangeKind::Retried),
            (Assigned, Assigned, ChangeKind::Retried),
            (InProgress, InProgress, ChangeKind::Retried),
        ],
        Command::Reroute { .. } => &[(Assigned, Assigned, ChangeKind::Rerouted)],
        Command::Tick { .. } => &[
            (Pending, Pending, ChangeKind::SlaWarning),
            (Pending, Pending, ChangeKind::SlaViolation),
            (Blocked, Blocked, ChangeKind::SlaWarning),
            (Blocked, Blocked, ChangeKind::SlaViolation),
            (Assigned, Assigned, ChangeKind::SlaWarning),
            (Assigned, Assigned, ChangeKind::SlaViolation),
            (Assigned, Assigned, ChangeKind::Offered),
            (Assigned, Failed, ChangeKind::Failed),
            (InProgress, InProgress, ChangeKind::SlaWarning),
            (InProgress, InProgress, ChangeKind::SlaViolation),
            (InProgress, InProgress, ChangeKind::Offered),
            (InProgress, InProgress, ChangeKind::Checked),
            (InProgress, Assigned, ChangeKind::Returned),
            (InProgress, Failed, ChangeKind::Failed),
        ],
        Command::Vote { .. } => {
            &[(Pending, Pending, ChangeKind::Voted), (Blocked, Blocked, ChangeKind::Voted)]
        }
        Command::Escalate { .. } => {
            &[(Pending, Pending, ChangeKind::Escalated), (Blocked, Blocked, ChangeKind::Escalated)]
        }
        Command::Override { .. } => &[
            (Pending, Pending, ChangeKind::Overridden),
            (Blocked, Blocked, ChangeKind::Overridden),
            (Assigned, Assigned, ChangeKind::Overridden),
            (InProgress, InProgress, ChangeKind::Overridden),
        ],
        Command::Reserve { .. } => &[(InProgress, InProgress, ChangeKind::Reserved)],
        Command::Sent { .. } => &[(InProgress, InProgress, ChangeKind::Sent)],
        Command::Settle { .. } | Command::Release { .. } => {
            &[(InProgress, InProgress, ChangeKind::Settled)]
        }
        // These are not logged.
        Command::Postpone | Command::Wake | Command::Recall => &[],
    }
}

/// The events that each kind of change emits by itself.
pub fn events(what: ChangeKind) -> &'static [&'static str] {
    match what {
        ChangeKind::Created => &["task.created"],
        ChangeKind::Approved => &["approval.approved", "task.assigned"],
        ChangeKind::Rejected => &["approval.rejected", "task.cancelled"],
        ChangeKind::Expired => &["approval.expired", "task.cancelled"],
        ChangeKind::Claimed | ChangeKind::Reclaimed => &["task.started"],
        ChangeKind::Completed => &["task.completed"],
        ChangeKind::Failed => &["task.failed"],
        ChangeKind::Cancelled => &["task.cancelled"],
        ChangeKind::Blocked => &["task.blocked"],
        ChangeKind::Retrying
        | ChangeKind::Answered
        | ChangeKind::Retried
        | ChangeKind::Returned
        | ChangeKind::Rerouted => &["task.assigned"],
        ChangeKind::Held => &["task.assigned"],
        ChangeKind::Escalated => &["approval.escalated"],
        ChangeKind::Resumed
        | ChangeKind::Renewed
        | ChangeKind::Suspended
        | ChangeKind::Voted
        | ChangeKind::Overridden
        | ChangeKind::Reserved
        | ChangeKind::Sent
        | ChangeKind::Settled
        | ChangeKind::Offered
        | ChangeKind::SlaWarning
        | ChangeKind::SlaViolation
        | ChangeKind::Checked => &[],
    }
}

/// Whether the change puts the task into its lane again.
pub fn assigns(what: ChangeKind) -> bool {
    matches!(
        what,
        ChangeKind::Approved
            | ChangeKind::Retrying
            | ChangeKind::Answered
            | ChangeKind::Retried
            | ChangeKind::Returned
            | ChangeKind::Rerouted
    )
}
