//! The audit record of a change of an agent's reputation.

use serde_json::{Map, Value, json};
use watchbill_domain::{LoggedEvent, ScoreDelta, TenantId};

use super::{AuditRecord, RecordKind, ReputationChange, ReputationRules};

impl ReputationChange {
    /// The record for the ledger, written with the change that caused it. Its id is derived
    /// from that change, so that computing it again gives the same record.
    pub fn record(&self, tenant: &TenantId, rules: &ReputationRules) -> AuditRecord {
        let agent = self.agent.long_name();
        let (version, place) = (self.version.to_string(), self.place.to_string());
        let parts = [agent, self.task.as_str(), &version, &place];
        let mut events = vec![LoggedEvent::own("reputation.changed", json!(self.details()))];
        if self.alert {
            let (score, line) = (self.after.score(), rules.alert_below);
            events.push(LoggedEvent::own(
                "alert.triggered",
                json!({
                    "alert_type": "reputation_low", "severity": "high", "target": agent,
                    "message": format!("{agent} has a score of {score}, below {line}"),
                }),
            ));
        }
        AuditRecord {
            id: AuditRecord::id_of(tenant, RecordKind::StandingChanged, &parts),
            tenant: tenant.clone(),
            at: self.at,
            kind: RecordKind::StandingChanged,
            by: "governance".to_owned(),
            subject: agent.to_owned(),
            text: self.text(),
            task: Some(self.task.clone()),
            details: self.details(),
            events,
            trace_id: Some(self.trace_id.clone()),
            expires: self.at.plus(AuditRecord::KEEP),
        }
    }

    fn details(&self) -> Map<String, Value> {
        let ScoreDelta(event, delta) = self.score_delta;
        let pairs = [
            ("agent", json!(self.agent.long_name())),
            ("event", json!(event)),
            ("delta", json!(delta)),
            ("score", json!(self.after.score())),
            ("score_before", json!(self.before.score())),
            ("level", json!(self.after.level)),
            ("level_before", json!(self.before.level)),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn text(&self) -> String {
        let ScoreDelta(event, delta) = self.score_delta;
        let (agent, score) = (self.agent.long_name(), self.after.score());
        let (from, to) = (self.before.level, self.after.level);
        let level = match to.cmp(&from) {
            std::cmp::Ordering::Less => format!("fell from {from} to {to}"),
            std::cmp::Ordering::Greater => format!("rose from {from} to {to}"),
            std::cmp::Ordering::Equal => format!("stays at {to}"),
        };
        format!("{agent} {level}: {event} ({delta:+}) brought its score to {score}")
    }
}
