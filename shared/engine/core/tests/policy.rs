//! Tests of a policy's decisions on tasks and calls.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use watchbill_domain::{Agent, Priority, TaskType, Timestamp, ToolCall};
use watchbill_governance::{
    ApprovalRequirement, Condition, EnvironmentKind, Freeze, FreezeWhen, GateRule, GateRules,
    Inventory, Policy, PolicyDecision, PolicyInput, RuleEffect, ToolRule, requirements_hash,
};

/// `x=y`: the argument x equals y; without an argument x the condition cannot be evaluated.
#[derive(Debug)]
struct Equals(&'static str);

impl Condition for Equals {
    fn holds(&self, subject: &Value) -> Result<bool, String> {
        let (name, value) = self.0.split_once('=').unwrap();
        let found = subject["args"].get(name).ok_or_else(|| format!("no {name}"))?;
        Ok(found == value)
    }

    fn text(&self) -> &str {
        self.0
    }
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn rule(name: &str, say: RuleEffect) -> ToolRule {
    ToolRule {
        name: name.into(),
        reason: format!("because of {name}"),
        agents: [].into(),
        tools: [].into(),
        environments: [].into(),
        when: None,
        effect: say,
        quorum: 1,
    }
}

fn when(name: &str, say: RuleEffect, text: &'static str) -> ToolRule {
    ToolRule { when: Some(Arc::new(Equals(text))), ..rule(name, say) }
}

fn policy(tools: Vec<ToolRule>) -> Policy {
    Policy { tools, ..Policy::default() }
}

fn decide(policy: &Policy, tool: &str, arguments: Value, mutating: bool) -> PolicyDecision {
    let (payload, metadata) = (map(arguments.clone()), Map::new());
    let call = ToolCall { tool: tool.into(), arguments: map(arguments), mutating };
    policy.decide(&subject(&payload, &metadata), &call)
}

fn subject<'a>(
    payload: &'a Map<String, Value>,
    metadata: &'a Map<String, Value>,
) -> PolicyInput<'a> {
    PolicyInput {
        task_type: TaskType::Deploy,
        priority: Priority::P2,
        agent: Agent::Ops,
        source: "user",
        created_by: "tester",
        payload,
        metadata,
        gate_type: TaskType::Deploy,
        mutates: true,
    }
}

#[test]
fn mutating_calls_without_a_rule_require_approval() {
    let none = policy(vec![]);
    let PolicyDecision::ApprovalRequired(asks) = decide(&none, "deploy", json!({}), true) else {
        panic!()
    };
    assert_eq!(asks.len(), 1);
    assert!(asks[0].reason.contains("deploy changes something"), "{asks:?}");
    assert_eq!(decide(&none, "monitor", json!({}), false), PolicyDecision::Allow);
}

#[test]
fn the_strictest_of_the_rules_that_match_counts() {
    let (allow, ask, deny) =
        (rule("a", RuleEffect::Allow), rule("b", RuleEffect::Ask), rule("c", RuleEffect::Deny));
    let decision = |tools| decide(&policy(tools), "deploy", json!({}), true);
    assert_eq!(decision(vec![allow.clone()]), PolicyDecision::Allow);
    let asked = PolicyDecision::ApprovalRequired(vec![ApprovalRequirement {
        reason: "because of b".into(),
        quorum: 1,
    }]);
    assert_eq!(decision(vec![allow.clone(), ask.clone()]), asked);
    let PolicyDecision::Deny { rule, .. } = decision(vec![allow, ask, deny]) else { panic!() };
    assert_eq!(rule, "c");
}

#[test]
fn a_rule_is_about_what_it_names() {
    let narrow = ToolRule {
        agents: [Agent::Ops].into(),
        tools: ["deploy".to_owned()].into(),
        environments: [EnvironmentKind::Staging].into(),
        ..rule("a", RuleEffect::Allow)
    };
    let policy = policy(vec![narrow.clone()]);
    let staging = json!({ "environment": "staging" });
    assert_eq!(decide(&policy, "deploy", staging.clone(), true), PolicyDecision::Allow);
    for (tool, arguments) in [
        ("restart", staging.clone()),
        ("deploy", json!({})),
        ("deploy", json!({"environment": "x"})),
    ] {
        let decision = decide(&policy, tool, arguments.clone(), true);
        assert!(
            matches!(decision, PolicyDecision::ApprovalRequired(_)),
            "{tool} {arguments}: {decision:?}"
        );
    }
    let other = ToolRule { agents: [Agent::Dev].into(), ..narrow };
    let decision = decide(&self::policy(vec![other]), "deploy", staging, true);
    assert!(matches!(decision, PolicyDecision::ApprovalRequired(_)), "{decision:?}");
}

