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
    /// Who has it, or will have it after approval.
    #[serde(rename = "ag")]
    pub agent: Agent,
    /// Grows with each new assignment; lane messages of older ones are void.
    #[serde(rename = "n")]
    pub assignment: u32,
    /// Claims so far; also the fencing token: a run with another fence writes nothing.
    #[serde(rename = "f", default, skip_serializing_if = "is_default")]
    pub fence: u64,
    /// Failed runs that were tried again (`retry_count`).
    #[serde(rename = "rc", default, skip_serializing_if = "is_default")]
    pub retries: u32,
    #[serde(rename = "mr")]
    pub max_retries: u32,
    /// Claims in a row whose executor vanished without an outcome.
    #[serde(rename = "lo", default, skip_serializing_if = "is_default")]
    pub lost_runs: u32,
    /// Times the pointer was offered again without a claim.
    #[serde(rename = "of", default, skip_serializing_if = "is_default")]
    pub offers: u32,
    /// Offers in a row that did not count, because its lane had a backlog.
    #[serde(rename = "eo", default, skip_serializing_if = "is_default")]
    pub excused: u32,
    /// The version whose write is an offer and nothing else: the log has no entry of it.
    #[serde(rename = "ow", default, skip_serializing_if = "is_default")]
    pub offered_version: u64,
    /// Times it reached an agent that was not its own.
    #[serde(rename = "mi", default, skip_serializing_if = "is_default")]
    pub misrouted: u32,
    /// Runs by workers outside: not offered to lanes.
    #[serde(rename = "ex", default, skip_serializing_if = "is_default")]
    pub external: bool,
    /// Blocked because its agent's work is not part of this build, and its tasks are not left to
    /// workers outside: any of them may claim it all the same.
    #[serde(rename = "nb", default, skip_serializing_if = "is_default")]
    pub not_built: bool,
    #[serde(rename = "le", default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Not to be run before: after a failure (assigned) or a suspension (in progress).
    #[serde(rename = "ra", default, skip_serializing_if = "Option::is_none")]
    pub resume_at: Option<Timestamp>,
    /// What keeps it from running, where governance put it off.
    #[serde(rename = "hd", default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// Since when a freeze or a backlog holds it up, as far as its grants don't reckon with it.
    #[serde(rename = "ws", default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Timestamp>,
    /// When to offer the pointer again if nobody has claimed by then.
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
    /// Reactions between the first cause and this task.
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
    /// What is set aside of the budget for a model's call that is under way.
    #[serde(rename = "rv", default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Reservation>,
    /// What its models' calls have used so far, all runs together.
    #[serde(rename = "sp", default, skip_serializing_if = "is_default")]
    pub spent: Amount,
    /// What of it no outcome has told yet: that of the run that is under way.
    #[serde(rename = "rs", default, skip_serializing_if = "is_default")]
    pub run_spent: Amount,
    /// What people have given leave for, newest last.
    #[serde(rename = "gr", default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// Freezes that a person has let it pass.
    #[serde(rename = "ov", default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    /// What a blocked task asks, and what was answered.
    #[serde(rename = "qu", default, skip_serializing_if = "Option::is_none")]
    pub question: Option<Question>,
    /// Who made it: nobody approves what they submitted themselves.
    #[serde(rename = "by")]
    pub created_by: String,
    /// Who asked for it besides: the maker of the key it was made with, whoever made the task
    /// that it tries again or is a part of. They don't approve it either.
    #[serde(rename = "ab", default, skip_serializing_if = "Vec::is_empty")]
    pub also_requested_by: Vec<String>,
    /// Hash of the creating request's body, to tell a repeat from another request.
    #[serde(rename = "bh", default, skip_serializing_if = "Option::is_none")]
    pub body_hash: Option<String>,
    #[serde(rename = "ou", default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// It is the retry of a task whose failure has counted: its own costs no points again.
    #[serde(rename = "fc", default, skip_serializing_if = "is_default")]
    pub failure_counted: bool,
    /// What the last run noted of its loop (observe, orient, decide, act), in order.
    #[serde(rename = "no", default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
    /// The changes, oldest first; the last [`TaskLimits::LOG`] of them.
    #[serde(rename = "lg", default)]
    pub log: Vec<LogEntry>,
}

/// Sizes that hold for every task.
pub struct TaskLimits;

impl TaskLimits {
    /// Changes kept in the header; older ones are in the ledger.
    pub const LOG: usize = 16;
    /// Payload, bytes of JSON: 200 KB.
    pub const PAYLOAD: usize = 200 * 1024;
    /// Result, bytes of JSON: 4 MB. A Lambda answers with 6 MB at most, and every quote in
    /// the result is escaped once more there.
    pub const RESULT: usize = 4 * 1024 * 1024;
    /// Longest way through reactions.
    pub const HOPS: u8 = 8;
    /// Leaves given that are kept: runs with more mutating calls ask again.
    pub const GRANTS: usize = 8;
    /// Claims in a row that may vanish before the task is given up.
    pub const LOST_RUNS: u32 = 5;
    /// Offers without a claim before the task is given up as undeliverable.
    pub const OFFERS: u32 = 5;
    /// An error's text, bytes.
    pub const ERROR: usize = 4 * 1024;
}

/// The right to run a task: who holds it, in which epoch of the store, until when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    #[serde(rename = "o")]
    pub owner: String,
    #[serde(rename = "e")]
    pub epoch: u64,
    #[serde(rename = "u")]
    pub until: Timestamp,
    /// Which of the workers that share the owner's key, where the claim said so.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// The approval that a task waits for or was let through by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApprovalRef {
    pub id: ApprovalId,
    /// How many approvals this task has had, this one included.
    pub n: u32,
    /// The hash of what was approved, once it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_by: Option<Timestamp>,
    /// Hash of what the policy asked for when it was put up, see
    /// `asked_hash` in governance.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub asked: String,
    /// See `shown` in governance.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub salt: String,
}

