//! Conformance suite for the store port, one function per guarantee. An adapter runs it with
//! [`store_suite!`](macro@crate::store_suite) and its own constructor.

pub mod commits;
pub mod concurrency;
pub mod feed;
pub mod lists;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use watchbill_core::ports::{
    Change, Commit, CommitError, CounterAdd, Item, Key, ListEntry, NewItem, Precondition, Store,
    Write, WriteId,
};
use watchbill_domain::Timestamp;

/// An initially empty store, with what the suite needs beyond the port.
#[async_trait]
pub trait StoreUnderTest: Send + Sync {
    fn store(&self) -> Arc<dyn Store>;

    /// Follows the change feed after the given number.
    fn follow(&self, after: u64) -> Box<dyn Follow>;

    /// Closes and reopens the store, as a restarted process does. No one else may hold it.
    async fn reopen(&mut self);
}

#[async_trait]
pub trait Follow: Send {
    /// Waits for at least one change and returns up to `max`.
    async fn next(&mut self, max: usize) -> Vec<(u64, Change)>;
}

/// Generates a `#[tokio::test]` for every guarantee: `store_suite!(async { MyStore::new() });`
#[macro_export]
macro_rules! store_suite {
    ($make:expr) => {
        $crate::store_suite! { $make;
            commits::puts_are_read_back_with_their_versions
            commits::a_failed_condition_gives_the_current_item_and_writes_nothing
            commits::our_own_write_is_recognised
            commits::a_commit_is_all_or_nothing
            commits::checks_and_deletes_demand_what_they_say
            commits::counters_keep_their_ceilings
            commits::a_put_keeps_the_counters
            commits::illegal_commits_are_refused
            commits::unknown_bytes_come_back
            commits::collect_gives_a_prefix_in_order
            concurrency::a_version_has_one_writer
            concurrency::many_adders_stop_at_the_ceiling
            concurrency::conflicts_do_not_disturb_their_neighbours
            lists::a_list_is_ordered_and_ranged
            lists::pages_hold_under_inserts
            lists::the_second_list_is_sparse
            lists::due_items_come_the_longest_due_first
            lists::due_pages_go_on_where_they_ended
            feed::every_write_is_in_the_feed_in_order
            feed::a_late_reader_misses_nothing
            feed::a_reader_goes_on_after_a_reopening
        }
    };
    ($make:expr; $($module:ident :: $promise:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let mut under_test = $make.await;
                $crate::store_suite::$module::$promise(&mut under_test).await;
            }
        )+
    };
}

/// A key of the partition `P#<partition>`.
pub fn key(partition: &str, sort: &str) -> Key {
    Key::new(format!("P#{partition}"), sort)
}

pub fn new_item(key: Key, body: &str) -> NewItem {
    NewItem {
        key,
        kind: "thing".into(),
        schema: 3,
        body: Bytes::copy_from_slice(body.as_bytes()),
        list: None,
        list2: None,
        due: None,
        expires: None,
    }
}

pub fn entry(partition: &str, sort: &str) -> Option<ListEntry> {
    Some(ListEntry { partition: partition.into(), sort: sort.into() })
}

pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

pub fn put(item: NewItem, expect: Precondition) -> Write {
    Write::Put { item, expect }
}

pub fn create(key: Key, body: &str) -> Write {
    put(new_item(key, body), Precondition::Absent)
}

pub fn replace(key: Key, body: &str, version: u64) -> Write {
    put(new_item(key, body), Precondition::Version(version))
}

pub fn add(key: Key, name: &'static str, delta: i64, ceiling: Option<i64>) -> Write {
    Write::Add {
        key,
        kind: "counter",
        adds: vec![CounterAdd { name, delta, ceiling }],
        expires: None,
    }
}

/// Commits under the write id `id`.
pub async fn commit(
    store: &Arc<dyn Store>,
    id: u128,
    writes: impl Into<Vec<Write>>,
) -> Result<(), CommitError> {
    store.commit(Commit { id: WriteId(id), writes: writes.into() }).await
}

/// Makes a commit that must succeed.
pub async fn done(store: &Arc<dyn Store>, id: u128, writes: impl Into<Vec<Write>>) {
    commit(store, id, writes).await.expect("no other writer conflicts with this commit");
}

/// The key and current item that a conflict reports.
pub fn conflict(result: Result<(), CommitError>) -> (Key, Option<Item>) {
    match result {
        Err(CommitError::Conflict { key, current }) => (key, current.map(|item| *item)),
        other => panic!("a conflict was due, not {other:?}"),
    }
}

pub async fn get(store: &Arc<dyn Store>, key: &Key) -> Option<Item> {
    store.get(key).await.expect("a key can be read")
}

pub async fn body(store: &Arc<dyn Store>, key: &Key) -> Option<String> {
    let item = get(store, key).await?;
    Some(String::from_utf8(item.body.to_vec()).expect("the suite writes text"))
}
