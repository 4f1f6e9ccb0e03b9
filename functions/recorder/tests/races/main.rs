//! The ledger and its events, with a feed that repeats itself and recorders that die.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail it by panicking")]

mod parked;
mod publishing;
mod sent;
mod shards;
mod suffix;
mod unreadable;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use watchbill_core::decide::RunResult;
use watchbill_core::ledger::Entry;
use watchbill_core::ports::{
    Change, Clock as _, Commit, Key, NewItem, Precondition, Store, Write, WriteId,
};
use watchbill_domain::{Agent, Body, Caller, Priority, Question, Role};

use world::*;

#[tokio::test]
async fn feed_repeated_and_replayed_leaves_the_ledger_as_it_is() {
    for seed in 0..8 {
        let world = World::new(seed, 0);
        world.history().await;
        let changes = world.changes();
        let recorder = world.recorder();
        feed(&recorder, &mixed(&changes, seed), 1 + seed as usize * 5).await;
        recorder.save().await.unwrap();
        world.assert_whole().await;
        let before = world.entries().await;
        // The same recorder, a new one right after, and a new one a day later; each gets the
        // whole history in another order.
        feed(&recorder, &mixed(&changes, seed + 100), 7).await;
        feed(&world.recorder(), &mixed(&changes, seed + 200), 7).await;
        world.clock.advance(Duration::from_secs(24 * 3_600));
        feed(&world.recorder(), &mixed(&changes, seed + 300), 1).await;
        assert_eq!(world.entries().await.len(), before.len(), "seed {seed}");
        assert_eq!(world.entries().await, before, "seed {seed}");
        world.assert_whole().await;
    }
}

/// The feed's images may be newer than their change.
#[tokio::test]
async fn changes_that_come_with_newer_images_are_recorded_once() {
    let world = World::new(1, 0);
    let recorder = world.recorder();
    let id = world.create(Priority::P2).await;
    let mut seen = 0;
    for round in 0..20 {
        let fence = world.claim(&id).await;
        let ending = RunResult::Failed { error: "no route".into(), retry: None };
        world.end(&id, fence, ending).await;
        if round % 3 == 0 {
            // All but the newest, with the current image.
            let changes = world.store.changes(seen, usize::MAX);
            let (last, older) = changes.split_last().unwrap();
            for (_, change) in older {
                recorder.record(std::slice::from_ref(change)).await.unwrap();
            }
            seen = last.0 - 1;
        }
    }
    feed(&recorder, &world.changes(), 5).await;
    world.assert_whole().await;
}

#[tokio::test]
async fn recorder_dies_after_appending_and_its_events_go_out_again_with_the_same_ids() {
    for at in 0..6 {
        let world = World::new(at, 0);
        world.history().await;
        let changes = world.changes();
        let (first, rest) = changes.split_at(changes.len() / 6 * at as usize);
        feed(&world.recorder(), first, 4).await;
        // It appends, and dies before the bus has accepted anything.
        let dying = world.recorder();
        if at > 0 {
            catch_up(&dying).await;
        }
        let (before, sent) = (world.entries().await.len(), world.bus.events().len());
        world.bus.refuse_next(usize::MAX);
        dying.record(rest).await.unwrap();
        assert!(world.entries().await.len() > before, "it had appended");
        assert_eq!(world.bus.events().len(), sent, "and sent nothing");
        drop(dying);
        world.bus.refuse_next(0);
        let next = world.recorder();
        catch_up(&next).await;
        feed(&next, rest, 9).await;
        next.save().await.unwrap();
        world.assert_whole().await;
        // A repeat is the identical event.
        let mut by_id = BTreeMap::new();
        for (_, event) in world.bus.events() {
            let known = by_id.entry(event.event_id.clone()).or_insert_with(|| event.clone());
            assert_eq!(*known, event);
        }
    }
}

#[tokio::test]
async fn answers_lost_while_appending_lose_and_double_nothing() {
    for seed in 0..25 {
        let world = World::new(seed, 30);
        world.history().await;
        feed(&world.recorder(), &world.changes(), 3).await;
        let again = world.recorder();
        feed(&again, &world.changes(), 11).await;
        world.assert_whole().await;
    }
}

