//! Audit records for events that are not changes of a task.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use watchbill_domain::{
    Event, EventPriority, EventType, LoggedEvent, TaskId, TenantId, Timestamp, derived_uuid, names,
    timed_uuid,
};
use watchbill_redact as redact;

names!(
    /// The kind of an audit record.
    RecordKind, "record kind", [
        KeyCreated = "key_created",
        KeyRevoked = "key_revoked",
        TenantCreated = "tenant_created",
        TokenIssued = "token_issued",
        PolicyChanged = "policy_changed",
        LimitsChanged = "limits_changed",
        BudgetThreshold = "budget_mark",
        StandingChanged = "standing_changed",
        AlertEnded = "alert_ended",
        Sealed = "sealed",
        ChangesLost = "changes_lost",
    ]
);

/// An audit record of something that is not a change of a task. It is written as an item in the
/// commit that it is about; the recorder adds it to the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Derived from what the record is about, so that a repeat is one record.
    pub id: String,
    pub tenant: TenantId,
    pub at: Timestamp,
    pub kind: RecordKind,
    pub by: String,
    /// What the record is about: a key's name, a period, an agent.
    pub subject: String,
    /// Text for people, free of secrets.
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<LoggedEvent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// When the item may be deleted. It is in the ledger long before.
    pub expires: Timestamp,
}

impl AuditRecord {
    /// How long the item is kept. The ledger has it within seconds.
    pub const KEEP: Duration = Duration::from_secs(7 * 86_400);

    /// A record's id, which is the same however often the record is made.
    pub fn id_of(tenant: &TenantId, kind: RecordKind, parts: &[&str]) -> String {
        let mut all = vec!["record", tenant.as_str(), kind.as_str()];
        all.extend(parts);
        derived_uuid(&all).to_string()
    }

    /// The record without secrets: the ledger keeps it for good.
    #[must_use]
    pub fn clean(mut self) -> Self {
        [&mut self.by, &mut self.subject, &mut self.text].into_iter().for_each(redact::string);
        redact::object(&mut self.details);
        self.events.iter_mut().for_each(|event| redact::object(&mut event.payload));
        self
    }

    /// The events of this record whose type is `wanted`.
    pub fn events_where(&self, wanted: impl Fn(&EventType) -> bool) -> Vec<Event> {
        let event = |(place, logged): (usize, &LoggedEvent)| Event {
            event_id: timed_uuid(self.at, &["record", &self.id, &place.to_string()]).into(),
            event_type: logged.event_type.clone(),
            priority: EventPriority::High,
            source_agent: "governance".to_owned(),
            trace_id: self.trace_id.clone().unwrap_or_else(|| self.id.clone()),
            task_id: self.task.clone(),
            payload: logged.payload.clone(),
            timestamp: self.at,
            metadata: Map::new(),
            hops: 0,
        };
        let events = self.events.iter().enumerate();
        events.filter(|(_, logged)| wanted(&logged.event_type)).map(event).collect()
    }
}
