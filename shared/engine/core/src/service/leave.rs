//! What governance says before a run, and before each mutating call within it. Order: budget,
//! permission (rules on tools, level), approval, freeze.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use watchbill_domain::{Agent, ReputationEvent, Task, TaskType, Timestamp, ToolCall};
use watchbill_governance::{
    Ask, Freeze, Judgement, Operation, Planned, Planner, Policy, Subject, asked_hash, is_low_risk,
    override_passes, shown,
};

use super::asking::{Asking, free_approval, salt};
use super::log;
use super::{Context, Governance, OnFailure, Reputation, ServiceError};
use crate::decide::{Leave, Proof, usable_until};
use crate::ports::{Expect, StoreError, Write};
use crate::repo::{self, StoredTask, encode};

/// Work that waits because governance can't be reached is tried again after this long, then
/// after twice as long each time, up to `MAX_UNREACHED_LOOK`.
pub const UNREACHED_LOOK: Duration = Duration::from_secs(60);
const MAX_UNREACHED_LOOK: Duration = Duration::from_secs(15 * 60);
/// How the note of such a wait begins.
const UNREACHED: &str = "governance can't be reached";

/// Who would run it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runner {
    /// One of our own agents: rules on its tools and its level hold.
    Own,
    /// A worker outside, which acts with rights of its own: gates, approvals and freezes hold.
    Outside,
}

/// What governance says, and what is to be written beside the change that follows.
pub struct Verdict {
    pub proof: Proof,
    pub beside: Vec<Write>,
    /// What it was said of: whoever goes on from here need not plan again.
    pub planned: Arc<Planned>,
}

/// Says what governance says. Cheap to clone.
#[derive(Clone)]
pub struct Authorizer {
    context: Context,
    governance: Governance,
    planner: Arc<dyn Planner>,
    reputation: Reputation,
}

impl Authorizer {
    pub(super) fn new(
        context: Context,
        governance: Governance,
        planner: Arc<dyn Planner>,
        reputation: Reputation,
    ) -> Self {
        Self { context, governance, planner, reputation }
    }

    pub(super) fn governance(&self) -> &Governance {
        &self.governance
    }

    pub(super) fn planner(&self) -> &dyn Planner {
        &*self.planner
    }

    /// What governance says of running a task as it stands now.
    pub async fn judge(
        &self,
        state: &StoredTask,
        payload: &Map<String, Value>,
        runner: Runner,
    ) -> Result<Verdict, ServiceError> {
        let task = &state.value;
        let planned = Arc::new(self.planner.plan(task.agent, task.task_type, payload));
        let call = match runner {
            Runner::Own => planned.call().cloned(),
            Runner::Outside => None,
        };
        self.judge_planned(state, payload, &planned, runner, call.as_ref()).await
    }

    /// The same of one call of a tool.
    pub async fn judge_call(
        &self,
        state: &StoredTask,
        payload: &Map<String, Value>,
        runner: Runner,
        call: Option<&ToolCall>,
    ) -> Result<Verdict, ServiceError> {
        let task = &state.value;
        let planned = Arc::new(self.planner.plan(task.agent, task.task_type, payload));
        self.judge_planned(state, payload, &planned, runner, call).await
    }

    /// The same where the plan for this payload is known already.
    pub async fn judge_planned(
        &self,
        state: &StoredTask,
        payload: &Map<String, Value>,
        planned: &Arc<Planned>,
        runner: Runner,
        call: Option<&ToolCall>,
    ) -> Result<Verdict, ServiceError> {
        let judging = Judging { authorizer: self, state, payload, planned, runner, call };
        judging.verdict().await
    }
}

struct Judging<'a> {
    authorizer: &'a Authorizer,
    state: &'a StoredTask,
    payload: &'a Map<String, Value>,
    planned: &'a Arc<Planned>,
    runner: Runner,
    call: Option<&'a ToolCall>,
}

