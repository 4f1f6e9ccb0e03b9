//! The store on one on-demand DynamoDB table. Its stream of new images is the change feed.
//!
//! | attribute | holds |
//! |---|---|
//! | `pk`, `sk` (S) | the key |
//! | `v` (N), `w` (B) | version; write id, 16 bytes |
//! | `k` (S), `s` (N), `b` (B) | kind, schema, body; an empty body has no `b` |
//! | `l1`, `l1s`, `l2`, `l2s` (S) | partition and sort of the first and the second list |
//! | `ds` (S), `d` (N) | due shard `00` to `31`, due time in ms |
//! | `x`, `xm` (N) | expiry in s, rounded up (for DynamoDB's TTL); in ms if not whole seconds |
//! | `c_<name>` (N) | counters |
//!
//! Three indexes, all KEYS_ONLY and eventually consistent: `list1` (l1, l1s), `list2` (l2,
//! l2s), `due` (ds, d).
//!
//! **Cost.** A single write is one conditional `PutItem`, `UpdateItem` or `DeleteItem`. Several
//! are a transaction, at twice the price. A put over a known version is an `UpdateItem`,
//! because the item may have counters unknown to the writer; both calls cost the same.
//!
//! **Idempotence.** The SDK retries a request whose answer was lost. A put or an addition whose
//! condition fails on an item with our write id was already applied. A transaction also carries
//! a token made from the write id, by which DynamoDB recognizes a retry for ten minutes. A
//! single delete leaves no trace: its retry is a conflict with an absent item.
//!
//! **Expiry.** DynamoDB removes each item by its own `x`, usually within a few days, and
//! ignores an `x` more than five years past. Until then it is visible. A header's removal
//! removes no other items, so the core gives each item next to a header its own expiry, later
//! than the header's; without one it would stay for ever.
//!
//! **Limits** that the port lacks: 2,048 bytes for a partition, 1,024 for a sort, 400 KB for an
//! item, 4 MB for a transaction. Commits beyond them are illegal.

mod failure;
mod item;
mod lists;
mod stream;
mod write;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::BehaviorVersion;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use aws_types::SdkConfig;
use futures_util::future::try_join_all;
use watchbill_core::ports::{
    Commit, CommitError, DueKey, Item, Key, Page, Precondition, Query, Store, StoreError, Write,
};
use watchbill_domain::Timestamp;

use failure::{BUSY, read_failure};
use item::{decode, fits, key_map, key_of, storable};
pub use stream::{BadRecord, key_and_version, read_change};

/// Key limit of BatchGetItem.
const BATCH: usize = 100;

/// Consecutive empty answers before a batch counts as throttled.
const EMPTY_ANSWERS: u32 = 5;

/// A client for functions that run 30 to 60 seconds: three attempts of at most three seconds
/// each, ten seconds in all.
pub fn client(config: &SdkConfig) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(1))
        .operation_attempt_timeout(Duration::from_secs(3))
        .operation_timeout(Duration::from_secs(10))
        .build();
    // DynamoDB answers in milliseconds; the SDK's default backoff starts at a second.
    let retries = RetryConfig::standard()
        .with_max_attempts(3)
        .with_initial_backoff(Duration::from_millis(50));
    let config = aws_sdk_dynamodb::config::Builder::from(config)
        .behavior_version(BehaviorVersion::latest())
        .timeout_config(timeouts)
        .retry_config(retries)
        .build();
    Client::from_conf(config)
}

/// The store on a table. Clones share connections.
#[derive(Clone)]
pub struct DynamoStore {
    client: Client,
    table: Arc<str>,
}

impl DynamoStore {
    /// Use [`client`] to make the client.
    pub fn new(client: Client, table: impl Into<Arc<str>>) -> Self {
        Self { client, table: table.into() }
    }

