//! Renders an approval as plain text for people.

use std::fmt::Write as _;

use serde_json::{Map, Value};
use watchbill_domain::{ApprovalStatus, Timestamp};

use crate::ApprovalView;

/// Maximum characters of a line of foreign text. The rest is cut off and the cut is marked.
const LINE: usize = 400;
/// Maximum lines of one foreign text.
const LINES: usize = 200;
const NAMES: usize = 11;

/// Renders an approval for a terminal, a notice or a page. Foreign text has its own lines and
/// can't manipulate the terminal or the reader: control characters and those that change the
/// text direction are escaped.
pub fn render_approval(view: &ApprovalView) -> String {
    let mut out = String::with_capacity(1024);
    let _ = writeln!(out, "{}\n", plain(&view.summary));
    field(&mut out, "status", &status(view));
    let asked = format!("{} at {}", view.requested_by, moment(view.requested_at));
    field(&mut out, "asked by", &asked);
    for (place, reason) in view.reasons.iter().enumerate() {
        field(&mut out, if place == 0 { "because" } else { "" }, reason);
    }
    approvers(&mut out, view);
    let until = match view.status {
        ApprovalStatus::Pending => Some("decide by"),
        ApprovalStatus::Approved => Some("use by"),
        _ => None,
    };
    if let Some(until) = until {
        field(&mut out, until, &moment(view.expires_at));
    }
    if let Some(at) = view.escalated_at {
        field(&mut out, "reminded", &moment(at));
    }
    field(&mut out, "task", view.task_id.as_str());
    if let Some(kind) = view.shown.get("type").and_then(Value::as_str) {
        field(&mut out, "type", kind);
    }
    for (name, key) in
        [("priority", "priority"), ("source", "source"), ("parent", "parent_task_id")]
    {
        if let Some(text) = view.shown.get(key).and_then(Value::as_str) {
            field(&mut out, name, text);
        }
    }
    if let Some(deadline) = view.shown.get("sla").and_then(|sla| sla["deadline"].as_str()) {
        field(&mut out, "deadline", deadline);
    }
    block(&mut out, "target", view.shown.get("target"));
    block(&mut out, "payload", view.shown.get("payload"));
    block(&mut out, "payload fields that are cut off", view.shown.get("payload_left_out"));
    block(&mut out, "metadata", view.shown.get("metadata"));
    block(&mut out, "metadata fields that are cut off", view.shown.get("metadata_left_out"));
    let plan = Value::Object(view.plan.clone());
    block(&mut out, "plan", view.shown.get("plan").or(Some(&plan)));
    out.push('\n');
    for (name, key) in [("payload is", "payload_sha256"), ("metadata is", "metadata_sha256")] {
        if let Some(hash) = view.shown.get(key).and_then(Value::as_str) {
            field(&mut out, name, &format!("sha256 {hash}"));
        }
    }
    field(&mut out, "document", &format!("sha256 {}", view.plan_hash));
    field(&mut out, "approval", view.approval_id.as_str());
    out
}

fn status(view: &ApprovalView) -> String {
    let mut text = view.status.as_str().to_owned();
    let by = view.approved_by.as_ref().or(view.rejected_by.as_ref());
    if let Some(by) = by {
        let _ = write!(text, " by {by}");
    }
    if let Some(at) = view.decided_at {
        let _ = write!(text, " at {}", moment(at));
    }
    // The reason why approval is required has lines of its own.
    let ended = matches!(view.status, ApprovalStatus::Rejected | ApprovalStatus::Cancelled);
    if let Some(reason) = view.reason.as_ref().filter(|_| ended) {
        let _ = write!(text, ": {reason}");
    }
    text
}

fn approvers(out: &mut String, view: &ApprovalView) {
    if view.quorum <= 1 && view.votes.is_empty() {
        return;
    }
    let (have, need) = (view.votes.len(), view.quorum);
    field(out, "approvals", &format!("{have} of {need}"));
    for vote in &view.votes {
        field(out, "", &format!("{} at {}", vote.by, moment(vote.at)));
    }
}

/// `2026-01-31 08:00:00 UTC`.
fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => text,
    }
}

fn field(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{name:<NAMES$} {}", plain(value));
}

fn block(out: &mut String, name: &str, value: Option<&Value>) {
    match value {
        None | Some(Value::Null) => {}
        Some(Value::Object(map)) if map.is_empty() => {}
        Some(value) => {
            let _ = writeln!(out, "\n{name}");
            outline(out, value, 1);
        }
    }
}

fn outline(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) => object(out, map, depth),
        Value::Array(items) => {
            for item in items {
                entry(out, "-", item, depth);
            }
        }
        other => entry(out, "", other, depth),
    }
}

fn object(out: &mut String, map: &Map<String, Value>, depth: usize) {
    for (name, value) in map {
        entry(out, &format!("{}:", plain(name)), value, depth);
    }
}

/// `name: value`. A value that does not fit on the line follows below, indented.
fn entry(out: &mut String, name: &str, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let gap = if name.is_empty() { "" } else { " " };
    match value {
        Value::Object(map) if !map.is_empty() => {
            let _ = writeln!(out, "{indent}{name}");
            object(out, map, depth + 1);
        }
        Value::Array(items) if !items.is_empty() => {
            let _ = writeln!(out, "{indent}{name}");
            outline(out, value, depth + 1);
        }
        Value::String(text) if text.contains('\n') => {
            let _ = writeln!(out, "{indent}{name}");
            for line in text.lines().take(LINES) {
                let _ = writeln!(out, "{indent}  | {}", plain(line));
            }
            let more = text.lines().count().saturating_sub(LINES);
            if more > 0 {
                let _ = writeln!(out, "{indent}  … {more} more lines");
            }
        }
        Value::String(text) => {
            let _ = writeln!(out, "{indent}{name}{gap}{}", plain(text));
        }
        other => {
            let _ = writeln!(out, "{indent}{name}{gap}{other}");
        }
    }
}