#[test]
fn conditions_that_cannot_be_evaluated_count_against_the_call() {
    let unknown = json!({});
    let decision =
        |say| decide(&policy(vec![when("a", say, "x=1")]), "deploy", unknown.clone(), true);
    let PolicyDecision::ApprovalRequired(asks) = decision(RuleEffect::Allow) else {
        panic!("an allowance needs certainty")
    };
    assert!(asks[0].reason.contains("no rule allows"), "{asks:?}");
    assert!(
        matches!(decision(RuleEffect::Ask), PolicyDecision::ApprovalRequired(asks) if asks[0].reason == "because of a")
    );
    assert!(matches!(decision(RuleEffect::Deny), PolicyDecision::Deny { .. }));
    let no = json!({ "x": "2" });
    let told = decide(&policy(vec![when("a", RuleEffect::Deny, "x=1")]), "monitor", no, false);
    assert_eq!(told, PolicyDecision::Allow);
}

#[test]
fn violations_are_refused_whatever_a_rule_says() {
    let everything = Policy {
        inventory: Inventory { projects: ["shop".to_owned()].into(), ..Inventory::default() },
        ..policy(vec![rule("a", RuleEffect::Allow)])
    };
    for arguments in [json!({ "project": "other" }), json!({ "script": "rm -rf /" })] {
        let decision = decide(&everything, "deploy", arguments.clone(), true);
        assert!(matches!(decision, PolicyDecision::Violation { .. }), "{arguments}: {decision:?}");
        assert_eq!(decide(&everything, "monitor", arguments, false), PolicyDecision::Allow);
    }
    assert_eq!(
        decide(&everything, "deploy", json!({ "project": "shop" }), true),
        PolicyDecision::Allow
    );
}

#[test]
fn gates_of_the_policy_join_the_standing_ones() {
    let gate = |name: &str, types: &[TaskType], when: Option<&'static str>| GateRule {
        name: name.into(),
        reason: format!("because of {name}"),
        types: types.iter().copied().collect(),
        when: when.map(|text| Arc::new(Equals(text)) as Arc<dyn Condition>),
        quorum: 3,
    };
    let policy = Policy {
        gates: GateRules::default(),
        gate_rules: vec![
            gate("any", &[], None),
            gate("faq", &[TaskType::Faq], None),
            gate("big", &[TaskType::Deploy], Some("size=big")),
            gate("unknown", &[], Some("nowhere=1")),
        ],
        quorum: 2,
        ..Policy::default()
    };
    let reasons = |payload: Value, gate_type| -> Vec<(String, u8)> {
        let (payload, metadata) = (map(payload), Map::new());
        let subject = PolicyInput { gate_type, ..subject(&payload, &metadata) };
        policy.gates(&subject).into_iter().map(|ask| (ask.reason, ask.quorum)).collect()
    };
    let said = |name: &str| (format!("because of {name}"), 3);
    let production = ("deploy in production waits for a person".to_owned(), 2);
    assert_eq!(
        reasons(json!({ "size": "big" }), TaskType::Deploy),
        [production.clone(), said("any"), said("big"), said("unknown")]
    );
    let small = json!({ "size": "small", "environment": "staging" });
    assert_eq!(reasons(small.clone(), TaskType::Deploy), [said("any"), said("unknown")]);
    // A payload that is gated as another type may require more approvals.
    let more = reasons(small, TaskType::Faq);
    assert_eq!(more, [said("any"), said("faq"), said("unknown")]);
}

#[test]
fn requirements_have_one_hash_in_any_order() {
    let ask = |reason: &str, quorum| ApprovalRequirement { reason: reason.into(), quorum };
    let hash = requirements_hash(&[ask("a", 1), ask("b", 2)]);
    assert_eq!(hash, requirements_hash(&[ask("b", 2), ask("a", 1)]));
    for other in [vec![], vec![ask("a", 1)], vec![ask("a", 2), ask("b", 1)], vec![ask("ab", 1)]] {
        assert_ne!(hash, requirements_hash(&other), "{other:?}");
    }
}

