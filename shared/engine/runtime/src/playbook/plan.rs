//! From type and payload to a plan.

use serde_json::{Map, Value, json};
use watchbill_domain::TaskType;
use watchbill_governance::{EnvironmentKind, Environments};

use super::classify::{Class, classify};
use super::rule_hint::suggested_rule;
use super::time_range::TimeRange;
use super::words::{slug, urls, words};
use super::{Action, Plan, Refusal};
use crate::ports::Severity;
use crate::tools::alert::AlertParameters;
use crate::tools::deploy::DeployParameters;
use crate::tools::fields::Fields;
use crate::tools::investigate::InvestigateParameters;
use crate::tools::monitor::MonitorParameters;

/// Characters of `payload.description`.
const DESCRIPTION: usize = 4_000;

/// The same task always gives the same plan.
pub fn plan(task_type: TaskType, payload: &Map<String, Value>) -> Result<Plan, Refusal> {
    let fields = Fields::payload(payload);
    let description = fields.bounded("description", DESCRIPTION)?.unwrap_or_default();
    let Some(class) = Class::of_type(task_type) else {
        return Err(Refusal::new(format!(
            "the ops agent does deploy, monitor, alert and investigate tasks, not '{task_type}'"
        )));
    };
    let structured = structured_fields(class).iter().any(|name| fields.get(name).is_some());
    if structured || description.is_empty() {
        let reason = format!("a {task_type} task with its own fields");
        return by_fields(class, fields, &description, reason);
    }
    let (class, reason) = match classify(&description) {
        Some(found) => {
            (found.class, format!("{}, which is {}", found.because, found.class.as_str()))
        }
        None => (class, format!("the text tells no class, so the type '{task_type}' decides")),
    };
    by_text(class, payload, &description, reason)
}

/// Fields by which a task of this class is more than its description.
fn structured_fields(class: Class) -> &'static [&'static str] {
    match class {
        Class::Deployment => &["project", "branch"],
        Class::Monitoring => &["service", "url", "urls", "services"],
        Class::AlertManagement => &["alert_type", "alert_id", "action"],
        Class::LogAnalysis | Class::Troubleshooting => &["issue"],
    }
}

fn by_fields(
    class: Class,
    fields: Fields<'_>,
    description: &str,
    reason: String,
) -> Result<Plan, Refusal> {
    let (action, parameters) = match class {
        Class::Deployment => (Action::Deploy, DeployParameters::parse(fields)?.to_map()),
        Class::Monitoring => (Action::Monitor, MonitorParameters::parse(fields)?.to_map()),
        Class::AlertManagement => (Action::Alert, AlertParameters::parse(fields)?.to_map()),
        Class::LogAnalysis | Class::Troubleshooting => {
            let mut asked = InvestigateParameters::parse(fields)?;
            asked.range = asked.range.or_else(|| TimeRange::find_in(&asked.issue));
            asked.range = asked.range.or_else(|| TimeRange::find_in(description));
            (Action::Investigate, asked.to_map())
        }
    };
    Ok(Plan { action, parameters: with_rule(parameters, description), reason })
}

/// Fields that stand beside the description are kept; what they leave open is read from it.
fn by_text(
    class: Class,
    payload: &Map<String, Value>,
    text: &str,
    reason: String,
) -> Result<Plan, Refusal> {
    let mut filled = payload.clone();
    let mut fill = |name: &str, value: Option<Value>| {
        if let Some(value) = value.filter(|_| filled.get(name).is_none_or(Value::is_null)) {
            filled.insert(name.to_owned(), value);
        }
    };
    let told = words(text);
    match class {
        Class::Deployment => {
            fill("project", deployed(&told).map(Value::from));
            fill("environment", environment(&told).map(Value::from));
        }
        Class::Monitoring => {
            let found = urls(text);
            fill("urls", (!found.is_empty()).then(|| json!(found)));
            fill("service", monitored(&told).map(Value::from));
        }
        Class::AlertManagement => fill_alert(text, &told, &mut fill),
        Class::LogAnalysis | Class::Troubleshooting => fill("issue", Some(text.into())),
    }
    by_fields(class, Fields::payload(&filled), text, reason)
}

