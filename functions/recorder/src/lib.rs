//! Appends changes to the ledger, then publishes their events, wakes followers and updates
//! projections.
//!
//! A change may arrive twice, even a day later: recorded changes are found in the ledger since
//! the change's own time. After a crash between appending and publishing, the next run publishes
//! again under the same event ids.
//!
//! A failure of one tenant does not block others. A change that can't be recorded is parked: its
//! item's key and the first missing version are stored, if absent, in the same call. Later
//! changes of a parked key join it. The feed waits only if parking fails too, or while other
//! recorders keep winning the append, which is not an error.
//!
//! - `recorded`: a change to record. `recent`: what the ledger already has.
//! - `tenant`: appends, for one tenant. `publish`: publishes. `place`: the publish position.
//!   `projections`: the projections of its ledger.
//! - `replay`: records parked changes. `error`: why one was parked.
//! - `host`: what hosts call. `aws`: the stream's handler on Lambda.
//!
//! To add a projection, add its state and stored item to `projections`, and its records to
//! `PendingProjection`.

#[cfg(feature = "lambda")]
mod aws;
mod error;
mod host;
mod place;
mod projections;
mod publish;
mod recent;
mod recorded;
mod replay;
mod tenant;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Mutex;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::{Bus, Change, Key};
use watchbill_core::repo::{Entity as _, ParkedTenant, tenant_of};
use watchbill_core::service::{Core, ServiceError, ToPark};
use watchbill_domain::TenantId;

#[cfg(feature = "lambda")]
pub use aws::RecorderHandler;

use error::RecordError;
use recorded::{Changed, Recorded};
use tenant::{Source, TenantRecorder};

/// Attempts at a tenant's changes in one call before they are parked.
const MAX_ATTEMPTS: u32 = 3;
/// An invocation with this many changes may be one of several in a row.
const FULL_BATCH: usize = 250;
/// Attempts when another recorder appends to the same ledger: each round has one winner.
const MAX_CONTENDED: u32 = 16;
/// Store failures during a replay until it counts as down for all parked changes: enough to
/// narrow a full replay to a single change by bisection.
const MAX_PROBES: u32 = 8;
/// Pause between attempts; exponential backoff if the store fails.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Delay until the feed redelivers changes after other recorders kept winning.
const CONTENDED_DELAY: Duration = Duration::from_millis(500);
/// How long another recorder counts as active on a ledger after it won an append.
const SHARED_FOR: Duration = Duration::from_secs(300);
/// How long one call publishes and replays; the next call does the rest.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Reserved from a call's time for parking what was not done.
const TIME_MARGIN: Duration = Duration::from_secs(5);
/// Backoff of a tenant whose changes were parked, first and longest. Its changes are parked at
/// once meanwhile, so that retries cost the others little.
const QUARANTINE_BACKOFF: (Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(600));

pub struct Recorder {
    core: Core,
    bus: Arc<dyn Bus>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tenants: BTreeMap<TenantId, TenantRecorder>,
    /// The last batch of each ledger that this process has published; valid whatever fails.
    sent: HashMap<TenantId, Arc<AtomicU64>>,
    /// Ledgers where other recorders won lately, and until when that counts.
    shared: HashMap<TenantId, Duration>,
    faulty: HashMap<TenantId, Faulty>,
    /// Deadline of the current call, on the monotonic clock.
    until: Duration,
}

/// A tenant for which the store failed.
struct Faulty {
    times: u32,
    /// On the monotonic clock.
    until: Duration,
    reason: String,
}

/// The work of a tenant's recorder.
enum Work {
    Record(Vec<Recorded>, Source),
    Publish,
}

/// The result of an attempt to record.
#[derive(Default)]
struct RecordAttempt<'a> {
    /// Number of ledger entries.
    recorded: usize,
    failed: Vec<FailedChange<'a>>,
    /// The store fails for the whole tenant.
    faulty: Option<String>,
    /// Another recorder won every time: the missing changes should be redelivered.
    contended: Option<String>,
}

