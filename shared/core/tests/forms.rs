//! Hashes of what is shown, decisions on approvals, and the form of stored items.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use watchbill_core::decide::{
    ApprovalCommand, ApprovalRejection, Rules, canonical_hash, decide_approval,
};
use watchbill_core::domain::{
    Approval, ApprovalId, ApprovalStatus, TaskId, TaskType, TenantId, Timestamp,
};
use watchbill_core::govern::shown;
use watchbill_core::ports::{Item, StoreError, WriteId};
use watchbill_core::repo::{Entity, Versioned, decode, encode};

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9f64..1e9).prop_map(Value::from),
        "[a-c\"\\\\{},: é]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(("[a-d\",: ]{0,3}", inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// The same value as a text whose objects have their keys in another order.
fn reversed(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), reversed(value)))
                .collect();
            pairs.reverse();
            format!("{{ {} }}", pairs.join(" , "))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(reversed).collect();
            format!("[ {} ]", items.join(" , "))
        }
        other => other.to_string(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_hash_does_not_depend_on_the_order_of_keys(value in values()) {
        let again: Value = serde_json::from_str(&reversed(&value)).unwrap();
        prop_assert_eq!(canonical_hash(&value), canonical_hash(&again));
    }

    #[test]
    fn different_values_have_different_hashes(one in values(), other in values()) {
        prop_assert_eq!(one == other, canonical_hash(&one) == canonical_hash(&other));
    }

    #[test]
    fn fields_of_a_newer_build_survive_a_change_by_this_one(
        fields in prop::collection::btree_map("zz[a-z]{1,8}", values(), 0..4),
    ) {
        let approval = approval();
        let mut json = serde_json::to_value(&approval).unwrap();
        json.as_object_mut().unwrap().extend(fields.clone());
        let read: Versioned<Approval> = decode(&item(&json, 1)).unwrap();
        prop_assert_eq!(&read.value, &approval);
        let mut changed = read.value;
        changed.status = ApprovalStatus::Approved;
        let written = encode(&changed, read.unknown.as_deref());
        let again: Map<String, Value> = serde_json::from_slice(&written.body).unwrap();
        for (name, value) in &fields {
            prop_assert_eq!(again.get(name), Some(value));
        }
        prop_assert_eq!(&again["status"], &json!("approved"));
        prop_assert_eq!(again.len(), json.as_object().unwrap().len());
    }
}

#[test]
fn what_looks_alike_is_told_apart() {
    let apart = [
        json!({"a": "1"}),
        json!({"a": 1}),
        json!({"a": [1]}),
        json!({"a": {"1": null}}),
        json!({"a": null}),
        json!({}),
        json!([]),
        json!("{}"),
        json!(""),
        json!(null),
        json!({"a": "1,\"b\":\"2"}),
        json!({"a": 1, "b": 2}),
        json!({"a:1,b": 2}),
        json!({"a\":1,\"b": 2}),
        json!({"a": "1", "b": "2"}),
        json!([[1], 2]),
        json!([1, [2]]),
    ];
    let hashes: std::collections::BTreeSet<String> = apart.iter().map(canonical_hash).collect();
    assert_eq!(hashes.len(), apart.len());
    let payload = object("shop");
    let plan = object("other");
    let shown = hash_of(TaskType::Deploy, &payload, &plan);
    assert_ne!(shown, hash_of(TaskType::Feature, &payload, &plan));
    assert_ne!(shown, hash_of(TaskType::Deploy, &plan, &payload));
}

fn hash_of(task_type: TaskType, payload: &Map<String, Value>, plan: &Map<String, Value>) -> String {
    shown(task_type, payload, plan, "salt").hash
}

fn object(project: &str) -> Map<String, Value> {
    [("project".to_owned(), json!(project))].into_iter().collect()
}

fn approval() -> Approval {
    let task_id = TaskId::parse("t-1").unwrap();
    Approval {
        id: ApprovalId::of(&task_id, 1),
        tenant: TenantId::default(),
        task_id,
        status: ApprovalStatus::Pending,
        reasons: vec!["priority".into()],
        summary: "Deploy".into(),
        plan: Map::new(),
        plan_hash: "hash".into(),
        requested_by: "alex".into(),
        requested_at: Timestamp::from_millis(0),
        decide_by: Timestamp::from_millis(1_000),
        use_by: None,
        shown: Map::new(),
        quorum: 1,
        votes: Vec::new(),
        escalated_at: None,
        salt: String::new(),
        decision: None,
        keep_until: None,
        trace_id: "trace".into(),
    }
}

fn item(json: &Value, schema: u16) -> Item {
    Item {
        key: approval().key(),
        version: 3,
        write_id: WriteId(1),
        kind: Approval::KIND.into(),
        schema,
        body: serde_json::to_vec(json).unwrap().into(),
        list: None,
        list2: None,
        due: None,
        expires: None,
        counters: Default::default(),
    }
}

