//! Random scenarios of a task: moves made of numbers, so that a sequence can be shortened.

mod budget;
mod check;
mod claims;
mod rows;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, json};
use watchbill_core::decide::{
    ApprovalRequest, Authorization, Command, Decided, DecisionContext, EngineConfig, Identity,
    NewTask, PreparedTask, Rejection, RunResult, VersionedAuthorization, decide, next_due,
};
use watchbill_domain::{
    Agent, Amount, ApprovalId, Body, EventType, LogEntry, LoggedEvent, Outcome, Price, Priority,
    Question, ReputationEvent, ScoreDelta, Status, Task, TaskId, TaskLimits, TaskType, Timestamp,
};
use watchbill_governance::{BudgetLimits, CallCost};
use watchbill_testkit::a_task;

pub use rows::EVERY_WHAT;

/// SplitMix64, as in `testkit`.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// How a scenario begins, and under which rules.
#[derive(Clone, Debug)]
pub struct Setup {
    gate: bool,
    external: bool,
    /// The type, not the agent, is left to external workers.
    by_type: bool,
    lift: bool,
    priority: Priority,
    task_type: TaskType,
    max_retries: Option<u32>,
    sla_seconds: Option<u64>,
    no_sla: bool,
    /// Moves that would end the task are left out, so that its log outgrows the header.
    long: bool,
}

impl Setup {
    pub fn random(dice: &mut Dice) -> Self {
        let pick = |dice: &mut Dice, n: usize| dice.below(n as u64) as usize;
        let long = dice.one_in(8);
        Self {
            long,
            gate: dice.one_in(3),
            external: dice.one_in(4),
            by_type: dice.one_in(2),
            lift: dice.one_in(2),
            priority: Priority::ALL[pick(dice, Priority::ALL.len())],
            task_type: TaskType::ALL[pick(dice, TaskType::ALL.len())],
            max_retries: match long {
                true => Some(1_000),
                false => [None, Some(0), Some(1), Some(7)][pick(dice, 4)],
            },
            sla_seconds: [None, Some(1), Some(60), Some(86_400)][pick(dice, 4)],
            no_sla: dice.one_in(5),
        }
    }

    /// A task without gate and deadline, for one of our own agents.
    fn plain(gate: bool) -> Self {
        Self {
            gate,
            external: false,
            by_type: false,
            lift: false,
            priority: Priority::P2,
            task_type: TaskType::Monitor,
            max_retries: None,
            sla_seconds: None,
            no_sla: true,
            long: false,
        }
    }

    /// The number of moves of a scenario.
    pub fn moves(&self) -> usize {
        if self.long { 90 } else { 20 }
    }

    fn rules(&self, task_type: TaskType) -> EngineConfig {
        let mut rules = EngineConfig::default();
        rules.sla.lift = self.lift;
        if self.no_sla {
            rules.sla.targets.clear();
        }
        match (self.external, self.by_type) {
            (false, _) => {}
            (true, true) => _ = rules.external_types.insert(task_type),
            (true, false) => _ = rules.external.insert(rules.route(task_type, false)),
        }
        rules
    }

    fn draft(&self) -> PreparedTask {
        let id = TaskId::parse("t-1").unwrap();
        let sla_seconds = self.sla_seconds.filter(|_| !self.no_sla);
        let identity = match self.external == self.by_type {
            true => Identity::Retry { of: id.clone(), failure_counted: true },
            false => Identity::Fresh,
        };
        let payload = json!({"description": "Look"}).as_object().unwrap().clone();
        PreparedTask {
            new: Arc::new(NewTask {
                task_type: self.task_type,
                priority: self.priority,
                sla_target: sla_seconds.map(|s| format!("{s}s")),
                hops: 2,
                created_by: "alex".into(),
                source: "user".into(),
                max_retries: self.max_retries,
                identity,
                ..a_task()
            }),
            trace_id: "trace".into(),
            payload: Body::In(payload),
            sla_span: sla_seconds.map(Duration::from_secs),
            also_requested_by: Vec::new(),
            body_hash: None,
            approval: self.gate.then(|| ApprovalRequest {
                approval: ApprovalId::of(&id, 1),
                n: 1,
                reason: "a gate".into(),
                asked: String::new(),
                salt: String::new(),
            }),
            id,
        }
    }
}

