//! Governance's authorization before a run, and before each mutating call within it. Order:
//! permission (violations, rules on tools), whether an approval holds, trust level, freeze. A level
//! that is too low requires approval, and one that holds covers it; it is looked at before the
//! score, so that approved work does not depend on a readable score. While a freeze holds, no new
//! approval is opened.
//!
//! The budget is not checked here: a run reserves it for each call of a model (`budgets`).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use watchbill_domain::{Agent, ReputationEvent, Task, TaskType, Timestamp, ToolCall};
use watchbill_governance::{
    ApprovalRequirement, Freeze, Operation, Planned, Planner, Policy, PolicyDecision, PolicyInput,
    approval_document, is_low_risk, override_passes, requirements_hash,
};

use super::approval_builder::{ApprovalBuilder, free_approval, salt};
use super::log;
use super::{Context, Governance, OnFailure, Reputation, ServiceError};
use crate::decide::{Authorization, VersionedAuthorization, usable_until};
use crate::ports::{Precondition, StoreError, Write};
use crate::repo::{self, StoredTask, encode};

/// Delay of the first retry of work that waits for unreachable governance; exponential backoff
/// follows, up to `MAX_UNREACHABLE_RETRY_DELAY`.
pub const UNREACHABLE_RETRY_DELAY: Duration = Duration::from_secs(60);
const MAX_UNREACHABLE_RETRY_DELAY: Duration = Duration::from_secs(15 * 60);
/// Prefix of the note of such a wait.
const UNREACHABLE_NOTE: &str = "governance can't be reached";

/// Who would run the task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runner {
    /// One of our own agents: rules on its tools and its level apply.
    Own,
    /// An external worker, which has permissions of its own: gates, approvals and freezes apply.
    External,
}

/// Governance's authorization, and the writes that belong in the commit of the change that follows.
pub struct AuthorizedChange {
    pub authorization: VersionedAuthorization,
    pub extra_writes: Vec<Write>,
    /// The plan it was evaluated for, so that the caller need not plan again.
    pub planned: Arc<Planned>,
}

/// Evaluates governance for tasks and calls. Cheap to clone.
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

    /// The authorization to run a task as it is now.
    pub async fn authorize(
        &self,
        state: &StoredTask,
        payload: &Map<String, Value>,
        runner: Runner,
    ) -> Result<AuthorizedChange, ServiceError> {
        let task = &state.value;
        let planned = Arc::new(self.planner.plan(task.agent, task.task_type, payload));
        let call = match runner {
            Runner::Own => planned.call().cloned(),
            Runner::External => None,
        };
        self.authorize_planned(state, payload, &planned, runner, call.as_ref()).await
    }

    /// The same for one tool call.
    pub async fn authorize_call(
        &self,
        state: &StoredTask,
        payload: &Map<String, Value>,
        runner: Runner,
        call: Option<&ToolCall>,
    ) -> Result<AuthorizedChange, ServiceError> {
        let task = &state.value;
        let planned = Arc::new(self.planner.plan(task.agent, task.task_type, payload));
        self.authorize_planned(state, payload, &planned, runner, call).await
    }

    /// The same with a plan that is known already.
    pub async fn authorize_planned(
        &self,
        state: &StoredTask,
        payload: &Map<String, Value>,
        planned: &Arc<Planned>,
        runner: Runner,
        call: Option<&ToolCall>,
    ) -> Result<AuthorizedChange, ServiceError> {
        let judging = Request { authorizer: self, state, payload, planned, runner, call };
        judging.authorize().await
    }
}

struct Request<'a> {
    authorizer: &'a Authorizer,
    state: &'a StoredTask,
    payload: &'a Map<String, Value>,
    planned: &'a Arc<Planned>,
    runner: Runner,
    call: Option<&'a ToolCall>,
}