/// During a rolling deployment two recorders run: each change is still recorded once.
#[tokio::test]
async fn two_recorders_at_one_ledger_record_each_change_once() {
    for seed in 0..10 {
        let world = World::new(seed, 5);
        world.history().await;
        let changes = world.changes();
        let (one, other) = (world.recorder(), world.recorder());
        tokio::join!(feed(&one, &changes, 4), feed(&other, &changes, 6));
        world.assert_whole().await;
    }
}

#[tokio::test]
async fn clock_back_between_batches_keeps_the_newest_last_and_repeats_known() {
    let world = World::new(1, 0);
    world.history().await;
    let recorder = world.recorder();
    feed(&recorder, &world.changes(), 5).await;
    let seen = world.store.last_seq();
    world.clock.step_wall(world.clock.now().minus(Duration::from_secs(3_600)));
    world.publish(100).await;
    let new: Vec<Change> =
        world.store.changes(seen, usize::MAX).into_iter().map(|(_, change)| change).collect();
    feed(&recorder, &new, 5).await;
    let newest = world.core.events().list(&tenant(), &Default::default(), 1, None).await.unwrap();
    assert_eq!(newest.events[0].event_id.as_str(), "e-100", "the newest is seen at once");
    // A new process, the history again, and the clock still set back.
    feed(&world.recorder(), &mixed(&world.changes(), 3), 5).await;
    world.assert_whole().await;
    let last = newest.events[0].event_id.clone();
    let after = world
        .core
        .events()
        .after(&tenant(), &Default::default(), (Some(&last), None), 5, Duration::ZERO)
        .await;
    assert_eq!(after.unwrap().events.len(), 0, "a follower finds its place again");
}

/// Any caller may ask for the task counts, so they are read from one item, which is complete
/// once the feed is quiet.
#[tokio::test]
async fn once_the_feed_is_quiet_the_counts_are_in_one_item() {
    let world = World::new(1, 0);
    let recorder = world.recorder();
    let mut seen = 0;
    for _ in 0..3 {
        world.create(Priority::P2).await;
        let new: Vec<Change> =
            world.store.changes(seen, usize::MAX).into_iter().map(|(_, change)| change).collect();
        seen = world.store.last_seq();
        feed(&recorder, &new, 5).await;
    }
    let counted = async || {
        world.clock.advance(Duration::from_secs(1));
        world.core.stats().queue().await.unwrap().queue.pending
    };
    assert_eq!(counted().await, 1, "kept with the first batch, and not with each");
    recorder.quiet().await;
    assert_eq!(counted().await, 3);
    let version = |item: Option<watchbill_core::ports::Item>| item.unwrap().version;
    let key = watchbill_core::repo::fold_key(&tenant(), watchbill_core::repo::STATS_FOLD);
    let before = version(world.store.get(&key).await.unwrap());
    recorder.quiet().await;
    assert_eq!(version(world.store.get(&key).await.unwrap()), before, "nothing new, no write");
    // It continues from what it saved at the end.
    world.create(Priority::P2).await;
    feed(&recorder, &world.changes(), 5).await;
    recorder.save().await.unwrap();
    assert_eq!(counted().await, 4);
    world.assert_counts().await;
}

#[tokio::test]
async fn newer_schema_is_tried_again_and_missing_in_no_ledger() {
    let world = World::new(1, 0);
    let id = world.create(Priority::P2).await;
    world.rewrite(&id, 2).await;
    let recorder = world.recorder();
    // It waits for the newer build and blocks nothing.
    let other = world.create(Priority::P2).await;
    recorder.record(&world.changes()).await.unwrap();
    let tasks = async || {
        let entries = world.entries().await;
        let task = |entry: &Entry| match entry {
            Entry::Task(entry) => Some(entry.task.clone()),
            Entry::Published(_) | Entry::AuditRecord(_) => None,
        };
        entries.iter().filter_map(task).collect::<Vec<_>>()
    };
    assert_eq!(tasks().await, std::slice::from_ref(&other));
    // The newer build is deployed.
    world.rewrite(&id, 1).await;
    feed(&recorder, &world.changes(), 5).await;
    world.clock.advance(Duration::from_secs(3_600));
    for item in world.store.items().iter().filter(|item| &*item.kind == "parked_tenant") {
        world.core.parking().ask(item).await.unwrap();
    }
    feed(&recorder, &world.changes(), 5).await;
    assert_eq!(tasks().await, [other, id], "created, once");
    assert!(world.store.items().iter().all(|item| !item.kind.starts_with("parked")));
}