/// One move: numbers that are interpreted against the state they meet.
#[derive(Clone, Debug)]
pub struct Move {
    command: u64,
    wait: u64,
    a: u64,
    b: u64,
    c: u64,
    random: u64,
    new_epoch: bool,
}

impl Move {
    pub fn random(dice: &mut Dice) -> Self {
        Self {
            command: dice.below(42),
            wait: dice.below(16),
            a: dice.below(16),
            b: dice.below(16),
            c: dice.below(16),
            random: dice.next(),
            new_epoch: dice.one_in(12),
        }
    }
}

pub struct Life {
    rules: EngineConfig,
    task: Task,
    version: u64,
    now: Timestamp,
    epoch: u64,
    /// Every change ever written, from header and overflow.
    log: Vec<LogEntry>,
    /// Versions of changes without a log entry.
    silent: BTreeSet<u64>,
    long: bool,
}

impl Life {
    pub fn begin(setup: &Setup) -> Result<Self, String> {
        let rules = setup.rules(setup.task_type);
        let now = Timestamp::from_millis(1_760_954_400_000);
        let facts = DecisionContext { now, epoch: 1, random: 7, rules: &rules };
        let command = Command::Create(Box::new(setup.draft()));
        let decided = decide(None, &command, &facts).map_err(|e| format!("not created: {e}"))?;
        let wanted = if setup.gate { Status::Pending } else { Status::Assigned };
        check::created(&decided, wanted, &facts)?;
        let Decided { task, version, .. } = decided;
        let log = task.log.clone();
        Ok(Self {
            rules,
            task,
            version,
            now,
            epoch: 1,
            log,
            silent: BTreeSet::new(),
            long: setup.long,
        })
    }

    pub fn task(&self) -> &Task {
        &self.task
    }

    pub fn count(&self, reached: &mut BTreeMap<String, u64>) {
        if self.version > 2 * TaskLimits::LOG as u64 {
            *reached.entry("a log that outgrew the header twice".into()).or_default() += 1;
        }
        if !self.silent.is_empty() {
            *reached.entry("a change that nothing is told of".into()).or_default() += 1;
        }
        for entry in &self.log {
            *reached.entry(entry.what.as_str().to_owned()).or_default() += 1;
        }
    }

    pub fn go(&mut self, step: &Move) -> Result<(), String> {
        self.epoch += u64::from(step.new_epoch);
        self.now = self.later(step.wait, step.random);
        let command = self.command(step);
        let ends = match &command {
            Command::End { ending, .. } | Command::EndExternal { ending, .. } => {
                matches!(
                    ending,
                    RunResult::Succeeded { .. }
                        | RunResult::FailedForGood { .. }
                        | RunResult::Denied { .. }
                )
            }
            Command::Cancel { .. } | Command::Reject { .. } | Command::Expire => true,
            _ => false,
        } || matches!(check::withheld(&command), Some(Authorization::Denied { .. }));
        if self.long && ends {
            return Ok(());
        }
        self.decide(&command, step.random)
    }

    fn decide(&mut self, command: &Command, random: u64) -> Result<(), String> {
        let rules = self.rules.clone();
        let facts = DecisionContext { now: self.now, epoch: self.epoch, random, rules: &rules };
        let describe = |reason: String| {
            format!("{reason}\n  after {command:?}\n  at {} on {:?}", facts.now, self.task)
        };
        let wanted = check::wanted(&self.task, self.version, command, &facts);
        match (decide(Some((&self.task, self.version)), command, &facts), wanted) {
            (Ok(_), Some(false)) => Err(describe("was accepted, must be refused".into())),
            (Err(e), Some(true)) => Err(describe(format!("must be accepted, was refused: {e}"))),
            (Err(Rejection::Absent), _) => Err(describe("a task that stands is absent".into())),
            (Err(_), _) => Ok(()),
            (Ok(decided), _) => {
                let before = check::Before { task: &self.task, version: self.version };
                check::change(&before, command, &decided, &facts).map_err(describe)?;
                self.log.retain(|entry| !decided.task.log.iter().any(|e| e == entry));
                self.log.retain(|entry| !decided.overflow.iter().any(|e| e == entry));
                self.log.extend(decided.overflow.iter().cloned());
                self.log.extend(decided.task.log.iter().cloned());
                self.version = decided.version;
                if decided.task.log.last().is_some_and(|last| last.version < decided.version) {
                    self.silent.insert(decided.version);
                }
                self.task = decided.task;
                Ok(())
            }
        }
    }

