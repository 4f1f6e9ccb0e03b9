//! The policy: rules on tool calls and gates, and how they are evaluated.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use watchbill_domain::{Agent, Priority, TaskType, Timestamp, ToolCall, canonical_hash};

use super::gates::asked_gates;
use super::{BudgetLimits, EnvironmentKind, Environments, Freeze, GateRules, Prices};

/// A compiled expression of a policy.
pub trait Condition: Send + Sync + fmt::Debug {
    /// Whether it is true of the subject, see [`PolicyInput::as_json`]. `Err` if it can't be
    /// evaluated, for instance because a field is missing.
    fn holds(&self, subject: &Value) -> Result<bool, String>;

    /// The expression as it was written. Conditions with the same text are equal.
    fn text(&self) -> &str;
}

impl PartialEq for dyn Condition {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

/// The source of the policy. The result may be cached for up to 30 s.
#[async_trait]
pub trait Policies: Send + Sync {
    async fn current(&self) -> Result<Arc<Policy>, PolicyUnavailable>;
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("the policy can't be read: {0}")]
pub struct PolicyUnavailable(pub String);

/// One policy for the lifetime of the process.
#[derive(Clone, Debug)]
pub struct FixedPolicy(pub Arc<Policy>);

#[async_trait]
impl Policies for FixedPolicy {
    async fn current(&self) -> Result<Arc<Policy>, PolicyUnavailable> {
        Ok(self.0.clone())
    }
}

/// A gate in addition to the standing ones.
#[derive(Clone, Debug, PartialEq)]
pub struct GateRule {
    pub name: String,
    pub reason: String,
    pub types: BTreeSet<TaskType>,
    pub when: Option<Arc<dyn Condition>>,
    pub quorum: u8,
}

/// The decision of a tool rule. Of several matching rules the strictest applies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RuleEffect {
    Allow,
    Ask,
    Deny,
}

/// A rule on tool calls. Fields that are left empty match everything.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolRule {
    pub name: String,
    pub reason: String,
    pub agents: BTreeSet<Agent>,
    pub tools: BTreeSet<String>,
    pub environments: BTreeSet<EnvironmentKind>,
    pub when: Option<Arc<dyn Condition>>,
    pub effect: RuleEffect,
    pub quorum: u8,
}

/// Allowed targets of mutating calls. A kind that lists none is not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    pub projects: BTreeSet<String>,
    pub services: BTreeSet<String>,
    pub repositories: BTreeSet<String>,
    pub hosts: BTreeSet<String>,
}

/// The input of the rules.
#[derive(Clone, Copy)]
pub struct PolicyInput<'a> {
    pub task_type: TaskType,
    pub priority: Priority,
    pub agent: Agent,
    pub source: &'a str,
    pub created_by: &'a str,
    pub payload: &'a Map<String, Value>,
    pub metadata: &'a Map<String, Value>,
    /// The type that the gates use: a text may ask for more than its type says.
    pub gate_type: TaskType,
    /// Whether it may change something. Also true if that can't be determined here.
    pub mutates: bool,
}

/// A reason to require approval, and how many people must approve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalRequirement {
    pub reason: String,
    pub quorum: u8,
}

/// The policy's decision on a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyDecision {
    Allow,
    ApprovalRequired(Vec<ApprovalRequirement>),
    Deny {
        rule: String,
        reason: String,
    },
    /// A dangerous command, or a target that is not in the inventory.
    Violation {
        what: String,
    },
}

/// What an installation allows its agents to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// SHA-256, hex, of the policy text; empty for the built-in one.
    pub fingerprint: String,
    pub gates: GateRules,
    pub gate_rules: Vec<GateRule>,
    /// How many must approve if no rule says otherwise.
    pub quorum: u8,
    pub environments: Environments,
    pub tools: Vec<ToolRule>,
    pub inventory: Inventory,
    pub freezes: Vec<Freeze>,
    pub limits: BudgetLimits,
    pub prices: Prices,
}

impl Default for Policy {
    /// The policy without a file. It equals the commented file that comes with Watchbill.
    fn default() -> Self {
        let below_production = ToolRule {
            name: "deploy-below-production".to_owned(),
            reason: "the agent's level decides on deployments outside production".to_owned(),
            agents: BTreeSet::new(),
            tools: ["deploy".to_owned()].into(),
            environments: [EnvironmentKind::Staging, EnvironmentKind::Sandbox].into(),
            when: None,
            effect: RuleEffect::Allow,
            quorum: 1,
        };
        Self {
            fingerprint: String::new(),
            gates: GateRules::default(),
            gate_rules: Vec::new(),
            quorum: 1,
            environments: Environments::default(),
            tools: vec![below_production],
            inventory: Inventory::default(),
            freezes: Vec::new(),
            limits: BudgetLimits::default(),
            prices: Prices::default(),
        }
    }
}

impl Policy {
    /// A policy without gates. Its tool rules still apply.
    pub fn without_gates() -> Self {
        Self { gates: GateRules::off(), ..Self::default() }
    }

