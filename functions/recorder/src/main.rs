//! The recorder on Lambda: the table's stream into the ledger, and from there to the bus.

use std::sync::Arc;
use std::time::Duration;

use watchbill_adapters_aws::config::Setup;
use watchbill_adapters_aws::lambda::{FeedHandler, serve_feed};
use watchbill_adapters_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::Change;
use watchbill_recorder::Recorder;

struct Recording(Recorder);

#[async_trait::async_trait]
impl FeedHandler for Recording {
    async fn handle(&self, changes: &[Change], left: Duration) -> Result<(), HandlerError> {
        self.0.record_invocation(changes, left).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    let core = setup.core()?;
    setup.warm(&core).await?;
    let recorder = Recorder::new(core, Arc::new(setup.buses()?));
    serve_feed(&setup, Recording(recorder)).await
}
