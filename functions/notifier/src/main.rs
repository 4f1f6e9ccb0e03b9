//! The notifier's Lambda entry point: posts the notify lane to a webhook.

use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_lambda::{config::Setup, serve_notices};
use watchbill_notifier::aws::notifier;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    serve_notices(&setup, notifier(&setup).await?).await
}
