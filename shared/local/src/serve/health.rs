use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::json;
use watchbill_api::{HealthReport, HealthSource};

use watchbill_redis_bridge::Bridge;

use crate::bundle::LagReport;

/// What the embedded bundle knows of its own health: how far its feed's readers are behind, and
/// how the bridge to a Redis stands, if there is one.
pub struct EmbeddedHealth<F> {
    lag: F,
    redis: Option<Bridge>,
}

impl<F: Fn() -> LagReport + Send + Sync> EmbeddedHealth<F> {
    pub fn new(lag: F, redis: Option<Bridge>) -> Self {
        Self { lag, redis }
    }
}

#[async_trait]
impl<F: Fn() -> LagReport + Send + Sync> HealthSource for EmbeddedHealth<F> {
    async fn report(&self) -> HealthReport {
        let lag = (self.lag)();
        let lag = json!({ "router": lag.router, "recorder": lag.recorder });
        let mut more = BTreeMap::from([("feed_lag".to_owned(), lag)]);
        let Some(bridge) = &self.redis else {
            return HealthReport { redis: "disabled".to_owned(), more };
        };
        let report = bridge.report();
        more.insert("redis_bridge".to_owned(), json!(report));
        HealthReport { redis: stands(report.connection).to_owned(), more }
    }
}

/// Two words are enough for a monitor: until the first answer nobody knows that it is there.
fn stands(connection: &str) -> &'static str {
    if connection == "connected" { "connected" } else { "unreachable" }
}
