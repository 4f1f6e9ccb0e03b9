//! No recorder publishes again what was published; events that the bus refuses for their content
//! are parked at once, by id.

use std::collections::BTreeMap;
use std::time::Duration;

use watchbill_core::ports::{Change, Key};
use watchbill_core::repo::{Entity as _, ParkedTenant};
use watchbill_core::service::NewEvent;
use watchbill_domain::{EventId, Priority, TaskId};
use watchbill_recorder::Recorder;

use crate::world::*;

const LEFT: Duration = Duration::from_secs(30);

struct Fed {
    world: World,
    seen: u64,
}

impl Fed {
    fn new(seed: u64) -> Self {
        Self { world: World::new(seed, 0), seen: 0 }
    }

    fn new_changes(&mut self) -> Vec<Change> {
        let changes = self.world.store.changes(self.seen, usize::MAX);
        self.seen = changes.last().map_or(self.seen, |(seq, _)| *seq);
        changes.into_iter().map(|(_, change)| change).collect()
    }

    /// Runs one invocation.
    async fn record(&mut self, recorder: &Recorder) {
        let changes = self.new_changes();
        recorder.record_invocation(&changes, LEFT).await.unwrap();
    }

    fn times_sent(&self) -> BTreeMap<EventId, usize> {
        let mut times = BTreeMap::new();
        for (_, event) in self.world.bus.events() {
            *times.entry(event.event_id).or_default() += 1;
        }
        times
    }

    fn assert_sent_once(&self, what: &str) {
        let again: Vec<_> = self.times_sent().into_iter().filter(|(_, times)| *times > 1).collect();
        assert_eq!(again, [], "{what}: sent again");
    }

    async fn publish_as(&self, id: &str, source: &str) {
        let new = NewEvent {
            tenant: tenant(),
            event_type: "deploy.failed".into(),
            source_agent: source.into(),
            payload: serde_json::Map::from_iter([(id.to_owned(), id.into())]),
            task_id: Some(TaskId::parse(id).unwrap()),
            trace_id: Some(id.to_owned()),
            priority: None,
            published_by: source.into(),
            event_id: Some(id.to_owned()),
            hops: 0,
        };
        self.world.core.events().publish(new).await.unwrap();
    }
}

/// Lambda may restart a function at any time.
#[tokio::test]
async fn a_restarted_recorder_publishes_nothing_again() {
    let mut fed = Fed::new(1);
    for n in 0..12 {
        // Small batches, after which the counts are saved, and full ones, after which they are
        // not.
        let many = if n % 3 == 2 { 300 } else { 1 + n };
        for _ in 0..many {
            fed.world.create(Priority::P2).await;
        }
        fed.world.publish(n).await;
        fed.record(&fed.world.recorder()).await;
        let idle = fed.world.recorder();
        catch_up(&idle).await;
        idle.save().await.unwrap();
        fed.world.clock.advance(Duration::from_secs(600));
    }
    assert!(fed.times_sent().len() > 1_200);
    fed.assert_sent_once("a start");
    fed.world.assert_counts().await;
}

/// Each recorder knows what the others published, and what it published itself, whatever else it
/// must reload.
#[tokio::test]
async fn recorders_that_take_turns_send_nothing_again() {
    let mut fed = Fed::new(2);
    let recorders = [fed.world.recorder(), fed.world.recorder(), fed.world.recorder()];
    for n in 0..30 {
        fed.world.create(Priority::P2).await;
        fed.record(&recorders[n % 3]).await;
    }
    assert_eq!(fed.times_sent().len(), 30);
    fed.assert_sent_once("turns");
    fed.world.assert_counts().await;
}

