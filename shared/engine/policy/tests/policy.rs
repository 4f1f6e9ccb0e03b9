//! The shipped policy, a policy that uses every feature, and invalid ones.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

use serde_json::{Map, Value, json};
use watchbill_domain::{Agent, Priority, Role, TaskType, Timestamp, ToolCall};
use watchbill_governance::{FreezeWhen, Policy, PolicyDecision, PolicyInput, PrioritiesFor};
use watchbill_policy::{SHIPPED, read_policy, shipped_policy};

const EXAMPLE: &str = include_str!("example.yaml");

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn decide(policy: &Policy, tool: &str, arguments: Value) -> PolicyDecision {
    let (payload, metadata) = (map(arguments.clone()), Map::new());
    let subject = PolicyInput {
        task_type: TaskType::Deploy,
        priority: Priority::P2,
        agent: Agent::Ops,
        source: "user",
        created_by: "tester",
        payload: &payload,
        metadata: &metadata,
        gate_type: TaskType::Deploy,
        mutates: true,
    };
    let call = ToolCall { tool: tool.into(), arguments: map(arguments), mutating: true };
    policy.decide(&subject, &call)
}

#[test]
fn the_shipped_policy_equals_the_built_in_one() {
    let shipped = shipped_policy();
    assert_eq!(shipped.fingerprint.len(), 64);
    assert_eq!(Policy { fingerprint: String::new(), ..shipped }, Policy::default());
}

