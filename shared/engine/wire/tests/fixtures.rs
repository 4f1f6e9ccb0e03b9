//! Published wire formats must be read and written the same for ever.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Map;
use watchbill_core::ports::LaneMessage;
use watchbill_core::service::FullApproval;
use watchbill_domain::{
    Agent, Approval, ApprovalId, ApprovalStatus, Decision, Event, Priority, TaskId, Timestamp, Vote,
};
use watchbill_wire::{ApprovalView, BusEvent, EventView, LaneForm, Problem, TaskView};

const LANE: &str = include_str!("fixtures/lane_v1.json");
const BUS: &str = include_str!("fixtures/bus_event.json");
const TASK: &str = include_str!("fixtures/task.json");
/// From before approvals had an approval document, a quorum and votes.
const APPROVAL_1: &str = include_str!("fixtures/approval.json");
/// From before approvals had type, priority, approver and the reason why they are required.
const APPROVAL_2: &str = include_str!("fixtures/approval_2.json");
const APPROVAL: &str = include_str!("fixtures/approval_3.json");

fn kept<T: Serialize + DeserializeOwned>(fixture: &str) -> T {
    let read: T = serde_json::from_str(fixture).unwrap();
    let written = serde_json::to_string_pretty(&read).unwrap() + "\n";
    assert_eq!(written, fixture);
    read
}

#[test]
fn a_lane_message_is_kept_byte_for_byte() {
    let message = LaneForm::read(LANE).unwrap();
    assert_eq!(
        message,
        LaneMessage {
            tenant: watchbill_domain::TenantId::parse("acme").unwrap(),
            task_id: TaskId::parse("019a00c8-9480-7000-8000-000000000001").unwrap(),
            assignment: 2,
            agent: Agent::Ops,
            priority: Priority::P0,
            trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
        }
    );
    assert_eq!(LaneForm::write(&message) + "\n", LANE);
}

