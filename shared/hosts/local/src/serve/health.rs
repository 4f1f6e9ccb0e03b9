//! The fields of `/health` that only the embedded bundle reports.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use watchbill_api::{HealthReport, HealthSource};

use watchbill_core::service::Core;
use watchbill_redis_bridge::Bridge;
use watchbill_sqlite::sqlite::SqliteStore;

use super::connections::Table;
use crate::bundle::{LagReport, ParkedReport};

/// The state of the store and the clock. All of it is in memory.
pub struct InternalState {
    pub store: Arc<SqliteStore>,
    pub core: Core,
}

impl InternalState {
    fn report(&self) -> [(String, Value); 2] {
        let log = self.store.log();
        let store = json!({
            "wal_bytes": log.bytes,
            "wal_held": log.held,
            "unreadable_items": self.core.context().unreadable_items(),
        });
        let clock = json!({ "ahead_ms": self.core.clock().ahead().as_millis() as u64 });
        [("store".to_owned(), store), ("clock".to_owned(), clock)]
    }
}

/// The bundle's own health: lag of the feed's readers, parked changes, the bridge to a Redis, if
/// any, and connections.
pub struct EmbeddedHealth<F, P> {
    lag: F,
    parked: P,
    redis: Option<Bridge>,
    connections: Arc<Table>,
    inside: InternalState,
}

impl<F, P> EmbeddedHealth<F, P>
where
    F: Fn() -> LagReport + Send + Sync,
    P: Fn() -> ParkedReport + Send + Sync,
{
    pub fn new(
        lag: F,
        parked: P,
        redis: Option<Bridge>,
        connections: Arc<Table>,
        inside: InternalState,
    ) -> Self {
        Self { lag, parked, redis, connections, inside }
    }
}

#[async_trait]
impl<F, P> HealthSource for EmbeddedHealth<F, P>
where
    F: Fn() -> LagReport + Send + Sync,
    P: Fn() -> ParkedReport + Send + Sync,
{
    async fn report(&self) -> HealthReport {
        let lag = (self.lag)();
        let lag = json!({ "router": lag.router, "recorder": lag.recorder });
        let figures = self.connections.figures();
        let connections = json!({
            "open": figures.open,
            "limit": figures.most,
            "refused": figures.refused,
            "closed_for_others": figures.gave_way,
            "failed_accepts": figures.failed_accepts,
        });
        let parked = (self.parked)();
        let parked = json!({
            "items": parked.items,
            "tenants": parked.tenants,
            "oldest_seconds": parked.oldest_seconds,
        });
        let mut more = BTreeMap::from([
            ("feed_lag".to_owned(), lag),
            ("connections".to_owned(), connections),
            ("parked".to_owned(), parked),
        ]);
        more.extend(self.inside.report());
        let Some(bridge) = &self.redis else {
            return HealthReport { redis: "disabled".to_owned(), more };
        };
        let report = bridge.report();
        more.insert("redis_bridge".to_owned(), json!(report));
        HealthReport { redis: redis_state(report.connection).to_owned(), more }
    }
}

/// Two states are enough for a monitor. Before its first response the Redis is not known to
/// exist.
fn redis_state(connection: &str) -> &'static str {
    if connection == "connected" { "connected" } else { "unreachable" }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use watchbill_core::decide::EngineConfig;
    use watchbill_core::ports::Clock;
    use watchbill_domain::Timestamp;
    use watchbill_sqlite::sqlite::Options;
    use watchbill_testkit::{FakeClock, ports_over, ungated_core};

    use super::*;

    /// A clock whose machine's clock was set back by five seconds.
    struct SetBack(FakeClock);

    #[async_trait]
    impl Clock for SetBack {
        fn now(&self) -> Timestamp {
            self.0.now()
        }

        fn monotonic(&self) -> Duration {
            self.0.monotonic()
        }

        async fn sleep(&self, how_long: Duration) {
            self.0.sleep(how_long).await;
        }

        fn ahead(&self) -> Duration {
            Duration::from_secs(5)
        }
    }

    #[test]
    fn a_clock_that_was_set_back_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path(), Options::default()).unwrap());
        let clock = Arc::new(SetBack(FakeClock::default()));
        let core = ungated_core(ports_over(store.clone(), clock, 1), EngineConfig::default());
        let report = BTreeMap::from(InternalState { store, core }.report());
        assert_eq!(report["clock"], json!({ "ahead_ms": 5_000 }));
    }
}