    /// The approvals that gates require before the task is assigned.
    pub fn gates(&self, subject: &PolicyInput<'_>) -> Vec<ApprovalRequirement> {
        let asked = |task_type| {
            asked_gates(
                task_type,
                subject.priority,
                subject.mutates,
                subject.payload,
                subject.metadata,
                &self.gates,
                &self.environments,
            )
        };
        let mut gates = asked(subject.task_type);
        if subject.gate_type != subject.task_type {
            let more = asked(subject.gate_type);
            gates.extend(more.into_iter().filter(|gate| !gates.contains(gate)).collect::<Vec<_>>());
        }
        let standing =
            gates.iter().map(|g| ApprovalRequirement { reason: g.reason(), quorum: self.quorum });
        let mut asks: Vec<ApprovalRequirement> = standing.collect();
        if !self.gate_rules.is_empty() {
            let json = subject.as_json(None, self);
            let matching = |rule: &&GateRule| {
                (rule.types.is_empty()
                    || rule.types.contains(&subject.task_type)
                    || rule.types.contains(&subject.gate_type))
                    // A condition that can't be evaluated requires approval.
                    && rule.when.as_ref().is_none_or(|when| when.holds(&json).unwrap_or(true))
            };
            let more = self.gate_rules.iter().filter(matching);
            asks.extend(
                more.map(|r| ApprovalRequirement { reason: r.reason.clone(), quorum: r.quorum }),
            );
        }
        asks
    }

    /// The decision of the rules on a tool call: a violation first, then the strictest rule that
    /// matches. A mutating call that no rule matches requires approval; one that reads is allowed.
    pub fn decide(&self, subject: &PolicyInput<'_>, call: &ToolCall) -> PolicyDecision {
        if call.mutating
            && let Some(what) = self.violation(call)
        {
            return PolicyDecision::Violation { what };
        }
        let matching = self.matching(subject, call);
        // The first by name, so that the order of rules has no effect.
        let denied = matching.iter().filter(|rule| rule.effect == RuleEffect::Deny);
        if let Some(rule) = denied.min_by_key(|rule| &rule.name) {
            let (rule, reason) = (rule.name.clone(), rule.reason.clone());
            return PolicyDecision::Deny { rule, reason };
        }
        let asking = matching.iter().filter(|rule| rule.effect == RuleEffect::Ask);
        let mut asks: Vec<ApprovalRequirement> = asking
            .map(|r| ApprovalRequirement { reason: r.reason.clone(), quorum: r.quorum })
            .collect();
        asks.sort_by(|one, other| (&one.reason, one.quorum).cmp(&(&other.reason, other.quorum)));
        match matching.iter().map(|rule| rule.effect).max() {
            None if call.mutating => PolicyDecision::ApprovalRequired(vec![ApprovalRequirement {
                reason: format!("{} changes something, and no rule allows it", call.tool),
                quorum: self.quorum,
            }]),
            None | Some(RuleEffect::Allow) => PolicyDecision::Allow,
            Some(_) => PolicyDecision::ApprovalRequired(asks),
        }
    }

    /// What no approval can allow in a mutating call: a dangerous command, or a target that is
    /// not in the inventory.
    fn violation(&self, call: &ToolCall) -> Option<String> {
        let dangerous = watchbill_command_guard::find(&call.arguments);
        dangerous.or_else(|| super::targets::find(&call.arguments, &self.inventory))
    }

    fn matching(&self, subject: &PolicyInput<'_>, call: &ToolCall) -> Vec<&ToolRule> {
        let environment = self.environments.aimed_at(&call.arguments, subject.metadata);
        // Built only if an expression needs it: payloads may be large.
        let json = LazyCell::new(|| subject.as_json(Some(call), self));
        // A condition that can't be evaluated counts against the call: ask and deny match,
        // allow does not.
        let holds = |rule: &ToolRule| match &rule.when {
            None => true,
            Some(when) => when.holds(&json).unwrap_or(rule.effect != RuleEffect::Allow),
        };
        let fits = |rule: &&ToolRule| {
            (rule.agents.is_empty() || rule.agents.contains(&subject.agent))
                && (rule.tools.is_empty() || rule.tools.contains(&call.tool))
                && (rule.environments.is_empty() || rule.environments.contains(&environment))
                && holds(rule)
        };
        self.tools.iter().filter(fits).collect()
    }

    /// The freezes that hold for a mutating call now, and their ends. `metadata`: of the call's
    /// task.
    pub fn frozen(
        &self,
        call: &ToolCall,
        metadata: &Map<String, Value>,
        now: Timestamp,
    ) -> Vec<(&Freeze, Timestamp)> {
        let environment = self.environments.aimed_at(&call.arguments, metadata);
        self.freezes
            .iter()
            .filter(|f| f.environments.is_empty() || f.environments.contains(&environment))
            .filter_map(|freeze| Some((freeze, freeze.holds_until(now)?)))
            .collect()
    }
}

impl PolicyInput<'_> {
    /// The input of expressions: `task`, `tool`, `args`, `environment`.
    pub fn as_json(&self, call: Option<&ToolCall>, policy: &Policy) -> Value {
        let arguments = call.map_or(self.payload, |call| &call.arguments);
        json!({
            "task": {
                "type": self.task_type, "priority": self.priority, "agent": self.agent,
                "source": self.source, "created_by": self.created_by,
                "payload": self.payload, "metadata": self.metadata,
            },
            "tool": call.map(|call| call.tool.as_str()),
            "args": arguments,
            "environment": policy.environments.aimed_at(arguments, self.metadata).as_str(),
        })
    }
}

/// Short hash of the requirements of a policy, in any order. At a claim it is compared with
/// the requirements of that time.
pub fn requirements_hash(asks: &[ApprovalRequirement]) -> String {
    let mut asks: Vec<(&str, u8)> =
        asks.iter().map(|ask| (ask.reason.as_str(), ask.quorum)).collect();
    asks.sort_unstable();
    let asks: Vec<Value> = asks.iter().map(|(reason, quorum)| json!([reason, quorum])).collect();
    let mut hash = canonical_hash(&Value::from(asks));
    hash.truncate(16);
    hash
}
