//! The HTTP API's Lambda entry point, behind an HTTP API of API Gateway.

use watchbill_api::{ApiState, api_config, router, serve_lambda};
use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_lambda::config::Setup;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    let core = setup.core_with_blobs()?;
    setup.warm(&core).await?;
    let config = api_config(&setup, core.rules()).await?;
    serve_lambda(router(ApiState::new(core, config)?)).await
}
