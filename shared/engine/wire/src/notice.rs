//! The wire format of notices, and the bodies of webhooks.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use watchbill_domain::{Event, EventPriority, IdError, TenantId};
use watchbill_redact as redact;

use crate::{ApprovalView, EventFormError, EventView, portable_json, render_approval};

/// A message on the notify lane. The tag is its version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "v")]
pub enum NoticeForm {
    #[serde(rename = "1")]
    V1(NoticeV1),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoticeV1 {
    pub tenant: TenantId,
    pub event: EventView,
}

#[derive(Debug, thiserror::Error)]
pub enum NoticeFormError {
    #[error("not a notice that this build can read: {0}")]
    Form(#[from] serde_json::Error),
    #[error("the notice has an invalid tenant: {0}")]
    Id(#[from] IdError),
    #[error(transparent)]
    Event(#[from] EventFormError),
}

impl NoticeForm {
    pub fn write(tenant: &TenantId, event: &Event) -> String {
        let form = NoticeForm::V1(NoticeV1 { tenant: tenant.clone(), event: event.clone().into() });
        let written = serde_json::to_string(&form).expect("an event serializes");
        portable_json(redact::json(&written).into_owned())
    }

    pub fn read(text: &str) -> Result<(TenantId, Event), NoticeFormError> {
        let NoticeForm::V1(form) = serde_json::from_str(text)?;
        Ok((TenantId::parse(form.tenant.as_str())?, form.event.try_into()?))
    }
}

/// The body of a webhook: the fields of Standard Webhooks (`type`, `timestamp`, `data`) and a
/// summary for people.
pub fn webhook_body(tenant: &TenantId, event: &Event) -> Value {
    let subject = event.task_id.as_ref().map(|id| format!(" (task {id})")).unwrap_or_default();
    let severity = match event.priority {
        EventPriority::Critical => "critical",
        EventPriority::High => "high",
        EventPriority::Medium => "medium",
        EventPriority::Low => "low",
    };
    let mut body = json!({
        "type": event.event_type.as_str(),
        "timestamp": event.timestamp.to_string(),
        "severity": severity,
        "message": format!("{}{subject} from {}", event.event_type, event.source_agent),
        "tenant": tenant.as_str(),
        "data": EventView::from(event.clone()),
    });
    redact::value(&mut body);
    body
}

/// Adds to a webhook's body what an approver needs to decide: the approval, its readable text,
/// and the URL where they decide.
pub fn tell_approval(body: &mut Value, approval: ApprovalView, url: Option<&str>) {
    let reasons = approval.reasons.join("; ");
    let message = format!("{}: {reasons}", approval.summary);
    body["message"] = Value::from(redact::text(&message));
    body["approval"] = json!({
        "approval_id": approval.approval_id,
        "text": redact::text(&render_approval(&approval)),
        "plan_hash": approval.plan_hash,
        "expires_at": approval.expires_at.to_string(),
        // The only secret that a notice may carry.
        "url": url,
    });
}