/// A process that ends after publishing and before saving its position.
#[tokio::test]
async fn after_a_crash_no_more_than_one_call_is_sent_again() {
    let mut fed = Fed::new(3);
    for n in 0..10 {
        fed.world.create(Priority::P2).await;
        let changes = fed.new_changes();
        let dying = fed.world.recorder();
        match n {
            5 => drop(dying.record(&changes).await.unwrap()),
            _ => dying.record_invocation(&changes, LEFT).await.unwrap(),
        }
    }
    let times: Vec<usize> = fed.times_sent().into_values().collect();
    assert_eq!(times.len(), 10);
    assert!(times.iter().sum::<usize>() <= 11, "{times:?}");
}

/// Any agent's key can publish such text, which no transport accepts unescaped.
#[tokio::test]
async fn events_of_any_text_go_out() {
    let mut fed = Fed::new(4);
    let recorder = fed.world.recorder();
    let ids = ["a\u{fffe}", "b\u{ffff}", "\u{fffe}\u{ffff}c", "\u{1fffe}d", "\u{fdd0}e"];
    for id in ids {
        fed.publish_as(id, &format!("ci-{id}")).await;
    }
    fed.record(&recorder).await;
    let sent = fed.world.bus.events();
    let sent: Vec<&str> = sent.iter().map(|(_, event)| event.event_id.as_str()).collect();
    assert_eq!(sent, ids);
    assert!(fed.world.store.items().iter().all(|item| !item.kind.starts_with("parked")));
}

/// Nothing waits for it, even if the bus wants nothing else; it is published once it is
/// accepted.
#[tokio::test]
async fn an_event_refused_for_its_content_is_parked_at_once() {
    for alone in [true, false] {
        let mut fed = Fed::new(5);
        let recorder = fed.world.recorder();
        let id = EventId::parse("e-0").unwrap();
        fed.world.bus.never_take([id.clone()]);
        for n in 0..if alone { 1 } else { 4 } {
            fed.world.publish(n).await;
        }
        fed.record(&recorder).await;
        let parked = |fed: &Fed| {
            let items = fed.world.store.items();
            items.iter().filter(|item| &*item.kind == "parked").count()
        };
        assert_eq!(parked(&fed), 1, "alone: {alone}");
        fed.world.publish(9).await;
        fed.record(&recorder).await;
        assert!(fed.times_sent().contains_key(&EventId::parse("e-9").unwrap()));
        fed.assert_sent_once("those beside it");
        fed.world.bus.never_take([]);
        fed.world.clock.advance(Duration::from_secs(3_600));
        for item in fed.world.store.items().iter().filter(|item| *item.kind == *ParkedTenant::KIND)
        {
            fed.world.core.parking().ask(item).await.unwrap();
        }
        fed.record(&recorder).await;
        assert_eq!(parked(&fed), 0);
        assert_eq!(fed.times_sent()[&id], 1, "it is replayed");
    }
}

/// What the loop could not read is parked by its key, and recorded from its item.
#[tokio::test]
async fn unreadable_changes_are_parked_and_recorded_from_their_item() {
    let mut fed = Fed::new(6);
    let recorder = fed.world.recorder();
    let id = fed.world.create(Priority::P2).await;
    let lost = fed.new_changes();
    let key = watchbill_core::repo::task_key(&tenant(), &id);
    recorder.keep(&key, None, "on purpose").await.unwrap();
    recorder.keep(&Key::new("T#default#led#0", "000000000001"), Some(1), "not ours").await.unwrap();
    recorder.keep(&Key::new("nobody's", "0"), None, "not ours").await.unwrap();
    assert_eq!(lost.len(), 1, "the change itself never comes");
    let summary = fed.world.core.parking().summary().await.unwrap();
    assert_eq!((summary.items, summary.tenants), (1, 1));
    fed.world.clock.advance(Duration::from_secs(3_600));
    for item in fed.world.store.items().iter().filter(|item| *item.kind == *ParkedTenant::KIND) {
        fed.world.core.parking().ask(item).await.unwrap();
    }
    fed.record(&recorder).await;
    fed.world.assert_whole().await;
    assert!(fed.world.store.items().iter().all(|item| !item.kind.starts_with("parked")));
}
