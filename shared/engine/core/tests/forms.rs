//! Tests of approval document hashes, decisions on approvals, and the format of stored items.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use watchbill_core::decide::{
    ApprovalCommand, ApprovalRejection, Command, DecisionContext, EngineConfig, NewTask,
    PreparedTask, decide, decide_approval,
};
use watchbill_core::ports::{Item, StoreError, WriteId};
use watchbill_core::repo::{Entity, Versioned, decode, encode};
use watchbill_domain::{
    Approval, ApprovalId, ApprovalStatus, Body, Priority, Task, TaskId, TaskType, TenantId,
    Timestamp, canonical_hash, escape_id, refused_in_ids,
};
use watchbill_governance::approval_document;
use watchbill_testkit::a_task;

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

/// The same value as text with the keys of its objects in another order.
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

/// Decodes an escaped id, as the legacy queue would.
fn unescaped(id: &str) -> String {
    let mut parts = id.split('=');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |whole, part| {
        let byte = u8::from_str_radix(&part[..2], 16).unwrap();
        format!("{whole}{}{}", char::from(byte), &part[2..])
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_hash_does_not_depend_on_the_order_of_keys(value in values()) {
        let again: Value = serde_json::from_str(&reversed(&value)).unwrap();
        prop_assert_eq!(canonical_hash(&value), canonical_hash(&again));
    }

    /// Ids that a task may have, or may have had: with and without what is rejected now.
    #[test]
    fn no_two_approvals_have_one_id(
        one in "[ab_~=0-9/]{1,6}", other in "[ab_~=0-9/]{1,6}", n in 1u32..13, m in 1u32..13,
    ) {
        let of = |id: &str, n| ApprovalId::of(&TaskId::parse(id).unwrap(), n);
        let same = (&one, n) == (&other, m);
        prop_assert_eq!(of(&one, n) == of(&other, m), same, "{} and {}", of(&one, n), of(&other, m));
        // `X` and `X_2`, `X~2`, which looked alike.
        for suffix in ["_", "~"] {
            let alike = format!("{one}{suffix}{n}");
            prop_assert_ne!(of(&one, n), of(&alike, 1));
        }
        prop_assert!(ApprovalId::parse(of(&one, n).as_str()).is_ok());
    }

    #[test]
    fn a_legacy_id_is_escaped_reversibly_and_fits(id in "[^\\p{C}]{1,128}", other in "[a=2F/3D~#?%5C\\\\ 0]{1,8}") {
        for id in [&id, &other] {
            let escaped = escape_id(id);
            prop_assert_eq!(refused_in_ids(&escaped), None);
            prop_assert_eq!(&unescaped(&escaped), id);
            let task = TaskId::parse_new(&escaped).unwrap();
            prop_assert!(ApprovalId::parse(ApprovalId::of(&task, 12).as_str()).is_ok());
        }
        prop_assert_eq!(id == other, escape_id(&id) == escape_id(&other));
    }

    /// Whatever was stored is read unchanged.
    #[test]
    fn ids_of_older_builds_are_read(id in "[^\\p{C}]{1,128}") {
        let read: TaskId = serde_json::from_value(json!(id)).unwrap();
        prop_assert_eq!(read.as_str(), &id);
        prop_assert_eq!(TaskId::parse(&id).unwrap(), read);
        let second = format!("approval_{id}_2");
        prop_assert!(ApprovalId::parse(&second).is_ok());
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
    let task = Task { task_type, ..task() };
    approval_document(&task, payload, plan, "salt").hash
}

fn task() -> Task {
    let draft = PreparedTask {
        new: Arc::new(NewTask {
            task_type: TaskType::Deploy,
            priority: Priority::P2,
            source: "user".into(),
            created_by: "alex".into(),
            ..a_task()
        }),
        id: TaskId::parse("t-1").unwrap(),
        trace_id: "trace".into(),
        payload: Body::default(),
        sla_span: None,
        also_requested_by: Vec::new(),
        body_hash: None,
        approval: None,
    };
    let rules = EngineConfig::default();
    let now = Timestamp::from_millis(0);
    let facts = DecisionContext { now, epoch: 1, random: 0, rules: &rules };
    decide(None, &Command::Create(Box::new(draft)), &facts).unwrap().task
}

#[test]
fn a_title_is_cut_after_its_secrets_are_out() {
    let key = format!("ghp_{}", "a1".repeat(18));
    for (task_type, field) in [
        (TaskType::Faq, "description"),
        (TaskType::Deploy, "project"),
        (TaskType::Deploy, "environment"),
        (TaskType::Monitor, "service"),
        (TaskType::Alert, "alert_type"),
        (TaskType::Investigate, "issue"),
    ] {
        for before in 80..120 {
            let payload = json!({ field: format!("{} {key}", "x".repeat(before)) });
            let payload = Body::In(payload.as_object().unwrap().clone());
            let title = Task { task_type, payload, ..task() }.title();
            assert!(!title.contains("ghp"), "{field} {before}: {title}");
        }
    }
}

/// The approval covers everything that a run reads of a task: none of it can change unnoticed.
#[test]
fn all_that_a_run_reads_is_hashed() {
    let metadata = |value: Value| value.as_object().unwrap().clone();
    let hint = |hint: &str| metadata(json!({ "rule_hint": hint }));
    let long = |end: &str| metadata(json!({ "note": format!("{}{end}", "x".repeat(40_000)) }));
    let with = |change: &dyn Fn(&mut Task)| {
        let mut task = task();
        change(&mut task);
        task
    };
    let tasks = [
        task(),
        with(&|task| task.priority = Priority::P3),
        with(&|task| task.source = "webhook".into()),
        with(&|task| task.created_by = "sam".into()),
        with(&|task| task.parent = Some(TaskId::parse("t-0").unwrap())),
        with(&|task| task.sla = None),
        with(&|task| task.metadata = hint("skip the checks")),
        with(&|task| task.metadata = hint("keep the checks")),
        with(&|task| task.metadata = metadata(json!({ "feature_flag_change": true }))),
        with(&|task| task.metadata = metadata(json!({ "password": "one-secret-of-many" }))),
        with(&|task| task.metadata = metadata(json!({ "password": "another-secret" }))),
        with(&|task| task.metadata = long("a")),
        with(&|task| task.metadata = long("b")),
    ];
    let none = Map::new();
    let payloads = [long("a"), long("b")];
    let hashes: std::collections::BTreeSet<String> = tasks
        .iter()
        .map(|task| approval_document(task, &none, &none, "salt").hash)
        .chain(
            payloads.iter().map(|payload| approval_document(&task(), payload, &none, "salt").hash),
        )
        .collect();
    assert_eq!(hashes.len(), tasks.len() + payloads.len());
    let document = approval_document(&tasks[6], &payloads[0], &none, "salt").document;
    assert_eq!(document["metadata"]["rule_hint"], "skip the checks");
    let first = &document["payload_left_out"]["fields"][0];
    assert_eq!((&first["name"], &first["bytes"]), (&json!("note"), &json!(40_003)));
    assert!(first["begins"].as_str().unwrap().starts_with("xxx"));
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
        also_requested_by: Vec::new(),
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
fn a_newer_schema_is_reported_and_not_guessed() {
    let json = serde_json::to_value(approval()).unwrap();
    let newer = decode::<Approval>(&item(&json, 2)).unwrap_err();
    assert!(matches!(newer, StoreError::Newer { found: 2, known: 1, .. }), "{newer}");
    assert!(decode::<Approval>(&item(&json, 1)).unwrap().unknown.is_none());
    let other = Item { kind: "task".into(), ..item(&json, 1) };
    assert!(matches!(decode::<Approval>(&other), Err(StoreError::Corrupt { .. })));
}

fn commands() -> [ApprovalCommand; 4] {
    [
        ApprovalCommand::Approve { by: "kim".into(), made_by: None, own: false },
        ApprovalCommand::Reject { by: "kim".into(), reason: Some("no".into()) },
        ApprovalCommand::Expire,
        ApprovalCommand::Close { by: "alex".into(), reason: None },
    ]
}

#[test]
fn an_approval_is_decided_once() {
    let rules = EngineConfig::default();
    let at = Timestamp::from_millis;
    for (n, first) in commands().iter().enumerate() {
        // Expiring needs a time after the deadline, deciding one before it.
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
    let rules = EngineConfig::default();
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
    // The item's due time is the first time at which expiring succeeds.
    let escalated = Approval { escalated_at: Some(last), ..approval() };
    assert_eq!(escalated.due(), Some(late));
    // Before that it is due when half of the time has passed.
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
fn requesters_do_not_approve_their_own_unless_the_rules_allow_it() {
    let own = ApprovalCommand::Approve { by: "alex".into(), made_by: None, own: true };
    let now = Timestamp::from_millis(0);
    let refused = decide_approval(&approval(), &own, now, &EngineConfig::default());
    assert_eq!(refused, Err(ApprovalRejection::Own));
    let rules = EngineConfig {
        approve_own: true,
        use_within: Duration::from_secs(5),
        ..EngineConfig::default()
    };
    let given = decide_approval(&approval(), &own, now, &rules).unwrap();
    assert_eq!(given.use_by, Some(Timestamp::from_millis(5_000)));
}

#[test]
fn a_quorum_counts_each_approver_once() {
    let (rules, now) = (EngineConfig::default(), Timestamp::from_millis(0));
    let by = |name: &str| ApprovalCommand::Approve { by: name.into(), made_by: None, own: false };
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
