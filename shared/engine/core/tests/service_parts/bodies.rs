//! Payloads and results of every size: in the header, next to it, in a blob.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use watchbill_core::decide::{EngineConfig, RunResult};
use watchbill_core::ports::Clock as _;
use watchbill_core::repo;
use watchbill_core::service::{
    FullTask, Identity, NewTask, ServiceError, StatusChange, TaskFilter,
};
use watchbill_domain::{Body, Priority, Status, TaskId, TaskType};

use crate::common::{World, caller, is, new_task, object, plain, tenant};

const KB: usize = 1024;

/// An object of this many bytes of JSON.
fn of(bytes: usize, fill: &str) -> Map<String, Value> {
    let object = object(json!({ "text": fill.repeat(bytes - r#"{"text":""}"#.len()) }));
    assert_eq!(serde_json::to_vec(&object).unwrap().len(), bytes);
    object
}

async fn complete(
    world: &World,
    id: &TaskId,
    result: Map<String, Value>,
) -> Result<FullTask, ServiceError> {
    let change = StatusChange { status: Status::Completed, error: None, result: Some(result) };
    world.core.tasks().set_status(&caller("kim"), id, change).await
}

fn with_payload(bytes: usize, fill: &str) -> NewTask {
    NewTask { payload: of(bytes, fill), ..new_task(TaskType::Monitor, Priority::P2) }
}

#[tokio::test]
async fn a_result_of_any_size_is_read_back() {
    for bytes in [100, 4 * KB, 4 * KB + 1, 100 * KB, 100 * KB + 1, KB * KB, 4 * KB * KB] {
        let world = World::new(EngineConfig::default());
        let id = world.create(plain()).await;
        let result = of(bytes, "r");
        let answer = complete(&world, &id, result.clone()).await.unwrap();
        assert_eq!(answer.result, Some(result.clone()));
        let read = world.core.tasks().get(&tenant(), &id).await.unwrap();
        assert!(read.result == Some(result), "{bytes} bytes");
        let fits = match world.stored(&id).await.value.result.unwrap() {
            Body::In(_) => bytes <= 4 * KB,
            Body::Item(there) => there == bytes as u64 && (4 * KB..=100 * KB).contains(&bytes),
            Body::Blob(key, there) => {
                let keys = world.blobs.keys();
                keys.len() == 1 && keys[0].as_str() == key && there == bytes as u64
            }
        };
        assert!(fits, "{bytes} bytes stand in the wrong place");
        assert_eq!(world.blobs.keys().len(), usize::from(bytes > 100 * KB));
    }
}

#[tokio::test]
async fn a_result_too_large_is_refused_with_its_size_and_leaves_nothing() {
    let world = World::new(EngineConfig::default());
    let id = world.create(plain()).await;
    let refused = complete(&world, &id, of(4 * KB * KB + 1, "r")).await.unwrap_err();
    assert_eq!(refused.to_string(), "result has 4194305 bytes; the maximum is 4194304");
    assert!(is(&world.stored(&id).await, Status::Assigned));
    assert_eq!(world.blobs.keys(), []);
}

#[tokio::test]
async fn what_is_refused_leaves_no_blob() {
    let world = World::new(EngineConfig::default());
    let id = world.create(plain()).await;
    complete(&world, &id, of(100, "r")).await.unwrap();
    let late = complete(&world, &id, of(150 * KB, "s")).await;
    assert!(matches!(late, Err(ServiceError::Conflict { .. })), "{late:?}");
    let parent = Some(TaskId::parse("none").unwrap());
    let orphan = NewTask { parent, ..with_payload(150 * KB, "p") };
    assert!(matches!(world.core.tasks().create(orphan).await, Err(ServiceError::Invalid { .. })));
    assert_eq!(world.blobs.keys(), []);
}

/// First the blob, then the header that references it.
#[tokio::test]
async fn nothing_points_at_a_blob_that_was_not_written() {
    let world = World::new(EngineConfig::default());
    let new =
        NewTask { identity: Identity::IdempotencyKey("key".into()), ..with_payload(150 * KB, "p") };
    world.blobs.refuse_next(1);
    let busy = world.core.tasks().create(new.clone()).await;
    assert!(matches!(busy, Err(ServiceError::Busy { .. })), "{busy:?}");
    assert_eq!(world.store.items().len(), 0);
    let id = world.create(new.clone()).await;
    world.blobs.refuse_next(1);
    let busy = complete(&world, &id, of(150 * KB, "r")).await;
    assert!(matches!(busy, Err(ServiceError::Busy { .. })), "{busy:?}");
    assert!(is(&world.stored(&id).await, Status::Assigned));
    complete(&world, &id, of(150 * KB, "r")).await.unwrap();
    assert!(world.core.tasks().create(new).await.unwrap().repeated);
    assert_eq!(world.blobs.keys().len(), 2, "a repeat is the same blob");
}

#[tokio::test]
async fn blobs_of_two_requests_with_one_key_never_mix() {
    for seed in 0..20 {
        let world = World::flaky(EngineConfig::default(), seed, 10);
        let new = |fill| NewTask {
            identity: Identity::IdempotencyKey("key".into()),
            ..with_payload(150 * KB, fill)
        };
        let (a, b) =
            tokio::join!(world.core.tasks().create(new("a")), world.core.tasks().create(new("b")),);
        let (won, fill) = match (a, b) {
            (Ok(won), Err(ServiceError::Conflict { .. })) => (won, "a"),
            (Err(ServiceError::Conflict { .. }), Ok(won)) => (won, "b"),
            other => panic!("seed {seed}: {other:?}"),
        };
        let task = won.task.task;
        assert!(
            world.core.tasks().payload(&task).await.unwrap() == of(150 * KB, fill),
            "seed {seed}"
        );
    }
}

#[tokio::test]
async fn a_lost_or_changed_blob_is_reported_and_does_not_break_the_list() {
    let world = World::new(EngineConfig::default());
    let id = world.create(with_payload(150 * KB, "p")).await;
    let task = world.stored(&id).await.value;
    let key = world.blobs.keys().remove(0);

    world.blobs.tamper(&key, Bytes::from_static(b"{\"text\":\"another\"}"));
    let changed = world.core.tasks().payload(&task).await.unwrap_err().to_string();
    assert!(changed.contains("do not match its hash"), "{changed}");

    world.blobs.lose(&key);
    for gone in [
        world.core.tasks().get(&tenant(), &id).await.map(|_| ()),
        world.core.tasks().payload(&task).await.map(|_| ()),
    ] {
        let Err(ServiceError::Down { reason }) = gone else { panic!("{gone:?}") };
        for said in [id.as_str(), key.as_str(), "153600 bytes", "is missing"] {
            assert!(reason.contains(said), "'{said}' is missing: {reason}");
        }
    }
    let page = world.core.tasks().list(&tenant(), &TaskFilter::default(), 10, None).await.unwrap();
    let left_out = json!({ "bytes": 153_600, "read": format!("GET /tasks/{id}") });
    assert_eq!(page.entries[0].payload, object(json!({ "left_out": left_out })));
}

/// A list holds payloads, because external workers read them from it, and small results.
#[tokio::test]
async fn a_list_does_not_load_large_results() {
    let world = World::new(EngineConfig::default());
    for bytes in [5 * KB, KB * KB] {
        let id = world.create(with_payload(150 * KB, "p")).await;
        complete(&world, &id, of(bytes, "r")).await.unwrap();
    }
    let page = world.core.tasks().list(&tenant(), &TaskFilter::default(), 10, None).await.unwrap();
    assert!(page.entries.iter().all(|task| task.payload == of(150 * KB, "p")));
    let results: Vec<_> = page.entries.into_iter().filter_map(|task| task.result).collect();
    assert_eq!(results[0]["left_out"]["bytes"], KB * KB);
    assert_eq!(results[1], of(5 * KB, "r"));
}

/// A store that removes items one by one leaves nothing behind, and removes nothing before its
/// header.
#[tokio::test]
async fn every_item_next_to_a_header_expires_and_not_before_it() {
    let world = World::new(EngineConfig::default());
    let new = NewTask { max_retries: Some(20), ..with_payload(5 * KB, "p") };
    let id = world.create(new).await;
    world.create(NewTask { parent: Some(id.clone()), ..plain() }).await;
    for _ in 0..10 {
        let resume = world.stored(&id).await.value.resume_at.unwrap_or(world.clock.now());
        world.clock.advance(resume.since(world.clock.now()));
        let fence = world.claim(&id).await.unwrap().value.fence;
        let ending = RunResult::Failed { error: "no route".into(), retry: None };
        world.end(&id, fence, ending).await.unwrap();
    }
    complete(&world, &id, of(5 * KB, "r")).await.unwrap();
    let partition = repo::task_partition(&tenant(), &id);
    let items: Vec<_> =
        world.store.items().into_iter().filter(|item| item.key.partition == partition).collect();
    let head = items.iter().find(|item| &*item.key.sort == repo::HEAD).unwrap().expires.unwrap();
    let mut seen = String::new();
    for item in items.iter().filter(|item| &*item.key.sort != repo::HEAD) {
        let expires = item.expires.unwrap_or_else(|| panic!("{:?} stays for ever", item.key));
        assert!(expires > head, "{:?} goes before its header", item.key);
        let longest = world.clock.now().plus(Duration::from_secs((90 + 365) * 86_400));
        assert!(expires <= longest, "{:?}", item.key);
        seen.push_str(&item.key.sort[..1]);
    }
    for sort in ["C", "L", "P", "R"] {
        assert!(seen.contains(sort), "no item '{sort}' was looked at, only {seen}");
    }
}