#[test]
fn freezes_hold_up_what_is_aimed_at_their_environments() {
    let at = |text| Timestamp::parse(text).unwrap();
    let (from, until) = (at("2026-12-28T00:00:00Z"), at("2027-01-04T00:00:00Z"));
    let freeze = |name: &str, environments: &[EnvironmentKind]| Freeze {
        name: name.into(),
        reason: "r".into(),
        environments: environments.iter().copied().collect(),
        when: FreezeWhen::Once { from, until },
        override_roles: [].into(),
        override_names: [].into(),
    };
    let freezes = vec![freeze("all", &[]), freeze("production", &[EnvironmentKind::Production])];
    let policy = Policy { freezes, ..Policy::default() };
    let frozen = |arguments: Value, now| -> Vec<String> {
        let call = ToolCall { tool: "t".into(), arguments: map(arguments), mutating: true };
        policy
            .frozen(&call, &Map::new(), now)
            .into_iter()
            .map(|(freeze, _)| freeze.name.clone())
            .collect()
    };
    assert_eq!(frozen(json!({}), from), ["all", "production"]);
    assert_eq!(frozen(json!({ "environment": "staging" }), from), ["all"]);
    assert!(frozen(json!({}), until).is_empty());
}

fn any_rule() -> impl Strategy<Value = ToolRule> {
    let say = prop_oneof![Just(RuleEffect::Allow), Just(RuleEffect::Ask), Just(RuleEffect::Deny)];
    let text = prop_oneof![
        Just(None),
        Just(Some("x=1")),
        Just(Some("x=2")),
        Just(Some("environment=staging")),
    ];
    let tool = prop_oneof![Just(""), Just("deploy"), Just("restart")];
    ("[a-f]", say, text, tool, 1u8..3).prop_map(|(name, say, text, tool, quorum)| ToolRule {
        when: text.map(|text| Arc::new(Equals(text)) as Arc<dyn Condition>),
        tools: (!tool.is_empty()).then(|| tool.to_owned()).into_iter().collect(),
        quorum,
        ..rule(&name, say)
    })
}

fn any_arguments() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({ "x": "1" })),
        Just(json!({ "x": "2", "environment": "staging" })),
    ]
}

fn strictness(judgement: &PolicyDecision) -> u8 {
    match judgement {
        PolicyDecision::Allow => 0,
        PolicyDecision::ApprovalRequired(_) => 1,
        PolicyDecision::Deny { .. } => 2,
        PolicyDecision::Violation { .. } => 3,
    }
}

proptest! {
    #[test]
    fn the_order_of_rules_does_not_matter(
        rules in prop::collection::vec(any_rule(), 0..6),
        turn in 0usize..6,
        arguments in any_arguments(),
        mutating: bool,
    ) {
        let mut turned = rules.clone();
        turned.reverse();
        if !turned.is_empty() {
            let by = turn % turned.len();
            turned.rotate_left(by);
        }
        let one = decide(&policy(rules), "deploy", arguments.clone(), mutating);
        let other = decide(&policy(turned), "deploy", arguments, mutating);
        match (&one, &other) {
            // Of two rules with one name either may be named; a file has no such two.
            (PolicyDecision::Deny { rule: a, .. }, PolicyDecision::Deny { rule: b, .. }) => {
                prop_assert_eq!(a, b);
            }
            _ => prop_assert_eq!(one, other),
        }
    }

    #[test]
    fn a_rule_more_that_asks_or_denies_never_loosens(
        rules in prop::collection::vec(any_rule(), 0..6),
        more in any_rule(),
        arguments in any_arguments(),
    ) {
        let before = decide(&policy(rules.clone()), "deploy", arguments.clone(), true);
        let is_allowance = more.effect == RuleEffect::Allow;
        let mut rules = rules;
        rules.push(more);
        let after = decide(&policy(rules), "deploy", arguments, true);
        if !is_allowance {
            prop_assert!(strictness(&after) >= strictness(&before), "{before:?} {after:?}");
        }
    }

    #[test]
    fn one_rule_that_denies_for_sure_is_enough(
        rules in prop::collection::vec(any_rule(), 0..6),
        place in 0usize..6,
        arguments in any_arguments(),
        mutating: bool,
    ) {
        let mut rules = rules;
        rules.insert(place.min(rules.len()), rule("z", RuleEffect::Deny));
        let decision = decide(&policy(rules), "deploy", arguments, mutating);
        let denied = matches!(decision, PolicyDecision::Deny { .. });
        prop_assert!(denied, "{:?}", decision);
    }
}
