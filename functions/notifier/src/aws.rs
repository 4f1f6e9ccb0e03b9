//! Builds the notifier on Lambda: its webhook and approval links from the template's settings.

use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::Webhook;
use watchbill_domain::{Event, TenantId, parse_span};
use watchbill_http::webhook::HttpWebhook;
use watchbill_lambda::NoticeHandler;
use watchbill_lambda::config::Setup;

use crate::{APPROVER, LINK_FOR, Links, Notifier};

pub async fn notifier(setup: &Setup) -> anyhow::Result<Notifier> {
    let secret = setup.read_parameter("WATCHBILL_WEBHOOK_SECRET_PARAMETER").await?;
    let url = setup.get("WATCHBILL_WEBHOOK_URL");
    let webhook = url.map(|url| HttpWebhook::new(url, secret.as_deref(), setup.clock.clone()));
    let webhook = webhook.transpose()?.map(|webhook| Arc::new(webhook) as Arc<dyn Webhook>);
    Ok(Notifier::new(webhook, setup.reading_core()?).linking(links(setup)?))
}

/// The signing secret is derived from the admin's key; its holder may decide approvals anyway.
fn links(setup: &Setup) -> anyhow::Result<Option<Links>> {
    let secret = setup.managed_secret("WATCHBILL_ADMIN_SECRET", "key");
    let (Some(secret), Some(base)) = (secret, setup.get("WATCHBILL_PUBLIC_URL")) else {
        return Ok(None);
    };
    let lifetime = match setup.get("WATCHBILL_LINK_FOR") {
        Some(text) => parse_span(text).context("WATCHBILL_LINK_FOR")?,
        None => LINK_FOR,
    };
    Ok(Some(Links {
        secret: Arc::new(secret),
        base: base.to_owned(),
        to: setup.get("WATCHBILL_APPROVER").unwrap_or(APPROVER).to_owned(),
        lifetime,
    }))
}

#[async_trait]
impl NoticeHandler for Notifier {
    async fn deliver(&self, tenant: &TenantId, event: &Event) -> Result<(), HandlerError> {
        Notifier::deliver(self, tenant, event).await
    }
}
