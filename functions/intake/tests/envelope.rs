//! EventBridge envelopes: which tenant an event belongs to, and which of its content is trusted.

use std::sync::Arc;

use serde_json::{Value, json};
use watchbill_core::decide::EngineConfig;
use watchbill_core::handler::HandlerError;
use watchbill_core::service::{Core, NewEvent, NewTask};
use watchbill_domain::{Event, TenantId};
use watchbill_intake::{Sources, open};
use watchbill_testkit::{FakeClock, MemoryStore, a_task, ports_over};

fn core() -> Core {
    let ports = ports_over(Arc::new(MemoryStore::new()), Arc::new(FakeClock::default()), 1);
    Core::new(ports, Arc::new(EngineConfig::default()), 1)
}

fn acme() -> TenantId {
    TenantId::parse("acme").unwrap()
}

async fn opened(core: &Core, envelope: &Value) -> Result<(TenantId, Event), String> {
    let sources = Sources::parse("aws.health=acme, ci.example = default").unwrap();
    let envelope = serde_json::from_value(envelope.clone()).unwrap();
    open(core, &sources, envelope).await.map_err(|error| match error {
        HandlerError::Reject { reason } => reason,
        HandlerError::Retry { reason, .. } => panic!("not for good: {reason}"),
    })
}

/// Publishes an event and returns the envelope in which EventBridge delivers it.
async fn published(core: &Core) -> Value {
    let new = NewEvent {
        tenant: acme(),
        event_type: "deploy.started".into(),
        source_agent: "ci".into(),
        payload: json!({"project": "shop"}).as_object().cloned().unwrap(),
        task_id: None,
        trace_id: None,
        priority: None,
        published_by: "ci".into(),
        event_id: Some("e-1".into()),
        hops: 0,
    };
    let event = core.events().publish(new).await.unwrap();
    let detail = watchbill_wire::EventView::from(event);
    json!({
        "id": "7bf73129-1428-4cd3-a780-95db273d1602",
        "source": "watchbill.ci",
        "detail-type": "deploy.started",
        "time": "2026-01-01T00:00:00Z",
        "resources": ["watchbill:tenant/acme"],
        "detail": detail,
    })
}

#[tokio::test]
async fn published_events_are_read_from_the_store() {
    let core = core();
    let envelope = published(&core).await;
    let (tenant, event) = opened(&core, &envelope).await.unwrap();
    assert_eq!((tenant, &event.payload["project"]), (acme(), &json!("shop")));
    let mut forged = envelope.clone();
    forged["detail"]["payload"]["project"] = json!("bank");
    let (_, event) = opened(&core, &forged).await.unwrap();
    assert_eq!(event.payload["project"], json!("shop"), "what stands in the store counts");
}

#[tokio::test]
async fn events_that_were_not_published_are_refused() {
    let core = core();
    let envelope = published(&core).await;
    let change = |path: &str, value: Value| {
        let mut changed = envelope.clone();
        *changed.pointer_mut(path).unwrap() = value;
        changed
    };
    for (forged, word) in [
        (change("/resources", json!(["watchbill:tenant/other"])), "no such event"),
        (change("/resources", json!([])), "no tenant"),
        (change("/resources", json!(["watchbill:tenant/a", "watchbill:tenant/b"])), "no tenant"),
        (change("/detail/event_id", json!("e-2")), "no such event"),
        (change("/detail-type", json!("deploy.failed")), "deploy.failed"),
        (change("/detail", json!({"event_id": "e-1"})), "missing field"),
        (change("/source", json!("aws.ec2")), "EventSources"),
    ] {
        let said = opened(&core, &forged).await.unwrap_err();
        assert!(said.contains(word), "{word}: {said}");
        assert!(said.contains("7bf73129"), "it is named: {said}");
    }
}

/// Our own task events are not stored as published; the task they name must exist.
#[tokio::test]
async fn an_event_of_a_task_counts_where_the_task_is() {
    let core = core();
    let new = NewTask { tenant: acme(), ..a_task() };
    let task = core.tasks().create(new).await.unwrap().task.task.id;
    let mut envelope = published(&core).await;
    envelope["source"] = json!("watchbill.ops");
    envelope["detail-type"] = json!("task.failed");
    envelope["detail"]["event_type"] = json!("task.failed");
    envelope["detail"]["metadata"] = json!({});
    envelope["detail"]["task_id"] = json!(task.as_str());
    opened(&core, &envelope).await.unwrap();
    envelope["detail"]["task_id"] = json!("another");
    opened(&core, &envelope).await.unwrap_err();
    envelope["detail"]["task_id"] = Value::Null;
    opened(&core, &envelope).await.unwrap_err();
}

#[tokio::test]
async fn a_source_belongs_to_the_tenant_that_the_configuration_names() {
    let core = core();
    let mut envelope = json!({
        "id": "1", "source": "aws.health", "detail-type": "health.degraded",
        "time": "2026-01-01T00:00:00Z", "resources": ["watchbill:tenant/other"],
        "detail": {"service": "shop", "metadata": {"tenant": "other"}},
    });
    let (tenant, event) = opened(&core, &envelope).await.unwrap();
    assert_eq!((tenant, event.event_type.as_str()), (acme(), "health.degraded"));
    assert_eq!(event.metadata["published_by"], json!("eventbridge:aws.health"));
    let (_, again) = opened(&core, &envelope).await.unwrap();
    assert_eq!(again.event_id, event.event_id, "a repeat is recognisable");
    for (wrong, word) in [("¿?", "¿?"), ("approval.granted", "reserved for Watchbill")] {
        envelope["detail-type"] = json!(wrong);
        assert!(opened(&core, &envelope).await.unwrap_err().contains(word));
    }
    envelope["detail-type"] = json!("health.degraded");
    envelope["detail"] = json!("text");
    assert!(opened(&core, &envelope).await.unwrap_err().contains("not a JSON object"));
}

#[tokio::test]
async fn a_source_is_cut_after_its_secrets_are_out() {
    let key = format!("ghp_{}", "a1".repeat(18));
    for before in [10, 40, 44, 50, 59, 62] {
        let source = format!("{}.{key}", "x".repeat(before));
        let envelope = json!({
            "id": "1", "source": source, "detail-type": "health.degraded",
            "time": "2026-01-01T00:00:00Z", "detail": {},
        });
        let sources = Sources::parse(&format!("{source}=acme")).unwrap();
        let envelope = serde_json::from_value(envelope).unwrap();
        let (_, event) = open(&core(), &sources, envelope).await.unwrap();
        assert!(!event.source_agent.contains("ghp"), "{before}: {}", event.source_agent);
        assert!(event.source_agent.chars().count() <= 64, "{before}: {}", event.source_agent);
    }
}

#[test]
fn invalid_sources_are_named() {
    assert!(Sources::parse("").is_ok());
    for wrong in ["aws.health", "=acme", "aws.health=", "watchbill.ops=acme", "a=b c"] {
        let said = Sources::parse(&format!("x=acme,{wrong}")).unwrap_err().to_string();
        assert!(said.contains(wrong), "{said}");
    }
}