    /// Invariants of the whole scenario.
    pub fn close(&self) -> Result<(), String> {
        check::whole_log(&self.log, self.version, &self.silent, &self.rules)?;
        let json = serde_json::to_vec(&self.task).map_err(|e| e.to_string())?;
        let read: Task = serde_json::from_slice(&json).map_err(|e| e.to_string())?;
        if read == self.task { Ok(()) } else { Err(format!("not read as written: {read:?}")) }
    }

    pub fn waits_for_a_claim(&self) -> bool {
        self.task.status == Status::Assigned && !self.task.external
    }

    /// A tick at the due time, with an empty lane.
    pub fn look_when_due(&mut self) -> Result<(), String> {
        let Some(due) = next_due(&self.task, self.now) else { return Ok(()) };
        self.now = self.now.max(due);
        self.decide(&Command::Tick { lane_busy: false }, 0)
    }

    /// Executes a command after a wait.
    pub fn after(&mut self, wait: Duration, command: &Command) -> Result<(), String> {
        self.now = self.now.plus(wait);
        self.decide(command, 0)
    }

    /// Interesting times: now, a little later, and around the due time.
    fn later(&self, wait: u64, random: u64) -> Timestamp {
        let due = next_due(&self.task, self.now);
        let moment = match wait {
            0..=4 => Some(self.now),
            5 => Some(self.now.plus(Duration::from_millis(random % 5_000))),
            6 => Some(self.now.plus(Duration::from_secs(random % 600))),
            7 => Some(self.now.plus(Duration::from_secs(random % 90_000))),
            8..=10 => due,
            11 => due.map(|at| at.minus(Duration::from_millis(1))),
            12 | 13 => self.task.lease.as_ref().map(|lease| lease.until),
            14 => self.task.resume_at,
            _ => self.task.sla.as_ref().map(|sla| sla.deadline),
        };
        moment.unwrap_or(self.now).max(self.now)
    }

    fn command(&self, step: &Move) -> Command {
        let task = &self.task;
        let by = self.claimant(step);
        match step.command {
            0 => Command::Approve {
                by: "kim".into(),
                proof: "hash".into(),
                use_by: self.now.plus(Duration::from_secs(60)),
            },
            1 if step.a < 4 => Command::Reject { by: "kim".into(), reason: None },
            1 if step.a < 6 => Command::Expire,
            2 if step.a < 4 => Command::Vote { by: "kim".into(), have: 1, need: 2 },
            2 if step.a < 8 => Command::Escalate { decide_by: self.now },
            2 if step.a < 12 => Command::Override {
                freeze: "release".into(),
                by: "kim".into(),
                reason: "it is urgent".into(),
            },
            1 | 2 => Command::Approve { by: "kim".into(), proof: "other".into(), use_by: self.now },
            3..=9 => Command::Claim {
                agent: if step.a == 0 { other(task.agent) } else { task.agent },
                owner: "lambda:1".into(),
                authorization: self.authorization(step),
                assignment: match step.b {
                    0 | 1 => task.assignment.saturating_sub(1),
                    2 => task.assignment + 1,
                    _ => task.assignment,
                },
            },
            10..=12 => Command::ClaimExternal { by, authorization: self.authorization(step) },
            13..=19 => Command::End {
                fence: match step.b {
                    0 => task.fence.saturating_sub(1),
                    1 => task.fence + 1,
                    _ => task.fence,
                },
                ending: self.ending(step),
                events: extra_events(step.c),
                notes: Vec::new(),
                outcome: Outcome {
                    // It must be ignored: the header has the usage.
                    tokens: step.c,
                    micro_usd: 0,
                    reputation: match step.c {
                        0..=3 => Vec::new(),
                        4 => vec![ScoreDelta(ReputationEvent::TaskFailure, -3)],
                        _ => vec![ScoreDelta(ReputationEvent::TaskSuccess, 2)],
                    },
                    read_only: step.a.is_multiple_of(2),
                    worker: Some("nobody".into()),
                },
            },
            20 | 21 => Command::EndExternal {
                by,
                ending: self.ending(step),
                authorization: self.authorization(step),
            },
            22 if step.a < 3 => {
                let (by, reason) = ("alex".to_owned(), Some("no".to_owned()));
                Command::Cancel { by, reason, fence: claims::fence(step, task.fence) }
            }
            22..=24 => Command::Answer { by: "kim".into(), answer: "yes".into() },
            25 => Command::RetryNow { by: "kim".into() },
            26 => Command::Reroute {
                agent: if step.a.is_multiple_of(2) { task.agent } else { other(task.agent) },
            },
            27 if step.a == 0 => {
                Command::Create(Box::new(Setup::random(&mut Dice::new(step.random)).draft()))
            }
            27 if step.a == 1 => Command::Postpone,
            27 if step.a < 5 => Command::Wake,
            27 if step.a < 8 => Command::Recall,
            32..=41 => self.spending(step),
            _ => Command::Tick { lane_busy: step.b < 4 },
        }
    }

