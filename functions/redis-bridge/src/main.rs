//! The Redis bridge on Lambda, by its schedule.

use watchbill_adapters_aws::config::Setup;
use watchbill_adapters_aws::lambda::serve_events;
use watchbill_adapters_host::{clock::SystemClock, entropy::SystemEntropy};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let _setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    serve_events(|_tick: serde_json::Value| async { Ok(()) }).await
}