impl Request<'_> {
    fn task(&self) -> &Task {
        &self.state.value
    }

    fn change(&self, decision: Authorization) -> AuthorizedChange {
        let authorization = VersionedAuthorization { version: self.state.version, decision };
        AuthorizedChange { authorization, extra_writes: Vec::new(), planned: self.planned.clone() }
    }

    fn mutates(&self) -> bool {
        match (self.call, self.runner) {
            (Some(call), _) => call.mutating,
            // What an external worker does is not visible here.
            (None, Runner::External) => true,
            (None, Runner::Own) => false,
        }
    }

    async fn authorize(&self) -> Result<AuthorizedChange, ServiceError> {
        if let Some(error) = self.misregistered() {
            let change = self.change(Authorization::Denied { error, score_delta: None });
            log::authorization(self.task(), None, &change.authorization.decision);
            return Ok(change);
        }
        let policy = match self.authorizer.governance().policies().current().await {
            Ok(policy) => policy,
            Err(error) => return Ok(self.without_governance(&error.to_string(), None)),
        };
        self.authorizer.governance().set_degraded(false);
        let change = self.under(&policy).await?;
        log::authorization(self.task(), self.operation(&policy), &change.authorization.decision);
        Ok(change)
    }

    /// Why the call does not match its tool's spec. It is denied whatever the policy says: the
    /// level it needs is unknown, so no approval can authorize it.
    fn misregistered(&self) -> Option<String> {
        let call = self.call?;
        let tool = &call.tool;
        match self.authorizer.planner.specs().get(tool) {
            None if call.mutating => {
                Some(format!("Permission denied: no tool '{tool}' is registered"))
            }
            Some(spec) if spec.is_mutating() && !call.mutating => Some(format!(
                "Permission denied: tool '{tool}' is mutating, but this call is marked as read-only"
            )),
            None | Some(_) => None,
        }
    }

    /// The call's operation, if its tool is registered.
    fn operation(&self, policy: &Policy) -> Option<Operation> {
        let call = self.call?;
        let environment = policy.environments.aimed_at(&call.arguments, &self.task().metadata);
        let spec = self.authorizer.planner.specs().get(&call.tool)?;
        Some(spec.operation.of(environment, is_low_risk(self.payload)))
    }

    async fn under(&self, policy: &Arc<Policy>) -> Result<AuthorizedChange, ServiceError> {
        let requirements = match self.asks(policy) {
            Ok(requirements) => requirements,
            Err(refused) => return Ok(self.change(refused)),
        };
        let plan = self.plan();
        let now = self.authorizer.context.clock().now();
        let approved = self.is_approved(&plan, &requirements, now);
        let level = match self.level(policy).await {
            Ok(level) => level,
            // The approval covers the level too, so the score does not matter.
            Err(error) if approved => LevelCheck::Unknown(error.to_string()),
            Err(error) => return Err(error),
        };
        let missing = match level {
            LevelCheck::Met if requirements.is_empty() => {
                return Ok(self.change(self.unless_frozen(policy, None)));
            }
            LevelCheck::Unknown(reason) if requirements.is_empty() && !approved => {
                return Ok(self.without_governance(&reason, Some(policy)));
            }
            LevelCheck::Met => None,
            LevelCheck::Missing(missing) => Some(missing),
            LevelCheck::Unknown(reason) => Some(format!("the score can't be read: {reason}")),
        };
        if approved {
            let note = missing.map(|missing| format!("{missing}; permitted by approval"));
            return Ok(self.change(self.unless_frozen(policy, note)));
        }
        // A decision would expire before the freeze ends: wait first, then request the approval.
        if let Some(hold) = self.frozen(policy) {
            return Ok(self.change(hold));
        }
        self.ask(plan, &requirements, missing, now).await
    }

    /// Opens an approval, to be written in the commit of the change that makes the task wait.
    async fn ask(
        &self,
        plan: Map<String, Value>,
        requirements: &[ApprovalRequirement],
        missing_level: Option<String>,
        now: Timestamp,
    ) -> Result<AuthorizedChange, ServiceError> {
        let had = self.task().approval.as_ref().map_or(0, |approval| approval.n);
        let builder = ApprovalBuilder {
            task: self.task(),
            payload: self.payload,
            requirements,
            also: missing_level,
            n: free_approval(&self.authorizer.context, self.task(), had + 1).await?,
            salt: salt(&self.authorizer.context),
        };
        let approval = builder.approval(plan, now, self.authorizer.context.rules());
        let item = encode(&approval, None);
        let mut change = self.change(Authorization::ApprovalRequired(builder.asked()));
        change.extra_writes.push(Write::Put { item, expect: Precondition::Absent });
        Ok(change)
    }

    /// The approvals that the policy requires, or its denial.
    fn asks(&self, policy: &Arc<Policy>) -> Result<Vec<ApprovalRequirement>, Authorization> {
        let task = self.task();
        let subject = PolicyInput {
            task_type: task.task_type,
            priority: task.priority,
            agent: task.agent,
            source: &task.source,
            created_by: &task.created_by,
            payload: self.payload,
            metadata: &task.metadata,
            gate_type: self.planned.gate_type,
            mutates: self.call.is_none_or(|call| call.mutating),
        };
        let mut requirements = policy.gates(&subject);
        let Some(call) = self.call else { return Ok(requirements) };
        let rules = &self.authorizer.context.rules().reputation;
        match policy.decide(&subject, call) {
            PolicyDecision::Allow => {}
            PolicyDecision::ApprovalRequired(more) => requirements.extend(more),
            PolicyDecision::Deny { rule, reason } => {
                return Err(Authorization::Denied {
                    error: format!("Permission denied: {reason} (rule '{rule}')"),
                    score_delta: Some(rules.score_delta(ReputationEvent::PermissionDenied)),
                });
            }
            PolicyDecision::Violation { what } => {
                return Err(Authorization::Denied {
                    error: format!("Permission denied: violation: {what}"),
                    score_delta: Some(rules.score_delta(ReputationEvent::ViolationDetected)),
                });
            }
        }
        Ok(requirements)
    }

    /// Whether the agent's level is high enough. On an error the caller retries: nothing is known.
    async fn level(&self, policy: &Policy) -> Result<LevelCheck, ServiceError> {
        let mutates = self.call.is_some_and(|call| call.mutating);
        let Some(operation) = self.operation(policy).filter(|_| mutates) else {
            return Ok(LevelCheck::Met);
        };
        let task = self.task();
        let needed = operation.needs();
        // Every agent has the lowest level, so nothing need be read.
        if needed == watchbill_governance::Level::SandboxOnly {
            return Ok(LevelCheck::Met);
        }
        let standing = match self.authorizer.reputation.read(&task.tenant, task.agent).await {
            Ok(standing) => standing,
            // The store is throttling, which says nothing about governance.
            Err(error @ StoreError::Busy { .. }) => return Err(error.into()),
            Err(error) => {
                // If the task cannot be read either, the store is unreachable.
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

    /// Whether an approval was given for exactly this and is still valid.
    fn is_approved(
        &self,
        plan: &Map<String, Value>,
        requirements: &[ApprovalRequirement],
        now: Timestamp,
    ) -> bool {
        let asked = (!requirements.is_empty()).then(|| requirements_hash(requirements));
        self.task().grants.iter().any(|grant| {
            now < usable_until(self.task(), grant, now, self.authorizer.context.rules())
                && asked.as_ref().is_none_or(|asked| grant.asked == *asked)
                && approval_document(self.task(), self.payload, plan, &grant.salt).hash
                    == grant.hash
        })
    }

    /// The plan on the approval document: the task's own, or the call itself where it differs
    /// from the plan's call.
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

    fn unless_frozen(&self, policy: &Policy, note: Option<String>) -> Authorization {
        self.frozen(policy).unwrap_or(Authorization::Granted { note })
    }

    /// Of the freezes that apply, the one that lasts longest.
    fn frozen(&self, policy: &Policy) -> Option<Authorization> {
        let external;
        let call = match self.call {
            Some(call) => call,
            None if self.runner == Runner::External => {
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
        Some(Authorization::Deferred { until, why })
    }

    /// Governance is unreachable. `policy`: set if only the score was unreadable.
    fn without_governance(&self, reason: &str, policy: Option<&Policy>) -> AuthorizedChange {
        let governance = self.authorizer.governance();
        governance.set_degraded(true);
        let (id, now) = (&self.task().id, self.authorizer.context.clock().now());
        // An approval that was once required must have been given, whatever is unreadable now;
        // a task deferred by a freeze requires none yet.
        let task = self.task();
        let unasked = task.approval.is_none() && (task.held.is_none() || was_unreached(task));
        let may = unasked || self.is_approved(&self.plan(), &[], now);
        if !self.mutates() && may {
            return self.change(Authorization::Granted { note: None });
        }
        let why = format!("{UNREACHABLE_NOTE}: {reason}");
        match governance.on_failure() {
            OnFailure::Allow if may => {
                tracing::warn!(task = %id, "the task runs without governance: {reason}");
                let note = Some(format!("without governance: {reason}"));
                self.change(match policy {
                    Some(policy) => self.unless_frozen(policy, note),
                    None => Authorization::Granted { note },
                })
            }
            // The first failure may be transient; a lasting one is found at the second check.
            OnFailure::Deny if was_unreached(self.task()) => {
                let error = format!("Permission denied: {why}");
                self.change(Authorization::Denied { error, score_delta: None })
            }
            OnFailure::Allow | OnFailure::Restrict | OnFailure::Deny => {
                let looks = self.task().held.as_ref().map_or(0, |held| held.looks);
                let wait = UNREACHABLE_RETRY_DELAY.saturating_mul(1 << looks.min(10));
                let until = now.plus(wait.min(MAX_UNREACHABLE_RETRY_DELAY));
                self.change(Authorization::Deferred { until, why })
            }
        }
    }
}

/// An external worker's task as a tool call, as far as a freeze can tell.
pub(super) fn external_call(task_type: TaskType, payload: &Map<String, Value>) -> ToolCall {
    ToolCall { tool: task_type.to_string(), arguments: payload.clone(), mutating: true }
}

/// The freeze that defers a call the longest, and until when. `passed`: whether the task may
/// pass a freeze.
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

enum LevelCheck {
    Met,
    /// It is too low; in words.
    Missing(String),
    /// The score is unreadable although the task is readable; the reason.
    Unknown(String),
}

/// Whether the task was deferred at the last check because governance was unreachable.
fn was_unreached(task: &Task) -> bool {
    task.held.as_ref().is_some_and(|held| held.why.starts_with(UNREACHABLE_NOTE))
}
