//! The notifier on Lambda: the notify lane to a webhook.

use std::sync::Arc;

use watchbill_adapters_aws::config::Setup;
use watchbill_adapters_aws::lambda::{NoticeHandler, serve_notices};
use watchbill_adapters_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_adapters_net::webhook::HttpWebhook;
use watchbill_core::domain::{Event, TenantId};
use watchbill_core::{handler::HandlerError, ports::Webhook};
use watchbill_notifier::Notifier;

struct Notices(Notifier);

#[async_trait::async_trait]
impl NoticeHandler for Notices {
    async fn deliver(&self, tenant: &TenantId, event: &Event) -> Result<(), HandlerError> {
        self.0.deliver(tenant, event).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    let secret = setup.read_parameter("WATCHBILL_WEBHOOK_SECRET_PARAMETER").await?;
    let url = setup.get("WATCHBILL_WEBHOOK_URL");
    let webhook = url.map(|url| HttpWebhook::new(url, secret.as_deref(), setup.clock.clone()));
    let webhook = webhook.transpose()?.map(|webhook| Arc::new(webhook) as Arc<dyn Webhook>);
    serve_notices(&setup, Notices(Notifier::new(webhook))).await
}
