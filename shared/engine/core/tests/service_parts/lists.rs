//! Tests of lists of tasks and keys: paging, filters, children and revocation.

use std::collections::BTreeSet;
use std::time::Duration;

use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::Clock as _;
use watchbill_core::service::{Identity, NewTask, ServiceError, TaskFilter};
use watchbill_domain::{Agent, Priority, Role, Status, TaskId, TaskType, hash_key};

use crate::common::{World, caller, new_task, outside_rules, plain, succeeded, tenant};

async fn pages(world: &World, filter: &TaskFilter, limit: usize) -> Vec<TaskId> {
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let page = world.core.tasks().list(&tenant(), filter, limit, cursor).await.unwrap();
        assert!(page.entries.len() <= limit);
        found.extend(page.entries.into_iter().map(|full| full.task.id));
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

#[tokio::test]
async fn pages_of_a_list_hold_every_task_once_newest_first() {
    let world = World::new(outside_rules());
    let mut made: Vec<(TaskId, TaskFilter)> = Vec::new();
    for n in 0..60 {
        let task_type = [TaskType::Faq, TaskType::Bugfix, TaskType::Monitor][n % 3];
        let priority = Priority::ALL[n % 4];
        let source = if n % 5 == 0 { "ops" } else { "user" };
        let new = NewTask { source: source.into(), ..new_task(task_type, priority) };
        let id = world.create(new).await;
        world.clock.advance(Duration::from_millis((n % 2) as u64));
        if n % 6 == 0 && world.stored(&id).await.value.status == Status::Assigned {
            let run = world.claim(&id).await.unwrap();
            world.end(&id, run.value.fence, succeeded()).await.unwrap();
        }
        let task = world.stored(&id).await.value;
        let of = TaskFilter {
            status: Some(task.status),
            agent: Some(task.agent),
            task_type: Some(task_type),
            priority: Some(priority),
            source: Some(source.into()),
            parent: None,
            created_from: None,
            ..TaskFilter::default()
        };
        made.push((id, of));
    }
    let whole = pages(&world, &TaskFilter::default(), 7).await;
    assert_eq!(whole.len(), 60);
    assert_eq!(whole.iter().collect::<BTreeSet<_>>().len(), 60);
    let mut newest = Vec::new();
    for id in &whole {
        newest.push(world.stored(id).await.value.created_at);
    }
    assert!(newest.windows(2).all(|pair| pair[0] >= pair[1]));
    let filters = [
        TaskFilter { status: Some(Status::Pending), ..TaskFilter::default() },
        TaskFilter { status: Some(Status::Completed), ..TaskFilter::default() },
        TaskFilter { agent: Some(Agent::Dev), ..TaskFilter::default() },
        TaskFilter {
            agent: Some(Agent::Ops),
            status: Some(Status::Assigned),
            ..TaskFilter::default()
        },
        TaskFilter {
            priority: Some(Priority::P3),
            source: Some("ops".into()),
            ..TaskFilter::default()
        },
        TaskFilter { task_type: Some(TaskType::Faq), ..TaskFilter::default() },
    ];
    for filter in &filters {
        let wanted: BTreeSet<&TaskId> =
            made.iter().filter(|(_, of)| covers(filter, of)).map(|(id, _)| id).collect();
        assert!(!wanted.is_empty(), "{filter:?} finds nothing to compare");
        for limit in [1, 3, 200] {
            let found = pages(&world, filter, limit).await;
            assert_eq!(found.len(), wanted.len(), "{filter:?} by {limit}");
            assert_eq!(found.iter().collect::<BTreeSet<_>>(), wanted, "{filter:?} by {limit}");
        }
    }
}

fn covers(filter: &TaskFilter, of: &TaskFilter) -> bool {
    fn same<T: PartialEq>(wanted: &Option<T>, found: &Option<T>) -> bool {
        wanted.is_none() || wanted == found
    }
    same(&filter.status, &of.status)
        && same(&filter.agent, &of.agent)
        && same(&filter.task_type, &of.task_type)
        && same(&filter.priority, &of.priority)
        && same(&filter.source, &of.source)
}

#[tokio::test]
async fn a_parent_knows_its_children_in_the_order_they_were_made() {
    let world = World::new(EngineConfig::default());
    let parent = world.create(plain()).await;
    let mut children = Vec::new();
    for _ in 0..5 {
        world.clock.advance(Duration::from_millis(1));
        children.push(world.create(NewTask { parent: Some(parent.clone()), ..plain() }).await);
    }
    assert_eq!(world.core.tasks().get(&tenant(), &parent).await.unwrap().children, children);
    let filter = TaskFilter { parent: Some(parent), ..TaskFilter::default() };
    let mut found = pages(&world, &filter, 2).await;
    found.reverse();
    assert_eq!(found, children);
}

#[tokio::test]
async fn a_bad_cursor_is_named() {
    let world = World::new(EngineConfig::default());
    let bad = world.core.tasks().list(&tenant(), &TaskFilter::default(), 5, Some("x".into())).await;
    assert!(matches!(bad, Err(ServiceError::Invalid { field: "cursor", .. })), "{bad:?}");
    let bad = world.core.events().list(&tenant(), &Default::default(), 5, Some("x".into())).await;
    assert!(matches!(bad, Err(ServiceError::Invalid { field: "cursor", .. })), "{bad:?}");
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_and_its_name_is_free_again() {
    let world = World::new(EngineConfig::default());
    let root = caller("root");
    let (key, record) =
        world.core.keys().create(&root, &tenant(), "ci", Role::Agent).await.unwrap();
    assert_eq!(world.core.keys().by_hash(&hash_key(&key)).await.unwrap(), Some(record));
    let json = String::from_utf8(world.store.items()[0].body.to_vec()).unwrap();
    assert!(!json.contains(&key), "the key itself is never kept");
    let twice = world.core.keys().create(&root, &tenant(), "ci", Role::Agent).await;
    assert!(matches!(twice, Err(ServiceError::Conflict { .. })));
    world.core.keys().revoke(&root, "ci").await.unwrap();
    assert_eq!(world.core.keys().by_hash(&hash_key(&key)).await.unwrap(), None);
    let gone = world.core.keys().revoke(&root, "ci").await;
    assert!(matches!(gone, Err(ServiceError::NotFound { .. })));
    world.core.keys().create(&root, &tenant(), "ci", Role::User).await.unwrap();
    let bad = world.core.keys().create(&root, &tenant(), "two words", Role::User).await;
    assert!(matches!(bad, Err(ServiceError::Invalid { field: "name", .. })));
}

/// Two concurrent callers that create a key of one name both get one; revoking the name revokes
/// both.
#[tokio::test]
async fn revoking_a_name_revokes_every_key_of_it() {
    for seed in 0..20 {
        let world = World::flaky(EngineConfig::default(), seed, 0);
        let root = caller("root");
        let home = tenant();
        let (a, b) = tokio::join!(
            world.core.keys().create(&root, &home, "ci", Role::Agent),
            world.core.keys().create(&root, &home, "ci", Role::Agent),
        );
        world.core.keys().revoke(&root, "ci").await.unwrap();
        for (key, _) in [a, b].into_iter().flatten() {
            let open = world.core.keys().by_hash(&hash_key(&key)).await.unwrap();
            assert_eq!(open, None, "seed {seed}");
        }
    }
}

/// Older tasks are left out, whatever else is filtered for.
#[tokio::test]
async fn a_list_may_begin_at_a_time() {
    let world = World::new(EngineConfig::default());
    let mut made = Vec::new();
    for _ in 0..6 {
        made.push((
            world.create(new_task(TaskType::Monitor, Priority::P2)).await,
            world.clock.now(),
        ));
        world.clock.advance(Duration::from_secs(10));
    }
    let filter = TaskFilter { created_from: Some(made[3].1), ..TaskFilter::default() };
    let page = world.core.tasks().list(&tenant(), &filter, 100, None).await.unwrap();
    let found: Vec<_> = page.entries.into_iter().map(|full| full.task.id).collect();
    let wanted: Vec<_> = made[3..].iter().rev().map(|(id, _)| id.clone()).collect();
    assert_eq!(found, wanted);
}

/// Each response about the parent contains their ids, so their number is limited.
#[tokio::test]
async fn a_task_takes_so_many_children_and_no_more() {
    let world = World::new(EngineConfig::default());
    let parent = world.create(plain()).await;
    let child = |n: u32| NewTask {
        parent: Some(parent.clone()),
        identity: Identity::IdempotencyKey(format!("part-{n}")),
        ..plain()
    };
    for n in 0..256 {
        world.create(child(n)).await;
    }
    let error = world.core.tasks().create(child(256)).await.unwrap_err();
    assert!(matches!(error, ServiceError::Conflict { .. }), "{error}");
    assert!(error.to_string().contains("256 children"), "{error}");
    // A repeated request for an existing child returns it.
    let again = world.core.tasks().create(child(255)).await.unwrap();
    assert!(again.repeated);
    assert_eq!(world.core.tasks().get(&tenant(), &parent).await.unwrap().children.len(), 256);
    // A child has room for children of its own.
    let deeper = NewTask { parent: Some(again.task.task.id), ..plain() };
    world.core.tasks().create(deeper).await.unwrap();
}