fn with_rule(mut parameters: Map<String, Value>, text: &str) -> Map<String, Value> {
    if let Some(rule) = suggested_rule(text) {
        parameters.insert("suggested_rules".to_owned(), json!([rule]));
    }
    parameters
}

const ARTICLES: &[&str] =
    &["the", "our", "a", "an", "latest", "new", "newest", "last", "current", "of", "all", "to"];

/// `deploy shop to staging` → shop; `deploy latest changes to …` names no project.
fn deployed(words: &[String]) -> Option<String> {
    let verb = ["deploy", "redeploy", "release", "ship", "promote", "publish", "push", "back"];
    let vague = [
        "changes",
        "version",
        "build",
        "code",
        "commit",
        "main",
        "production",
        "prod",
        "staging",
        "preview",
        "release",
        "deployment",
        "it",
        "everything",
        "in",
        "on",
        "from",
        "branch",
    ];
    let at = words.iter().position(|word| verb.contains(&word.as_str()))?;
    let mut after = words[at + 1..].iter().filter(|word| !ARTICLES.contains(&word.as_str()));
    after.next().filter(|word| !vague.contains(&word.as_str())).cloned()
}

/// The strictest environment that a text speaks of: `deploy the test fix to prod` is about
/// production.
fn environment(words: &[String]) -> Option<&'static str> {
    let known = Environments::default();
    let kind = words.iter().filter_map(|word| known.spoken_of(word)).min()?;
    Some(match kind {
        EnvironmentKind::Production => "production",
        EnvironmentKind::Staging => "staging",
        EnvironmentKind::Sandbox => "preview",
    })
}

/// `monitor API error rate` → api; words for the machine's own figures → system.
fn monitored(words: &[String]) -> Option<String> {
    let verb = ["monitor", "watch", "measure", "track", "probe", "ping", "observe", "check"];
    let own = [
        "cpu",
        "memory",
        "disk",
        "load",
        "system",
        "machine",
        "server",
        "host",
        "health",
        "metrics",
        "resources",
        "usage",
        "status",
    ];
    let vague = ["error", "errors", "response", "latency", "for", "if", "it", "that", "how"];
    let at = words.iter().position(|word| verb.contains(&word.as_str()))?;
    let mut after = words[at + 1..].iter().filter(|word| !ARTICLES.contains(&word.as_str()));
    let word = after.next()?;
    if own.contains(&word.as_str()) {
        return Some("system".to_owned());
    }
    (!vague.contains(&word.as_str()) && !word.contains("//")).then(|| word.clone())
}

fn fill_alert(text: &str, words: &[String], fill: &mut impl FnMut(&str, Option<Value>)) {
    let has = |any: &[&str]| words.iter().any(|word| any.contains(&word.as_str()));
    let action = if has(&["acknowledge", "ack", "silence", "mute"]) {
        Some("ack")
    } else if has(&["resolve", "close"]) {
        Some("resolve")
    } else if has(&["list", "show", "review", "check", "which", "open", "active"])
        || suggested_rule(text).is_some()
    {
        Some("list")
    } else {
        None
    };
    fill("action", action.map(Value::from));
    let at = words.iter().position(|word| word == "alert" || word == "alerts");
    let id = at.and_then(|at| words.get(at + 1)).filter(|word| is_id(word));
    fill("alert_id", id.map(|word| Value::from(word.trim_start_matches('#'))));
    if action == Some("list") || id.is_some() {
        return;
    }
    fill("severity", words.iter().find_map(|word| spoken_severity(word)).map(Value::from));
    fill("alert_type", alert_type(text, words, at).map(Value::from));
    let target = words.iter().rposition(|word| word == "on").and_then(|at| words.get(at + 1));
    fill(
        "target",
        target.filter(|word| !ARTICLES.contains(&word.as_str())).cloned().map(Value::from),
    );
    fill("message", Some(text.into()));
}

