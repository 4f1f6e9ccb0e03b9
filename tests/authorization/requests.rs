//! The deployments and keys that a scenario begins with.

use serde_json::{Map, Value, json};
use watchbill_core::service::{Core, Identity, NewTask};
use watchbill_domain::{Caller, Priority, Role, Status, TaskId, TaskType, TenantId, Timestamp};

pub fn key_of(name: &str) -> String {
    format!("the-key-of-{name}-0123456789")
}

/// The payload of `X_2` is larger than its part in the approval document.
pub fn payload(task: &str, project: &str) -> Map<String, Value> {
    let mut payload = json!({ "project": project, "environment": "production" });
    if task == "X_2" {
        payload["notes"] = format!("{}{project}", "word ".repeat(5_000)).into();
    }
    payload.as_object().cloned().expect("it is an object")
}

pub fn metadata(hint: &str) -> Map<String, Value> {
    let said = (!hint.is_empty()).then(|| ("rule_hint".to_owned(), Value::from(hint)));
    said.into_iter().collect()
}

pub async fn made_key(core: &Core, by: &str, name: &str) -> String {
    let caller = Caller::new(by, Role::Admin, TenantId::default());
    for _ in 0..8 {
        if let Ok((key, _)) =
            core.keys().create(&caller, &TenantId::default(), name, Role::Approver).await
        {
            return key;
        }
    }
    panic!("the store does not take a key");
}

pub async fn deployment(core: &Core, id: &str, project: &str) -> TaskId {
    let id = TaskId::parse(id).expect("an id");
    let new = NewTask {
        tenant: TenantId::default(),
        task_type: TaskType::Deploy,
        priority: Priority::P2,
        source: "user".to_owned(),
        payload: payload(id.as_str(), project),
        metadata: metadata(""),
        sla_target: None,
        sla_deadline: None,
        parent: None,
        trace_id: None,
        max_retries: Some(20),
        created_by: "alex".to_owned(),
        also_requested_by: Vec::new(),
        identity: Identity::Given(id),
        hops: 0,
    };
    for _ in 0..8 {
        if let Ok(created) = core.tasks().create(new.clone()).await {
            let task = created.task.task;
            assert_eq!(task.status, Status::Pending, "a deployment waits for approval");
            return task.id;
        }
    }
    panic!("the store does not take a task at {:?}", Timestamp::default());
}