#[tokio::test]
async fn an_outcome_is_recorded_with_the_change_it_came_with_and_no_other() {
    let world = World::new(1, 0);
    let id = world.create(Priority::P2).await;
    let kim = Caller::new("kim", Role::Admin, tenant());
    for _ in 0..2 {
        let fence = world.claim(&id).await;
        let (choices, answer, answered_by) = (Vec::new(), None, None);
        let question = Some(Question { text: "Go on?".into(), choices, answer, answered_by });
        world.end(&id, fence, RunResult::Blocked { reason: "unsure".into(), question }).await;
        world.core.tasks().answer(&kim, &id, "yes".into()).await.unwrap();
    }
    let fence = world.claim(&id).await;
    world.end(&id, fence, RunResult::FailedForGood { error: "no route".into() }).await;
    // The feed lags: each change comes with the last image.
    feed(&world.recorder(), &world.changes(), 1).await;
    let outcomes: Vec<bool> = world
        .entries()
        .await
        .iter()
        .filter_map(|entry| match entry {
            Entry::Task(entry) => Some(entry.change.outcome.is_some()),
            Entry::Published(_) | Entry::AuditRecord(_) => None,
        })
        .collect();
    assert_eq!(outcomes, [false, false, true, false, false, true, false, false, true]);
}

/// Runs without effects earn a limited score per day, whichever recorder records them and
/// however often the feed repeats itself; the recorded score change is what counted.
#[tokio::test]
async fn points_of_runs_that_change_nothing_are_limited_as_they_are_recorded() {
    for size in [1, 7, 1_000] {
        let world = World::new(size as u64, 0);
        for n in 0..12 {
            let id = world.create(Priority::P2).await;
            let fence = world.claim(&id).await;
            world.end_read_only(&id, fence, RunResult::Succeeded { result: Body::default() }).await;
            // A new recorder each time: it reads the day's total from the store and the ledger.
            if n % 4 == 3 {
                feed(&world.recorder(), &world.changes(), size).await;
            }
        }
        feed(&world.recorder(), &world.changes(), size).await;
        let entries = world.entries().await;
        let score_delta: Vec<i16> = entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Task(entry) => entry.change.outcome.as_ref(),
                Entry::Published(_) | Entry::AuditRecord(_) => None,
            })
            .flat_map(|outcome| outcome.reputation.iter().map(|score_delta| score_delta.1))
            .collect();
        assert_eq!(score_delta, [2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0]);
        world.assert_standings(&entries).await;
        let standing = world.core.reputation().standing(&tenant(), Agent::Ops).await.unwrap();
        assert_eq!((standing.score(), standing.events), (110.0, 12));
    }
}

/// The sweeper writes an item back without a change: that is no entry, and hides none.
#[tokio::test]
async fn a_version_without_a_change_is_no_entry() {
    for size in [1, 2, 10] {
        let world = World::new(1, 0);
        let id = world.create(Priority::P2).await;
        world.rewrite(&id, 1).await;
        let fence = world.claim(&id).await;
        world.rewrite(&id, 1).await;
        world.end(&id, fence, RunResult::Succeeded { result: Body::default() }).await;
        let recorder = world.recorder();
        for again in [&recorder, &world.recorder()] {
            feed(again, &world.changes(), size).await;
        }
        let versions: Vec<u64> = world
            .entries()
            .await
            .iter()
            .filter_map(|entry| match entry {
                Entry::Task(entry) => Some(entry.change.version),
                Entry::Published(_) | Entry::AuditRecord(_) => None,
            })
            .collect();
        assert_eq!(versions, [1, 3, 5]);
    }
}

/// An unreadable item does not block others.
#[tokio::test]
async fn an_unreadable_item_does_not_stop_the_others() {
    let world = World::new(1, 0);
    let bad = NewItem {
        key: Key::new("T#default#task#bad", "0"),
        kind: "task".into(),
        schema: 1,
        body: b"{".to_vec().into(),
        list: None,
        list2: None,
        due: None,
        expires: None,
    };
    let writes = vec![Write::Put { item: bad, expect: Precondition::Absent }];
    world.store.commit(Commit { id: WriteId(5), writes }).await.unwrap();
    world.create(Priority::P2).await;
    world.recorder().record(&world.changes()).await.unwrap();
    assert_eq!(world.entries().await.len(), 1);
}
