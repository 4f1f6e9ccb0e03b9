//! A task's header, its leases, grants and limits, and the log of its changes.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Agent, ApprovalId, Body, EventType, Priority, Sla, Status, TaskId, TaskType};
use super::{Amount, Reservation};
use super::{Outcome, TenantId, Timestamp};

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a String can't fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// A task's header: everything a decision needs, in one item. Its version is the item's.
///
/// Field names in the store are short because a header of up to 1 KB costs one write unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    #[serde(rename = "id")]
    pub id: TaskId,
    #[serde(rename = "t")]
    pub tenant: TenantId,
    #[serde(rename = "ty")]
    pub task_type: TaskType,
    #[serde(rename = "pr")]
    pub priority: Priority,
    #[serde(rename = "src")]
    pub source: String,
    #[serde(rename = "st")]
    pub status: Status,
    /// The agent that has the task, or will have it after approval.
    #[serde(rename = "ag")]
    pub agent: Agent,
    /// Increases with each new assignment. Lane messages of older assignments are void.
    #[serde(rename = "n")]
    pub assignment: u32,
    /// Claims so far. Also the fencing token: a run with another fence can't write.
    #[serde(rename = "f", default, skip_serializing_if = "is_default")]
    pub fence: u64,
    /// Failed runs that were retried (`retry_count`).
    #[serde(rename = "rc", default, skip_serializing_if = "is_default")]
    pub retries: u32,
    #[serde(rename = "mr")]
    pub max_retries: u32,
    /// Claims in a row whose executor vanished without an outcome.
    #[serde(rename = "lo", default, skip_serializing_if = "is_default")]
    pub lost_runs: u32,
    /// Times the task reference was enqueued again without a claim.
    #[serde(rename = "of", default, skip_serializing_if = "is_default")]
    pub offers: u32,
    /// Offers in a row that did not count as unclaimed, because the lane had a backlog or a run
    /// was suspended.
    #[serde(rename = "eo", default, skip_serializing_if = "is_default")]
    pub excused: u32,
    /// The version that was written only to enqueue the task reference. The log has no entry
    /// for it.
    #[serde(rename = "ow", default, skip_serializing_if = "is_default")]
    pub offered_version: u64,
    /// Times the task reached an agent that was not its own.
    #[serde(rename = "mi", default, skip_serializing_if = "is_default")]
    pub misrouted: u32,
    /// External workers run the task: it is not enqueued in lanes.
    #[serde(rename = "ex", default, skip_serializing_if = "is_default")]
    pub external: bool,
    /// Blocked because its agent is not part of this build and its tasks are not assigned to
    /// external workers. Any external worker may claim it all the same.
    #[serde(rename = "nb", default, skip_serializing_if = "is_default")]
    pub not_built: bool,
    #[serde(rename = "le", default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Do not run before this time: after a failure (assigned) or a suspension (in progress).
    #[serde(rename = "ra", default, skip_serializing_if = "Option::is_none")]
    pub resume_at: Option<Timestamp>,
    /// Why the task does not run, if governance deferred it.
    #[serde(rename = "hd", default, skip_serializing_if = "Option::is_none")]
    pub held: Option<DeferReason>,
    /// Start of a wait for a freeze or a backlog that the limits of its grants don't include
    /// yet.
    #[serde(rename = "ws", default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Timestamp>,
    /// When to enqueue the task reference again if the task is not claimed by then.
    #[serde(rename = "oa", default, skip_serializing_if = "Option::is_none")]
    pub offer_at: Option<Timestamp>,
    #[serde(rename = "ca")]
    pub created_at: Timestamp,
    #[serde(rename = "sa", default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(rename = "fa", default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    #[serde(rename = "tr")]
    pub trace_id: String,
    #[serde(rename = "sl", default, skip_serializing_if = "Option::is_none")]
    pub sla: Option<Sla>,
    #[serde(rename = "pa", default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// Number of reactions between the first cause and this task.
    #[serde(rename = "ho", default, skip_serializing_if = "is_default")]
    pub hops: u8,
    /// The caller's metadata, without `result`.
    #[serde(rename = "me", default, skip_serializing_if = "is_default")]
    pub metadata: Map<String, Value>,
    #[serde(rename = "pl")]
    pub payload: Body,
    #[serde(rename = "re", default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Body>,
    #[serde(rename = "er", default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(rename = "ap", default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRef>,
    /// Budget that is reserved for a model call in progress.
    #[serde(rename = "rv", default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Reservation>,
    /// Usage of its model calls so far, all runs together.
    #[serde(rename = "sp", default, skip_serializing_if = "is_default")]
    pub spent: Amount,
    /// The part of `spent` that no outcome reports yet: the usage of the run in progress.
    #[serde(rename = "rs", default, skip_serializing_if = "is_default")]
    pub run_spent: Amount,
    /// Approvals that were granted, newest last.
    #[serde(rename = "gr", default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// Freezes that a person has let the task pass.
    #[serde(rename = "ov", default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    /// The question of a blocked task, and its answer.
    #[serde(rename = "qu", default, skip_serializing_if = "Option::is_none")]
    pub question: Option<Question>,
    /// Who created the task. No one approves what they submitted themselves.
    #[serde(rename = "by")]
    pub created_by: String,
    /// Others who asked for it: the maker of the key it was created with, and the creator of
    /// the task that it retries or is a part of. They can't approve it either.
    #[serde(rename = "ab", default, skip_serializing_if = "Vec::is_empty")]
    pub also_requested_by: Vec<String>,
    /// Hash of the creating request's body, to tell a repeat from another request.
    #[serde(rename = "bh", default, skip_serializing_if = "Option::is_none")]
    pub body_hash: Option<String>,
    #[serde(rename = "ou", default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The task is the retry of a task whose failure has counted: its own failure costs no
    /// points again.
    #[serde(rename = "fc", default, skip_serializing_if = "is_default")]
    pub failure_counted: bool,
    /// Notes of the last run about its loop (observe, orient, decide, act), in order.
    #[serde(rename = "no", default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
    /// The changes, oldest first; the last [`TaskLimits::LOG`] of them.
    #[serde(rename = "lg", default)]
    pub log: Vec<LogEntry>,
}