#[test]
fn lane_messages_of_other_versions_or_with_bad_ids_are_refused() {
    for (from, to) in [
        (r#""v":"1""#, r#""v":"2""#),
        (r#""v":"1","#, ""),
        ("acme", "ACME"),
        ("019a00c8-9480-7000-8000-000000000001", ""),
        ("ops", "cook"),
    ] {
        assert!(LaneForm::read(&LANE.replace(from, to)).is_err(), "{to}");
    }
}

#[test]
fn an_event_on_the_bus_is_kept_byte_for_byte() {
    let bus: BusEvent = kept(BUS);
    let event = Event::try_from(bus.clone()).unwrap();
    assert_eq!(event.hops, 1);
    assert!(!event.metadata.contains_key("hops"));
    assert_eq!(BusEvent::from(event), bus);
}

#[test]
fn an_event_that_lies_about_itself_is_refused() {
    let bus: BusEvent = serde_json::from_str(BUS).unwrap();
    let other = BusEvent { detail_type: "task.failed".into(), ..bus.clone() };
    assert!(Event::try_from(other).is_err());
    for hops in [serde_json::json!("none"), serde_json::json!(-1), serde_json::json!(300)] {
        let mut detail = bus.detail.clone();
        detail.metadata.insert("hops".into(), hops);
        assert!(Event::try_from(BusEvent { detail, ..bus.clone() }).is_err());
    }
    assert!(serde_json::from_str::<EventView>(r#"{"event_type":"Task Done"}"#).is_err());
}

#[test]
fn a_task_and_an_approval_are_kept_byte_for_byte() {
    let task: TaskView = kept(TASK);
    assert_eq!(task.metadata["result"]["success"], true);
    let view: ApprovalView = kept(APPROVAL);
    let time = |text: &str| Timestamp::parse(text).unwrap();
    let approval = Approval {
        id: ApprovalId::of(&task.task_id, 1),
        tenant: task.tenant_id.clone(),
        task_id: task.task_id.clone(),
        status: ApprovalStatus::Approved,
        reasons: view.reasons.clone(),
        summary: view.summary.clone(),
        plan: view.plan.clone(),
        plan_hash: view.plan_hash.clone(),
        requested_by: "ops-worker".into(),
        also_requested_by: Vec::new(),
        requested_at: time("2025-10-20T10:00:00Z"),
        decide_by: time("2025-10-21T10:00:00Z"),
        use_by: Some(time("2025-10-20T11:00:30Z")),
        shown: view.shown.clone(),
        quorum: 2,
        votes: vec![
            Vote { by: "bob".into(), at: time("2025-10-20T10:00:10Z"), made_by: None },
            Vote { by: "alice".into(), at: time("2025-10-20T10:00:30Z"), made_by: None },
        ],
        escalated_at: None,
        salt: String::new(),
        decision: Some(Decision {
            by: "alice".into(),
            at: time("2025-10-20T10:00:30Z"),
            reason: None,
        }),
        trace_id: view.trace_id.clone(),
        keep_until: None,
    };
    assert_eq!(ApprovalView::from(FullApproval { approval, version: 2 }), view);
    let older: ApprovalView = serde_json::from_str(APPROVAL_2).unwrap();
    let without = ApprovalView {
        task_type: None,
        priority: None,
        approver: None,
        approved_at: None,
        reason: None,
        ..view
    };
    assert_eq!(ApprovalView { shown: without.shown.clone(), ..older.clone() }, without);
    assert_eq!(older.shown["plan"], without.shown["plan"]);
    let older: ApprovalView = serde_json::from_str(APPROVAL_1).unwrap();
    let without = ApprovalView { shown: Map::new(), quorum: 1, votes: Vec::new(), ..without };
    assert_eq!(older, without);
}

/// In every state an approval shows what it is about and why it is required.
#[test]
fn an_approval_shows_its_subject_reasons_and_approver() {
    let view: ApprovalView = serde_json::from_str(APPROVAL).unwrap();
    let approval = |status, decision: Option<Decision>| Approval {
        id: view.approval_id.clone(),
        tenant: watchbill_domain::TenantId::default(),
        task_id: view.task_id.clone(),
        status,
        reasons: vec!["priority P1 waits for a person".into(), "a rule".into()],
        summary: String::new(),
        plan: Map::new(),
        plan_hash: String::new(),
        requested_by: "ci".into(),
        also_requested_by: Vec::new(),
        requested_at: view.requested_at,
        decide_by: view.expires_at,
        use_by: None,
        shown: view.shown.clone(),
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
        Some(Decision { by: "alice".into(), at: view.requested_at, reason })
    };
    const WHY: Option<&str> = Some("priority P1 waits for a person; a rule");
    let (alice, nobody) = (Some("alice"), None);
    for (status, decision, approver, is_approved, reason) in [
        (ApprovalStatus::Pending, None, nobody, false, WHY),
        (ApprovalStatus::Approved, decision(None), alice, true, WHY),
        (ApprovalStatus::Rejected, decision(Some("no")), alice, false, Some("no")),
        (ApprovalStatus::Rejected, decision(None), alice, false, None),
        (ApprovalStatus::Expired, decision(None), nobody, false, WHY),
        (ApprovalStatus::Cancelled, decision(Some("over")), nobody, false, Some("over")),
    ] {
        let approval = approval(status, decision);
        let view = ApprovalView::from(FullApproval { approval, version: 1 });
        assert_eq!(view.approver.as_deref(), approver, "{status:?}");
        assert_eq!(view.approved_at.is_some(), is_approved, "{status:?}");
        assert_eq!(view.reason.as_deref(), reason, "{status:?}");
        assert_eq!(view.priority, Some(Priority::P1));
        assert!(watchbill_wire::render_approval(&view).matches("a rule").count() == 1);
    }
}

#[test]
fn a_problem_without_fields_has_no_errors() {
    let problem = Problem {
        kind: "urn:watchbill:not-found".into(),
        title: "Not Found".into(),
        status: 404,
        detail: "task 'x' not found".into(),
        errors: Vec::new(),
    };
    assert_eq!(
        serde_json::to_string(&problem).unwrap(),
        r#"{"type":"urn:watchbill:not-found","title":"Not Found","status":404,"detail":"task 'x' not found"}"#
    );
}