    fn spending(&self, step: &Move) -> Command {
        let fence = if step.b == 0 { self.task.fence + 1 } else { self.task.fence };
        let open = self.task.reservation.as_ref().map_or(0, |open| open.n);
        let n = if step.b == 1 { open + 1 } else { open };
        let amount = Amount { micro_usd: step.c * 15_000, tokens: step.a * 300 };
        match step.command {
            32..=35 => Command::Reserve {
                fence,
                quote: CallCost { amount, price: Some(Price { input: step.c, output: 7 }) },
                limits: BudgetLimits::default(),
            },
            36..=38 => Command::Sent { fence, n },
            39 | 40 => Command::Settle { fence, n, used: amount },
            _ => Command::Release { fence, n },
        }
    }

    /// Mostly granted; sometimes another decision, or one for another version.
    fn authorization(&self, step: &Move) -> VersionedAuthorization {
        let decision = match step.random % 12 {
            0 => Authorization::ApprovalRequired(self.asked()),
            1 if step.a < 8 => {
                let d = ScoreDelta(ReputationEvent::PermissionDenied, -8);
                Authorization::Denied { error: "no".into(), score_delta: (step.a < 6).then_some(d) }
            }
            2 => {
                let until = self.now.plus(Duration::from_secs(1 + step.random % 9_000));
                Authorization::Deferred { until, why: "a freeze".into() }
            }
            _ => Authorization::Granted { note: None },
        };
        let version = self.version - u64::from(step.random % 17 == 3 && self.version > 1);
        VersionedAuthorization { version, decision }
    }

    fn asked(&self) -> ApprovalRequest {
        let n = self.task.approval.as_ref().map_or(0, |approval| approval.n) + 1;
        let approval = ApprovalId::of(&self.task.id, n);
        ApprovalRequest {
            approval,
            n,
            reason: "a gate".into(),
            asked: "x".into(),
            salt: "s".into(),
        }
    }

    fn ending(&self, step: &Move) -> RunResult {
        match step.a {
            0 => RunResult::Succeeded { result: Body::default() },
            1..=4 => RunResult::Failed { error: "no route".into(), retry: None },
            5 | 6 => {
                let retry = Some(Duration::from_secs(step.random % 7_200));
                RunResult::Failed { error: "throttled".into(), retry }
            }
            7 => RunResult::FailedForGood { error: "ü".repeat(5_000) },
            8 => RunResult::Blocked { reason: "which one?".into(), question: None },
            9 | 10 => {
                let (text, choices) = ("which?".to_owned(), vec!["a".to_owned()]);
                let question = Some(Question { text, choices, answer: None, answered_by: None });
                RunResult::Blocked { reason: "which one?".into(), question }
            }
            12 => RunResult::ApprovalRequired(self.asked()),
            14 => {
                let until = self.now.plus(Duration::from_secs(step.random % 90_000));
                RunResult::Deferred { until, why: "a freeze".into() }
            }
            13 if step.random.is_multiple_of(3) => {
                RunResult::Denied { error: "denied".into(), score_delta: None }
            }
            11 => {
                RunResult::Suspended { resume_at: Timestamp::from_millis(5), note: "past".into() }
            }
            _ => {
                let resume_at = self.now.plus(Duration::from_secs(step.random % 7_200));
                RunResult::Suspended { resume_at, note: "building".into() }
            }
        }
    }
}

fn other(agent: Agent) -> Agent {
    if agent == Agent::Ops { Agent::Dev } else { Agent::Ops }
}

fn extra_events(n: u64) -> Vec<LoggedEvent> {
    let event_type = EventType::parse("deploy.started").unwrap();
    (0..n % 3)
        .map(|_| LoggedEvent { event_type: event_type.clone(), payload: Map::new() })
        .collect()
}
