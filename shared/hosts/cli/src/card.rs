//! Shows one object in full.

use std::time::Duration;

use serde_json::Value;
use watchbill_domain::Timestamp;

use super::out::{Output, Style};
use super::text::{line, lines, moment, relative, span};
use super::view::{first, list, pairs, scalar, text, time, title};

type Written = std::io::Result<()>;

/// Shows a task as a card: its fields, its state and its result.
pub fn task(out: &mut Output, task: &Value, now: Timestamp) -> Written {
    let status = text(task, "status");
    let heading = [text(task, "type"), title(task)].map(|t| t.trim().to_owned());
    let heading: Vec<String> = heading.into_iter().filter(|t| !t.is_empty()).collect();
    out.line(&out.paint(Style::Bold, &heading.join(" · ")))?;
    field(out, "id", &text(task, "task_id"))?;
    let shown = out.paint(Style::of_status(&status), &status);
    field(out, "status", &shown)?;
    let priority = text(task, "priority");
    let shown = out.paint(Style::of_priority(&priority), &priority);
    field(out, "priority", &shown)?;
    field(out, "agent", &text(task, "assigned_to"))?;
    field(out, "source", &text(task, "source"))?;
    times(out, task, now)?;
    sla(out, task, now)?;
    let retries = text(task, "retry_count");
    if !matches!(retries.as_str(), "" | "0") {
        field(out, "retries", &format!("{retries} of {}", text(task, "max_retries")))?;
    }
    field(out, "parent", &text(task, "parent_task_id"))?;
    let children: Vec<String> = list(task, "child_task_ids").iter().filter_map(scalar).collect();
    field(out, "children", &children.join(", "))?;
    field(out, "approval", &text(task, "approval_id"))?;
    field(out, "trace", &text(task, "trace_id"))?;
    let error = text(task, "error");
    let shown = out.paint(Style::Bad, &error);
    field(out, "error", if error.is_empty() { "" } else { &shown })?;
    question(out, task)?;
    block(out, "payload", &task["payload"])?;
    metadata(out, task)?;
    block(out, "result", &task["metadata"]["result"])?;
    if let Some(next) = next_step(task) {
        out.line(&out.paint(Style::Warn, &next))?;
    }
    Ok(())
}

fn times(out: &mut Output, task: &Value, now: Timestamp) -> Written {
    let stamp = |at: Timestamp| format!("{} UTC ({})", moment(at), relative(at, now));
    let created = time(task, "created_at");
    let started = time(task, "started_at");
    field(out, "created", &created.map(stamp).unwrap_or_default())?;
    field(out, "started", &started.map(stamp).unwrap_or_default())?;
    if let Some(completed) = time(task, "completed_at") {
        let took = started.or(created).map(|start| completed.since(start));
        let took = took.map(|t| format!(", took {}", span(t))).unwrap_or_default();
        field(out, "finished", &format!("{}{took}", stamp(completed)))?;
    }
    Ok(())
}

fn sla(out: &mut Output, task: &Value, now: Timestamp) -> Written {
    let sla = &task["sla"];
    let Some(deadline) = time(sla, "deadline") else { return Ok(()) };
    let target = match &sla["target"] {
        Value::Number(seconds) => span(Duration::from_secs(seconds.as_u64().unwrap_or(0))),
        other => scalar(other).unwrap_or_default(),
    };
    let target = if target.is_empty() { target } else { format!("{target}, ") };
    field(
        out,
        "sla",
        &format!("{target}due {} UTC ({})", moment(deadline), relative(deadline, now)),
    )
}

/// The question of a blocked task. The server may send it as text or as an object.
fn question(out: &mut Output, task: &Value) -> Written {
    let question = &task["question"];
    let text = scalar(question).unwrap_or_else(|| first(question, &["text", "question"]));
    field(out, "question", &text)?;
    let choices: Vec<String> = list(question, "choices").iter().filter_map(scalar).collect();
    field(out, "choices", &choices.join(", "))
}

/// The metadata without the result, which is shown in its own block.
fn metadata(out: &mut Output, task: &Value) -> Written {
    let Some(metadata) = task["metadata"].as_object() else { return Ok(()) };
    let mut rest = metadata.clone();
    rest.remove("result");
    block(out, "metadata", &Value::Object(rest))
}

/// The command that continues a waiting task.
pub fn next_step(task: &Value) -> Option<String> {
    let id = text(task, "task_id");
    let approval = text(task, "approval_id");
    match (task["status"].as_str()?, approval.is_empty()) {
        ("pending", false) => Some(format!(
            "waiting for approval: watchbill approve {approval}, or watchbill reject {approval} \
             --reason '…'"
        )),
        ("blocked", _) => Some(format!(
            "blocked: watchbill answer {id} '…' runs it again, watchbill cancel {id} ends it"
        )),
        _ => None,
    }
}

/// A named line. An empty value prints nothing.
pub fn field(out: &mut Output, name: &str, value: &str) -> Written {
    if value.is_empty() {
        return Ok(());
    }
    let name = out.paint(Style::Dim, &format!("{name:<9}"));
    out.line(&format!("  {name} {value}"))
}

fn block(out: &mut Output, name: &str, value: &Value) -> Written {
    let empty = match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    if empty {
        return Ok(());
    }
    let name = out.paint(Style::Dim, name);
    out.line(&format!("  {name}"))?;
    for row in lines(&format!("{value:#}")).lines() {
        out.line(&format!("    {row}"))?;
    }
    Ok(())
}

/// Prints an indented outline: plain fields as `name  value`, objects of plain fields on one
/// line, nested objects below.
pub fn outline(out: &mut Output, value: &Value, depth: usize) -> Written {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            let wide = map.keys().map(|key| key.chars().count()).max().unwrap_or(0);
            // The user sees this only after a success, so `success` is left out.
            for (key, value) in map.iter().filter(|(key, _)| depth > 0 || *key != "success") {
                let name = out.paint(Style::Dim, &format!("{:<wide$}", line(key)));
                match on_one_line(value) {
                    Some(text) => {
                        let shown = out.paint(Style::of_status(&text), &text);
                        out.line(&format!("{indent}{name}  {shown}"))?;
                    }
                    None => {
                        out.line(&format!("{indent}{}", name.trim_end()))?;
                        outline(out, value, depth + 1)?;
                    }
                }
            }
            Ok(())
        }
        Value::Array(items) => {
            for item in items {
                match on_one_line(item) {
                    Some(text) => out.line(&format!("{indent}- {text}"))?,
                    None => outline(out, item, depth + 1)?,
                }
            }
            Ok(())
        }
        other => out.line(&format!("{indent}{}", scalar(other).unwrap_or_default())),
    }
}

fn on_one_line(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("none".to_owned()),
        Value::Array(items) if items.is_empty() => Some("none".to_owned()),
        Value::Array(items) => {
            let texts: Option<Vec<String>> = items.iter().map(scalar).collect();
            texts.map(|texts| texts.join(", ")).filter(|text| text.len() < 80)
        }
        Value::Object(map) if map.is_empty() => Some("none".to_owned()),
        Value::Object(map) if map.values().all(|v| scalar(v).is_some()) && map.len() <= 6 => {
            Some(pairs(value))
        }
        Value::Object(_) => None,
        plain => scalar(plain),
    }
}
