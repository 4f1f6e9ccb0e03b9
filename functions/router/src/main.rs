//! The router's Lambda entry point: reads the table's stream into the lanes.

use std::sync::Arc;
use std::time::Duration;

use watchbill_core::handler::HandlerError;
use watchbill_core::ports::Change;
use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_lambda::config::Setup;
use watchbill_lambda::{StreamHandler, serve_feed};
use watchbill_router::Router;

struct Routing(Router);

#[async_trait::async_trait]
impl StreamHandler for Routing {
    async fn handle(&self, changes: &[Change], _: Duration) -> Result<(), HandlerError> {
        self.0.route(changes).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let setup = Setup::new(SystemClock::new(), SystemEntropy)?;
    let router = Router::new(Arc::new(setup.lanes()?), setup.clock.clone());
    serve_feed(&setup, Routing(router)).await
}
