//! The wire format of events on EventBridge.

use serde::{Deserialize, Serialize};
use watchbill_domain::{Event, TenantId};

use crate::portable::{portable_json, portable_text};
use crate::{EventFormError, EventView};

/// Prefix of the agent's name in the event's `source`.
pub const SOURCE_PREFIX: &str = "watchbill.";

/// Prefix of the tenant's id in the `resources` of an event on our own bus.
const TENANT: &str = "watchbill:tenant/";

/// The resource that names the tenant of an event on our own bus.
pub fn tenant_resource(tenant: &TenantId) -> String {
    format!("{TENANT}{tenant}")
}

/// The tenant that an event on our own bus claims. A caller that acts on it must verify it
/// against the store: the right to put events on the bus proves nothing.
pub fn tenant_of_resources(resources: &[String]) -> Option<TenantId> {
    let mut named = resources.iter().filter_map(|text| text.strip_prefix(TENANT));
    let only = named.next().filter(|_| named.next().is_none());
    only.and_then(|text| TenantId::parse(text).ok())
}

/// An event as EventBridge carries it: the fields we write and read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BusEvent {
    pub source: String,
    #[serde(rename = "detail-type")]
    pub detail_type: String,
    pub detail: EventView,
}

#[derive(Debug, thiserror::Error)]
pub enum BusEventError {
    #[error("detail-type '{detail_type}' is not the event's type '{event_type}'")]
    OtherType { detail_type: String, event_type: String },
    #[error(transparent)]
    Form(#[from] EventFormError),
}

impl BusEvent {
    /// The detail as JSON text.
    pub fn detail_text(&self) -> String {
        portable_json(serde_json::to_string(&self.detail).expect("an event serializes"))
    }
}

impl From<Event> for BusEvent {
    fn from(event: Event) -> Self {
        Self {
            source: format!("{SOURCE_PREFIX}{}", portable_text(&event.source_agent)),
            detail_type: event.event_type.as_str().to_owned(),
            detail: event.into(),
        }
    }
}

impl TryFrom<BusEvent> for Event {
    type Error = BusEventError;

    fn try_from(bus: BusEvent) -> Result<Self, Self::Error> {
        if bus.detail_type != bus.detail.event_type.as_str() {
            return Err(BusEventError::OtherType {
                detail_type: bus.detail_type,
                event_type: bus.detail.event_type.as_str().to_owned(),
            });
        }
        Ok(bus.detail.try_into()?)
    }
}
