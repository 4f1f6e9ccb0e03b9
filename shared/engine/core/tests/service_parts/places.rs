//! Places of calls that wait, where each call may run in a process of its own.

use std::time::Duration;

use watchbill_core::decide::Rules;
use watchbill_core::service::{NoPlace, WaitBounds};
use watchbill_domain::TenantId;

use crate::common::World;

/// Tenants that wait for much leave a quarter of the places to those that wait for nothing yet.
#[tokio::test]
async fn waiting_calls_of_a_few_tenants_leave_places_to_others() {
    let world = World::new(Rules::default());
    let bounds = WaitBounds { all: 8, tenant: 7 };
    let take = async |name: &str| {
        let tenant = TenantId::parse(name).unwrap();
        world.core.waits().take(&tenant, bounds, Duration::from_secs(20)).await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(take("greedy").await.expect("there is room"));
    }
    assert_eq!(take("greedy").await.unwrap_err(), NoPlace::All);
    held.push(take("modest").await.expect("it has none yet"));
    assert_eq!(take("modest").await.unwrap_err(), NoPlace::All);
    held.push(take("third").await.expect("it has none yet"));
    assert_eq!(take("fourth").await.unwrap_err(), NoPlace::All);
    world.core.waits().give_back(held.remove(0)).await;
    held.push(take("fourth").await.expect("one is given back"));
}
