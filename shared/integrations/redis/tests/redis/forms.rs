//! Tests of tasks, events and results in the legacy formats. `fixtures` has what legacy
//! programs wrote, byte for byte. What we write must have exactly their fields, because they
//! refuse all others.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use watchbill_core::service::FullApproval;
use watchbill_domain::{
    Agent, Approval, ApprovalId, ApprovalStatus, Decision, Priority, Status, TaskId, TaskType,
    TenantId, Timestamp,
};
use watchbill_redis::forms::{
    DomainView, Rejection, addressee, approval_for_peer, compose_task, event_for_peer, merge_task,
    read_domain_task, read_legacy_task, read_peer_event,
};
use watchbill_wire::legacy::{Assignee, legacy_id, legacy_ids};
use watchbill_wire::{ApprovalView, EventView, TaskView};

pub const TASK: &str = include_str!("../fixtures/task.json");
pub const EVENT: &str = include_str!("../fixtures/event.json");
pub const MESSAGE: &[u8] = include_bytes!("../fixtures/message.json");
pub const ID: &str = "6f1c2f9e-0d0a-4f3e-9a52-0e0c9f3f8a11";

fn keys(text: &str) -> BTreeSet<String> {
    let map: Map<String, Value> = serde_json::from_str(text).unwrap();
    map.into_iter().map(|(name, _)| name).collect()
}

/// The task here after its import.
pub fn view(status: &str) -> TaskView {
    let peer = read_legacy_task(ID, TASK).unwrap();
    let at = "2026-01-31T08:00:05.250Z";
    serde_json::from_value(json!({
        "task_id": ID,
        "type": peer.task.task_type,
        "priority": peer.task.priority,
        "source": peer.task.source,
        "status": status,
        "payload": peer.task.payload,
        "trace_id": peer.trace_id,
        "sla": null,
        "assigned_to": "ops",
        "created_at": "2026-01-31T08:00:00.000Z",
        "started_at": at,
        "completed_at": (status == "completed").then_some(at),
        "parent_task_id": null,
        "child_task_ids": [],
        "metadata": {"ticket": 7, "result": {"checked": 3}},
        "error": null,
        "retry_count": 1,
        "max_retries": 3,
        "tenant_id": "default",
        "version": 3,
        "approval_id": null,
    }))
    .unwrap()
}

#[test]
fn a_task_of_the_queue_is_read_whole() {
    let read = read_legacy_task(ID, TASK).unwrap();
    assert_eq!(read.status, Status::Assigned);
    assert_eq!(read.assignee, Assignee::Known(Agent::Ops), "ops_agent is ops");
    assert_eq!(read.task.task_type, TaskType::Monitor);
    assert_eq!(read.task.priority, Priority::P1);
    assert_eq!(read.task.sla_deadline, Timestamp::parse("2026-01-31T09:00:00Z").ok());
    assert_eq!(read.created_at, Timestamp::parse("2026-01-31T07:59:59.123Z").ok());
    assert_eq!(read.trace_id.as_deref(), Some("trace-1"));
    assert_eq!(read.task.metadata["via"], "redis");
    assert_eq!(read.task.metadata["parent_task_id"], "a-parent-of-theirs");
    assert!(read.task.metadata.get("result").is_none());
}

#[test]
fn what_we_write_back_leaves_all_else_as_it_was() {
    let merged = merge_task(Some(TASK), &view("completed"));
    assert_eq!(keys(&merged), keys(TASK));
    let merged: Value = serde_json::from_str(&merged).unwrap();
    assert_eq!(merged["status"], "completed");
    assert_eq!(merged["completed_at"], "2026-01-31T08:00:05.250+00:00");
    assert_eq!(merged["metadata"]["result"], json!({"checked": 3}));
    assert_eq!(merged["metadata"]["ticket"], 7);
    assert_eq!(merged["assigned_to"], "ops_agent", "as its worker calls itself");
    // Numbers that no float holds stay as they are written.
    let text = merge_task(Some(TASK), &view("completed"));
    assert!(text.contains("123456789012345678901234567890"), "{text}");
}