/// A change that was not recorded, and why.
struct FailedChange<'a> {
    change: Changed<'a>,
    reason: String,
    /// The error concerns this change alone.
    own: bool,
}

impl<'a> RecordAttempt<'a> {
    fn fail(&mut self, changes: Vec<Changed<'a>>, fault: &RecordError, own: bool) {
        let reason = fault.to_string();
        let failed = |change| FailedChange { change, reason: reason.clone(), own };
        self.failed.extend(changes.into_iter().map(failed));
    }
}

/// Failed attempts of one call so far.
#[derive(Default)]
struct FailedAttempts {
    contended: u32,
    failed: u32,
    /// Something was recorded, so the tenant's ledger accepts valid changes.
    done: bool,
}

/// What to do after a failed attempt.
enum NextStep {
    Again,
    Halves,
    /// The change is at fault.
    Alone,
    /// Nothing of the tenant can be recorded for now.
    All,
    /// No time is left for the rest.
    Rest,
    /// The rest is redelivered by the feed or retried by the next replay.
    Contended,
}

impl Recorder {
    pub fn new(core: Core, bus: Arc<dyn Bus>) -> Self {
        Self { core, bus, state: Mutex::default() }
    }

    /// Records a batch of changes, or parks what it can't record. Returns the number of new
    /// ledger entries. An error means that the whole batch must be retried later.
    pub async fn record(&self, changes: &[Change]) -> Result<usize, HandlerError> {
        self.record_within(changes, MAX_TIME).await
    }

    async fn record_within(
        &self,
        changes: &[Change],
        time: Duration,
    ) -> Result<usize, HandlerError> {
        let mut by_tenant: BTreeMap<TenantId, Vec<Changed<'_>>> = BTreeMap::new();
        let mut replays = BTreeSet::new();
        for change in newest(changes) {
            let item = change.item;
            let Some(tenant) = tenant_of(&item.key) else { continue };
            if Changed::is_recordable(&item.kind) {
                by_tenant.entry(tenant).or_default().push(change);
            } else if *item.kind == *ParkedTenant::KIND {
                replays.insert(tenant);
            }
        }
        let mut state = self.state.lock().await;
        state.until = self.core.clock().monotonic() + time;
        let mut recorded = 0;
        let mut contended = None;
        for (tenant, changes) in by_tenant {
            let attempted = self.record_or_park(&mut state, &tenant, changes).await?;
            recorded += attempted.recorded;
            contended = contended.or(attempted.contended);
        }
        for tenant in replays {
            if self.is_over(&state) {
                // The replay will be requested again.
                tracing::debug!(%tenant, "no time is left to replay parked changes");
                break;
            }
            match self.replay(&mut state, &tenant).await {
                Ok(replayed) => recorded += replayed,
                // Also requested again.
                Err(error) => {
                    tracing::debug!(%tenant, %error, "parked changes can't be replayed");
                }
            }
        }
        match contended {
            Some(reason) => Err(HandlerError::retry(CONTENDED_DELAY, reason)),
            None => Ok(recorded),
        }
    }

    fn is_over(&self, state: &State) -> bool {
        self.core.clock().monotonic() >= state.until
    }