    /// The existing items of up to [`BATCH`] distinct keys.
    async fn batch(&self, keys: &[&Key]) -> Result<HashMap<Key, Item>, StoreError> {
        let mut found = HashMap::with_capacity(keys.len());
        let mut open: Vec<HashMap<String, AttributeValue>> =
            keys.iter().map(|key| key_map(key)).collect();
        let mut empty_answers = 0;
        while !open.is_empty() {
            let asked = KeysAndAttributes::builder()
                .set_keys(Some(open))
                .consistent_read(true)
                .build()
                .expect("the keys are set");
            let answer = self
                .client
                .batch_get_item()
                .request_items(&*self.table, asked)
                .send()
                .await
                .map_err(|e| read_failure(&e))?;
            let rows = answer.responses.unwrap_or_default().remove(&*self.table);
            let rows = rows.unwrap_or_default();
            for row in &rows {
                let item = decode(row)?;
                found.insert(item.key.clone(), item);
            }
            let left = answer.unprocessed_keys.unwrap_or_default().remove(&*self.table);
            open = left.map(|left| left.keys).unwrap_or_default();
            if open.is_empty() {
                break;
            }
            // A large answer comes in parts and needs no pause; an empty one is a throttle.
            empty_answers = if rows.is_empty() { empty_answers + 1 } else { 0 };
            if empty_answers == EMPTY_ANSWERS {
                return Err(StoreError::Busy { after: BUSY });
            }
            if empty_answers > 0 {
                tokio::time::sleep(Duration::from_millis(25) * (1 << empty_answers)).await;
            }
        }
        Ok(found)
    }
}

#[async_trait]
impl Store for DynamoStore {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        if !storable(key) {
            return Ok(None);
        }
        let answer = self
            .client
            .get_item()
            .table_name(&*self.table)
            .set_key(Some(key_map(key)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|e| read_failure(&e))?;
        answer.item.as_ref().map(decode).transpose()
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        if let [key] = keys {
            return Ok(vec![self.get(key).await?]);
        }
        // A batch must not name a key twice.
        let mut seen = HashSet::with_capacity(keys.len());
        let unique: Vec<&Key> =
            keys.iter().filter(|key| storable(key) && seen.insert(*key)).collect();
        let batches = try_join_all(unique.chunks(BATCH).map(|keys| self.batch(keys))).await?;
        let found = |key: &Key| batches.iter().find_map(|batch| batch.get(key)).cloned();
        Ok(keys.iter().map(found).collect())
    }

    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError> {
        self.collect_each(partition, prefix).await?.into_iter().collect()
    }

    async fn collect_each(
        &self,
        partition: &str,
        prefix: &str,
    ) -> Result<Vec<Result<Item, StoreError>>, StoreError> {
        if !fits(partition, if prefix.is_empty() { "0" } else { prefix }) {
            return Ok(Vec::new());
        }
        let (mut items, mut start) = (Vec::new(), None);
        loop {
            let mut request = self
                .client
                .query()
                .table_name(&*self.table)
                .consistent_read(true)
                .expression_attribute_values(":pk", AttributeValue::S(partition.to_owned()))
                .set_exclusive_start_key(start);
            // DynamoDB does not compare keys with an empty string.
            request = if prefix.is_empty() {
                request.key_condition_expression("pk = :pk")
            } else {
                request
                    .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
                    .expression_attribute_values(":sk", AttributeValue::S(prefix.to_owned()))
            };
            let answer = request.send().await.map_err(|e| read_failure(&e))?;
            for row in answer.items() {
                items.push(decode(row));
            }
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(items);
            }
        }
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        commit.check_legal()?;
        match <[Write; 1]>::try_from(commit.writes) {
            Ok([Write::Put { item, expect: Precondition::Absent }]) => {
                self.create(item, commit.id).await
            }
            Ok([Write::Put { item, expect: Precondition::Version(version) }]) => {
                self.replace(item, version, commit.id).await
            }
            Ok([Write::Delete { key, expect }]) => self.delete(key, expect).await,
            Ok([Write::Check { key, expect }]) => self.check(key, expect).await,
            Ok([add @ Write::Add { .. }]) => self.transact(vec![add], commit.id).await,
            Err(writes) => self.transact(writes, commit.id).await,
        }
    }

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError> {
        self.list_page(query).await
    }

    async fn due(
        &self,
        shard: u8,
        until: Timestamp,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<DueKey>, StoreError> {
        self.due_page(shard, until, limit, cursor).await
    }
}

/// For a row whose key can't be read.
fn unnamed(reason: impl Into<String>) -> StoreError {
    StoreError::Corrupt { key: Key::new("?", "?"), reason: reason.into() }
}

fn row_key(row: &HashMap<String, AttributeValue>) -> Result<Key, StoreError> {
    key_of(row).map_err(unnamed)
}
