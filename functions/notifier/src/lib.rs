//! Posts the events of the notify lane to a webhook. Earlier stages decide which events are
//! sent. A notice of an approval includes the approval document and a link to decide it.
//!
//! To add a channel, add a port next to `Webhook` and deliver to it here.

#[cfg(feature = "lambda")]
pub mod aws;

use std::sync::Arc;
use std::time::Duration;

use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{SecretSource, Webhook};
use watchbill_core::service::{Core, FullApproval, ServiceError};
use watchbill_domain::{ApprovalId, ApprovalStatus, Event, TenantId};
use watchbill_wire::{ApprovalLink, LinkKey, tell_approval, webhook_body};

/// Defaults: how long a link is valid, and the approver whom a decision by link is attributed
/// to.
pub const LINK_FOR: Duration = Duration::from_secs(60 * 60);
pub const APPROVER: &str = "on-call";

/// How links are built that let people decide an approval from a notice.
#[derive(Clone)]
pub struct Links {
    /// The secret that signs links. The API verifies them with the same secret.
    pub secret: Arc<dyn SecretSource>,
    /// Public base URL of the API, such as `https://watchbill.example.com`.
    pub base: String,
    /// Who reads the notices; a decision by link is attributed to this name.
    pub to: String,
    /// How long a link is valid.
    pub lifetime: Duration,
}

pub struct Notifier {
    webhook: Option<Arc<dyn Webhook>>,
    core: Core,
    links: Option<Links>,
}

impl Notifier {
    /// Without a webhook, every notice is dropped and the drop is logged.
    pub fn new(webhook: Option<Arc<dyn Webhook>>, core: Core) -> Self {
        Self { webhook, core, links: None }
    }

    /// Adds links to notices of approvals.
    pub fn linking(self, links: Option<Links>) -> Self {
        Self { links, ..self }
    }

    /// Posts the event to the webhook with its id, so that the receiver can detect a repeat.
    pub async fn deliver(&self, tenant: &TenantId, event: &Event) -> Result<(), HandlerError> {
        let Some(webhook) = &self.webhook else {
            let reason = format!(
                "no webhook is set up for {} {}; set WATCHBILL_WEBHOOK_URL",
                event.event_type, event.event_id
            );
            return Err(HandlerError::Reject { reason });
        };
        let mut body = webhook_body(tenant, event);
        if let Some(approval) = self.open_approval(tenant, event).await? {
            let url = self.link(tenant, &approval).await?;
            tell_approval(&mut body, approval.into(), url.as_deref());
        }
        let body = serde_json::to_vec(&body).expect("plain JSON");
        webhook.post(event.event_id.as_str(), &body).await
    }

    /// The approval that the event asks someone to decide, if it is still pending.
    async fn open_approval(
        &self,
        tenant: &TenantId,
        event: &Event,
    ) -> Result<Option<FullApproval>, HandlerError> {
        let asks = matches!(event.event_type.as_str(), "approval.requested" | "approval.escalated");
        let id = event.payload.get("approval_id").and_then(|id| id.as_str());
        let (true, Some(Ok(id))) = (asks, id.map(ApprovalId::parse)) else { return Ok(None) };
        match self.core.approvals().get(tenant, &id).await {
            Ok(full) => Ok(Some(full).filter(|f| f.approval.status == ApprovalStatus::Pending)),
            Err(ServiceError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn link(
        &self,
        tenant: &TenantId,
        full: &FullApproval,
    ) -> Result<Option<String>, HandlerError> {
        let Some(links) = &self.links else { return Ok(None) };
        let again = |reason: String| HandlerError::retry(Duration::from_secs(15), reason);
        let secret = links.secret.fetch().await.map_err(again)?;
        let key = LinkKey::new(secret.as_bytes())
            .ok_or_else(|| again("the secret of approval links has fewer than 16 bytes".into()))?;
        let approval = &full.approval;
        let link = ApprovalLink {
            tenant: tenant.clone(),
            approval: approval.id.clone(),
            plan_hash: approval.plan_hash.clone(),
            to: links.to.clone(),
            nonce: format!("{:032x}", self.core.entropy().write_id().0),
            expires: approval.decide_by.min(self.core.clock().now().plus(links.lifetime)),
        };
        let base = links.base.trim_end_matches('/');
        Ok(Some(format!("{base}/links#{}", key.sign(&link))))
    }
}