    async fn record_or_park<'a>(
        &self,
        state: &mut State,
        tenant: &TenantId,
        changes: Vec<Changed<'a>>,
    ) -> Result<RecordAttempt<'a>, HandlerError> {
        let now = self.core.clock().monotonic();
        let attempted = match state.faulty.get(tenant) {
            Some(faulty) if now < faulty.until => {
                let reason = &faulty.reason;
                let failed = |change| FailedChange { change, reason: reason.clone(), own: false };
                let failed = changes.into_iter().map(failed).collect();
                RecordAttempt { failed, ..RecordAttempt::default() }
            }
            _ => self.attempt(state, tenant, changes, Source::Feed).await,
        };
        if let Some(FailedChange { reason, .. }) = attempted.failed.first() {
            let all: Vec<ToPark> =
                attempted.failed.iter().map(|failed| to_park(&failed.change)).collect();
            // Failing to park is the one error that blocks the feed.
            let parked = self.core.parking().park(tenant, &all, reason).await;
            parked.map_err(|error| held(tenant, &error))?;
        }
        // Only after parking: a store that is down for all is not this tenant's fault.
        if let Some(reason) = &attempted.faulty {
            self.mark_faulty(state, tenant, reason);
        }
        Ok(attempted)
    }

    /// Records what can be recorded. Bisection finds the changes that fail alone; for parked
    /// changes also when the store fails, because it may refuse one of them.
    async fn attempt<'a>(
        &self,
        state: &mut State,
        tenant: &TenantId,
        changes: Vec<Changed<'a>>,
        from: Source,
    ) -> RecordAttempt<'a> {
        let mut attempted = RecordAttempt::default();
        let mut open = vec![changes];
        let mut tries = FailedAttempts::default();
        while let Some(some) = open.pop() {
            let (mut readable, read) = read(some, &mut attempted.failed);
            if readable.is_empty() {
                continue;
            }
            let fault = match self.work(state, tenant, Work::Record(read, from)).await {
                Ok(done) => {
                    attempted.recorded += done;
                    tries.done = true;
                    state.faulty.remove(tenant);
                    continue;
                }
                Err(fault) => fault,
            };
            let next = match self.is_over(state) {
                true => NextStep::Rest,
                false => self.next_step(&mut tries, &fault, readable.len(), from).await,
            };
            match next {
                NextStep::Again => open.push(readable),
                NextStep::Halves => {
                    let second = readable.split_off(readable.len() / 2);
                    open.extend([second, readable]);
                }
                NextStep::Alone => attempted.fail(readable, &fault, true),
                NextStep::Contended if from == Source::Feed => {
                    attempted.contended = Some(fault.to_string());
                    break;
                }
                NextStep::All | NextStep::Rest | NextStep::Contended => {
                    if matches!(next, NextStep::All) {
                        attempted.faulty = Some(fault.to_string());
                    }
                    attempted.fail(readable, &fault, false);
                    for rest in open.drain(..) {
                        attempted.fail(rest, &fault, false);
                    }
                }
            }
        }
        attempted
    }

    async fn next_step(
        &self,
        tries: &mut FailedAttempts,
        fault: &RecordError,
        changes: usize,
        from: Source,
    ) -> NextStep {
        match fault {
            RecordError::Contended(_) if tries.contended < MAX_CONTENDED => {
                tries.contended += 1;
                let random = (self.core.entropy().next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                self.core.clock().sleep(RETRY_DELAY.mul_f64(random)).await;
                NextStep::Again
            }
            RecordError::Change(_) if changes > 1 => NextStep::Halves,
            RecordError::Change(_) => NextStep::Alone,
            RecordError::Store(_) if from == Source::Feed && tries.failed + 1 < MAX_ATTEMPTS => {
                self.core.clock().sleep(RETRY_DELAY * (1 << tries.failed)).await;
                tries.failed += 1;
                NextStep::Again
            }
            RecordError::Store(_)
                if from == Source::Parked && (tries.done || tries.failed < MAX_PROBES) =>
            {
                tries.failed += 1;
                if changes > 1 { NextStep::Halves } else { NextStep::Alone }
            }
            RecordError::Store(_) => NextStep::All,
            RecordError::Contended(_) => NextStep::Contended,
        }
    }

    fn mark_faulty(&self, state: &mut State, tenant: &TenantId, reason: &str) {
        let times = state.faulty.get(tenant).map_or(0, |faulty| faulty.times);
        let wait =
            QUARANTINE_BACKOFF.0.saturating_mul(1 << times.min(16)).min(QUARANTINE_BACKOFF.1);
        let until = self.core.clock().monotonic() + wait;
        let faulty = Faulty { times: times + 1, until, reason: reason.to_owned() };
        state.faulty.insert(tenant.clone(), faulty);
    }

    /// One attempt. After an error the tenant's cached state is discarded.
    async fn work(
        &self,
        state: &mut State,
        tenant: &TenantId,
        work: Work,
    ) -> Result<usize, RecordError> {
        let mut recorder = state.tenants.remove(tenant);
        let sent = state.sent.entry(tenant.clone()).or_default().clone();
        let shared_until = state.shared.get(tenant).copied().unwrap_or_default();
        let until = state.until;
        let done = AssertUnwindSafe(async {
            let mut at_work = match recorder.take() {
                Some(recorder) => recorder,
                None => {
                    let tenant = tenant.clone();
                    TenantRecorder::open(&self.core, tenant, sent, shared_until).await?
                }
            };
            let recorded = match work {
                Work::Record(changes, from) => {
                    at_work.record(&self.core, &self.bus, changes, from, until).await?
                }
                Work::Publish => 0,
            };
            // What an earlier process appended and may not have published.
            at_work.publish(&self.core, &self.bus, None, until).await?;
            Ok((at_work, recorded))
        })
        .catch_unwind()
        .await;
        match done {
            Ok(Ok((at_work, recorded))) => {
                state.tenants.insert(tenant.clone(), at_work);
                Ok(recorded)
            }
            Ok(Err(fault)) => {
                if matches!(fault, RecordError::Contended(_)) {
                    let until = self.core.clock().monotonic() + SHARED_FOR;
                    state.shared.insert(tenant.clone(), until);
                }
                Err(fault)
            }
            Err(panic) => {
                let fault = RecordError::panicked(&*panic);
                tracing::error!(%tenant, error = %fault, "changes can't be recorded");
                Err(fault)
            }
        }
    }
}

