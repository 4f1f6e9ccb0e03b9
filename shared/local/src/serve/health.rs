use async_trait::async_trait;
use serde_json::json;
use watchbill_api::{HealthReport, HealthSource};

use crate::bundle::LagReport;

/// What the embedded bundle knows of its own health: how far its feed's readers are behind.
pub struct EmbeddedHealth<F> {
    lag: F,
}

impl<F: Fn() -> LagReport + Send + Sync> EmbeddedHealth<F> {
    pub fn new(lag: F) -> Self {
        Self { lag }
    }
}

#[async_trait]
impl<F: Fn() -> LagReport + Send + Sync> HealthSource for EmbeddedHealth<F> {
    async fn report(&self) -> HealthReport {
        let lag = (self.lag)();
        let more =
            [("feed_lag".to_owned(), json!({ "router": lag.router, "recorder": lag.recorder }))];
        HealthReport { redis: "disabled".to_owned(), more: more.into() }
    }
}
