//! The Redis bridge's Lambda entry point, run every minute.

use std::sync::Arc;

use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_lambda::{config::Setup, serve_rounds};
use watchbill_redis_bridge::aws::Rounds;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    let rounds = Arc::new(Rounds::new(&setup).await?);
    serve_rounds(&setup, move |lasts| {
        let rounds = rounds.clone();
        async move { rounds.run(lasts).await }
    })
    .await
}
