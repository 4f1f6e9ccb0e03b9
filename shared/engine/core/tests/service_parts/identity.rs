//! Tests of task ids: idempotency keys, payload limits and retries.

use futures_util::future::join_all;
use serde_json::json;
use watchbill_core::decide::EngineConfig;
use watchbill_core::service::{Identity, NewTask, ServiceError};
use watchbill_domain::{Priority, TaskType};

use crate::common::{World, new_task, object, plain, tenant};

fn keyed(size: usize, mark: &str) -> NewTask {
    let payload = object(json!({"description": mark, "text": mark.repeat(size)}));
    NewTask { payload, identity: Identity::IdempotencyKey("key-1".into()), ..plain() }
}

#[tokio::test]
async fn of_64_requests_with_one_key_one_makes_the_task() {
    for (seed, size) in [(1, 1), (2, 1), (3, 2_000), (4, 2_000), (5, 90_000)] {
        let world = World::flaky(EngineConfig::default(), seed, 20);
        let made = join_all((0..64).map(|_| world.core.tasks().create(keyed(size, "a")))).await;
        let made: Vec<_> = made.into_iter().map(Result::unwrap).collect();
        let first: Vec<_> = made.iter().filter(|created| !created.repeated).collect();
        // A lost response followed by a busy store makes a creation look like a repeat: at most
        // one is new.
        assert!(first.len() <= 1, "seed {seed}: made {} times", first.len());
        for created in &made {
            assert_eq!(created.task.task.id, made[0].task.task.id);
            assert_eq!(created.task.payload, keyed(size, "a").payload);
        }
        assert_eq!((world.count("task"), world.count("body")), (1, usize::from(size > 1)));
        let other = world.core.tasks().create(keyed(size, "b")).await;
        assert!(matches!(other, Err(ServiceError::Conflict { .. })), "{other:?}");
    }
}

#[tokio::test]
async fn payloads_of_two_requests_with_one_key_never_mix() {
    for seed in 0..24 {
        let world = World::flaky(EngineConfig::default(), seed, 30);
        let size = if seed % 2 == 0 { 1_500 } else { 3 };
        let other_size = if seed % 3 == 0 { 3 } else { 1_500 };
        let asked = (0..16).map(|n| {
            let new = if n % 2 == 0 { keyed(size, "a") } else { keyed(other_size, "b") };
            async { (new.payload.clone(), world.core.tasks().create(new).await) }
        });
        let mut won = Vec::new();
        for (payload, answer) in join_all(asked).await {
            match answer {
                Ok(created) => {
                    assert_eq!(created.task.payload, payload, "seed {seed}");
                    won.push(created.task.task.id);
                }
                Err(ServiceError::Conflict { .. }) => {}
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        assert_eq!(won.len(), 8, "seed {seed}: one body's requests are all answered, no other's");
        let stored = world.core.tasks().get(&tenant(), &won[0]).await.unwrap();
        assert_eq!(world.count("task"), 1);
        assert!(
            stored.payload == keyed(size, "a").payload
                || stored.payload == keyed(other_size, "b").payload
        );
    }
}

#[tokio::test]
async fn a_key_is_its_callers_and_its_tenants_own() {
    let world = World::new(EngineConfig::default());
    let mine = world.create(keyed(1, "a")).await;
    let theirs = NewTask { created_by: "sam".into(), ..keyed(1, "b") };
    assert_ne!(world.create(theirs).await, mine);
    let elsewhere = watchbill_domain::TenantId::parse("acme").unwrap();
    let there = NewTask { tenant: elsewhere.clone(), ..keyed(1, "b") };
    let there = world.create(there).await;
    assert_ne!(there, mine);
    assert!(matches!(
        world.core.tasks().get(&tenant(), &there).await,
        Err(ServiceError::NotFound { .. })
    ));
    assert!(world.core.tasks().get(&elsewhere, &there).await.is_ok());
}

#[tokio::test]
async fn a_payload_too_large_leaves_nothing_behind() {
    let world = World::new(EngineConfig::default());
    let answer = world.core.tasks().create(keyed(205_000, "a")).await;
    assert!(matches!(answer, Err(ServiceError::TooLarge { .. })), "{answer:?}");
    let gone = NewTask {
        parent: Some(watchbill_domain::TaskId::parse("none").unwrap()),
        ..new_task(TaskType::Faq, Priority::P0)
    };
    assert!(matches!(world.core.tasks().create(gone).await, Err(ServiceError::Invalid { .. })));
    assert_eq!(world.store.items().len(), 0);
}

#[tokio::test]
async fn repeated_retry_requests_create_one_task() {
    let world = World::flaky(EngineConfig::default(), 9, 20);
    let id = world.create(NewTask { max_retries: Some(0), ..keyed(2_000, "a") }).await;
    let claimed = world.claim(&id).await.unwrap();
    let ending =
        watchbill_core::decide::RunResult::Failed { error: "no route".into(), retry: None };
    world.end(&id, claimed.value.fence, ending).await.unwrap();
    let (alex, kim) = (crate::common::caller("alex"), crate::common::caller("kim"));
    let asked =
        (0..16).map(|n| world.core.tasks().retry(if n % 2 == 0 { &alex } else { &kim }, &id));
    let retried: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
    assert!(retried.iter().all(|new| new.task.id == retried[0].task.id && new.task.id != id));
    assert_eq!(retried[0].payload, keyed(2_000, "a").payload);
    assert_eq!(retried[0].task.metadata["retry_of"], json!(id));
    assert_eq!(world.count("task"), 2);
}