/// Limits that apply to every task.
pub struct TaskLimits;

impl TaskLimits {
    /// Changes kept in the header. Older ones are in the ledger.
    pub const LOG: usize = 16;
    /// Payload, bytes of JSON: 200 KB.
    pub const PAYLOAD: usize = 200 * 1024;
    /// Result, bytes of JSON: 4 MB. A Lambda response has 6 MB at most, and every quote in the
    /// result is escaped once more there.
    pub const RESULT: usize = 4 * 1024 * 1024;
    /// Longest chain of reactions.
    pub const HOPS: u8 = 8;
    /// Grants that are kept. Runs with more mutating calls request approval again.
    pub const GRANTS: usize = 8;
    /// Claims in a row that may vanish before the task fails for good.
    pub const LOST_RUNS: u32 = 5;
    /// Offers without a claim before the task fails as undeliverable.
    pub const OFFERS: u32 = 5;
    /// An error's text, bytes.
    pub const ERROR: usize = 4 * 1024;
}

/// The right to run a task: its holder, the epoch of the store it was given in, and its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    #[serde(rename = "o")]
    pub owner: String,
    #[serde(rename = "e")]
    pub epoch: u64,
    #[serde(rename = "u")]
    pub until: Timestamp,
    /// Which of the workers that share the owner's key, if the claim named one.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// The approval that a task waits for, or that authorized it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApprovalRef {
    pub id: ApprovalId,
    /// Number of approvals this task has had, this one included.
    pub n: u32,
    /// The hash of the approved document, once it is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_by: Option<Timestamp>,
    /// Hash of the requirements of the policy when the approval was opened, see
    /// `requirements_hash` in governance.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub asked: String,
    /// Salt of the approval document's hashes, see `approval_document` in governance.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub salt: String,
}

