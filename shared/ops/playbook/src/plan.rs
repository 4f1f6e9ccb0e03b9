//! Turns a task's type and payload into a plan.

use serde_json::{Map, Value, json};
use watchbill_domain::{Fields, Refusal, TaskType, TimeRange, words};
use watchbill_governance::{EnvironmentKind, Environments, Plan, ToolSpecs};

use super::classify::{Class, classify};
use super::rule_hint::suggested_rule;
use super::words::{slug, urls};

/// Maximum characters of `payload.description`.
const DESCRIPTION: usize = 4_000;

/// Deterministic: the same task always gets the same plan.
pub fn plan(
    specs: &ToolSpecs,
    task_type: TaskType,
    payload: &Map<String, Value>,
) -> Result<Plan, Refusal> {
    let fields = Fields::payload(payload);
    let description = fields.bounded("description", DESCRIPTION)?.unwrap_or_default();
    let Some(class) = Class::of_type(task_type) else {
        return Err(Refusal::new(format!(
            "the ops agent handles deploy, monitor, alert and investigate tasks, not '{task_type}'"
        )));
    };
    let structured = structured_fields(class).iter().any(|name| fields.get(name).is_some());
    if structured || description.is_empty() {
        let reason = format!("a {task_type} task with its own fields");
        return by_fields(specs, class, fields, &description, reason);
    }
    let (class, reason) = match classify(&description) {
        Some(found) => {
            (found.class, format!("{}, which is {}", found.because, found.class.as_str()))
        }
        None => (class, format!("the text tells no class, so the type '{task_type}' decides")),
    };
    by_text(specs, class, payload, &description, reason)
}

/// The type that a task's gates are decided on: its own, or the one its text requests.
pub fn effective_type(
    specs: &ToolSpecs,
    planned: &Result<Plan, Refusal>,
    task_type: TaskType,
    payload: &Map<String, Value>,
) -> TaskType {
    match planned {
        Ok(plan) => specs.get(&plan.call.tool).map_or(task_type, |spec| spec.gate_type),
        // The task can't be planned and will fail. Until then the type that its text requests
        // applies.
        Err(_) => payload
            .get("description")
            .and_then(Value::as_str)
            .and_then(classify)
            .filter(|_| Class::of_type(task_type).is_some())
            .map_or(task_type, |found| found.class.task_type()),
    }
}

/// Fields that make a task of this class more than its description.
fn structured_fields(class: Class) -> &'static [&'static str] {
    match class {
        Class::Deployment => &["project", "branch"],
        Class::Monitoring => &["service", "url", "urls", "services"],
        Class::AlertManagement => &["alert_type", "alert_id", "action"],
        Class::LogAnalysis | Class::Troubleshooting => &["issue"],
    }
}

/// The tool for work of this class.
fn tool(class: Class) -> &'static str {
    match class {
        Class::Deployment => "deploy",
        Class::Monitoring => "monitor",
        Class::AlertManagement => "alert",
        Class::LogAnalysis | Class::Troubleshooting => "investigate",
    }
}

fn by_fields(
    specs: &ToolSpecs,
    class: Class,
    fields: Fields<'_>,
    description: &str,
    reason: String,
) -> Result<Plan, Refusal> {
    let name = tool(class);
    let spec = specs.get(name).ok_or_else(|| {
        Refusal::new(format!("this requires the tool '{name}', which is not part of this build"))
    })?;
    let mut arguments = (spec.normalize)(fields)?;
    if matches!(class, Class::LogAnalysis | Class::Troubleshooting)
        && !arguments.contains_key("time_range")
    {
        let issue = arguments.get("issue").and_then(Value::as_str).unwrap_or_default();
        let found = TimeRange::find_in(issue).or_else(|| TimeRange::find_in(description));
        if let Some(range) = found {
            arguments.insert("time_range".to_owned(), range.to_string().into());
        }
    }
    Ok(Plan { call: spec.call(with_rule(arguments, description)), reason })
}

/// Fields next to the description are kept. Missing ones are read from the description.
fn by_text(
    specs: &ToolSpecs,
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
    let text_words = words(text);
    match class {
        Class::Deployment => {
            fill("project", deployed(&text_words).map(Value::from));
            fill("environment", environment(&text_words).map(Value::from));
        }
        Class::Monitoring => {
            let found = urls(text);
            fill("urls", (!found.is_empty()).then(|| json!(found)));
            fill("service", monitored(&text_words).map(Value::from));
        }
        Class::AlertManagement => fill_alert(text, &text_words, &mut fill),
        Class::LogAnalysis | Class::Troubleshooting => fill("issue", Some(text.into())),
    }
    by_fields(specs, class, Fields::payload(&filled), text, reason)
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

/// The strictest environment that a text mentions: `deploy the test fix to prod` is about
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

/// `monitor API error rate` → api; words for the machine's own metrics → system.
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

/// Contains a digit and looks like an id: `42`, `#42`, `alrt-7f3a`.
fn is_id(word: &str) -> bool {
    word.chars().any(|c| c.is_ascii_digit()) && !word.contains(['%', '>', '<', '/'])
}

/// The severity word as written; the tool maps `warning` and the like.
fn spoken_severity(word: &str) -> Option<&str> {
    let known = ["critical", "high", "medium", "low", "warning", "info", "fatal"];
    known.contains(&word).then_some(word)
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
