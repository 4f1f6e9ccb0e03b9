//! Ports that count a function's calls, and can end the function at one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use watchbill_core::ports::{
    Bus, BusError, Commit, CommitError, DueKey, Item, Key, LaneMessage, Lanes, LanesError, Page,
    Query, Store, StoreError,
};
use watchbill_domain::{Agent, Event, EventType, Priority, TenantId, Timestamp};

/// Counts the external calls of a function, and ends it before or after one of them: a future
/// that reaches that point never completes.
#[derive(Default)]
pub struct Calls {
    seen: AtomicUsize,
    end_at: AtomicUsize,
    end: Notify,
}

impl Calls {
    /// The next function ends at its `n`-th point, counted from 1; 0 means never.
    pub fn end_at(&self, n: usize) {
        self.seen.store(0, Ordering::Relaxed);
        self.end_at.store(n, Ordering::Relaxed);
    }

    pub async fn ended(&self) {
        self.end.notified().await;
    }

    async fn point(&self) {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if seen == self.end_at.load(Ordering::Relaxed) {
            self.end.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// A call with a point before and after it: not made, or made with its response lost.
    async fn around<T>(&self, call: impl Future<Output = T>) -> T {
        self.point().await;
        let answer = call.await;
        self.point().await;
        answer
    }
}

pub struct Counted<T: ?Sized> {
    pub inner: Arc<T>,
    pub calls: Arc<Calls>,
}

#[async_trait]
impl Lanes for Counted<dyn Lanes> {
    async fn enqueue(&self, messages: Vec<(LaneMessage, Duration)>) -> Result<(), LanesError> {
        self.calls.around(self.inner.enqueue(messages)).await
    }

    async fn backlog(&self, agent: Agent, priority: Priority) -> Result<u64, LanesError> {
        self.inner.backlog(agent, priority).await
    }
}

#[async_trait]
impl Bus for Counted<dyn Bus> {
    fn wants(&self, tenant: &TenantId, event_type: &EventType) -> bool {
        self.inner.wants(tenant, event_type)
    }

    async fn publish(&self, tenant: &TenantId, events: &[Event]) -> Result<(), BusError> {
        self.calls.around(self.inner.publish(tenant, events)).await
    }
}

#[async_trait]
impl Store for Counted<dyn Store> {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        self.calls.around(self.inner.get(key)).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Item>>, StoreError> {
        self.calls.around(self.inner.get_many(keys)).await
    }

    async fn collect(&self, partition: &str, prefix: &str) -> Result<Vec<Item>, StoreError> {
        self.calls.around(self.inner.collect(partition, prefix)).await
    }

    async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        self.calls.around(self.inner.commit(commit)).await
    }

    async fn query(&self, query: Query) -> Result<Page<Key>, StoreError> {
        self.calls.around(self.inner.query(query)).await
    }

    async fn due(
        &self,
        shard: u8,
        until: Timestamp,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<DueKey>, StoreError> {
        self.calls.around(self.inner.due(shard, until, limit, cursor)).await
    }
}
