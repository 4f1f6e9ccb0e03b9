//! Shared by the services: the ports, the rules, the unreadable items, and the one way to commit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use watchbill_domain::{TaskId, TenantId};

use super::ServiceError;
use crate::decide::{DecisionContext, EngineConfig};
use crate::ledger::LedgerReader;
use crate::offload::BlockingPool;
use crate::ports::{
    Blobs, Clock, Commit, CommitError, Entropy, Item, Key, Store, StoreError, Topic, Wake, Write,
};
use crate::repo::{Entity, Versioned, decode};

/// How often a commit is repeated while the store is busy or its response is lost.
const MAX_REPEATS: u32 = 8;
/// Pause before a commit whose response was lost is repeated; exponential backoff follows.
const LOST_DELAY: Duration = Duration::from_millis(5);
/// The longest pause between two repeats.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The ports that the services use.
#[derive(Clone)]
pub struct Ports {
    pub store: Arc<dyn Store>,
    pub blobs: Arc<dyn Blobs>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub wake: Arc<dyn Wake>,
}

/// The basis of every service. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Context(Arc<Shared>);

struct Shared {
    ports: Ports,
    rules: Arc<EngineConfig>,
    epoch: u64,
    offload: BlockingPool,
    unreadable: Mutex<BTreeMap<Key, String>>,
}

/// The condition of a commit that did not hold; nothing was written.
#[derive(Debug)]
pub struct Conflict {
    pub key: Key,
    /// The item as it is now.
    pub item: Option<Box<Item>>,
}

/// Why a commit was abandoned. Only after `Busy` and `Illegal` is it certain that nothing was
/// written.
#[derive(Debug, thiserror::Error)]
pub enum TransactError {
    #[error("the store is busy; try again in {after:?}")]
    Busy { after: Duration },
    /// A response was lost and no repeat got one: the writes may have happened or not.
    #[error("the outcome of the commit is unknown: {reason}")]
    Unknown { reason: String },
    #[error("illegal commit: {reason}")]
    Illegal { reason: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Context {
    pub(super) fn new(ports: Ports, rules: Arc<EngineConfig>, epoch: u64) -> Self {
        let (offload, unreadable) = (BlockingPool::default(), Mutex::default());
        Self(Arc::new(Shared { ports, rules, epoch, offload, unreadable }))
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.ports.store
    }

    pub fn blobs(&self) -> &Arc<dyn Blobs> {
        &self.0.ports.blobs
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.ports.clock
    }

    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.0.ports.entropy
    }

    pub fn wake(&self) -> &Arc<dyn Wake> {
        &self.0.ports.wake
    }

    pub fn rules(&self) -> &Arc<EngineConfig> {
        &self.0.rules
    }

    /// The store's current epoch; leases of earlier epochs are void.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Runs long work.
    pub fn offload(&self) -> &BlockingPool {
        &self.0.offload
    }

    pub(super) fn unreadable(&self) -> &Mutex<BTreeMap<Key, String>> {
        &self.0.unreadable
    }

    /// A tenant's ledger, read within the concurrency limit for long work.
    pub fn ledger(&self, tenant: &TenantId) -> LedgerReader {
        LedgerReader::new(self.store().clone(), tenant.clone()).within(self.offload().clone())
    }

    /// The context of a decision, besides the state it is taken on.
    pub fn facts(&self) -> DecisionContext<'_> {
        DecisionContext {
            now: self.clock().now(),
            epoch: self.epoch(),
            random: self.entropy().next_u64(),
            rules: self.rules(),
        }
    }

    /// Reads an entity by its key, strongly consistent.
    pub async fn load<E: Entity>(&self, key: &Key) -> Result<Option<Versioned<E>>, ServiceError> {
        let item = self.store().get(key).await?;
        Ok(item.as_ref().map(decode).transpose()?)
    }

    /// Commits a transaction. While the store is busy it is retried with growing pauses; if the
    /// response was lost it is repeated under the same write id, so that it happens once. Both
    /// end with an error after some seconds. A conflict is returned: the caller loads, decides
    /// and builds its writes again.
    pub async fn transact(
        &self,
        writes: Vec<Write>,
    ) -> Result<Result<(), Conflict>, TransactError> {
        self.transact_within(writes, Duration::MAX).await
    }

    /// The same for a caller that cannot wait so long: all pauses together are no longer than
    /// `patience`. With zero patience the store is asked once.
    pub async fn transact_within(
        &self,
        writes: Vec<Write>,
        patience: Duration,
    ) -> Result<Result<(), Conflict>, TransactError> {
        let id = self.entropy().write_id();
        let (mut lost, mut paused) = (None, Duration::ZERO);
        for repeat in 0.. {
            let commit = Commit { id, writes: writes.clone() };
            let after = match self.store().commit(commit).await {
                Ok(()) => return Ok(Ok(())),
                Err(CommitError::Conflict { key, current }) => {
                    return Ok(Err(Conflict { key, item: current }));
                }
                Err(CommitError::Busy { after }) => after,
                // Same write id: if the commit had happened, the response is our own success.
                Err(CommitError::Unknown { reason }) => {
                    lost = Some(reason);
                    LOST_DELAY
                }
                Err(CommitError::Store(error)) => return Err(error.into()),
                Err(CommitError::Illegal { reason }) => {
                    return Err(TransactError::Illegal { reason });
                }
            };
            let fraction = (self.entropy().next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            let pause = after.saturating_mul(1 << repeat.min(6)).min(MAX_PAUSE);
            let pause = pause.mul_f64(0.5 + fraction / 2.0);
            paused += pause;
            if repeat >= MAX_REPEATS || patience.is_zero() || paused > patience {
                return Err(match lost {
                    Some(reason) => TransactError::Unknown { reason },
                    None => TransactError::Busy { after },
                });
            }
            self.clock().sleep(pause).await;
        }
        unreachable!("the loop returns")
    }

    pub(super) fn wake_task(&self, tenant: &TenantId, id: &TaskId) {
        self.wake().wake(&Topic::Task(tenant.clone(), id.clone()));
    }
}

impl Conflict {
    /// The error for a caller that can only retry its whole request.
    pub fn into_error(self) -> ServiceError {
        ServiceError::Conflict {
            message: format!("{} was changed concurrently; try again", self.key),
        }
    }
}

impl From<TransactError> for ServiceError {
    fn from(error: TransactError) -> Self {
        match error {
            TransactError::Busy { after } => ServiceError::Busy { after },
            TransactError::Unknown { .. } => ServiceError::Busy { after: LOST_DELAY },
            illegal @ TransactError::Illegal { .. } => {
                ServiceError::Down { reason: illegal.to_string() }
            }
            TransactError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy { after } => ServiceError::Busy { after },
            // A rolling deployment: the newer build will answer.
            StoreError::Newer { .. } => ServiceError::Busy { after: Duration::from_secs(5) },
            StoreError::BadCursor(cursor) => ServiceError::Invalid {
                field: "cursor",
                message: format!(
                    "'{cursor}' is not a cursor of this list; leave it out to start over"
                ),
            },
            StoreError::Corrupt { key, reason } => ServiceError::Unreadable { key, reason },
            other => ServiceError::Down { reason: other.to_string() },
        }
    }
}
