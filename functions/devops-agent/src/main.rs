//! The devops agent's Lambda entry point.

use std::sync::Arc;

use watchbill_devops_agent::DevopsAgent;
use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_lambda::config::Setup;
use watchbill_lambda::serve_agent;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    serve_agent(&setup, setup.core_with_blobs()?, Arc::new(DevopsAgent)).await
}
