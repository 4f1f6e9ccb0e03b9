use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use watchbill_domain::{
    Event, EventPriority, EventType, LoggedEvent, TaskId, TenantId, Timestamp, derived_uuid, names,
    timed_uuid,
};
use watchbill_redact as redact;

names!(
    /// What a record of the audit is about.
    RecordKind, "record kind", [
        KeyCreated = "key_created",
        KeyRevoked = "key_revoked",
        TenantCreated = "tenant_created",
        TokenIssued = "token_issued",
        PolicyChanged = "policy_changed",
        LimitsChanged = "limits_changed",
        BudgetMark = "budget_mark",
        StandingChanged = "standing_changed",
        AlertEnded = "alert_ended",
        Sealed = "sealed",
        ChangesLost = "changes_lost",
    ]
);

/// Something for the audit that is no change of a task. Written as an item in the commit that
/// it is about; the recorder puts it into the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Derived from what it is about, so that a repeat is one record.
    pub id: String,
    pub tenant: TenantId,
    pub at: Timestamp,
    pub kind: RecordKind,
    pub by: String,
    /// What it is about: a key's name, a period, an agent.
    pub subject: String,
    /// For people; free of secrets.
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<LoggedEvent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// When the item may go: it is in the ledger long before.
    pub expires: Timestamp,
}

impl Record {
    /// How long its item is kept; the ledger has it within seconds.
    pub const KEEP: Duration = Duration::from_secs(7 * 86_400);

    /// An id for a record of a tenant that is one however often it is made.
    pub fn id_of(tenant: &TenantId, kind: RecordKind, parts: &[&str]) -> String {
        let mut all = vec!["record", tenant.as_str(), kind.as_str()];
        all.extend(parts);
        derived_uuid(&all).to_string()
    }

    /// The same without secrets: the ledger keeps it for good.
    #[must_use]
    pub fn clean(mut self) -> Self {
        [&mut self.by, &mut self.subject, &mut self.text].into_iter().for_each(redact::string);
        redact::object(&mut self.details);
        self.events.iter_mut().for_each(|event| redact::object(&mut event.payload));
        self
    }

    /// The events that this record stands for.
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
