//! The commands on a task, their context, and the rejections.

use std::time::Duration;

use watchbill_domain::{
    Agent, Amount, Body, LoggedEvent, Note, Outcome, Question, ReputationEvent, ScoreDelta, Status,
    Timestamp,
};
use watchbill_governance::{BudgetExceeded, BudgetLimits, CallCost, ReputationRules};

use super::{ApprovalRequest, EngineConfig, PreparedTask, VersionedAuthorization};

/// What a decision may use besides state and command.
#[derive(Clone, Copy)]
pub struct DecisionContext<'a> {
    pub now: Timestamp,
    /// The store's current epoch: leases of earlier epochs are void.
    pub epoch: u64,
    /// Used for jitter.
    pub random: u64,
    pub rules: &'a EngineConfig,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum RunResult {
    Succeeded {
        result: Body,
    },
    /// `retry`: the minimum wait that the provider asked for, if any.
    Failed {
        error: String,
        retry: Option<Duration>,
    },
    /// Failed in a way that a retry cannot fix.
    FailedForGood {
        error: String,
    },
    Blocked {
        reason: String,
        question: Option<Question>,
    },
    /// A freeze blocks the run, or governance is unreachable.
    Deferred {
        until: Timestamp,
        why: String,
    },
    /// The run needs an approval to continue.
    ApprovalRequired(ApprovalRequest),
    /// Governance denies the run permission to continue.
    Denied {
        error: String,
        score_delta: Option<ScoreDelta>,
    },
    Suspended {
        resume_at: Timestamp,
        note: String,
    },
}

impl RunResult {
    /// The ending's change of the agent's score. A task that lacks something a person must
    /// provide is neither success nor failure; one that had to ask what to do is an escalation.
    pub fn score_delta(&self, rules: &ReputationRules) -> Option<ScoreDelta> {
        let event = match self {
            RunResult::Succeeded { .. } => ReputationEvent::TaskSuccess,
            RunResult::Failed { .. } | RunResult::FailedForGood { .. } => {
                ReputationEvent::TaskFailure
            }
            RunResult::Blocked { question: Some(_), .. } => ReputationEvent::HumanEscalation,
            RunResult::Denied { score_delta, .. } => return *score_delta,
            RunResult::Blocked { .. }
            | RunResult::Deferred { .. }
            | RunResult::ApprovalRequired(_)
            | RunResult::Suspended { .. } => return None,
        };
        Some(rules.score_delta(event))
    }
}

/// An external worker, as it identifies itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The lease owner: the key that the worker calls with.
    pub owner: String,
    /// Which of the workers that share the key. `None`: they all count as one worker.
    pub worker: Option<String>,
    /// The fence of its claim.
    pub fence: Option<u64>,
}

impl Claimant {
    /// A key whose workers count as one.
    pub fn key(owner: impl Into<String>) -> Self {
        Self { owner: owner.into(), worker: None, fence: None }
    }
}

/// The commands on a task.
#[derive(Clone, Debug)]
pub enum Command {
    Create(Box<PreparedTask>),
    Approve {
        by: String,
        proof: String,
        use_by: Timestamp,
    },
    Reject {
        by: String,
        reason: Option<String>,
    },
    /// One of several approvers has approved.
    Vote {
        by: String,
        have: usize,
        need: u8,
    },
    Expire,
    /// Half of the time for deciding on its approval has passed.
    Escalate {
        decide_by: Timestamp,
    },
    /// A person lets the task pass a freeze.
    Override {
        freeze: String,
        by: String,
        reason: String,
    },
    /// An agent claims the task that a lane message refers to.
    Claim {
        agent: Agent,
        owner: String,
        assignment: u32,
        authorization: VersionedAuthorization,
    },
    /// An external worker claims the task or renews its lease.
    ClaimExternal {
        by: Claimant,
        authorization: VersionedAuthorization,
    },
    /// The holder of this fence ends its run.
    End {
        fence: u64,
        ending: RunResult,
        events: Vec<LoggedEvent>,
        notes: Vec<Note>,
        outcome: Outcome,
    },
    /// The run reserves the maximum cost of a model call, with the price it will be settled at.
    /// `limits`: those of its tenant.
    Reserve {
        fence: u64,
        quote: CallCost,
        limits: BudgetLimits,
    },
    /// From now on the call for reservation `n` may be sent.
    Sent {
        fence: u64,
        n: u64,
    },
    /// What the call used, which may be more than was reserved.
    Settle {
        fence: u64,
        n: u64,
        used: Amount,
    },
    /// The call is not made.
    Release {
        fence: u64,
        n: u64,
    },
    /// An external worker ends a task in one step: one it holds, or one still assigned.
    EndExternal {
        by: Claimant,
        ending: RunResult,
        authorization: VersionedAuthorization,
    },
    Cancel {
        by: String,
        reason: Option<String>,
        /// If given, it must be the task's current fence.
        fence: Option<u64>,
    },
    Answer {
        by: String,
        answer: String,
    },
    /// Retry now what waits for an answer or for its next retry.
    RetryNow {
        by: String,
    },
    /// The lane message reached `agent`, which is not the task's own agent.
    Reroute {
        agent: Agent,
    },
    /// The task is due. `lane_busy`: its lane still holds messages, so a missing claim does not
    /// mean a lost task reference.
    Tick {
        lane_busy: bool,
    },
    /// The due index listed the task too early: an index entry that is early enough is not
    /// rewritten at every change. This rewrites it; nothing is logged.
    Postpone,
    /// What blocks the task may have ended.
    Wake,
    /// Its lane's backlog has drained.
    Recall,
}

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("there is no such task")]
    Absent,
    #[error("the task already exists")]
    Exists,
    #[error("a task that is {status} can't be {what}")]
    Illegal { status: Status, what: &'static str },
    /// The lane message refers to an earlier assignment.
    #[error("assignment {asked} is stale, the task is at {current}")]
    StaleAssignment { asked: u32, current: u32 },
    /// Another claim has been made since.
    #[error("fence {asked} is stale, the task is at {current}")]
    Fenced { asked: u64, current: u64 },
    #[error("held by {owner} until {until}")]
    Held { owner: String, until: Timestamp },
    /// It was claimed with a worker name, so its ending must carry the claim's fence.
    #[error("{holder} claimed it with a worker name: send the `fence` that the claim returned")]
    NoFence { holder: String },
    /// Governance does not authorize it to begin now, and nothing is recorded about that.
    #[error("not authorized: {why}")]
    NotAuthorized { why: String },
    #[error("it must not run before {at}")]
    NotYet { at: Timestamp },
    /// The task changed after governance evaluated it.
    #[error("governance evaluated version {of}, the task is at {current}")]
    Changed { of: u64, current: u64 },
    #[error("it is assigned to {agent}")]
    WrongAgent { agent: Agent },
    #[error("{hops} hops through reactions; the maximum is {most}")]
    TooManyHops { hops: u8, most: u8 },
    /// The call would exceed a budget limit.
    #[error("{0}")]
    OverBudget(BudgetExceeded),
    #[error("the call has no open reservation; its possible usage is already charged")]
    NothingReserved,
    #[error("nothing is due")]
    NothingDue,
}
