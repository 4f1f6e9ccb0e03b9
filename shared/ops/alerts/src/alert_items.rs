//! The stored items: an alert, and the reference to the open alert of a type and target, with
//! their retention.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use watchbill_core::decide::AlertRules;
use watchbill_core::ports::{Key, ListEntry};
use watchbill_core::repo::{self, Entity};
use watchbill_domain::{LoggedEvent, TaskId, TenantId, Timestamp, derived_uuid};
use watchbill_governance::{AuditRecord, RecordKind};

use super::model::{Alert, AlertMark, AlertStatus, RaiseAlert};

/// Maximum number of tasks that are remembered as having raised an alert.
const MAX_RAISED_BY: usize = 32;
/// The actor recorded when an untouched alert ends.
pub const RETENTION: &str = "watchbill";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertRecord {
    pub tenant: TenantId,
    pub alert: Alert,
    /// The last tasks that raised it, so that a repeated run counts once.
    pub raised_by: Vec<TaskId>,
    /// While the alert is open: when to check whether anyone has touched it. May be earlier
    /// than needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look_at: Option<Timestamp>,
    /// Set once the alert is resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

impl Entity for AlertRecord {
    const KIND: &'static str = "alert";

    fn key(&self) -> Key {
        repo::alert_key(&self.tenant, &self.alert.alert_id)
    }

    fn list(&self) -> Option<ListEntry> {
        let sort = self.alert.first_seen.sortable().into();
        Some(ListEntry { partition: repo::alerts_list(&self.tenant), sort })
    }

    fn list2(&self) -> Option<ListEntry> {
        let sort = self.alert.first_seen.sortable().into();
        self.is_open().then(|| ListEntry { partition: repo::open_alerts_list(&self.tenant), sort })
    }

    fn due(&self) -> Option<Timestamp> {
        self.look_at.filter(|_| self.is_open())
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires
    }
}

impl AlertRecord {
    /// The id depends on the task, so that a repeated run opens the same alert.
    pub fn new(tenant: &TenantId, raise: &RaiseAlert, rules: &AlertRules) -> Self {
        let parts = ["alert", tenant.as_str(), &raise.alert_type, &raise.target];
        let id = derived_uuid(&[&parts[..], &[raise.task_id.as_str()]].concat());
        Self {
            tenant: tenant.clone(),
            alert: Alert {
                alert_id: id.to_string(),
                alert_type: raise.alert_type.clone(),
                target: raise.target.clone(),
                severity: raise.severity,
                status: AlertStatus::Active,
                message: raise.message.clone(),
                labels: raise.labels.clone(),
                count: 1,
                first_seen: raise.at,
                last_seen: raise.at,
                acknowledged: None,
                resolved: None,
            },
            raised_by: vec![raise.task_id.clone()],
            look_at: Some(raise.at.plus(rules.end_untouched)),
            expires: None,
        }
    }

    pub fn is_open(&self) -> bool {
        self.alert.status != AlertStatus::Resolved
    }

    pub fn count_up(&mut self, raise: &RaiseAlert, rules: &AlertRules) {
        self.alert.count += 1;
        self.alert.last_seen = self.alert.last_seen.max(raise.at);
        self.alert.severity = self.alert.severity.max(raise.severity);
        self.alert.message.clone_from(&raise.message);
        self.alert.labels.extend(raise.labels.clone());
        self.raised_by.push(raise.task_id.clone());
        if self.raised_by.len() > MAX_RAISED_BY {
            self.raised_by.remove(0);
        }
        self.keep(rules);
    }

    /// When the alert ends by itself if no one touches it from now on.
    pub fn ends_at(&self, rules: &AlertRules) -> Timestamp {
        let acknowledged = self.alert.acknowledged.as_ref().map(|mark| mark.at);
        let touched = acknowledged.unwrap_or_default().max(self.alert.last_seen);
        touched.plus(rules.end_untouched)
    }

    /// Sets the next check or the expiry. An earlier check is kept: updating its index with
    /// each raise would cost as much as the alert.
    pub fn keep(&mut self, rules: &AlertRules) {
        match &self.alert.resolved {
            Some(mark) if !self.is_open() => {
                self.look_at = None;
                self.expires = Some(mark.at.plus(rules.keep_resolved));
            }
            _ => self.look_at = self.look_at.or(Some(self.ends_at(rules))),
        }
    }

    /// Resolves an untouched alert. Returns the audit record, which carries the event.
    pub fn end_untouched(&mut self, now: Timestamp, rules: &AlertRules) -> AuditRecord {
        let task_id = self.raised_by.last().cloned();
        self.alert.status = AlertStatus::Resolved;
        if let Some(task_id) = task_id.clone() {
            self.alert.resolved = Some(AlertMark { by: RETENTION.to_owned(), task_id, at: now });
        }
        self.look_at = None;
        self.expires = Some(now.plus(rules.keep_resolved));
        let Alert { alert_id, alert_type, target, severity, count, last_seen, .. } = &self.alert;
        let days = rules.end_untouched.as_secs() / 86_400;
        let details = json!({
            "alert_id": alert_id, "alert_type": alert_type, "target": target,
            "severity": severity.as_str(), "status": self.alert.status.as_str(), "count": count,
            "last_seen": last_seen.to_string(), "resolved_by": RETENTION,
        });
        let map = match &details {
            Value::Object(map) => map.clone(),
            _ => Map::new(),
        };
        AuditRecord {
            id: AuditRecord::id_of(&self.tenant, RecordKind::AlertEnded, &[alert_id]),
            tenant: self.tenant.clone(),
            at: now,
            kind: RecordKind::AlertEnded,
            by: RETENTION.to_owned(),
            subject: alert_id.clone(),
            text: format!(
                "alert {alert_type} on {target} ended: nobody touched it for {days} days"
            ),
            task: task_id,
            details: map,
            events: vec![LoggedEvent::own("alert.resolved", details)],
            trace_id: None,
            expires: now.plus(AuditRecord::KEEP),
        }
        .clean()
    }
}

/// Which alert of a type and target is, or last was, the open one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenAlert {
    pub tenant: TenantId,
    pub alert_type: String,
    pub target: String,
    pub alert_id: String,
    /// Later than the expiry of the alert itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

impl Entity for OpenAlert {
    const KIND: &'static str = "open_alert";

    fn key(&self) -> Key {
        open_key(&self.tenant, &self.alert_type, &self.target)
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires
    }
}

pub fn open_key(tenant: &TenantId, alert_type: &str, target: &str) -> Key {
    repo::alert_key(tenant, &format!("open-{}", derived_uuid(&[alert_type, target])))
}

impl OpenAlert {
    /// The reference is rewritten only once this much of its retention is used up, not at every
    /// raise.
    const SLACK: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

    pub fn new(record: &AlertRecord, at: Timestamp, rules: &AlertRules) -> Self {
        Self {
            tenant: record.tenant.clone(),
            alert_type: record.alert.alert_type.clone(),
            target: record.alert.target.clone(),
            alert_id: record.alert.alert_id.clone(),
            expires: Some(at.plus(Self::required(rules) + Self::SLACK)),
        }
    }

    /// Whether the reference could expire before an alert that is raised now.
    pub fn goes_too_early(&self, at: Timestamp, rules: &AlertRules) -> bool {
        self.expires.is_none_or(|expires| expires < at.plus(Self::required(rules)))
    }

    fn required(rules: &AlertRules) -> std::time::Duration {
        rules.end_untouched.saturating_add(rules.keep_resolved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: items as stored before alerts ended by themselves.
    const RECORD: &str = r#"{"tenant":"default","alert":{"alert_id":"a-1","alert_type":"high_cpu",
        "target":"web-1","severity":"high","status":"active","message":"m","labels":{},"count":2,
        "first_seen":1767607200000,"last_seen":1767610800000,
        "acknowledged":null,"resolved":null},"raised_by":["t-1"]}"#;
    const POINTER: &str = r#"{"tenant":"default","alert_type":"high_cpu","target":"web-1",
        "alert_id":"a-1"}"#;

    #[test]
    fn items_of_older_builds_get_an_expiry_when_touched() {
        let rules = AlertRules::default();
        let mut record: AlertRecord = serde_json::from_str(RECORD).expect("a stored item");
        assert_eq!((record.look_at, record.due(), record.expires), (None, None, None));
        record.keep(&rules);
        let last_seen = Timestamp::parse("2026-01-05T11:00:00Z").expect("a time");
        assert_eq!(record.due(), Some(last_seen.plus(rules.end_untouched)));
        let pointer: OpenAlert = serde_json::from_str(POINTER).expect("a stored item");
        assert!(pointer.goes_too_early(last_seen, &rules));
    }
}
