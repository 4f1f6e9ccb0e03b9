//! The sweeper's Lambda entry point, run every minute.

use std::sync::Arc;

use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_lambda::config::Setup;
use watchbill_lambda::{TickResult, serve_tick};
use watchbill_sweeper::Sweeper;

/// Maximum items per sweep, whatever time is left.
const MAX_ITEMS: usize = 20_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    let core = setup.core()?;
    let sweeper = Arc::new(Sweeper::new(core.clone(), Arc::new(setup.lanes()?)));
    serve_tick(&setup, core, move |time| {
        let sweeper = sweeper.clone();
        async move {
            let swept = sweeper.sweep_within(MAX_ITEMS, time).await?;
            Ok(TickResult { failed: swept.failed, oldest: swept.oldest, parked: swept.parked })
        }
    })
    .await
}