#[test]
fn a_newer_schema_is_said_and_nothing_guessed() {
    let json = serde_json::to_value(approval()).unwrap();
    let newer = decode::<Approval>(&item(&json, 2)).unwrap_err();
    assert!(matches!(newer, StoreError::Newer { found: 2, known: 1, .. }), "{newer}");
    assert!(decode::<Approval>(&item(&json, 1)).unwrap().unknown.is_none());
    let other = Item { kind: "task".into(), ..item(&json, 1) };
    assert!(matches!(decode::<Approval>(&other), Err(StoreError::Corrupt { .. })));
}

fn commands() -> [ApprovalCommand; 4] {
    [
        ApprovalCommand::Approve { by: "kim".into(), own: false },
        ApprovalCommand::Reject { by: "kim".into(), reason: Some("no".into()) },
        ApprovalCommand::Expire,
        ApprovalCommand::Close { by: "alex".into(), reason: None },
    ]
}

#[test]
fn an_approval_is_decided_once() {
    let rules = Rules::default();
    let at = Timestamp::from_millis;
    for (n, first) in commands().iter().enumerate() {
        // Expiring takes a moment after the deadline, deciding one before it.
        let when = if n == 2 { at(1_001) } else { at(1_000) };
        let decided = decide_approval(&approval(), first, when, &rules).unwrap();
        assert_ne!(decided.status, ApprovalStatus::Pending);
        assert_eq!(decided.decision.as_ref().map(|decision| decision.at), Some(when));
        assert_eq!(decided.use_by.is_some(), decided.status == ApprovalStatus::Approved);
        for second in &commands() {
            for now in [at(0), at(1_000), at(1_001), at(i64::MAX / 2)] {
                let again = decide_approval(&decided, second, now, &rules);
                assert!(matches!(again, Err(ApprovalRejection::Decided { .. })), "{second:?}");
            }
        }
    }
}

#[test]
fn the_last_millisecond_is_in_time_and_the_next_is_not() {
    let rules = Rules::default();
    let (last, late) = (Timestamp::from_millis(1_000), Timestamp::from_millis(1_001));
    let [approve, reject, expire, close] = commands();
    for command in [&approve, &reject] {
        assert!(decide_approval(&approval(), command, last, &rules).is_ok());
        let too_late = decide_approval(&approval(), command, late, &rules);
        assert!(matches!(too_late, Err(ApprovalRejection::TooLate { .. })));
    }
    let early = decide_approval(&approval(), &expire, last, &rules);
    assert!(matches!(early, Err(ApprovalRejection::NotYet { .. })));
    assert!(decide_approval(&approval(), &expire, late, &rules).is_ok());
    assert!(decide_approval(&approval(), &close, late, &rules).is_ok());
    // The due time of the item is the first moment at which expiring succeeds.
    let escalated = Approval { escalated_at: Some(last), ..approval() };
    assert_eq!(escalated.due(), Some(late));
    // Before that it is due when half of the time is gone.
    let half = approval().due().unwrap();
    let escalate = ApprovalCommand::Escalate;
    let given = decide_approval(&approval(), &escalate, half, &rules).unwrap();
    assert_eq!((given.status, given.escalated_at), (ApprovalStatus::Pending, Some(half)));
    for (state, at) in [(&given, half), (&approval(), Timestamp::from_millis(half.millis() - 1))] {
        let refused = decide_approval(state, &escalate, at, &rules);
        assert!(matches!(refused, Err(ApprovalRejection::NotYet { .. })));
    }
}

#[test]
fn ones_own_is_for_another_to_approve_unless_the_rules_say_so() {
    let own = ApprovalCommand::Approve { by: "alex".into(), own: true };
    let now = Timestamp::from_millis(0);
    let refused = decide_approval(&approval(), &own, now, &Rules::default());
    assert_eq!(refused, Err(ApprovalRejection::Own));
    let rules = Rules { approve_own: true, use_within: Duration::from_secs(5), ..Rules::default() };
    let given = decide_approval(&approval(), &own, now, &rules).unwrap();
    assert_eq!(given.use_by, Some(Timestamp::from_millis(5_000)));
}

#[test]
fn a_quorum_counts_each_approver_once() {
    let (rules, now) = (Rules::default(), Timestamp::from_millis(0));
    let by = |name: &str| ApprovalCommand::Approve { by: name.into(), own: false };
    let two = Approval { quorum: 2, ..approval() };
    let one = decide_approval(&two, &by("kim"), now, &rules).unwrap();
    assert_eq!((one.status, one.use_by), (ApprovalStatus::Pending, None));
    let again = decide_approval(&one, &by("kim"), now, &rules);
    assert_eq!(again, Err(ApprovalRejection::VotedAlready { by: "kim".into() }));
    let both = decide_approval(&one, &by("sam"), now, &rules).unwrap();
    assert_eq!(both.status, ApprovalStatus::Approved);
    assert_eq!(both.decision.unwrap().by, "kim, sam");
    assert!(both.use_by.is_some());
}
