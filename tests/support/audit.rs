//! What must hold for everything that is recorded, whatever happened before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use watchbill_core::ledger::{PositionContent, Verifier};
use watchbill_domain::Timestamp;
use watchbill_wire::BatchList;

use super::Client;

/// How long nothing may change.
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Timelines that are read concurrently.
const READERS: usize = 8;

pub fn is_terminal(status: &Value) -> bool {
    ["completed", "failed", "cancelled"].iter().any(|terminal| status == *terminal)
}

/// Waits until the feed's readers have seen every change, and no task is left to run. How long
/// that takes depends on the amount of work; no progress is a fault.
///
/// The counts are up to a second old. They cover everything that was submitted only if they were
/// read after a response in which the readers had seen everything.
pub async fn settled(anyone: &Client) {
    let (mut health, mut left) = (Value::Null, Value::Null);
    let mut before = None;
    loop {
        let came = tokio::time::timeout(TIMEOUT, async {
            loop {
                health = anyone.get("/health").await.ok();
                let total = &health["queue_stats"]["total_tasks"];
                let seen = ["router", "recorder"].iter().all(|one| health["feed_lag"][one] == 0);
                let counted = health["counted_at"].clone();
                let since = before.take().filter(|_| seen).unwrap_or_else(|| counted.clone());
                let settled = seen && *total == 0 && counted != since;
                before = seen.then_some(since);
                if *total != left || settled {
                    left = total.clone();
                    return settled;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        });
        match came.await {
            Ok(true) => return,
            Ok(false) => {}
            Err(_) => panic!("work or changes are left over without progress: {health}"),
        }
    }
}

/// Verifies the tenant's ledger from its first batch, as `watchbill audit verify` does.
pub async fn assert_chain_holds(admin: &Client) {
    let (mut from, mut verifier) = (1, None::<Verifier>);
    loop {
        let page = admin.get(&format!("/audit/batches?from={from}")).await.ok();
        let page: BatchList = serde_json::from_value(page).expect("a page of batches");
        let verifier = verifier.get_or_insert_with(|| Verifier::new(page.tenant_id));
        for place in page.batches {
            let seq = place.seq;
            verifier
                .push(PositionContent::from(place))
                .unwrap_or_else(|broken| panic!("{seq}: {broken}"));
        }
        match page.next {
            Some(next) => from = next,
            None => break assert!(verifier.next() > page.seen, "its end is missing"),
        }
    }
    let verified = verifier.expect("there was a page").finish();
    verified.unwrap_or_else(|broken| panic!("{broken}"));
}

/// Everything that an installation reports about its tasks.
pub struct Books {
    pub tasks: BTreeMap<String, Value>,
    pub timelines: BTreeMap<String, Vec<Value>>,
    /// Oldest first.
    pub events: Vec<Value>,
}

/// The entries that changed the task; approvals are changes too.
pub fn changes(timeline: &[Value]) -> impl Iterator<Item = &Value> {
    timeline.iter().filter(|entry| entry["kind"] == "change" || entry["kind"] == "approval")
}

impl Books {
    pub async fn read(reader: &Client) -> Self {
        let listed = reader.all("/tasks?", "tasks").await;
        let tasks: BTreeMap<_, _> =
            listed.into_iter().map(|task| (text(&task["task_id"]), task)).collect();
        let ids: Vec<String> = tasks.keys().cloned().collect();
        let mut readers = tokio::task::JoinSet::new();
        for part in ids.chunks(ids.len().div_ceil(READERS).max(1)) {
            let (reader, part) = (reader.clone(), part.to_vec());
            readers.spawn(async move {
                let mut read = Vec::new();
                for id in part {
                    let timeline = reader.timeline(&id).await;
                    read.push((id, timeline));
                }
                read
            });
        }
        let timelines = readers.join_all().await.into_iter().flatten().collect();
        let mut events = reader.all("/events?", "events").await;
        events.reverse();
        Self { tasks, timelines, events }
    }

    /// Panics with everything that does not hold.
    pub fn check(&self) {
        let wrong = self.faults();
        assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
    }

    pub fn faults(&self) -> Vec<String> {
        let mut wrong = self.repeats();
        wrong.extend(self.stale_runs());
        let recorded = self.recorded();
        for (id, task) in &self.tasks {
            let timeline = &self.timelines[id];
            let faults = way(task, timeline).into_iter().chain(missing_events(
                timeline,
                recorded.get(id.as_str()).map_or(&[], Vec::as_slice),
            ));
            wrong.extend(faults.map(|fault| format!("{id}: {fault}")));
        }
        wrong
    }

    /// An event is recorded once.
    fn repeats(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let twice = self.events.iter().filter(|event| !seen.insert(text(&event["event_id"])));
        twice.map(|event| format!("recorded twice: {event}")).collect()
    }

    /// Each run of a task has a higher fencing token than the one before.
    fn stale_runs(&self) -> Vec<String> {
        let mut last = BTreeMap::<&str, u64>::new();
        let mut wrong = Vec::new();
        for event in &self.events {
            let started = event["event_type"] == "task.started";
            let run = event["payload"]["run"].as_u64().filter(|_| started);
            if let (Some(id), Some(run)) = (event["task_id"].as_str(), run) {
                let before = last.insert(id, run).unwrap_or_default();
                if run <= before {
                    wrong.push(format!("{id}: run {run} was started after run {before}"));
                }
            }
        }
        wrong
    }

    /// The type and version of each task's own events, in recorded order.
    fn recorded(&self) -> BTreeMap<&str, Vec<(String, u64)>> {
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for event in &self.events {
            let version = event["metadata"]["version"].as_u64();
            if let (Some(id), Some(version)) = (event["task_id"].as_str(), version) {
                found.entry(id).or_default().push((text(&event["event_type"]), version));
            }
        }
        found
    }
}

/// A check or a worker's report makes a version without a log entry. Such versions are at least
/// this many milliseconds apart.
const SILENT: i64 = 1_000;

fn millis_of(at: &str) -> Option<i64> {
    Timestamp::parse(at).ok().map(Timestamp::millis)
}

/// Whether no version is missing that must have a log entry.
fn is_whole(timeline: &[Value]) -> bool {
    let version = |change: &Value| change["version"].as_u64();
    let at = |change: &Value| change["at"].as_str().and_then(millis_of);
    // A waiting task is re-checked, and a worker's report extends its lease. Every version of an
    // ended task has a log entry.
    let is_open = |change: &Value| !is_terminal(&change["status"]);
    let follows = |one: &&Value, next: &&Value| {
        let Some((before, after)) = version(one).zip(version(next)) else { return false };
        let silent = match at(one).zip(at(next)) {
            Some((from, to)) if is_open(one) => u64::try_from((to - from) / SILENT).unwrap_or(0),
            _ => 0,
        };
        after > before && after - before - 1 <= silent
    };
    let changes: Vec<_> = changes(timeline).collect();
    changes.first().is_some_and(|first| version(first) == Some(1)) && changes.is_sorted_by(follows)
}

/// Versions in order from the first on, an end that nothing follows, and a status that fits
/// both.
fn way(task: &Value, timeline: &[Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    let versions: Vec<u64> = changes(timeline).filter_map(|c| c["version"].as_u64()).collect();
    let version = task["version"].as_u64().unwrap_or_default();
    let last = versions.last().copied().unwrap_or_default();
    if !is_whole(timeline) || last > version || is_terminal(&task["status"]) && last != version {
        wrong.push(format!("version {version}, but its changes are {versions:?}"));
    }
    let ends: Vec<usize> = changes(timeline)
        .enumerate()
        .filter(|(_, change)| is_terminal(&change["status"]))
        .map(|(at, _)| at)
        .collect();
    let fits = match is_terminal(&task["status"]) {
        true => ends == [versions.len().saturating_sub(1)],
        false => ends.is_empty(),
    };
    let last = changes(timeline).last().map(|change| &change["status"]);
    if !fits || last != Some(&task["status"]) {
        wrong.push(format!("it is {} and ended at {ends:?} of {versions:?}", task["status"]));
    }
    if is_terminal(&task["status"]) != task["completed_at"].is_string() {
        wrong.push(format!("it is {} at {}", task["status"], task["completed_at"]));
    }
    wrong
}

/// Events follow state: the events of the changes are the recorded ones, in the same order.
fn missing_events(timeline: &[Value], recorded: &[(String, u64)]) -> Option<String> {
    let given: Vec<(String, u64)> = timeline
        .iter()
        .filter(|entry| entry["kind"] == "event")
        .filter_map(|entry| Some((text(&entry["what"]), entry["version"].as_u64()?)))
        .collect();
    (given != recorded).then(|| format!("its changes gave {given:?}, recorded is {recorded:?}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// Tests of the audit itself: sound records pass, and each kind of fault is found.
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(kind: &str, what: &str, version: u64, status: &str) -> Value {
        json!({"kind": kind, "what": what, "version": version, "status": status})
    }

    fn event(event_type: &str, version: u64, run: Option<u64>) -> Value {
        json!({
            "event_id": format!("{event_type}-{version}"), "event_type": event_type,
            "task_id": "t", "metadata": {"version": version}, "payload": {"run": run},
        })
    }

    fn sound() -> Books {
        let task = json!({
            "task_id": "t", "version": 3, "status": "completed", "completed_at": "now",
        });
        let timeline = vec![
            entry("change", "created", 1, "assigned"),
            entry("event", "task.created", 1, "assigned"),
            entry("change", "claimed", 2, "in_progress"),
            entry("event", "task.started", 2, "in_progress"),
            entry("change", "completed", 3, "completed"),
            entry("event", "task.completed", 3, "completed"),
        ];
        let events = vec![
            event("task.created", 1, None),
            event("task.started", 2, Some(1)),
            event("task.completed", 3, None),
        ];
        Books {
            tasks: BTreeMap::from([("t".to_owned(), task)]),
            timelines: BTreeMap::from([("t".to_owned(), timeline)]),
            events,
        }
    }

    fn with(fault: impl FnOnce(&mut Value, &mut Vec<Value>, &mut Vec<Value>)) -> Vec<String> {
        let mut books = sound();
        let timeline = books.timelines.get_mut("t").expect("it is there");
        fault(books.tasks.get_mut("t").expect("it is there"), timeline, &mut books.events);
        books.faults()
    }

    #[test]
    fn consistent_records_pass() {
        assert_eq!(sound().faults(), Vec::<String>::new());
    }

    #[test]
    fn versions_may_be_missing_only_for_checks_or_reports() {
        let later = |missing: u64, seconds: u32, status: &str| {
            let mut first = entry("change", "created", 1, status);
            first["at"] = json!("2026-01-01T00:00:00Z");
            let mut next = entry("change", "cancelled", 2 + missing, "cancelled");
            next["at"] = json!(format!("2026-01-01T00:00:{seconds:02}Z"));
            is_whole(&[first, next])
        };
        assert!(later(0, 0, "in_progress") && later(2, 2, "assigned") && later(1, 9, "blocked"));
        assert!(!later(1, 0, "assigned") && !later(3, 2, "assigned"));
        assert!(later(1, 9, "in_progress") && !later(1, 9, "completed"));
    }

    #[test]
    fn each_fault_is_found() {
        let gap = with(|task, timeline, events| {
            task["version"] = json!(4);
            timeline[4]["version"] = json!(4);
            timeline[5]["version"] = json!(4);
            events[2]["metadata"]["version"] = json!(4);
        });
        let ran_again = with(|task, timeline, _| {
            task["version"] = json!(4);
            task["status"] = json!("in_progress");
            timeline.push(entry("change", "claimed", 4, "in_progress"));
        });
        let two_ends = with(|task, timeline, _| {
            task["version"] = json!(4);
            timeline.push(entry("change", "completed", 4, "completed"));
        });
        let unheard = with(|_, _, events| drop(events.pop()));
        let twice = with(|_, _, events| events.push(events[2].clone()));
        let out_of_order = with(|_, _, events| events.swap(0, 2));
        let stale = with(|_, timeline, events| {
            timeline.insert(4, entry("event", "task.started", 2, "in_progress"));
            events.insert(2, event("task.started", 2, Some(1)));
            events[2]["event_id"] = json!("another");
        });
        let kinds = [gap, ran_again, two_ends, unheard, twice, out_of_order, stale];
        let words = [
            "version 4",
            "ended at",
            "ended at",
            "recorded is",
            "recorded twice",
            "recorded is",
            "run 1 was started after run 1",
        ];
        for (found, word) in kinds.iter().zip(words) {
            assert!(found.iter().any(|fault| fault.contains(word)), "'{word}' is not in {found:?}");
        }
    }
}