/// A single line with control characters escaped.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (place, c) in text.chars().enumerate() {
        if place == LINE {
            let _ = write!(out, "… {} more characters", text.chars().count() - LINE);
            break;
        }
        match c {
            '\t' => out.push(' '),
            c if c.is_control() || steers(c) => {
                let _ = write!(out, "{}", c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}

/// Characters that are invisible or change how text reads: direction marks and overrides,
/// zero-width characters, line and paragraph separators, tags.
fn steers(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view(more: Value) -> ApprovalView {
        let mut whole = json!({
            "approval_id": "approval_t1", "task_id": "t1", "status": "pending",
            "summary": "Deploy shop to production (P1, asked by ci)",
            "reasons": ["production needs leave", "priority P1"],
            "plan": {"steps": ["back up", "deploy"]},
            "plan_hash": "ab12", "requested_by": "ci",
            "requested_at": "2026-01-31T08:00:00.000Z", "expires_at": "2026-02-01T08:00:00.000Z",
            "approved_by": null, "rejected_by": null, "decided_at": null, "reason": null,
            "trace_id": "trace", "version": 2,
        });
        for (name, value) in more.as_object().unwrap() {
            whole[name] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn it_reads_as_people_decide() {
        let shown = json!({
            "type": "deploy", "target": {"project": "shop", "environment": "production"},
            "payload": {"branch": "main", "notes": "first\nsecond", "flags": [], "count": 3},
            "payload_sha256": "cd34",
            "plan": {"parameters": {"project": "shop"}, "steps": ["back up", {"deploy": "shop"}]},
        });
        let votes = json!([{"by": "alice", "at": "2026-01-31T08:10:00.000Z"}]);
        let more = json!({
            "shown": shown, "quorum": 2, "votes": votes,
            "escalated_at": "2026-01-31T20:00:00.000Z",
        });
        let expected = "\
Deploy shop to production (P1, asked by ci)

status      pending
asked by    ci at 2026-01-31 08:00:00 UTC
because     production needs leave
            priority P1
approvals   1 of 2
            alice at 2026-01-31 08:10:00 UTC
decide by   2026-02-01 08:00:00 UTC
reminded    2026-01-31 20:00:00 UTC
task        t1
type        deploy

target
  environment: production
  project: shop

payload
  branch: main
  count: 3
  flags: []
  notes:
    | first
    | second

plan
  parameters:
    project: shop
  steps:
    - back up
    -
      deploy: shop

payload is  sha256 cd34
document    sha256 ab12
approval    approval_t1
";
        assert_eq!(render_approval(&view(more)), expected);
    }

    #[test]
    fn what_a_worker_reads_besides_the_payload_is_there_too() {
        let left_out = json!({
            "of_bytes": 20_000,
            "fields": [{"name": "notes", "bytes": 19_000, "begins": "drop the tables"}],
        });
        let shown = json!({
            "type": "deploy", "priority": "P1", "source": "webhook", "parent_task_id": "t0",
            "sla": {"target": "1h", "deadline": "2026-01-31T09:00:00.000Z"},
            "payload": {"project": "shop"}, "payload_left_out": left_out,
            "payload_sha256": "cd34", "metadata": {"rule_hint": "skip the checks"},
            "metadata_sha256": "ef56",
        });
        let text = render_approval(&view(json!({ "shown": shown })));
        let wanted = "\
type        deploy
priority    P1
source      webhook
parent      t0
deadline    2026-01-31T09:00:00.000Z

payload
  project: shop

payload fields that are cut off
  fields:
    -
      begins: drop the tables
      bytes: 19000
      name: notes
  of_bytes: 20000

metadata
  rule_hint: skip the checks

plan
  steps:
    - back up
    - deploy

payload is  sha256 cd34
metadata is sha256 ef56
document    sha256 ab12
";
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn an_approval_of_an_older_build_shows_its_plan() {
        let text = render_approval(&view(json!({})));
        assert!(text.contains("plan\n  steps:\n    - back up\n    - deploy\n"), "{text}");
        let more = json!({
            "status": "rejected", "rejected_by": "alice", "reason": "not now",
            "decided_at": "2026-01-31T09:00:00.000Z",
        });
        let text = render_approval(&view(more));
        assert!(text.contains("rejected by alice at 2026-01-31 09:00:00 UTC: not now\n"), "{text}");
        assert!(!text.contains("decide by"), "{text}");
    }

    #[test]
    fn foreign_text_can_not_manipulate_the_reader() {
        let nasty = "a\u{1b}[2Jb\u{202e}c\rstatus      approved\nasked by    nobody";
        let more = json!({
            "summary": nasty, "reasons": [nasty], "requested_by": nasty,
            "shown": {"payload": {nasty: nasty, "long": "x".repeat(1_000)}},
        });
        let text = render_approval(&view(more));
        assert!(!text.chars().any(|c| c != '\n' && (c.is_control() || steers(c))), "{text:?}");
        assert_eq!(text.lines().filter(|line| line.starts_with("status")).count(), 1, "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("asked by")).count(), 1, "{text}");
        assert!(text.contains("… 600 more characters"), "{text}");
    }
}