/// Contains a digit and is not a word: `42`, `#42`, `alrt-7f3a`.
fn is_id(word: &str) -> bool {
    word.chars().any(|c| c.is_ascii_digit()) && !word.contains(['%', '>', '<', '/'])
}

fn spoken_severity(word: &str) -> Option<&'static str> {
    let said = ["critical", "high", "medium", "low", "warning", "info", "fatal"];
    said.contains(&word).then(|| Severity::parse(word).ok()).flatten().map(Severity::as_str)
}

/// `the high_cpu alert` → high_cpu; `raise an alert: disk full` → disk_full.
fn alert_type(text: &str, words: &[String], at: Option<usize>) -> Option<String> {
    let before = at.and_then(|at| at.checked_sub(1)).map(|at| words[at].as_str());
    let no_type = [
        "critical",
        "high",
        "medium",
        "low",
        "warning",
        "info",
        "raise",
        "send",
        "create",
        "trigger",
        "acknowledge",
        "ack",
        "resolve",
        "close",
        "escalate",
        "manage",
        "handle",
        "silence",
        "mute",
        "an",
        "please",
    ];
    if let Some(word) = before.filter(|w| !ARTICLES.contains(w) && !no_type.contains(w)) {
        return Some(word.to_owned());
    }
    let lower = text.to_ascii_lowercase();
    let after =
        ["alert:", "alert for ", "alert about ", "alert that ", "alert because ", "alert - "]
            .iter()
            .find_map(|mark| lower.find(mark).map(|at| &lower[at + mark.len()..]))?;
    let name = slug(after.split(" on ").next().unwrap_or(after), 5);
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn planned(task_type: TaskType, payload: Value) -> Result<Plan, Refusal> {
        plan(task_type, payload.as_object().unwrap())
    }

    #[test]
    fn the_payload_table() {
        for (task_type, payload, action, expected) in [
            (
                TaskType::Deploy,
                json!({"project": "shop", "environment": "staging", "branch": "main"}),
                Action::Deploy,
                json!({"project": "shop", "environment": "staging", "branch": "main"}),
            ),
            (
                TaskType::Deploy,
                json!({"project": "shop"}),
                Action::Deploy,
                json!({"project": "shop", "environment": "production"}),
            ),
            (TaskType::Monitor, json!({}), Action::Monitor, json!({"service": "system"})),
            (
                TaskType::Monitor,
                json!({"service": "api", "url": "https://example.com/h", "expected_status": 204}),
                Action::Monitor,
                json!({"service": "api", "services": [{"name": "api",
                    "url": "https://example.com/h", "expected_status": [204], "timeout": 10.0}]}),
            ),
            (
                TaskType::Alert,
                json!({"alert_type": "high_cpu", "severity": "warning"}),
                Action::Alert,
                json!({"action": "raise", "alert_type": "high_cpu", "severity": "high",
                    "target": "system", "message": "high_cpu"}),
            ),
            (
                TaskType::Alert,
                json!({"severity": "high", "message": "High resource usage", "metrics": {"cpu": 91}}),
                Action::Alert,
                json!({"action": "raise", "alert_type": "system", "severity": "high",
                    "target": "system", "message": "High resource usage"}),
            ),
            (
                TaskType::Investigate,
                json!({}),
                Action::Investigate,
                json!({"issue": "system issue"}),
            ),
            (
                TaskType::Alert,
                json!({"alert_id": "a1", "action": "ack"}),
                Action::Alert,
                json!({"action": "ack", "alert_id": "a1"}),
            ),
            (
                TaskType::Investigate,
                json!({"issue": "checkout slow", "time_range": "last 24h"}),
                Action::Investigate,
                json!({"issue": "checkout slow", "time_range": "24h"}),
            ),
        ] {
            let plan = planned(task_type, payload.clone()).unwrap();
            assert_eq!(
                (plan.action, Value::from(plan.parameters)),
                (action, expected),
                "{payload}"
            );
        }
    }

    #[test]
    fn free_text_alone_is_enough() {
        for (task_type, text, action, expected) in [
            (
                TaskType::Deploy,
                "Deploy latest changes to production",
                None,
                json!("payload.project is missing"),
            ),
            (
                TaskType::Monitor,
                "Deploy shop to staging",
                Some(Action::Deploy),
                json!({"project": "shop", "environment": "staging"}),
            ),
            (
                TaskType::Monitor,
                "Monitor API error rate and alert if >5%",
                Some(Action::Monitor),
                json!({"service": "api", "suggested_rules": [{"name": "high_error_rate",
                    "condition": "error_rate > 5%", "severity": "high", "from": "alert if >5%"}]}),
            ),
            (
                TaskType::Investigate,
                "check http://example.com/health, please",
                Some(Action::Monitor),
                json!({"service": "system", "services": [{"name": "example.com",
                    "url": "http://example.com/health", "timeout": 10.0}]}),
            ),
            (
                TaskType::Investigate,
                "Analyze error logs from the past hour and identify root causes",
                Some(Action::Investigate),
                json!({"issue": "Analyze error logs from the past hour and identify root causes",
                    "time_range": "1h"}),
            ),
            (
                TaskType::Alert,
                "Acknowledge alert 42",
                Some(Action::Alert),
                json!({"action": "ack", "alert_id": "42"}),
            ),
            (
                TaskType::Alert,
                "Raise a critical alert: disk full on db-1",
                Some(Action::Alert),
                json!({"action": "raise", "alert_type": "disk_full", "severity": "critical",
                    "target": "db-1", "message": "Raise a critical alert: disk full on db-1"}),
            ),
            (
                TaskType::Alert,
                "resolve the high_cpu alert",
                Some(Action::Alert),
                json!({"action": "resolve", "alert_type": "high_cpu"}),
            ),
            (TaskType::Monitor, "bake a cake", Some(Action::Monitor), json!({"service": "system"})),
        ] {
            match (planned(task_type, json!({ "description": text })), action) {
                (Ok(plan), Some(action)) => {
                    assert_eq!(
                        (plan.action, Value::from(plan.parameters)),
                        (action, expected),
                        "{text}"
                    );
                }
                (Err(refusal), None) => {
                    let start = expected.as_str().unwrap();
                    assert!(refusal.message.starts_with(start), "{text}: {}", refusal.message);
                }
                (other, _) => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (task_type, payload, named) in [
            (TaskType::Deploy, json!({}), "payload.project is missing"),
            (TaskType::Monitor, json!({"url": 42}), "payload.url is 42"),
            (TaskType::Monitor, json!({"url": "ftp://x"}), "payload.url is \"ftp://x\""),
            (TaskType::Monitor, json!({"url": "tcp://db"}), "payload.url is \"tcp://db\""),
            (TaskType::Monitor, json!({"services": [{"name": "x"}]}), "payload.services[0].url"),
            (TaskType::Monitor, json!({"url": "http://x", "timeout": "soon"}), "payload.timeout"),
            (TaskType::Alert, json!({"alert_type": "x", "severity": "awful"}), "payload.severity"),
            (TaskType::Alert, json!({"action": "ack"}), "payload.alert_id is missing"),
            (TaskType::Alert, json!({"action": "dance", "alert_id": "a"}), "payload.action"),
            (
                TaskType::Investigate,
                json!({"issue": "x", "time_range": "soon"}),
                "payload.time_range",
            ),
            (TaskType::Faq, json!({"question": "x"}), "the ops agent does"),
        ] {
            let refusal = planned(task_type, payload.clone()).unwrap_err();
            assert!(refusal.message.starts_with(named), "{payload}: {}", refusal.message);
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_the_same_plan_twice(text in ".{0,200}", n in 0_usize..4) {
            let types = [TaskType::Deploy, TaskType::Monitor, TaskType::Alert, TaskType::Investigate];
            let payload = json!({ "description": text });
            prop_assert_eq!(planned(types[n], payload.clone()), planned(types[n], payload));
        }
    }
}