#[test]
fn what_is_commented_out_in_the_shipped_policy_is_right_too() {
    let mut lists = Vec::new();
    let mut text = String::new();
    for line in SHIPPED.lines() {
        // Examples are indented after the comment mark; prose is not.
        match line.trim_start().strip_prefix("#  ") {
            Some(example) => {
                let indent = if line.starts_with(' ') { "    " } else { "  " };
                text.push_str(&format!("{indent}{}\n", example));
            }
            None => {
                let empty = line.strip_suffix(" []").or(line.strip_suffix(" {}"));
                lists.extend(empty.map(str::to_owned));
                text.push_str(empty.unwrap_or(line));
                text.push('\n');
            }
        }
    }
    assert_eq!(lists.len(), 3, "{lists:?}");
    let policy = read_policy(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!((policy.gate_rules.len(), policy.tools.len()), (1, 2));
    assert_eq!((policy.freezes.len(), policy.prices.0.len()), (2, 1));
}

#[test]
fn a_rich_policy_is_read_as_it_stands() {
    let policy = read_policy(EXAMPLE).unwrap();
    assert_eq!(policy.gates.priorities, [Priority::P0].into());
    assert_eq!(policy.gates.priorities_for, PrioritiesFor::Mutating);
    assert_eq!(policy.gates.production, [TaskType::Deploy].into());
    assert!(!policy.gates.feature_flags);
    assert_eq!(policy.gate_rules[0].quorum, 2);
    assert_eq!(policy.gate_rules[1].types, [TaskType::KbUpdate].into());
    assert!(policy.gate_rules[1].reason.contains("other-peoples-knowledge"));
    let kind = |name: &str| policy.environments.kind(Some(&Value::from(name))).as_str();
    let kinds = ["blue", "prod", "green", "staging", "Feature-Login", "feature-logout"].map(kind);
    let wanted = ["production", "production", "staging", "staging", "sandbox", "production"];
    assert_eq!(kinds, wanted);
    assert_eq!(policy.inventory.hosts, ["*.example.com".to_owned()].into());
    let FreezeWhen::Weekly { from, until, .. } = &policy.freezes[0].when else { panic!() };
    assert_eq!((*from, *until), ((5, 1_080), (1, 360)));
    assert!(policy.freezes[0].may_override("release-manager", Role::User));
    assert!(!policy.freezes[0].may_override("someone", Role::Approver));
    let FreezeWhen::Once { until, .. } = &policy.freezes[1].when else { panic!() };
    assert_eq!(*until, Timestamp::parse("2027-01-03T23:00:00Z").unwrap());
    assert_eq!((policy.limits.day.micro_usd, policy.limits.day.tokens), (12_500_000, 500_000));
    for (text, micro) in [("0.000001", 1), ("0.1", 100_000), ("999.999999", 999_999_999)] {
        let yaml = format!("limits:\n  day: {{ usd: {text} }}\n");
        assert_eq!(read_policy(&yaml).unwrap().limits.day.micro_usd, micro, "{text}");
    }
    assert_eq!((policy.limits.task.micro_usd, policy.limits.task.tokens), (500_000, 50_000));
    assert_eq!(policy.limits.hour, Policy::default().limits.hour);
    assert_eq!(policy.prices.0["small-model"].input, 250_000);
}

#[test]
fn expressions_decide_on_arguments() {
    let policy = read_policy(EXAMPLE).unwrap();
    let staging = |project: &str| json!({ "project": project, "environment": "green" });
    assert_eq!(decide(&policy, "deploy", staging("shop")), PolicyDecision::Allow);
    let PolicyDecision::ApprovalRequired(asks) =
        decide(&policy, "deploy", json!({ "project": "shop" }))
    else {
        panic!("production is asked about")
    };
    assert_eq!((asks.len(), asks[0].quorum), (1, 2));
    // An expression that can't be evaluated counts against the call.
    let denied = decide(&policy, "deploy", json!({ "environment": "green" }));
    assert!(matches!(denied, PolicyDecision::Deny { rule, .. } if rule == "only-the-shop"));
}

#[test]
fn a_file_of_comments_gives_the_built_in_policy() {
    for text in ["", "# nothing\n", "---\n", "gates: {}\n"] {
        let policy = read_policy(text).unwrap();
        assert_eq!(Policy { fingerprint: String::new(), ..policy }, Policy::default(), "{text:?}");
    }
    assert_eq!(read_policy("tools: []").unwrap().tools, []);
}

#[test]
fn a_fault_names_its_line() {
    for (text, line, wanted) in [
        ("gatez: {}\n", 1, "gatez"),
        ("gates:\n  priorities: [P0, P9]\n", 2, "unknown priority 'P9'"),
        ("gates:\n  priorities_for: reads\n", 2, "unknown priorities_for 'reads': use one of all"),
        ("gates:\n  all: perhaps\n", 2, "perhaps"),
        ("gates:\n  rules:\n    - name: a\n      when: args.x ==\n", 4, "when: at character"),
        (
            "gates:\n  rules:\n    - name: a\n      quorum: 0\n",
            4,
            "quorum: 0 is not between 1 and 20",
        ),
        ("tools:\n  - name: a\n    say: ask\n  - name: a\n    say: deny\n", 4, "'a' is used twice"),
        ("tools:\n  - name: a\n    say: never\n", 3, "never"),
        ("tools:\n  - say: ask\n", 2, "name"),
        ("tools:\n  - name: a\n    say: deny\n    quorum: 2\n", 4, "only a rule with 'say: ask'"),
        ("tools:\n  - name: a\n    say: deny\n    when: who == 'x'\n", 4, "'who' is unknown"),
        ("tools:\n  - name: a\n    say: deny\n    environments: [prd]\n", 4, "'prd' is not a kind"),
        ("environments:\n  staging:\n    - prod\n", 3, "already listed as production"),
        ("environments:\n  sandbox:\n    - Staging\n", 3, "'Staging' is already listed as staging"),
        (
            "environments:\n  production: [qa]\n  sandbox: [QA]\n",
            3,
            "'QA' is already listed as production",
        ),
        ("inventory:\n  hosts: [\"https://x\"]\n", 2, "is not a host"),
        ("freezes:\n  - name: a\n", 2, "either from and until, or weekly"),
        (
            "freezes:\n  - name: a\n    weekly:\n      zone: Moon/Base\n      from: fri 18:00\n      until: mon 06:00\n",
            4,
            "'Moon/Base' is not a time zone",
        ),
        (
            "freezes:\n  - name: a\n    weekly: { zone: UTC, from: fri 25:00, until: mon 06:00 }\n",
            3,
            "'fri 25:00' is not a weekday",
        ),
        (
            "freezes:\n  - name: a\n    weekly: { zone: UTC, from: fri 18:00, until: friday 18:00 }\n",
            3,
            "the freeze would never apply",
        ),
        (
            "freezes:\n  - name: a\n    from: 2026-01-02T00:00:00Z\n    until: 2026-01-01T00:00:00Z\n",
            4,
            "later than from",
        ),
        ("limits:\n  day: { usd: -1 }\n", 2, "-1 is not an amount"),
        (
            "limits:\n  day: { usd: 1 }\n  hour: { usd: 0.0000001 }\n",
            3,
            "0.0000001 USD is not a whole",
        ),
        ("limits:\n  day: { usd: 12.3456789 }\n", 2, "12.3456789 USD is not a whole"),
        (
            "prices:\n  m: { input_usd: 0.1234567, output_usd: 1 }\n",
            2,
            "0.1234567 USD is not a whole",
        ),
        ("limits:\n  week: { usd: 1 }\n", 2, "week"),
        ("prices:\n  m: { input_usd: 1 }\n", 2, "output_usd"),
        ("gates: [\n", 1, "mapping"),
    ] {
        let error = read_policy(text).expect_err(text);
        assert_eq!(error.line, Some(line), "{text}: {error}");
        let said = error.to_string();
        assert!(said.starts_with(&format!("line {line} column ")), "{text}: {said}");
        assert!(said.contains(wanted) && !said.contains('\n'), "{text}: {said}");
        assert_eq!(said.matches("line ").count(), 1, "{said}");
    }
}
