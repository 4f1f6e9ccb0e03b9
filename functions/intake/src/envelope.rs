//! Reads EventBridge envelopes: our own events, whose tenant the store confirms, and events of
//! sources that the configuration assigns to a tenant.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use watchbill_core::handler::HandlerError;
use watchbill_core::reactions::is_published;
use watchbill_core::repo;
use watchbill_core::service::Core;
use watchbill_domain::{
    Event, EventId, EventPriority, PublishedEvent, TenantId, Timestamp, derived_uuid,
};
use watchbill_redact as redact;
use watchbill_wire::{BusEvent, EventView, SOURCE_PREFIX, tenant_of_resources};

use crate::names::event_type;

/// The envelope that EventBridge wraps around an event.
#[derive(Debug, Deserialize)]
pub struct Envelope {
    pub id: String,
    pub source: String,
    #[serde(rename = "detail-type")]
    pub detail_type: String,
    pub time: String,
    #[serde(default)]
    pub account: Option<String>,
    #[serde(default)]
    pub region: Option<String>,
    #[serde(default)]
    pub resources: Vec<String>,
    pub detail: Value,
}

/// Maps each event source to its tenant. The content of an event never decides its tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(BTreeMap<String, TenantId>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("event source '{0}': write source=tenant, such as aws.cloudwatch=default")]
pub struct SourcesError(String);

impl Sources {
    /// Parses `aws.cloudwatch=default,ci.example=acme`.
    pub fn parse(text: &str) -> Result<Self, SourcesError> {
        let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
        let parsed = pairs.map(|pair| {
            let wrong = || SourcesError(pair.to_owned());
            let (source, tenant) = pair.split_once('=').ok_or_else(wrong)?;
            let (source, tenant) = (source.trim(), tenant.trim());
            // Our own events carry their tenant in `resources`.
            if source.is_empty() || source.starts_with(SOURCE_PREFIX) {
                return Err(wrong());
            }
            Ok((source.to_owned(), TenantId::parse(tenant).map_err(|_| wrong())?))
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }
}

/// Returns the tenant and event of an envelope. Returns `Reject` for one that can never be
/// handled.
pub async fn open(
    core: &Core,
    sources: &Sources,
    envelope: Envelope,
) -> Result<(TenantId, Event), HandlerError> {
    if envelope.source.starts_with(SOURCE_PREFIX) {
        let (tenant, event) = own(&envelope)?;
        let known = known(core, &tenant, event).await?;
        let stranger = || rejected(&envelope, &format!("tenant '{tenant}' has no such event"));
        return Ok((tenant.clone(), known.ok_or_else(stranger)?));
    }
    let Some(tenant) = sources.0.get(&envelope.source) else {
        let why = format!(
            "source '{}' is not assigned to a tenant; add it to EventSources",
            envelope.source
        );
        return Err(rejected(&envelope, &why));
    };
    Ok((tenant.clone(), foreign(&envelope)?))
}

fn own(envelope: &Envelope) -> Result<(TenantId, Event), HandlerError> {
    let tenant = tenant_of_resources(&envelope.resources)
        .ok_or_else(|| rejected(envelope, "its resources name no tenant"))?;
    let detail = EventView::deserialize(&envelope.detail)
        .map_err(|error| rejected(envelope, &error.to_string()))?;
    let event = BusEvent {
        source: envelope.source.clone(),
        detail_type: envelope.detail_type.clone(),
        detail,
    };
    let event = Event::try_from(event).map_err(|error| rejected(envelope, &error.to_string()))?;
    Ok((tenant, event))
}

/// Returns the event to trust: the stored copy of a published event, or a task's event if the
/// store has that task. Returns `None` otherwise.
async fn known(
    core: &Core,
    tenant: &TenantId,
    event: Event,
) -> Result<Option<Event>, HandlerError> {
    if is_published(&event) {
        let item = core.store().get(&repo::event_key(tenant, &event.event_id)).await?;
        let stored = item.as_ref().map(repo::decode::<PublishedEvent>).transpose()?;
        return Ok(stored.map(|stored| stored.value.event));
    }
    let Some(task) = &event.task_id else { return Ok(None) };
    let task = core.store().get(&repo::task_key(tenant, task)).await?;
    Ok(task.map(|_| event))
}

/// Converts an external event: its type is derived from the detail-type, its payload is the
/// detail.
fn foreign(envelope: &Envelope) -> Result<Event, HandlerError> {
    let wrong = |why: &dyn std::fmt::Display| rejected(envelope, &why.to_string());
    let event_type =
        event_type(&envelope.source, &envelope.detail_type).map_err(|error| wrong(&error))?;
    if event_type.is_reserved() {
        return Err(wrong(&format!(
            "event types under '{}.' are reserved for Watchbill",
            event_type.group()
        )));
    }
    let Value::Object(payload) = envelope.detail.clone() else {
        return Err(wrong(&"its detail is not a JSON object"));
    };
    let timestamp = Timestamp::parse(&envelope.time).map_err(|error| wrong(&error))?;
    let id = derived_uuid(&["eventbridge", &envelope.source, &envelope.id]);
    let mut metadata = Map::new();
    metadata.insert("published_by".into(), format!("eventbridge:{}", envelope.source).into());
    if event_type.as_str() != envelope.detail_type {
        metadata.insert("detail_type".into(), envelope.detail_type.as_str().into());
    }
    for (name, value) in [("account", &envelope.account), ("region", &envelope.region)] {
        metadata.extend(value.as_deref().map(|value| (name.to_owned(), value.into())));
    }
    if !envelope.resources.is_empty() {
        metadata.insert("resources".into(), envelope.resources.clone().into());
    }
    Ok(Event {
        event_id: EventId::from(id),
        event_type,
        priority: EventPriority::Medium,
        source_agent: redact::shortened(&envelope.source, 64),
        trace_id: id.simple().to_string(),
        task_id: None,
        payload,
        timestamp,
        metadata,
        hops: 0,
    })
}

fn rejected(envelope: &Envelope, why: &str) -> HandlerError {
    let Envelope { id, source, detail_type, .. } = envelope;
    HandlerError::Reject { reason: format!("event {id} ({detail_type} from {source}): {why}") }
}