/// A granted approval: for which document, under which requirements of the policy, until when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    #[serde(rename = "h")]
    pub hash: String,
    #[serde(rename = "a")]
    pub asked: String,
    #[serde(rename = "u")]
    pub use_by: Timestamp,
    #[serde(rename = "s", default)]
    pub salt: String,
    /// When it was granted. Missing in data of older builds.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub approved_at: Option<Timestamp>,
}

/// Why a task is deferred: a freeze, or governance that can't be reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeferReason {
    #[serde(rename = "w")]
    pub why: String,
    /// How often the reason was re-checked.
    #[serde(rename = "n", default, skip_serializing_if = "is_default")]
    pub looks: u32,
}

/// A freeze that a person let a task pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Override {
    pub freeze: String,
    pub by: String,
    pub at: Timestamp,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    pub text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<String>,
}

/// One recorded step of the loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub step: String,
    pub at: Timestamp,
    /// Duration in milliseconds.
    pub ms: u64,
    pub text: String,
}

/// The kind of a change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    Created,
    Approved,
    /// One of several approvers has approved.
    Voted,
    Rejected,
    Expired,
    /// Half of the time for its approval is over.
    Escalated,
    Claimed,
    /// Claimed after an earlier executor vanished.
    Reclaimed,
    Resumed,
    Renewed,
    Completed,
    /// Failed for good.
    Failed,
    /// Failed, and will be retried.
    Retrying,
    Blocked,
    Answered,
    Suspended,
    Cancelled,
    /// Retried at once at a person's request.
    Retried,
    /// The task reference was enqueued again.
    Offered,
    /// Requeued because its holder vanished.
    Returned,
    Rerouted,
    /// Deferred by a freeze, or because governance can't be reached.
    Held,
    /// A person let it pass a freeze.
    Overridden,
    /// Part of the budget was reserved for a model call.
    Reserved,
    /// The call may have been sent.
    Sent,
    /// The usage of a model call was reported, or its reservation was released.
    Settled,
    SlaWarning,
    SlaViolation,
    /// Checked when due; nothing was to be done.
    Checked,
}

impl ChangeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Created => "created",
            ChangeKind::Approved => "approved",
            ChangeKind::Voted => "voted",
            ChangeKind::Rejected => "rejected",
            ChangeKind::Expired => "expired",
            ChangeKind::Escalated => "escalated",
            ChangeKind::Claimed => "claimed",
            ChangeKind::Reclaimed => "reclaimed",
            ChangeKind::Resumed => "resumed",
            ChangeKind::Renewed => "renewed",
            ChangeKind::Completed => "completed",
            ChangeKind::Failed => "failed",
            ChangeKind::Retrying => "retrying",
            ChangeKind::Blocked => "blocked",
            ChangeKind::Answered => "answered",
            ChangeKind::Suspended => "suspended",
            ChangeKind::Cancelled => "cancelled",
            ChangeKind::Retried => "retried",
            ChangeKind::Offered => "offered",
            ChangeKind::Returned => "returned",
            ChangeKind::Rerouted => "rerouted",
            ChangeKind::Held => "held",
            ChangeKind::Overridden => "overridden",
            ChangeKind::Reserved => "reserved",
            ChangeKind::Sent => "sent",
            ChangeKind::Settled => "settled",
            ChangeKind::SlaWarning => "sla_warning",
            ChangeKind::SlaViolation => "sla_violation",
            ChangeKind::Checked => "checked",
        }
    }
}