impl Judging<'_> {
    fn task(&self) -> &Task {
        &self.state.value
    }

    fn says(&self, leave: Leave) -> Verdict {
        let proof = Proof { version: self.state.version, leave };
        Verdict { proof, beside: Vec::new(), planned: self.planned.clone() }
    }

    fn mutates(&self) -> bool {
        match (self.call, self.runner) {
            (Some(call), _) => call.mutating,
            // What a worker outside does nobody here sees.
            (None, Runner::Outside) => true,
            (None, Runner::Own) => false,
        }
    }

    async fn verdict(&self) -> Result<Verdict, ServiceError> {
        if let Some(error) = self.misregistered() {
            let verdict = self.says(Leave::Refused { error, earned: None });
            log::leave(self.task(), None, &verdict.proof.leave);
            return Ok(verdict);
        }
        let policy = match self.authorizer.governance().policies().current().await {
            Ok(policy) => policy,
            Err(error) => return Ok(self.without(&error.to_string(), None)),
        };
        self.authorizer.governance().set_degraded(false);
        let verdict = self.under(&policy).await?;
        log::leave(self.task(), self.operation(&policy), &verdict.proof.leave);
        Ok(verdict)
    }

    /// Why the call is none that its tool's spec allows, whatever the policy says: nobody can say
    /// which level it needs, so no approval can let it through either.
    fn misregistered(&self) -> Option<String> {
        let call = self.call?;
        let tool = &call.tool;
        match self.authorizer.planner.specs().get(tool) {
            None if call.mutating => {
                Some(format!("Permission denied: no tool '{tool}' is registered"))
            }
            Some(spec) if spec.is_mutating() && !call.mutating => Some(format!(
                "Permission denied: tool '{tool}' changes something, and this call says that it \
                 only reads"
            )),
            None | Some(_) => None,
        }
    }

    /// What the call amounts to, if its tool is registered.
    fn operation(&self, policy: &Policy) -> Option<Operation> {
        let call = self.call?;
        let environment = policy.environments.aimed_at(&call.arguments, &self.task().metadata);
        let spec = self.authorizer.planner.specs().get(&call.tool)?;
        Some(spec.operation.of(environment, is_low_risk(self.payload)))
    }

    async fn under(&self, policy: &Arc<Policy>) -> Result<Verdict, ServiceError> {
        let asks = match self.asks(policy) {
            Ok(asks) => asks,
            Err(refused) => return Ok(self.says(refused)),
        };
        let plan = self.plan();
        let now = self.authorizer.context.clock().now();
        let approved = self.is_approved(&plan, &asks, now);
        let level = match self.level(policy).await {
            Ok(level) => level,
            // The approval stands for the level too, so nothing hangs on the score.
            Err(error) if approved => LevelCheck::Unknown(error.to_string()),
            Err(error) => return Err(error),
        };
        let missing = match level {
            LevelCheck::Met if asks.is_empty() => {
                return Ok(self.says(self.unless_frozen(policy, None)));
            }
            LevelCheck::Unknown(reason) if asks.is_empty() && !approved => {
                return Ok(self.without(&reason, Some(policy)));
            }
            LevelCheck::Met => None,
            LevelCheck::Missing(missing) => Some(missing),
            LevelCheck::Unknown(reason) => Some(format!("the score can't be read: {reason}")),
        };
        if approved {
            let note = missing.map(|missing| format!("{missing}; let through by approval"));
            return Ok(self.says(self.unless_frozen(policy, note)));
        }
        // A person's decision would run out before the freeze ends: wait first, ask late.
        if let Some(hold) = self.frozen(policy) {
            return Ok(self.says(hold));
        }
        self.ask(plan, &asks, missing, now).await
    }

    /// Opens an approval, to be written in the commit of the change that makes the task wait.
    async fn ask(
        &self,
        plan: Map<String, Value>,
        asks: &[Ask],
        missing_level: Option<String>,
        now: Timestamp,
    ) -> Result<Verdict, ServiceError> {
        let had = self.task().approval.as_ref().map_or(0, |approval| approval.n);
        let asking = Asking {
            task: self.task(),
            payload: self.payload,
            asks,
            also: missing_level,
            n: free_approval(&self.authorizer.context, self.task(), had + 1).await?,
            salt: salt(&self.authorizer.context),
        };
        let approval = asking.approval(plan, now, self.authorizer.context.rules());
        let item = encode(&approval, None);
        let mut verdict = self.says(Leave::Ask(asking.asked()));
        verdict.beside.push(Write::Put { item, expect: Expect::Absent });
        Ok(verdict)
    }

    /// What the policy asks a person for; or that it refuses.
    fn asks(&self, policy: &Arc<Policy>) -> Result<Vec<Ask>, Leave> {
        let task = self.task();
        let subject = Subject {
            task_type: task.task_type,
            priority: task.priority,
            agent: task.agent,
            source: &task.source,
            created_by: &task.created_by,
            payload: self.payload,
            metadata: &task.metadata,
            gated_as: self.planned.gated_as,
            mutates: self.call.is_none_or(|call| call.mutating),
        };
        let mut asks = policy.gates(&subject);
        let Some(call) = self.call else { return Ok(asks) };
        let rules = &self.authorizer.context.rules().reputation;
        match policy.judge(&subject, call) {
            Judgement::Allow => {}
            Judgement::Ask(more) => asks.extend(more),
            Judgement::Deny { rule, reason } => {
                return Err(Leave::Refused {
                    error: format!("Permission denied: {reason} (rule '{rule}')"),
                    earned: Some(rules.earned(ReputationEvent::PermissionDenied)),
                });
            }
            Judgement::Violation { what } => {
                return Err(Leave::Refused {
                    error: format!("Permission denied: violation: {what}"),
                    earned: Some(rules.earned(ReputationEvent::ViolationDetected)),
                });
            }
        }
        Ok(asks)
    }

    /// Whether the agent's level is enough for this. An error: ask again, nothing is known.
    async fn level(&self, policy: &Policy) -> Result<LevelCheck, ServiceError> {
        let mutates = self.call.is_some_and(|call| call.mutating);
        let Some(operation) = self.operation(policy).filter(|_| mutates) else {
            return Ok(LevelCheck::Met);
        };
        let task = self.task();
        let needed = operation.needs();
        // Everyone has the lowest level, so nothing need be read for it.
        if needed == watchbill_governance::Level::SandboxOnly {
            return Ok(LevelCheck::Met);
        }
        let standing = match self.authorizer.reputation.read(&task.tenant, task.agent).await {
            Ok(standing) => standing,
            // The store has no time for it now: that says nothing of governance.
            Err(error @ StoreError::Busy { .. }) => return Err(error.into()),
            Err(error) => {
                // Where the task can't be read either it is the store that is out of reach.
                self.authorizer
                    .context
                    .load::<Task>(&repo::task_key(&task.tenant, &task.id))
                    .await?;
                return Ok(LevelCheck::Unknown(error.to_string()));
            }
        };
        if standing.level >= needed {
            return Ok(LevelCheck::Met);
        }
        let agent: Agent = task.agent;
        Ok(LevelCheck::Missing(format!(
            "{operation} needs level {needed}, {} has {} (score {})",
            agent.long_name(),
            standing.level,
            standing.score()
        )))
    }

    /// Whether a person has given leave for exactly this, and it is still good.
    fn is_approved(&self, plan: &Map<String, Value>, asks: &[Ask], now: Timestamp) -> bool {
        let asked = (!asks.is_empty()).then(|| asked_hash(asks));
        self.task().grants.iter().any(|grant| {
            now < usable_until(self.task(), grant, now, self.authorizer.context.rules())
                && asked.as_ref().is_none_or(|asked| grant.asked == *asked)
                && shown(self.task(), self.payload, plan, &grant.salt).hash == grant.hash
        })
    }

    /// What an approver is shown as the plan: the task's own, or the call itself where it is
    /// another one than the plan's.
    fn plan(&self) -> Map<String, Value> {
        let task = self.task();
        match self.call {
            Some(call) if self.planned.call() != Some(call) => {
                let mut plan = Map::new();
                plan.insert("agent".into(), json!(task.agent));
                plan.insert("action".into(), json!(call.tool));
                plan.insert("parameters".into(), Value::Object(call.arguments.clone()));
                plan
            }
            _ => self.planned.document.clone(),
        }
    }

    fn unless_frozen(&self, policy: &Policy, note: Option<String>) -> Leave {
        self.frozen(policy).unwrap_or(Leave::Granted { note })
    }

    /// The freeze that holds the longest of those that hold this up.
    fn frozen(&self, policy: &Policy) -> Option<Leave> {
        let external;
        let call = match self.call {
            Some(call) => call,
            None if self.runner == Runner::Outside => {
                external = external_call(self.task().task_type, self.payload);
                &external
            }
            None => return None,
        };
        let overrides = &self.task().overrides;
        let now = self.authorizer.context.clock().now();
        let passed =
            |freeze: &Freeze, until| overrides.iter().any(|o| override_passes(o, freeze, until));
        let (freeze, until) = frozen_by(policy, call, &self.task().metadata, now, passed)?;
        let why = format!("freeze '{}' until {until}: {}", freeze.name, freeze.reason);
        Some(Leave::Hold { until, why })
    }

    /// Governance can't be reached. `policy`: where that could be read, and the score not.
    fn without(&self, reason: &str, policy: Option<&Policy>) -> Verdict {
        let governance = self.authorizer.governance();
        governance.set_degraded(true);
        let (id, now) = (&self.task().id, self.authorizer.context.clock().now());
        // What was asked for once must have been given, whatever can't be read now; and what a
        // freeze holds up was not asked for yet.
        let task = self.task();
        let unasked = task.approval.is_none() && (task.held.is_none() || was_unreached(task));
        let may = unasked || self.is_approved(&self.plan(), &[], now);
        if !self.mutates() && may {
            return self.says(Leave::Granted { note: None });
        }
        let why = format!("{UNREACHED}: {reason}");
        match governance.on_failure() {
            OnFailure::Allow if may => {
                tracing::warn!(task = %id, "task {id} runs without governance: {reason}");
                let note = Some(format!("without governance: {reason}"));
                self.says(match policy {
                    Some(policy) => self.unless_frozen(policy, note),
                    None => Leave::Granted { note },
                })
            }
            // Once may be a moment's trouble; what fails for good is found so twice.
            OnFailure::Deny if was_unreached(self.task()) => {
                let error = format!("Permission denied: {why}");
                self.says(Leave::Refused { error, earned: None })
            }
            OnFailure::Allow | OnFailure::Restrict | OnFailure::Deny => {
                let looks = self.task().held.as_ref().map_or(0, |held| held.looks);
                let wait = UNREACHED_LOOK.saturating_mul(1 << looks.min(10));
                let until = now.plus(wait.min(MAX_UNREACHED_LOOK));
                self.says(Leave::Hold { until, why })
            }
        }
    }
}

