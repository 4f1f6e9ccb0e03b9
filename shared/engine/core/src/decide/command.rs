use std::time::Duration;

use watchbill_domain::{
    Agent, Amount, Body, Earned, LoggedEvent, Note, Outcome, Question, ReputationEvent, Status,
    Timestamp,
};
use watchbill_governance::{BudgetExceeded, BudgetLimits, Quote, ReputationRules};

use super::{Asked, Draft, Proof, Rules};

/// What a decision may know besides state and command.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    pub now: Timestamp,
    /// The store's present epoch: leases of earlier ones are void.
    pub epoch: u64,
    /// For jitter.
    pub random: u64,
    pub rules: &'a Rules,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    Succeeded {
        result: Body,
    },
    /// `retry`: whether trying again can help, and the least wait the provider asked for.
    Failed {
        error: String,
        retry: Option<Duration>,
    },
    /// Failed in a way that trying again can't mend.
    FailedForGood {
        error: String,
    },
    Blocked {
        reason: String,
        question: Option<Question>,
    },
    /// A freeze holds the run up, or governance can't be reached.
    Held {
        until: Timestamp,
        why: String,
    },
    /// The run needs a person's leave to go on.
    Asks(Asked),
    /// Governance does not let it go on.
    Refused {
        error: String,
        earned: Option<Earned>,
    },
    Suspended {
        resume_at: Timestamp,
        note: String,
    },
}

impl Ending {
    /// What it does to the agent's score. Tasks that ended for want of something a person must
    /// give are neither success nor failure; one that had to ask what to do is an escalation.
    pub fn earned(&self, rules: &ReputationRules) -> Option<Earned> {
        let event = match self {
            Ending::Succeeded { .. } => ReputationEvent::TaskSuccess,
            Ending::Failed { .. } | Ending::FailedForGood { .. } => ReputationEvent::TaskFailure,
            Ending::Blocked { question: Some(_), .. } => ReputationEvent::HumanEscalation,
            Ending::Refused { earned, .. } => return *earned,
            Ending::Blocked { .. }
            | Ending::Held { .. }
            | Ending::Asks(_)
            | Ending::Suspended { .. } => return None,
        };
        Some(rules.earned(event))
    }
}

/// A worker outside, as it says who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// Who holds the lease: the key that it calls with.
    pub owner: String,
    /// Which of the workers that share the key. None: they all count as one.
    pub worker: Option<String>,
    /// Under which claim it acts.
    pub fence: Option<u64>,
}

impl Claimant {
    /// A key whose workers count as one.
    pub fn key(owner: impl Into<String>) -> Self {
        Self { owner: owner.into(), worker: None, fence: None }
    }
}

/// What can be asked of a task.
#[derive(Clone, Debug)]
pub enum Command {
    Create(Box<Draft>),
    Approve {
        by: String,
        proof: String,
        use_by: Timestamp,
    },
    Reject {
        by: String,
        reason: Option<String>,
    },
    /// One of several approvers has said yes.
    Vote {
        by: String,
        have: usize,
        need: u8,
    },
    Expire,
    /// Half of the time for its approval is gone.
    Escalate {
        decide_by: Timestamp,
    },
    /// A person lets it pass a freeze.
    Override {
        freeze: String,
        by: String,
        reason: String,
    },
    /// An agent takes the task that a lane message pointed at.
    Claim {
        agent: Agent,
        owner: String,
        assignment: u32,
        proof: Proof,
    },
    /// A worker outside takes the task, or says that it is still at it.
    ClaimOutside {
        by: Claimant,
        proof: Proof,
    },
    /// The holder of this fence ends its run.
    End {
        fence: u64,
        ending: Ending,
        events: Vec<LoggedEvent>,
        notes: Vec<Note>,
        outcome: Outcome,
    },
    /// The run sets aside the most that a model's call can cost, with the price that it will be
    /// settled at. `limits`: those of its tenant.
    Reserve {
        fence: u64,
        quote: Quote,
        limits: BudgetLimits,
    },
    /// The call for which reservation `n` was made may go out from now on.
    Sent {
        fence: u64,
        n: u64,
    },
    /// The call used this, which may be more than was set aside.
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
    /// A worker outside ends a task: one it holds, or one still assigned, in one step.
    EndOutside {
        by: Claimant,
        ending: Ending,
        proof: Proof,
    },
    Cancel {
        by: String,
        reason: Option<String>,
        /// Only while this is the task's fence, where the caller says so.
        fence: Option<u64>,
    },
    Answer {
        by: String,
        answer: String,
    },
    /// Try at once what waits for a person or for its next try.
    RetryNow {
        by: String,
    },
    /// The lane message reached `agent`, which is not the task's own.
    Reroute {
        agent: Agent,
    },
    /// It is due: someone looks. `lane_busy`: its lane still holds messages, so that not
    /// having been claimed is no sign of a lost pointer.
    Tick {
        lane_busy: bool,
    },
    /// It stood among what is due, and is not due yet: an index entry that is early enough is
    /// not rewritten at every change. It is now; nothing is logged.
    Postpone,
    /// What holds it up may be over.
    Wake,
    /// Its lane's backlog is over.
    Recall,
}

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("there is no such task")]
    Absent,
    #[error("the task exists already")]
    Exists,
    #[error("a task that is {status} can't be {what}")]
    Illegal { status: Status, what: &'static str },
    /// The lane message is of an assignment that is over.
    #[error("assignment {asked} is over, the task is at {current}")]
    StaleAssignment { asked: u32, current: u32 },
    /// Someone else has claimed since.
    #[error("fence {asked} is stale, the task is at {current}")]
    Fenced { asked: u64, current: u64 },
    #[error("held by {owner} until {until}")]
    Held { owner: String, until: Timestamp },
    /// It was claimed with a worker's name, so its ending has to say under which claim.
    #[error("{holder} has claimed it by name: an ending needs the `fence` that the claim gave")]
    NoFence { holder: String },
    /// Governance does not let it begin now, and nothing is to be remembered of that.
    #[error("it waits: {why}")]
    Withheld { why: String },
    #[error("not to be run before {at}")]
    NotYet { at: Timestamp },
    /// It was changed since governance looked at it.
    #[error("governance looked at version {of}, the task is at {current}")]
    Changed { of: u64, current: u64 },
    #[error("it belongs to {agent}")]
    WrongAgent { agent: Agent },
    #[error("{hops} hops through reactions, {most} are the most")]
    TooManyHops { hops: u8, most: u8 },
    /// A limit has no room for the call.
    #[error("{0}")]
    OverBudget(BudgetExceeded),
    #[error("nothing is set aside for this call any more; what it may have used is charged")]
    NothingReserved,
    #[error("nothing is due")]
    NothingDue,
}