/// Leave that was given: for what, under which demands of the policy, until when.
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
    /// When it was given. Missing in what older builds wrote.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub approved_at: Option<Timestamp>,
}

/// Why a task is held: a freeze, or a governance that can't be reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    #[serde(rename = "w")]
    pub why: String,
    /// How often it was looked whether it still is.
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
    /// Milliseconds it took.
    pub ms: u64,
    pub text: String,
}

/// What a change was.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Created,
    Approved,
    /// One of several approvers has said yes.
    Voted,
    Rejected,
    Expired,
    /// Half of the time for its approval is gone.
    Escalated,
    Claimed,
    /// Claimed after an earlier executor vanished.
    Reclaimed,
    Resumed,
    Renewed,
    Completed,
    /// Failed for good.
    Failed,
    /// Failed, and will be tried again.
    Retrying,
    Blocked,
    Answered,
    Suspended,
    Cancelled,
    /// Tried again at once on a person's word.
    Retried,
    /// The pointer was offered again.
    Offered,
    /// Given back to its queue because its holder vanished.
    Returned,
    Rerouted,
    /// Put off by a freeze, or because governance can't be reached.
    Held,
    /// A person let it pass a freeze.
    Overridden,
    /// Part of the budget was set aside for a model's call.
    Reserved,
    /// The call may have gone out.
    Sent,
    /// What a model's call used was told, or what was set aside came back.
    Settled,
    SlaWarning,
    SlaViolation,
    /// Looked at when it was due; nothing was to be done.
    Checked,
}

impl What {
    pub fn as_str(self) -> &'static str {
        match self {
            What::Created => "created",
            What::Approved => "approved",
            What::Voted => "voted",
            What::Rejected => "rejected",
            What::Expired => "expired",
            What::Escalated => "escalated",
            What::Claimed => "claimed",
            What::Reclaimed => "reclaimed",
            What::Resumed => "resumed",
            What::Renewed => "renewed",
            What::Completed => "completed",
            What::Failed => "failed",
            What::Retrying => "retrying",
            What::Blocked => "blocked",
            What::Answered => "answered",
            What::Suspended => "suspended",
            What::Cancelled => "cancelled",
            What::Retried => "retried",
            What::Offered => "offered",
            What::Returned => "returned",
            What::Rerouted => "rerouted",
            What::Held => "held",
            What::Overridden => "overridden",
            What::Reserved => "reserved",
            What::Sent => "sent",
            What::Settled => "settled",
            What::SlaWarning => "sla_warning",
            What::SlaViolation => "sla_violation",
            What::Checked => "checked",
        }
    }
}

/// One change of an item: the ledger's entries and all events are made of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The version the item had after this change.
    #[serde(rename = "v")]
    pub version: u64,
    #[serde(rename = "a")]
    pub at: Timestamp,
    #[serde(rename = "w")]
    pub what: What,
    #[serde(rename = "b", default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    #[serde(rename = "s")]
    pub status: Status,
    /// The status before; left out where it did not change.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Status>,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Which run it began, by its fence.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub run: Option<u64>,
    #[serde(rename = "e", default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<LoggedEvent>,
    /// Reputation and usage that came with this change, so that a fold counts them once.
    #[serde(rename = "ou", default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// An event as the log keeps it: its type and what can't be read off the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedEvent {
    #[serde(rename = "t")]
    pub event_type: EventType,
    #[serde(rename = "p", default, skip_serializing_if = "is_default")]
    pub payload: Map<String, Value>,
}

impl LoggedEvent {
    /// One of our own types. `payload`: an object; anything else stands for none.
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
    /// The epoch of leases that outlive the process: those of workers outside.
    pub const OUTSIDE: u64 = 0;

    /// Who holds it, as people are told.
    pub fn holder(&self) -> String {
        match &self.worker {
            Some(worker) => format!("{}/{worker}", self.owner),
            None => self.owner.clone(),
        }
    }

    /// Whether the holder may still be at work. `epoch` is the store's present one: leases
    /// of an earlier one died with their process.
    pub fn is_live(&self, now: Timestamp, epoch: u64) -> bool {
        Self::live(self.until, self.epoch, now, epoch)
    }

    pub fn live(until: Timestamp, of: u64, now: Timestamp, epoch: u64) -> bool {
        until > now && (of == Self::OUTSIDE || of >= epoch)
    }
}

/// A title is one line of a list; what is longer is cut.
const MAX_TITLE: usize = 120;

impl Task {
    /// In which priority's lane it stands: its own, or one higher once its SLA is violated
    /// and the rules lift such tasks (never into P0's).
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

    /// Whether it waits for a worker outside to claim it.
    pub fn waits_outside(&self) -> bool {
        self.not_built || self.external && self.status == Status::Assigned
    }

    /// How long it may take from creation to completion.
    pub fn sla_span(&self) -> Option<Duration> {
        self.sla.as_ref().map(|sla| sla.deadline.since(self.created_at))
    }

    /// `Monitor system metrics and health` and the like: what a person reads.
    pub fn title(&self) -> String {
        let text = |name: &str| {
            let payload = self.payload.inline()?;
            let text = payload.get(name)?.as_str()?;
            // Redacted before the cut, so that it can't halve a secret out of recognition.
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
