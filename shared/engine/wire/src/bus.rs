use serde::{Deserialize, Serialize};
use watchbill_domain::{Event, TenantId};

use crate::portable::{portable_json, portable_text};
use crate::{EventFormError, EventView};

/// Before the agent's name in the bus's `source`.
pub const SOURCE_PREFIX: &str = "watchbill.";

/// Before the tenant's id among the `resources` of an event on our own bus.
const TENANT: &str = "watchbill:tenant/";

/// What names the tenant of an event on our own bus, beside the event.
pub fn tenant_resource(tenant: &TenantId) -> String {
    format!("{TENANT}{tenant}")
}

/// The tenant that an event on our own bus says it is of. Whoever acts on it proves it by
/// the store: the right to put events there is no proof.
pub fn tenant_of_resources(resources: &[String]) -> Option<TenantId> {
    let mut named = resources.iter().filter_map(|text| text.strip_prefix(TENANT));
    let only = named.next().filter(|_| named.next().is_none());
    only.and_then(|text| TenantId::parse(text).ok())
}

/// An event as EventBridge carries it: the parts we set going out, and read coming in.
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
    /// The detail as text.
    pub fn detail_text(&self) -> String {
        portable_json(serde_json::to_string(&self.detail).expect("an event can be written"))
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
