//! Appends changes to the ledger, then sends their events out, wakes followers and folds
//! what is derived.
//!
//! A change may come twice, also a day later: what is recorded already is found in the
//! ledger's suffix since the change's own time. Dying between appending and publishing is
//! made good by the next run, which publishes again under the same event ids.
//!
//! One tenant's fault holds up no other. What can't be recorded is parked: an item's key and the
//! first version that is missing, put if absent in the same call. Later changes of a parked key
//! join it. Only where even that fails does the feed wait, and where another recorder is always
//! faster, which is nobody's fault.
//!
//! - `recorded`: a change that the ledger is to hold. `recent`: what it holds already.
//! - `tenant`: appends, for one tenant. `publish`: publishes. `place`: how far that came. `folds`:
//!   what is derived from its ledger.
//! - `replay`: records what was parked. `fault`: why something was.
//! - `host`: what hosts call. `aws`: the stream's handler on Lambda.
//!
//! How to add a fold: its state and its kept item in `folds`, with what it brings in `Ahead`.

#[cfg(feature = "lambda")]
mod aws;
mod fault;
mod folds;
mod host;
mod place;
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
pub use aws::Recording;

use fault::Fault;
use recorded::{Changed, Recorded};
use tenant::{From, TenantRecorder};

/// How often a tenant's changes are tried in one call before they are parked.
const MAX_ATTEMPTS: u32 = 3;
/// An invocation with so many changes may be one of several that follow at once.
const FULL_BATCH: usize = 250;
/// The same where another recorder appends to the same ledger: each try has one winner.
const MAX_CONTENDED: u32 = 16;
/// How many tries of parked changes the store may fail before it counts as down for all of them:
/// enough to get from a full replay to a single change by halves.
const MAX_PROBES: u32 = 8;
/// Between two tries; doubled where the store fails.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Where another recorder was faster again and again, until the changes come again.
const CONTENDED_DELAY: Duration = Duration::from_millis(500);
/// So long after others were faster they count as being at the same ledger.
const SHARED_FOR: Duration = Duration::from_secs(300);
/// How long one call publishes and replays: what is left then waits for the next.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Kept back of the time that a call has, for parking what was not done.
const MARGIN: Duration = Duration::from_secs(5);
/// A tenant whose changes were parked is not tried before this; doubled up to the most. Its
/// changes are parked right away, so that trying costs the others little.
const QUARANTINE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

pub struct Recorder {
    core: Core,
    bus: Arc<dyn Bus>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tenants: BTreeMap<TenantId, TenantRecorder>,
    /// Up to which batch of each ledger this process has published: true whatever fails.
    sent: HashMap<TenantId, Arc<AtomicU64>>,
    /// Ledgers at which others were faster lately, and until when that counts.
    shared: HashMap<TenantId, Duration>,
    faulty: HashMap<TenantId, Faulty>,
    /// When the call at work should be done, on the monotonic clock.
    until: Duration,
}

/// A tenant for which the store failed.
struct Faulty {
    times: u32,
    /// On the monotonic clock.
    until: Duration,
    reason: String,
}

/// What a tenant's recorder is asked to do.
enum Work {
    Record(Vec<Recorded>, From),
    Publish,
}

/// What a try to record came to.
#[derive(Default)]
struct Attempted<'a> {
    /// Ledger entries.
    recorded: usize,
    failed: Vec<Failed<'a>>,
    /// The store fails for the tenant as a whole.
    faulty: Option<String>,
    /// Another recorder was always faster: what is missing should come again.
    contended: Option<String>,
}

/// A change that was not recorded, and why.
struct Failed<'a> {
    change: Changed<'a>,
    reason: String,
    /// The fault is this change's own, and no other's.
    own: bool,
}

impl<'a> Attempted<'a> {
    fn fail(&mut self, changes: Vec<Changed<'a>>, fault: &Fault, own: bool) {
        let reason = fault.to_string();
        let failed = |change| Failed { change, reason: reason.clone(), own };
        self.failed.extend(changes.into_iter().map(failed));
    }
}

/// How the tries of one call went so far.
#[derive(Default)]
struct Tries {
    contended: u32,
    failed: u32,
    /// Something was recorded: the tenant's ledger takes what is right.
    done: bool,
}

/// What comes after a try that failed.
enum NextStep {
    Again,
    Halves,
    /// The change is at fault.
    Alone,
    /// Nothing of the tenant can be recorded for now.
    All,
    /// No time is left for the rest.
    Rest,
    /// The rest comes again, by the feed or by the next replay.
    Contended,
}

impl Recorder {
    pub fn new(core: Core, bus: Arc<dyn Bus>) -> Self {
        Self { core, bus, state: Mutex::default() }
    }

    /// Records a batch of changes, or parks what it can't record. Answers how many ledger
    /// entries that gave. An error means: the whole batch again, later.
    pub async fn record(&self, changes: &[Change]) -> Result<usize, HandlerError> {
        self.record_within(changes, MAX_TIME).await
    }

