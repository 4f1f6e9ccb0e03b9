//! The recorder's Lambda entry point: reads the table's stream into the ledger and publishes to
//! the bus.

use std::sync::Arc;

use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_lambda::config::Setup;
use watchbill_lambda::serve_feed;
use watchbill_recorder::{Recorder, RecorderHandler};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    let core = setup.core()?;
    setup.warm(&core).await?;
    let recorder = Recorder::new(core, Arc::new(setup.buses()?));
    serve_feed(&setup, RecorderHandler(recorder)).await
}
