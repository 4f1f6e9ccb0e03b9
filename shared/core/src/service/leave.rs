//! What governance says before a run, and before each mutating call within it. Order: budget,
//! permission (rules on tools, level), approval, freeze.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::asking::Asking;
use super::core::Core;
use super::{OnFailure, ServiceError};
use crate::decide::{Leave, Proof, usable_until};
use crate::domain::{Agent, Task, TaskType, Timestamp};
use crate::govern::{
    Ask, Freeze, Judgement, Operation, Policy, ReputationEvent, Subject, ToolCall, asked_hash,
    is_low_risk, shown,
};
use crate::ports::{Expect, Write};
use crate::repo::{StoredTask, encode};

/// Work that waits because governance can't be reached is tried again after this long, then
/// after twice as long each time, up to [`MAX_UNREACHED_LOOK`].
pub const UNREACHED_LOOK: Duration = Duration::from_secs(60);
const MAX_UNREACHED_LOOK: Duration = Duration::from_secs(15 * 60);

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
}

impl Core {
    /// What governance says of running a task as it stands now.
    pub async fn judge(
        &self,
        state: &StoredTask,
        payload: &Map<String, Value>,
        runner: Runner,
    ) -> Result<Verdict, ServiceError> {
        let task = &state.value;
        let call = match runner {
            Runner::Own => self.planner().call(task.agent, task.task_type, payload),
            Runner::Outside => None,
        };
        self.judge_call(state, payload, runner, call.as_ref()).await
    }

    /// The same of one call of a tool within a run.
    pub async fn judge_call(
        &self,
        state: &StoredTask,
        payload: &Map<String, Value>,
        runner: Runner,
        call: Option<&ToolCall>,
    ) -> Result<Verdict, ServiceError> {
        let judging = Judging { core: self, state, payload, runner, call };
        judging.verdict().await
    }
}

struct Judging<'a> {
    core: &'a Core,
    state: &'a StoredTask,
    payload: &'a Map<String, Value>,
    runner: Runner,
    call: Option<&'a ToolCall>,
}

impl Judging<'_> {
    fn task(&self) -> &Task {
        &self.state.value
    }

    fn says(&self, leave: Leave) -> Verdict {
        let proof = Proof { version: self.state.version, leave };
        Verdict { proof, beside: Vec::new() }
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
        let policy = match self.core.governance().policies().current().await {
            Ok(policy) => policy,
            Err(error) => return Ok(self.without(&error.to_string())),
        };
        self.core.governance().set_degraded(false);
        let asks = match self.asks(&policy) {
            Ok(asks) => asks,
            Err(refused) => return Ok(self.says(refused)),
        };
        let lacking = match self.lacking(&policy).await {
            Ok(lacking) => lacking,
            Err(error) => return Ok(self.without(&error.to_string())),
        };
        if asks.is_empty() && lacking.is_none() {
            return Ok(self.says(self.unless_frozen(&policy, None)));
        }
        let plan = self.plan();
        let now = self.core.clock().now();
        if self.is_approved(&plan, &asks, now) {
            let note = lacking.map(|lacking| format!("{lacking}; let through by approval"));
            return Ok(self.says(self.unless_frozen(&policy, note)));
        }
        // A person's decision would run out before the freeze ends: wait first, ask late.
        if let Some(hold) = self.frozen(&policy) {
            return Ok(self.says(hold));
        }
        let asking = Asking {
            task: self.task(),
            payload: self.payload,
            asks: &asks,
            also: lacking,
            n: self.task().approval.as_ref().map_or(0, |approval| approval.n) + 1,
            salt: self.core.salt(),
        };
        let approval = asking.approval(plan, now, self.core.rules());
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
            gated_as: self.core.planner().gated_as(task.task_type, self.payload),
        };
        let mut asks = policy.gates(&subject);
        let Some(call) = self.call else { return Ok(asks) };
        let rules = &self.core.rules().reputation;
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

    /// The level that the agent lacks for this, in words.
    async fn lacking(&self, policy: &Policy) -> Result<Option<String>, ServiceError> {
        let Some(call) = self.call.filter(|call| call.mutating) else { return Ok(None) };
        let task = self.task();
        let environment = policy.environments.kind(call.arguments.get("environment"));
        let operation = Operation::of_call(&call.tool, environment, is_low_risk(self.payload));
        let needed = operation.needs();
        // Everyone has the lowest level, so nothing need be read for it.
        if needed == crate::govern::Level::SandboxOnly {
            return Ok(None);
        }
        let standing = self.core.standing(&task.tenant, task.agent).await?;
        if standing.level >= needed {
            return Ok(None);
        }
        let agent: Agent = task.agent;
        Ok(Some(format!(
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
            now < usable_until(self.task(), grant, now, self.core.rules())
                && asked.as_ref().is_none_or(|asked| grant.asked == *asked)
                && shown(self.task().task_type, self.payload, plan, &grant.salt).hash == grant.hash
        })
    }

    /// What an approver is shown as the plan: the task's own, or the call itself where it is
    /// another one than the plan's.
    fn plan(&self) -> Map<String, Value> {
        let task = self.task();
        let planned = self.core.planner().call(task.agent, task.task_type, self.payload);
        match self.call {
            Some(call) if planned.as_ref() != Some(call) => {
                let mut plan = Map::new();
                plan.insert("agent".into(), json!(task.agent));
                plan.insert("action".into(), json!(call.tool));
                plan.insert("parameters".into(), Value::Object(call.arguments.clone()));
                plan
            }
            _ => self.core.planner().plan(task.agent, task.task_type, self.payload),
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
        let now = self.core.clock().now();
        let passed = |freeze: &Freeze, until| overrides.iter().any(|o| o.passes(freeze, until));
        let (freeze, until) = frozen_by(policy, call, now, passed)?;
        let why = format!("freeze '{}' until {until}: {}", freeze.name, freeze.reason);
        Some(Leave::Hold { until, why })
    }

    /// Governance can't be reached.
    fn without(&self, reason: &str) -> Verdict {
        let governance = self.core.governance();
        governance.set_degraded(true);
        let id = &self.task().id;
        let granted = |note: Option<String>| self.says(Leave::Granted { note });
        if !self.mutates() && self.task().approval.is_none() {
            return granted(None);
        }
        let why = format!("governance can't be reached: {reason}");
        match governance.on_failure() {
            OnFailure::Allow => {
                tracing::warn!(task = %id, "task {id} runs without governance: {reason}");
                granted(Some(format!("without governance: {reason}")))
            }
            OnFailure::Restrict => {
                let looks = self.task().held.as_ref().map_or(0, |held| held.looks);
                let wait = UNREACHED_LOOK.saturating_mul(1 << looks.min(10));
                let until = self.core.clock().now().plus(wait.min(MAX_UNREACHED_LOOK));
                self.says(Leave::Hold { until, why })
            }
            OnFailure::Deny => self
                .says(Leave::Refused { error: format!("Permission denied: {why}"), earned: None }),
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
    now: Timestamp,
    passed: impl Fn(&Freeze, Timestamp) -> bool,
) -> Option<(&'p Freeze, Timestamp)> {
    if !call.mutating {
        return None;
    }
    let freezes = policy.frozen(call, now).into_iter();
    freezes.filter(|(freeze, until)| !passed(freeze, *until)).max_by_key(|(_, until)| *until)
}