    async fn record_within(
        &self,
        changes: &[Change],
        time: Duration,
    ) -> Result<usize, HandlerError> {
        let mut by_tenant: BTreeMap<TenantId, Vec<Changed<'_>>> = BTreeMap::new();
        let mut asked = BTreeSet::new();
        for change in newest(changes) {
            let item = change.item;
            let Some(tenant) = tenant_of(&item.key) else { continue };
            if Changed::is_recordable(&item.kind) {
                by_tenant.entry(tenant).or_default().push(change);
            } else if *item.kind == *ParkedTenant::KIND {
                asked.insert(tenant);
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
        for tenant in asked {
            if self.is_over(&state) {
                // It is asked for again.
                tracing::debug!(%tenant, "no time is left for the replay of tenant {tenant}");
                break;
            }
            match self.replay(&mut state, &tenant).await {
                Ok(replayed) => recorded += replayed,
                // It is asked for again.
                Err(error) => {
                    tracing::debug!(%tenant, "parked changes of {tenant} stay parked: {error}");
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
    ) -> Result<Attempted<'a>, HandlerError> {
        let now = self.core.clock().monotonic();
        let attempted = match state.faulty.get(tenant) {
            Some(faulty) if now < faulty.until => {
                let reason = &faulty.reason;
                let failed = |change| Failed { change, reason: reason.clone(), own: false };
                let failed = changes.into_iter().map(failed).collect();
                Attempted { failed, ..Attempted::default() }
            }
            _ => self.attempt(state, tenant, changes, From::Feed).await,
        };
        if let Some(Failed { reason, .. }) = attempted.failed.first() {
            let all: Vec<ToPark> =
                attempted.failed.iter().map(|failed| to_park(&failed.change)).collect();
            // Not to be able to park is the one fault that holds the feed.
            let parked = self.core.parking().park(tenant, &all, reason).await;
            parked.map_err(|error| held(tenant, &error))?;
        }
        // Not before that: a store that is down for all is no fault of this tenant's.
        if let Some(reason) = &attempted.faulty {
            self.mark_faulty(state, tenant, reason);
        }
        Ok(attempted)
    }

    /// Records what can be recorded. Of changes that fail together those that fail alone are
    /// found by halves; of what was parked before also where the store fails, because it may be
    /// one of them that it does not take.
    async fn attempt<'a>(
        &self,
        state: &mut State,
        tenant: &TenantId,
        changes: Vec<Changed<'a>>,
        from: From,
    ) -> Attempted<'a> {
        let mut attempted = Attempted::default();
        let mut open = vec![changes];
        let mut tries = Tries::default();
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
                NextStep::Contended if from == From::Feed => {
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
        tries: &mut Tries,
        fault: &Fault,
        changes: usize,
        from: From,
    ) -> NextStep {
        match fault {
            Fault::Contended(_) if tries.contended < MAX_CONTENDED => {
                tries.contended += 1;
                let random = (self.core.entropy().next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                self.core.clock().sleep(RETRY_DELAY.mul_f64(random)).await;
                NextStep::Again
            }
            Fault::Change(_) if changes > 1 => NextStep::Halves,
            Fault::Change(_) => NextStep::Alone,
            Fault::Store(_) if from == From::Feed && tries.failed + 1 < MAX_ATTEMPTS => {
                self.core.clock().sleep(RETRY_DELAY * (1 << tries.failed)).await;
                tries.failed += 1;
                NextStep::Again
            }
            Fault::Store(_)
                if from == From::Parked && (tries.done || tries.failed < MAX_PROBES) =>
            {
                tries.failed += 1;
                if changes > 1 { NextStep::Halves } else { NextStep::Alone }
            }
            Fault::Store(_) => NextStep::All,
            Fault::Contended(_) => NextStep::Contended,
        }
    }

    fn mark_faulty(&self, state: &mut State, tenant: &TenantId, reason: &str) {
        let times = state.faulty.get(tenant).map_or(0, |faulty| faulty.times);
        let wait = QUARANTINE.0.saturating_mul(1 << times.min(16)).min(QUARANTINE.1);
        let until = self.core.clock().monotonic() + wait;
        let faulty = Faulty { times: times + 1, until, reason: reason.to_owned() };
        state.faulty.insert(tenant.clone(), faulty);
    }

    /// One try. After a fault nothing of what the tenant's recorder remembered is believed.
    async fn work(&self, state: &mut State, tenant: &TenantId, work: Work) -> Result<usize, Fault> {
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
            // What an earlier process appended and may not have sent out.
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
                if matches!(fault, Fault::Contended(_)) {
                    let until = self.core.clock().monotonic() + SHARED_FOR;
                    state.shared.insert(tenant.clone(), until);
                }
                Err(fault)
            }
            Err(panic) => {
                let fault = Fault::panicked(&*panic);
                tracing::error!(%tenant, "recording for tenant {tenant} {fault}");
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

/// Reads changes. One that can't be read, also one that only a newer build can read, has
/// failed, and its neighbours have not.
fn read<'a>(
    changes: Vec<Changed<'a>>,
    failed: &mut Vec<Failed<'a>>,
) -> (Vec<Changed<'a>>, Vec<Recorded>) {
    let mut readable = Vec::with_capacity(changes.len());
    let mut all = Vec::with_capacity(changes.len());
    for change in changes {
        let read = catch_unwind(AssertUnwindSafe(|| change.read()))
            .map_err(|panic| Fault::panicked(&*panic).to_string())
            .and_then(|read| read.map_err(|error| error.to_string()));
        match read {
            Ok(recorded) => {
                readable.push(change);
                all.push(recorded);
            }
            Err(reason) => {
                let key = &change.item.key;
                tracing::error!(%key, "change of {key} can't be recorded: {reason}");
                failed.push(Failed { change, reason, own: true });
            }
        }
    }
    (readable, all)
}

/// One for each item, in the order of their last changes: the newest image holds the log of
/// them all, so that only that one is read.
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