fn held(tenant: &TenantId, error: &ServiceError) -> HandlerError {
    let reason = format!("changes of tenant {tenant} can't be parked: {error}");
    let after = match error {
        ServiceError::Busy { after } => *after,
        _ => Duration::from_secs(1),
    };
    HandlerError::retry(after, reason)
}

fn to_park(change: &Changed<'_>) -> ToPark {
    let (partition, first) = (change.item.key.partition.clone(), Some(change.first));
    ToPark { partition, first, last: change.item.version, unsent: None }
}

/// Reads changes. An unreadable change (perhaps because only a newer build can read it) fails
/// alone.
fn read<'a>(
    changes: Vec<Changed<'a>>,
    failed: &mut Vec<FailedChange<'a>>,
) -> (Vec<Changed<'a>>, Vec<Recorded>) {
    let mut readable = Vec::with_capacity(changes.len());
    let mut all = Vec::with_capacity(changes.len());
    for change in changes {
        let read = catch_unwind(AssertUnwindSafe(|| change.read()))
            .map_err(|panic| RecordError::panicked(&*panic).to_string())
            .and_then(|read| read.map_err(|error| error.to_string()));
        match read {
            Ok(recorded) => {
                readable.push(change);
                all.push(recorded);
            }
            Err(reason) => {
                let key = &change.item.key;
                tracing::error!(%key, reason, "a change can't be recorded");
                failed.push(FailedChange { change, reason, own: true });
            }
        }
    }
    (readable, all)
}

/// Returns one change per item, ordered by their last changes. The newest image contains the
/// whole log, so only that one is read.
fn newest(changes: &[Change]) -> Vec<Changed<'_>> {
    let mut spans: HashMap<&Key, (u64, usize)> = HashMap::with_capacity(changes.len());
    for (place, change) in changes.iter().enumerate() {
        let span = spans.entry(&change.key).or_insert((change.version, place));
        *span = (span.0.min(change.version), place);
    }
    let newest = changes.iter().enumerate().filter_map(|(place, change)| {
        let (first, last) = spans[&change.key];
        let item = change.image.as_ref().filter(|_| last == place)?;
        Some(Changed { item, first })
    });
    newest.collect()
}
