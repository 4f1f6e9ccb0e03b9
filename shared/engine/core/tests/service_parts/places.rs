//! Slots of waiting calls, where each call may run in a process of its own.

use std::time::Duration;

use watchbill_core::decide::EngineConfig;
use watchbill_core::service::{WaitBounds, WaitLimitReached};
use watchbill_domain::TenantId;

use crate::common::World;

/// Tenants with many waiting calls leave a quarter of the slots to tenants with none.
#[tokio::test]
async fn waiting_calls_of_a_few_tenants_leave_places_to_others() {
    let world = World::new(EngineConfig::default());
    let bounds = WaitBounds { all: 8, tenant: 7 };
    let take = async |name: &str| {
        let tenant = TenantId::parse(name).unwrap();
        world.core.waits().take(&tenant, bounds, Duration::from_secs(20)).await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(take("greedy").await.expect("there is room"));
    }
    assert_eq!(take("greedy").await.unwrap_err(), WaitLimitReached::All);
    held.push(take("modest").await.expect("it has none yet"));
    assert_eq!(take("modest").await.unwrap_err(), WaitLimitReached::All);
    held.push(take("third").await.expect("it has none yet"));
    assert_eq!(take("fourth").await.unwrap_err(), WaitLimitReached::All);
    world.core.waits().release(held.remove(0)).await;
    held.push(take("fourth").await.expect("one is given back"));
}
