//! The sweeper on Lambda, by the minute's schedule.

use std::sync::Arc;

use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_lambda::config::Setup;
use watchbill_lambda::{Found, serve_tick};
use watchbill_sweeper::Sweeper;

/// Items looked at in one sweep, whatever time is left.
const SWEEP: usize = 20_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    let core = setup.core()?;
    let sweeper = Arc::new(Sweeper::new(core.clone(), Arc::new(setup.lanes()?)));
    serve_tick(&setup, core, move |time| {
        let sweeper = sweeper.clone();
        async move {
            let swept = sweeper.sweep_within(SWEEP, time).await?;
            Ok(Found { failed: swept.failed, oldest: swept.oldest, parked: swept.parked })
        }
    })
    .await
}
