//! The ops cycle's Lambda entry point.

use std::sync::Arc;

use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_lambda::config::Setup;
use watchbill_lambda::serve_agent;
use watchbill_ops_cycle::OpsCycle;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    serve_agent(&setup, setup.core()?, Arc::new(OpsCycle)).await
}