/// One change of an item. The ledger's entries and all events are made of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The version that the item had after this change.
    #[serde(rename = "v")]
    pub version: u64,
    #[serde(rename = "a")]
    pub at: Timestamp,
    #[serde(rename = "w")]
    pub what: ChangeKind,
    #[serde(rename = "b", default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    #[serde(rename = "s")]
    pub status: Status,
    /// The status before; `None` if it did not change.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Status>,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The fence of the run that this change began.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u64>,
    #[serde(rename = "e", default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<LoggedEvent>,
    /// Reputation and usage that came with this change, so that a projection counts them once.
    #[serde(rename = "ou", default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// An event as the log stores it: its type and what can't be derived from the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedEvent {
    #[serde(rename = "t")]
    pub event_type: EventType,
    #[serde(rename = "p", default, skip_serializing_if = "is_default")]
    pub payload: Map<String, Value>,
}

impl LoggedEvent {
    /// An event of one of our own types. A `payload` that is not an object counts as empty.
    pub fn own(event_type: &str, payload: Value) -> Self {
        let event_type = EventType::parse(event_type).expect("our own event types are well formed");
        let payload = match payload {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        Self { event_type, payload }
    }
}

impl Lease {
    /// The epoch of leases that outlive the process: those of external workers.
    pub const OUTSIDE: u64 = 0;

    /// The holder's name as it is shown to people.
    pub fn holder(&self) -> String {
        match &self.worker {
            Some(worker) => format!("{}/{worker}", self.owner),
            None => self.owner.clone(),
        }
    }

    /// Whether the holder may still be running. `epoch` is the current one of the store: leases
    /// of an earlier epoch ended with their process.
    pub fn is_live(&self, now: Timestamp, epoch: u64) -> bool {
        Self::live(self.until, self.epoch, now, epoch)
    }

    pub fn live(until: Timestamp, of: u64, now: Timestamp, epoch: u64) -> bool {
        until > now && (of == Self::OUTSIDE || of >= epoch)
    }
}

/// Characters of a title, which is one line of a list. Longer ones are cut.
const MAX_TITLE: usize = 120;

impl Task {
    /// The priority of the lane that the task is in: its own, or one higher once its SLA is
    /// violated and the rules lift such tasks (never to P0).
    pub fn lane(&self) -> Priority {
        Self::lane_of(self.priority, self.sla.as_ref().is_some_and(|sla| sla.lifted))
    }

    pub fn lane_of(own: Priority, lifted: bool) -> Priority {
        match own {
            Priority::P3 if lifted => Priority::P2,
            Priority::P2 if lifted => Priority::P1,
            own => own,
        }
    }

    /// Whether the task waits for an external worker to claim it.
    pub fn waits_outside(&self) -> bool {
        self.not_built || self.external && self.status == Status::Assigned
    }

    /// Time allowed from creation to completion.
    pub fn sla_span(&self) -> Option<Duration> {
        self.sla.as_ref().map(|sla| sla.deadline.since(self.created_at))
    }

    /// A title for people, such as `Monitor system metrics and health`.
    pub fn title(&self) -> String {
        let text = |name: &str| {
            let payload = self.payload.inline()?;
            let text = payload.get(name)?.as_str()?;
            // Redacted before the cut, so that a secret is not cut in half and missed.
            Some(watchbill_redact::text(text).chars().take(MAX_TITLE).collect::<String>())
        };
        if let Some(description) = text("description") {
            return description;
        }
        match self.task_type {
            TaskType::Deploy => format!(
                "Deploy {} to {}",
                text("project").unwrap_or_else(|| "a project".into()),
                text("environment").unwrap_or_else(|| "production".into())
            ),
            TaskType::Monitor => format!(
                "Monitor {} metrics and health",
                text("service").unwrap_or_else(|| "system".into())
            ),
            TaskType::Alert => {
                format!("Manage {} alert", text("alert_type").unwrap_or_else(|| "an".into()))
            }
            TaskType::Investigate => format!(
                "Troubleshoot and investigate {}",
                text("issue").unwrap_or_else(|| "an issue".into())
            ),
            other => format!("{other} task"),
        }
    }
}
