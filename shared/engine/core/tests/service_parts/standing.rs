//! Readers of scores and levels.

use std::time::Duration;

use serde_json::json;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ledger::Entry;
use watchbill_core::ports::{Clock as _, Commit, Precondition, Store as _, Write};
use watchbill_core::repo::{Projection, REPUTATION_FOLD, encode};
use watchbill_domain::{Agent, ReputationEvent, ScoreDelta};
use watchbill_governance::{AgentReputation, Level, ReadOnlyDay, ReputationProjection};
use watchbill_testkit::governance_suite::{self as suite, append, earning};

use crate::common::{World, tenant};

const SUCCESS: ScoreDelta = ScoreDelta(ReputationEvent::TaskSuccess, 2);
const FAILURE: ScoreDelta = ScoreDelta(ReputationEvent::TaskFailure, -3);

fn old_form(mut fold: serde_json::Value) -> serde_json::Value {
    let map = fold.as_object_mut().unwrap();
    map.remove("workers");
    for standing in map["agents"].as_object_mut().unwrap().values_mut() {
        standing.as_object_mut().unwrap().remove("read_only");
    }
    fold
}

#[tokio::test]
async fn what_is_recorded_counts_within_a_second() {
    let world = World::new(EngineConfig::default());
    suite::what_is_recorded_counts_within_a_second(&world.core, &|by| world.clock.advance(by))
        .await;
}

#[tokio::test]
async fn a_reader_polls_every_600_ms_however_often_it_is_called() {
    let world = World::new(EngineConfig::default());
    let score =
        async || world.core.reputation().standing(&tenant(), Agent::Ops).await.unwrap().score();
    assert_eq!(score().await, 100.0);
    append(&world.core, vec![earning(1, world.clock.now(), &[SUCCESS])]).await;
    world.clock.advance(Duration::from_millis(599));
    assert_eq!(score().await, 100.0, "it has looked a moment ago");
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(score().await, 102.0);
}

/// A new process, or one that was idle for long, does not read the ledger from its beginning.
#[tokio::test]
async fn a_reader_continues_from_the_recorders_projection() {
    let world = World::new(EngineConfig::default());
    let now = world.clock.now();
    for n in 1..=20 {
        append(&world.core, vec![earning(n, now, &[SUCCESS])]).await;
    }
    // Different from what the batches would give, so that the test can tell the source.
    let kept = AgentReputation {
        milli: 150_000,
        level: Level::ProdLowRisk,
        last: Some(now),
        events: 7,
        read_only: ReadOnlyDay::default(),
    };
    let fold = Projection {
        tenant: tenant(),
        name: REPUTATION_FOLD.into(),
        seq_applied: 18,
        // Frozen: a projection as it was stored before it had workers and days.
        state: old_form(json!(ReputationProjection {
            agents: [(Agent::Ops, kept)].into(),
            ..ReputationProjection::default()
        })),
    };
    let writes = vec![Write::Put { item: encode(&fold, None), expect: Precondition::Absent }];
    let id = world.core.entropy().write_id();
    world.store.commit(Commit { id, writes }).await.unwrap();
    let standing = world.core.reputation().standing(&tenant(), Agent::Ops).await.unwrap();
    assert_eq!((standing.score(), standing.events), (154.0, 9));
    let rebuilt = world.core.reputation().rebuild(&tenant()).await.unwrap();
    assert_eq!(rebuilt.agents[&Agent::Ops].score(), 140.0, "a rebuild reads them all");
}

#[tokio::test]
async fn what_an_agent_earned_is_listed_newest_first_page_by_page() {
    let world = World::new(EngineConfig::default());
    let now = world.clock.now();
    append(&world.core, vec![earning(1, now, &[SUCCESS]), earning(2, now, &[FAILURE, SUCCESS])])
        .await;
    // An external worker's score change belongs to the worker.
    let mut of_worker = earning(4, now, &[SUCCESS]);
    if let Entry::Task(entry) = &mut of_worker {
        entry.change.outcome.as_mut().unwrap().worker = Some("worker:ci".into());
    }
    append(&world.core, vec![earning(3, now, &[FAILURE]), of_worker]).await;
    for limit in 1..6 {
        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            let page =
                world.core.reputation().events(&tenant(), Agent::Ops, limit, cursor).await.unwrap();
            assert!(page.events.len() <= limit);
            found.extend(page.events);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let lines: Vec<_> = found.iter().map(|line| (line.task.as_str(), line.delta)).collect();
        assert_eq!(lines, [("t-3", -3), ("t-2", 2), ("t-2", -3), ("t-1", 2)], "by {limit}");
    }
    let none = world.core.reputation().events(&tenant(), Agent::Dev, 5, None).await.unwrap();
    assert!(none.events.is_empty() && none.next_cursor.is_none());
    let wrong = world.core.reputation().events(&tenant(), Agent::Ops, 5, Some("x".into())).await;
    assert!(
        wrong.unwrap_err().to_string().contains("'x' is not a cursor of /agents/{type}/events")
    );
}