/// What a worker of someone else's does, as far as a freeze can tell.
pub(super) fn external_call(task_type: TaskType, payload: &Map<String, Value>) -> ToolCall {
    ToolCall { tool: task_type.to_string(), arguments: payload.clone(), mutating: true }
}

/// The freeze that holds a call up for the longest, and until when. `passed`: whether the
/// task may pass one.
pub(super) fn frozen_by<'p>(
    policy: &'p Policy,
    call: &ToolCall,
    metadata: &Map<String, Value>,
    now: Timestamp,
    passed: impl Fn(&Freeze, Timestamp) -> bool,
) -> Option<(&'p Freeze, Timestamp)> {
    if !call.mutating {
        return None;
    }
    let freezes = policy.frozen(call, metadata, now).into_iter();
    freezes.filter(|(freeze, until)| !passed(freeze, *until)).max_by_key(|(_, until)| *until)
}

/// What is known of an agent's level.
enum LevelCheck {
    Met,
    /// It is too low; in words.
    Missing(String),
    /// The score can't be read, though the task can; why.
    Unknown(String),
}

/// Whether the task waits since the last look because governance could not be reached.
fn was_unreached(task: &Task) -> bool {
    task.held.as_ref().is_some_and(|held| held.why.starts_with(UNREACHED))
}