#[test]
fn a_task_that_redis_has_lost_is_written_whole() {
    let whole = merge_task(None, &view("completed"));
    assert_eq!(keys(&whole), keys(TASK));
    assert!(read_legacy_task(ID, &whole).is_ok());
}

#[test]
fn a_task_for_their_workers_has_sources_they_know() {
    let mut ours = view("assigned");
    ours.source = "pager".to_owned();
    let fed: Value = serde_json::from_str(&compose_task(&ours, "dev_agent")).unwrap();
    assert_eq!((&fed["source"], &fed["assigned_to"]), (&json!("system"), &json!("dev_agent")));
}

#[test]
fn tasks_that_cannot_be_are_refused_with_the_reason() {
    let refused = |data: &str| read_legacy_task(ID, data).unwrap_err();
    assert!(refused("not json").contains("not a JSON object"));
    assert!(refused("{}").contains("no type"));
    assert!(refused(r#"{"type": "dance"}"#).contains("'dance'"));
    assert!(refused(r#"{"type": "ops_cycle"}"#).contains("schedule"));
    assert!(refused(r#"{"type": "faq", "task_id": "other"}"#).contains("'other'"));
    assert!(refused(r#"{"type": "faq", "payload": [1]}"#).contains("payload"));
    let large = json!({"type": "faq", "payload": {"text": "x".repeat(210_000)}});
    assert!(refused(&large.to_string()).contains("204800"));
    // An SLA in free text is no reason.
    let odd = read_legacy_task(ID, r#"{"type": "faq", "sla": {"target": "soon"}}"#).unwrap();
    assert_eq!(odd.task.metadata["sla"], json!({"target": "soon"}));
}

#[test]
fn the_addressee_of_an_unreadable_task_is_known() {
    // Python's own numbers, lone surrogates, and nesting beyond the parsers' limit.
    let deep = format!("{}1{}", "[".repeat(300), "]".repeat(300));
    for value in ["NaN", "-Infinity", r#""\ud800""#, &deep] {
        let data = format!(
            r#"{{"payload": {{"p95": {value}}}, "assigned_to": "seo_agent", "type": "x"}}"#
        );
        let to = addressee(&data).unwrap_or_else(|| panic!("{data}"));
        assert_eq!(to.assignee, Assignee::Other, "{data}");
    }
    let of = |data: Value| addressee(&data.to_string()).unwrap();
    for (assigned_to, wanted) in [
        (json!(null), Assignee::Nobody),
        (json!(""), Assignee::Nobody),
        (json!("dev_agent"), Assignee::Known(Agent::Dev)),
        (json!("qa_agent"), Assignee::Other),
        (json!("OPS"), Assignee::Other),
        (json!(7), Assignee::Other),
    ] {
        let data = json!({"type": "dance", "assigned_to": assigned_to});
        assert_eq!(of(data.clone()).assignee, wanted, "{data}");
        assert_eq!(of(data).task_type, None);
        // A readable task is read whatever its assignee.
        let data = json!({"type": "faq", "assigned_to": assigned_to});
        let read = read_legacy_task(ID, &data.to_string()).unwrap();
        assert_eq!((read.assignee, read.addressee()), (wanted, of(data)));
    }
    let data = json!({"type": "investigate", "payload": {"repo": "shop"}});
    assert!(of(data.clone()).has_repo && of(data).task_type == Some(TaskType::Investigate));
    assert_eq!(addressee("[1]"), None);
}

#[test]
fn whoever_waits_for_a_rejected_task_sees_it_fail() {
    let at = Timestamp::parse("2026-01-31T12:00:00Z").unwrap();
    let said = Rejection::new(ID, Some(TASK), "too large", at);
    assert_eq!(keys(&said.data), keys(TASK));
    assert!(said.data.contains("123456789012345678901234567890"), "{}", said.data);
    let data: Value = serde_json::from_str(&said.data).unwrap();
    assert_eq!((&data["status"], &data["error"]), (&json!("failed"), &json!("too large")));
    assert_eq!(data["completed_at"], "2026-01-31T12:00:00.000+00:00");
    assert_eq!(data["metadata"], json!({"ticket": 7, "result": {"old": true}}));
    // The event has exactly their fields, and is recognized as ours when it comes back.
    assert_eq!(keys(&said.event), keys(EVENT));
    assert_eq!(read_peer_event(&said.event).unwrap(), None);
    let event: Value = serde_json::from_str(&said.event).unwrap();
    let told = ["event_type", "task_id", "trace_id", "source_agent"].map(|name| &event[name]);
    assert_eq!(
        told,
        ["task.failed", ID, "trace-1", "ops_agent"].map(|text| json!(text)).each_ref()
    );
    // Here it is the same event, once per stored data.
    let record = &said.record;
    assert_eq!(record.id.as_str(), format!("redis:{}", event["event_id"].as_str().unwrap()));
    assert_eq!(record.event.payload["error"], "too large");
    assert_eq!(record.event.task_id.as_ref().map(|id| id.as_str()), Some(ID));
    assert_eq!(Rejection::new(ID, Some(TASK), "again", at).record.id, record.id);
    assert_ne!(Rejection::new(ID, Some("{}"), "again", at).record.id, record.id);
    // Data that was no task becomes one that legacy programs can read.
    for data in [None, Some("{oops"), Some("[1]")] {
        let whole = Rejection::new("a/b", data, "no JSON object", at);
        assert_eq!(keys(&whole.data), keys(TASK));
        assert!(read_legacy_task("a/b", &whole.data).is_ok(), "{}", whole.data);
        assert_eq!(whole.record.event.task_id, legacy_id("a/b").ok());
    }
    // An id that is invalid here is named in the payload.
    let long = "x".repeat(129);
    let record = Rejection::new(&long, None, "its id is too long", at).record;
    assert_eq!((record.event.task_id, &record.event.payload["peer_id"]), (None, &json!(long)));
}

#[test]
fn whoever_waits_for_a_rejected_message_sees_it_fail() {
    let at = Timestamp::parse("2026-01-31T12:00:00Z").unwrap();
    let (id, view) = DomainView::of_rejected(br#"{"task_id":"d-1"}"#, "no payload", at).unwrap();
    assert_eq!(id, "d-1");
    let fields: Map<String, Value> =
        view.fields.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    assert_eq!((&fields["status"], &fields["task_id"]), (&json!("failed"), &json!("d-1")));
    assert_eq!(fields["error"], "rejected: no payload");
    let output: Value = serde_json::from_str(fields["output"].as_str().unwrap()).unwrap();
    assert_eq!(output["workers_used"], json!([]));
    let published: Map<String, Value> = serde_json::from_str(&view.publish.unwrap()).unwrap();
    assert_eq!(published, fields, "the same as JSON");
    for nobody in [&b"{}"[..], b"{\"task_id\":\"\"}", b"\xff", b"[]"] {
        assert_eq!(DomainView::of_rejected(nobody, "", at), None);
    }
}

#[test]
fn events_go_once_each_way() {
    let heard = read_peer_event(EVENT).unwrap().expect("it is theirs");
    assert_eq!(heard.id.as_str(), "redis:0b8a5d1e-58f5-4b53-9b38-3a4e6dd3c001");
    assert_eq!(heard.event.event_type.as_str(), "deploy.started");
    // An imported event is not exported again.
    let mut here: EventView = serde_json::from_str(EVENT).unwrap();
    here.event_id = heard.id;
    assert_eq!(event_for_peer(&here, None), None);
    // Our events have exactly their fields, and are recognized as ours when they come back.
    let ours: EventView = serde_json::from_str(EVENT).unwrap();
    let told = event_for_peer(&ours, None).expect("it is ours");
    assert_eq!(keys(&told), keys(EVENT));
    assert_eq!(read_peer_event(&told).unwrap(), None);
}

/// In every direction the legacy program finds its own id.
#[test]
fn a_peers_id_is_another_here_and_its_own_there() {
    const ODD: &str = "jobs/7 #a?b%c~2=x";
    const HERE: &str = "jobs=2F7 =23a=3Fb=25c=7E2=3Dx";
    let data = TASK.replace(ID, ODD);
    let read = read_legacy_task(ODD, &data).unwrap();
    let mut task = view("completed");
    task.task_id = legacy_id(ODD).unwrap();
    assert_eq!(task.task_id.as_str(), HERE);
    task.metadata = read.task.metadata;
    assert_eq!(task.peer_id(), ODD);
    for written in [merge_task(Some(&data), &task), merge_task(None, &task)] {
        let written: Value = serde_json::from_str(&written).unwrap();
        assert_eq!(written["task_id"], ODD);
        assert!(written["metadata"].get("peer_id").is_none(), "{written}");
    }
    let shown = DomainView::of(&task, Timestamp::from_millis(0));
    assert!(shown.fields.contains(&("task_id".to_owned(), ODD.to_owned())));
    let message: Value = serde_json::from_slice(MESSAGE).unwrap();
    let message = message.to_string().replace("d-1", ODD);
    let read = read_domain_task("devops", message.as_bytes()).unwrap();
    assert_eq!((read.id.as_str(), read.peer_id.as_str()), (HERE, ODD));
    // Events, with their own ids and their tasks'.
    let event = EVENT.replace("0b8a5d1e-58f5-4b53-9b38-3a4e6dd3c001", "e/1~2");
    let mut event: Value = serde_json::from_str(&event).unwrap();
    event["task_id"] = ODD.into();
    let heard = read_peer_event(&event.to_string()).unwrap().unwrap();
    assert_eq!(heard.id.as_str(), "redis:e=2F1=7E2");
    assert_eq!(heard.event.task_id.as_ref().map(|id| id.as_str()), Some(HERE));
    assert_eq!(heard.peer_task.as_deref(), Some(ODD));
    let mut ours: EventView = serde_json::from_str(EVENT).unwrap();
    ours.task_id = Some(task.task_id.clone());
    let told: Value = serde_json::from_str(&event_for_peer(&ours, Some(&task)).unwrap()).unwrap();
    assert_eq!(told["task_id"], ODD);
}

#[test]
fn a_mark_that_is_some_callers_names_nobody() {
    let mut task = view("completed");
    task.metadata.insert("peer_id".into(), "another".into());
    assert_eq!(task.peer_id(), ID);
    // A task of a build that did not escape ids: its id is the original one.
    task.task_id = serde_json::from_value(json!("a/b=2F")).unwrap();
    task.metadata.remove("peer_id");
    assert_eq!(task.peer_id(), "a/b=2F");
    let ids: Vec<String> = legacy_ids("a/b").iter().map(ToString::to_string).collect();
    assert_eq!(ids, ["a=2Fb", "a/b"]);
    assert_eq!(legacy_ids("plain").len(), 1);
}

#[test]
fn an_event_without_an_id_is_the_same_event_again() {
    let read = |text: &str| read_peer_event(text).unwrap().unwrap().id;
    let text = r#"{"event_type": "pr.merged", "payload": {"n": 1}}"#;
    assert_eq!(read(text), read(text));
    assert_ne!(read(text), read(&text.replace('1', "2")));
    assert!(read_peer_event(r#"{"event_type": "Nonsense"}"#).is_err());
    assert!(read_peer_event("[]").is_err());
}

#[test]
fn a_domains_message_is_read_and_answered_in_its_form() {
    let read = read_domain_task("devops", MESSAGE).unwrap();
    assert_eq!(read.id.as_str(), "d-1");
    assert_eq!(read.task.task_type, TaskType::Devops);
    assert_eq!(read.task.priority, Priority::P1, "high");
    assert_eq!(read.task.sla_target.as_deref(), Some("600"));
    assert_eq!(read.task.payload["requirements"], json!(["Non-root user"]));
    assert!(read_domain_task("devops", b"{}").is_err());
    assert!(read_domain_task("devops", &[0xff, 0xfe]).is_err());

    let mut task = view("blocked");
    task.error = Some("no worker".to_owned());
    let now = Timestamp::from_millis(1_769_846_400_000);
    let result = DomainView::of(&task, now);
    let fields: Map<String, Value> =
        result.fields.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    assert_eq!(fields["status"], "failed", "clients wait for completed and failed alone");
    assert_eq!(fields["error"], "blocked: no worker");
    let output: Value = serde_json::from_str(fields["output"].as_str().unwrap()).unwrap();
    assert_eq!(output["workers_used"], json!([]));
    let published: Map<String, Value> = serde_json::from_str(&result.publish.unwrap()).unwrap();
    assert_eq!(published, fields, "the same as JSON");
    assert!(DomainView::of(&view("in_progress"), now).publish.is_none());
}

/// An imported task can't be returned: a number that would be rounded keeps its digits as text,
/// and the stored data keeps its bytes.
#[test]
fn numbers_that_would_not_be_kept_are_never_rounded() {
    let serial = "123456789012345678901234567890";
    let read = read_legacy_task(ID, TASK).unwrap();
    assert_eq!(read.task.payload["serial"], serial);
    let other =
        read_legacy_task(ID, &TASK.replace(serial, "123456789012345678901234567891")).unwrap();
    assert_ne!(read.task.payload, other.task.payload);
    let merged = merge_task(Some(TASK), &view("completed"));
    assert!(merged.contains(&format!("\"serial\": {serial}")), "{merged}");
    let message = String::from_utf8(MESSAGE.to_vec()).unwrap();
    let message =
        message.replacen("\"payload\":{", &format!("\"payload\":{{\"order\":{serial},"), 1);
    let task = read_domain_task("devops", message.as_bytes()).unwrap().task;
    assert_eq!(task.payload["order"], serial);
    let event =
        format!(r#"{{"event_type":"order.made","payload":{{"order":{serial},"small":7}}}}"#);
    let event = read_peer_event(&event).unwrap().unwrap().event;
    assert_eq!((&event.payload["order"], &event.payload["small"]), (&json!(serial), &json!(7)));
}

/// Whatever its status, an approval says what it is about and why it was required.
#[test]
fn an_approval_says_what_is_asked_why_and_who_decided() {
    let at = Timestamp::parse("2025-10-20T10:00:00Z").unwrap();
    let task_id = TaskId::parse(ID).unwrap();
    let shown = json!({"type": "deploy", "priority": "P1"});
    let approval = |status, decision: Option<Decision>| Approval {
        id: ApprovalId::of(&task_id, 1),
        tenant: TenantId::default(),
        task_id: task_id.clone(),
        status,
        reasons: vec!["priority P1 waits for a person".into(), "a rule".into()],
        summary: String::new(),
        plan: Map::new(),
        plan_hash: String::new(),
        requested_by: "ci".into(),
        also_requested_by: Vec::new(),
        requested_at: at,
        decide_by: at,
        use_by: None,
        shown: shown.as_object().cloned().unwrap(),
        quorum: 1,
        votes: Vec::new(),
        escalated_at: None,
        salt: String::new(),
        decision,
        trace_id: String::new(),
        keep_until: None,
    };
    let decision = |reason: Option<&str>| {
        let reason = reason.map(str::to_owned);
        Some(Decision { by: "alice".into(), at, reason })
    };
    let (alice, nobody) = (Some("alice"), None);
    for (status, decision, approver) in [
        (ApprovalStatus::Pending, None, nobody),
        (ApprovalStatus::Approved, decision(None), alice),
        (ApprovalStatus::Rejected, decision(Some("no")), alice),
        (ApprovalStatus::Rejected, decision(None), alice),
        (ApprovalStatus::Expired, decision(None), nobody),
        (ApprovalStatus::Cancelled, decision(Some("over")), nobody),
    ] {
        let approval = approval(status, decision);
        let view = ApprovalView::from(FullApproval { approval, version: 1 });
        let mirrored: Value = serde_json::from_str(&approval_for_peer(&view, None)).unwrap();
        assert_eq!(mirrored["approver"].as_str(), approver, "{status:?}");
        assert_eq!(mirrored["reason"], "priority P1 waits for a person; a rule", "{status:?}");
        assert_eq!(mirrored["task_type"], "deploy");
        assert_eq!(mirrored["priority"], "P1");
        assert_eq!(mirrored["approved_at"].is_null(), view.decided_at.is_none(), "{status:?}");
    }
}
