//! The contract as tables: from which status to which each command may lead, as what, and
//! with which events. Written by hand from the life of a task in the contract, so that a
//! change of `decide` must be made twice.

use watchbill_core::decide::Command;
use watchbill_domain::{Status, What};

use Status::{Assigned, Blocked, Cancelled, Completed, Failed, InProgress, Pending};

/// What every run of the sequences must have come to.
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

/// Before, after, as what.
pub type Row = (Status, Status, What);

pub fn rows(command: &Command) -> &'static [Row] {
    match command {
        Command::Create(_) => &[],
        Command::Approve { .. } => {
            &[(Pending, Assigned, What::Approved), (Blocked, Assigned, What::Approved)]
        }
        Command::Reject { .. } => {
            &[(Pending, Cancelled, What::Rejected), (Blocked, Cancelled, What::Rejected)]
        }
        Command::Expire => {
            &[(Pending, Cancelled, What::Expired), (Blocked, Cancelled, What::Expired)]
        }
        Command::Claim { .. } => &[
            (Assigned, InProgress, What::Claimed),
            (InProgress, InProgress, What::Resumed),
            (InProgress, InProgress, What::Reclaimed),
            (InProgress, Failed, What::Failed),
            (Assigned, Failed, What::Failed),
            (Assigned, Blocked, What::Blocked),
            (InProgress, Blocked, What::Blocked),
            (Assigned, Assigned, What::Held),
            (InProgress, InProgress, What::Held),
        ],
        Command::ClaimOutside { .. } => &[
            (Assigned, InProgress, What::Claimed),
            (InProgress, InProgress, What::Renewed),
            (Assigned, Failed, What::Failed),
            (Assigned, Blocked, What::Blocked),
            (Assigned, Assigned, What::Held),
        ],
        Command::End { .. } => &[
            (InProgress, Completed, What::Completed),
            (InProgress, Failed, What::Failed),
            (InProgress, Assigned, What::Retrying),
            (InProgress, Blocked, What::Blocked),
            (InProgress, InProgress, What::Suspended),
            (InProgress, InProgress, What::Held),
        ],
        Command::EndOutside { .. } => &[
            (InProgress, Completed, What::Completed),
            (InProgress, Failed, What::Failed),
            (InProgress, Assigned, What::Retrying),
            (InProgress, Blocked, What::Blocked),
            (Assigned, Completed, What::Completed),
            (Assigned, Failed, What::Failed),
            (Assigned, Assigned, What::Retrying),
            (Assigned, Blocked, What::Blocked),
            (Assigned, Assigned, What::Held),
        ],
        Command::Cancel { .. } => &[
            (Pending, Cancelled, What::Cancelled),
            (Assigned, Cancelled, What::Cancelled),
            (InProgress, Cancelled, What::Cancelled),
            (Blocked, Cancelled, What::Cancelled),
        ],
        Command::Answer { .. } => &[(Blocked, Assigned, What::Answered)],
        Command::RetryNow { .. } => &[
            (Blocked, Assigned, What::Retried),
            (Assigned, Assigned, What::Retried),
            (InProgress, InProgress, What::Retried),
        ],
        Command::Reroute { .. } => &[(Assigned, Assigned, What::Rerouted)],
        Command::Tick { .. } => &[
            (Pending, Pending, What::SlaWarning),
            (Pending, Pending, What::SlaViolation),
            (Blocked, Blocked, What::SlaWarning),
            (Blocked, Blocked, What::SlaViolation),
            (Assigned, Assigned, What::SlaWarning),
            (Assigned, Assigned, What::SlaViolation),
            (Assigned, Assigned, What::Offered),
            (Assigned, Failed, What::Failed),
            (InProgress, InProgress, What::SlaWarning),
            (InProgress, InProgress, What::SlaViolation),
            (InProgress, InProgress, What::Offered),
            (InProgress, InProgress, What::Checked),
            (InProgress, Assigned, What::Returned),
            (InProgress, Failed, What::Failed),
        ],
        Command::Vote { .. } => &[(Pending, Pending, What::Voted), (Blocked, Blocked, What::Voted)],
        Command::Escalate { .. } => {
            &[(Pending, Pending, What::Escalated), (Blocked, Blocked, What::Escalated)]
        }
        Command::Override { .. } => &[
            (Pending, Pending, What::Overridden),
            (Blocked, Blocked, What::Overridden),
            (Assigned, Assigned, What::Overridden),
            (InProgress, InProgress, What::Overridden),
        ],
        Command::Reserve { .. } => &[(InProgress, InProgress, What::Reserved)],
        Command::Sent { .. } => &[(InProgress, InProgress, What::Sent)],
        Command::Settle { .. } | Command::Release { .. } => {
            &[(InProgress, InProgress, What::Settled)]
        }
        // Nobody is told of these.
        Command::Postpone | Command::Wake | Command::Recall => &[],
    }
}

/// The events that each change gives by itself.
pub fn events(what: What) -> &'static [&'static str] {
    match what {
        What::Created => &["task.created"],
        What::Approved => &["approval.approved", "task.assigned"],
        What::Rejected => &["approval.rejected", "task.cancelled"],
        What::Expired => &["approval.expired", "task.cancelled"],
        What::Claimed | What::Reclaimed => &["task.started"],
        What::Completed => &["task.completed"],
        What::Failed => &["task.failed"],
        What::Cancelled => &["task.cancelled"],
        What::Blocked => &["task.blocked"],
        What::Retrying | What::Answered | What::Retried | What::Returned | What::Rerouted => {
            &["task.assigned"]
        }
        What::Held => &["task.assigned"],
        What::Escalated => &["approval.escalated"],
        What::Resumed
        | What::Renewed
        | What::Suspended
        | What::Voted
        | What::Overridden
        | What::Reserved
        | What::Sent
        | What::Settled
        | What::Offered
        | What::SlaWarning
        | What::SlaViolation
        | What::Checked => &[],
    }
}

/// Whether the change puts the task into its lane anew.
pub fn assigns(what: What) -> bool {
    matches!(
        what,
        What::Approved
            | What::Retrying
            | What::Answered
            | What::Retried
            | What::Returned
            | What::Rerouted
    )
}
