//! The dev agent on Lambda.

use std::sync::Arc;

use watchbill_adapters_aws::config::Setup;
use watchbill_adapters_aws::lambda::serve_agent;
use watchbill_adapters_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_dev_agent::DevAgent;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    serve_agent(&setup, setup.core_with_blobs()?, Arc::new(DevAgent)).await
}
