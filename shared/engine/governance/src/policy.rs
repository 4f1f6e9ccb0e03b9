use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use watchbill_domain::{Agent, Priority, TaskType, Timestamp, ToolCall, canonical_hash};

use super::gates::asked_gates;
use super::{BudgetLimits, EnvironmentKind, Environments, Freeze, GateRules, Prices};

/// An expression of a policy, compiled.
pub trait Condition: Send + Sync + fmt::Debug {
    /// Whether it holds of what is judged, see [`Subject::as_json`]. `Err`: it can't be told,
    /// for instance because a field that it names is not there.
    fn holds(&self, subject: &Value) -> Result<bool, String>;

    /// The expression as it was written: two with the same text are the same.
    fn text(&self) -> &str;
}

impl PartialEq for dyn Condition {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

/// Where a policy comes from. Answers from memory for up to 30 s.
#[async_trait]
pub trait Policies: Send + Sync {
    async fn current(&self) -> Result<Arc<Policy>, PolicyUnavailable>;
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("the policy can't be read: {0}")]
pub struct PolicyUnavailable(pub String);

/// One policy for as long as the process lives.
#[derive(Clone, Debug)]
pub struct FixedPolicy(pub Arc<Policy>);

#[async_trait]
impl Policies for FixedPolicy {
    async fn current(&self) -> Result<Arc<Policy>, PolicyUnavailable> {
        Ok(self.0.clone())
    }
}

/// A gate beyond the standing ones.
#[derive(Clone, Debug, PartialEq)]
pub struct GateRule {
    pub name: String,
    pub reason: String,
    pub types: BTreeSet<TaskType>,
    pub when: Option<Arc<dyn Condition>>,
    pub quorum: u8,
}

/// What a rule on tools says. Of several that match the strictest counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Say {
    Allow,
    Ask,
    Deny,
}

/// A rule on calls of tools; what it leaves open matches all.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolRule {
    pub name: String,
    pub reason: String,
    pub agents: BTreeSet<Agent>,
    pub tools: BTreeSet<String>,
    pub environments: BTreeSet<EnvironmentKind>,
    pub when: Option<Arc<dyn Condition>>,
    pub say: Say,
    pub quorum: u8,
}

/// Targets that mutating calls may be aimed at; a kind that lists none is not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    pub projects: BTreeSet<String>,
    pub services: BTreeSet<String>,
    pub repositories: BTreeSet<String>,
    pub hosts: BTreeSet<String>,
}

/// What rules are asked about.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub task_type: TaskType,
    pub priority: Priority,
    pub agent: Agent,
    pub source: &'a str,
    pub created_by: &'a str,
    pub payload: &'a Map<String, Value>,
    pub metadata: &'a Map<String, Value>,
    /// As the gates see it: a text may ask for more than the type says.
    pub gated_as: TaskType,
    /// Whether it may change something: true also where nobody here can tell.
    pub mutates: bool,
}

/// A reason to ask a person, and how many must say yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub reason: String,
    pub quorum: u8,
}

/// What the policy says of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    Allow,
    Ask(Vec<Ask>),
    Deny {
        rule: String,
        reason: String,
    },
    /// A dangerous command, or a target that is not in the inventory.
    Violation {
        what: String,
    },
}

/// What an installation lets its agents do.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// SHA-256, hex, of the text it was read from; empty for the built-in one.
    pub fingerprint: String,
    pub gates: GateRules,
    pub gate_rules: Vec<GateRule>,
    /// How many must say yes where no rule says otherwise.
    pub quorum: u8,
    pub environments: Environments,
    pub tools: Vec<ToolRule>,
    pub inventory: Inventory,
    pub freezes: Vec<Freeze>,
    pub limits: BudgetLimits,
    pub prices: Prices,
}

impl Default for Policy {
    /// What holds without a file: the same as the commented file that comes with Watchbill.
    fn default() -> Self {
        let below_production = ToolRule {
            name: "deploy-below-production".to_owned(),
            reason: "the agent's level decides on deployments outside production".to_owned(),
            agents: BTreeSet::new(),
            tools: ["deploy".to_owned()].into(),
            environments: [EnvironmentKind::Staging, EnvironmentKind::Sandbox].into(),
            when: None,
            say: Say::Allow,
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
    /// Without gates; what tools may do is asked all the same.
    pub fn without_gates() -> Self {
        Self { gates: GateRules::off(), ..Self::default() }
    }

    /// Which gates ask before such a task is assigned.
    pub fn gates(&self, subject: &Subject<'_>) -> Vec<Ask> {
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
        if subject.gated_as != subject.task_type {
            let more = asked(subject.gated_as);
            gates.extend(more.into_iter().filter(|gate| !gates.contains(gate)).collect::<Vec<_>>());
        }
        let standing = gates.iter().map(|g| Ask { reason: g.reason(), quorum: self.quorum });
        let mut asks: Vec<Ask> = standing.collect();
        if !self.gate_rules.is_empty() {
            let json = subject.as_json(None, self);
            let matching = |rule: &&GateRule| {
                (rule.types.is_empty()
                    || rule.types.contains(&subject.task_type)
                    || rule.types.contains(&subject.gated_as))
                    // What can't be told is asked about.
                    && rule.when.as_ref().is_none_or(|when| when.holds(&json).unwrap_or(true))
            };
            let more = self.gate_rules.iter().filter(matching);
            asks.extend(more.map(|r| Ask { reason: r.reason.clone(), quorum: r.quorum }));
        }
        asks
    }

    /// What the rules say of a call of a tool.
    pub fn judge(&self, subject: &Subject<'_>, call: &ToolCall) -> Judgement {
        if call.mutating
            && let Some(what) = self.violation(call)
        {
            return Judgement::Violation { what };
        }
        let matching = self.matching(subject, call);
        // Of several the first by name, so that the order of rules says nothing.
        let denied = matching.iter().filter(|rule| rule.say == Say::Deny);
        if let Some(rule) = denied.min_by_key(|rule| &rule.name) {
            let (rule, reason) = (rule.name.clone(), rule.reason.clone());
            return Judgement::Deny { rule, reason };
        }
        let asking = matching.iter().filter(|rule| rule.say == Say::Ask);
        let mut asks: Vec<Ask> =
            asking.map(|r| Ask { reason: r.reason.clone(), quorum: r.quorum }).collect();
        asks.sort_by(|one, other| (&one.reason, one.quorum).cmp(&(&other.reason, other.quorum)));
        match matching.iter().map(|rule| rule.say).max() {
            None if call.mutating => Judgement::Ask(vec![Ask {
                reason: format!("{} changes something, and no rule allows it", call.tool),
                quorum: self.quorum,
            }]),
            None | Some(Say::Allow) => Judgement::Allow,
            Some(_) => Judgement::Ask(asks),
        }
    }

    /// What is wrong with a mutating call whatever anyone says: a dangerous command, a target
    /// that is not in the inventory.
    fn violation(&self, call: &ToolCall) -> Option<String> {
        let dangerous = watchbill_command_guard::find(&call.arguments);
        dangerous.or_else(|| super::targets::find(&call.arguments, &self.inventory))
    }

    fn matching(&self, subject: &Subject<'_>, call: &ToolCall) -> Vec<&ToolRule> {
        let environment = self.environments.aimed_at(&call.arguments, subject.metadata);
        // Made only where an expression needs it: payloads may be large.
        let json = LazyCell::new(|| subject.as_json(Some(call), self));
        // What can't be told counts against the call: it is asked or denied, not allowed.
        let holds = |rule: &ToolRule| match &rule.when {
            None => true,
            Some(when) => when.holds(&json).unwrap_or(rule.say != Say::Allow),
        };
        let fits = |rule: &&ToolRule| {
            (rule.agents.is_empty() || rule.agents.contains(&subject.agent))
                && (rule.tools.is_empty() || rule.tools.contains(&call.tool))
                && (rule.environments.is_empty() || rule.environments.contains(&environment))
                && holds(rule)
        };
        self.tools.iter().filter(fits).collect()
    }

    /// The freezes that hold up a mutating call now, and until when.
    /// `metadata`: of the task that the call is made for.
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

impl Subject<'_> {
    /// As expressions see it: `task`, `tool`, `args`, `environment`.
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

/// What a policy asked for, in whatever order, as a short hash: compared at dispatch with what
/// it asks for then.
pub fn asked_hash(asks: &[Ask]) -> String {
    let mut asks: Vec<(&str, u8)> =
        asks.iter().map(|ask| (ask.reason.as_str(), ask.quorum)).collect();
    asks.sort_unstable();
    let asks: Vec<Value> = asks.iter().map(|(reason, quorum)| json!([reason, quorum])).collect();
    let mut hash = canonical_hash(&Value::from(asks));
    hash.truncate(16);
    hash
}
