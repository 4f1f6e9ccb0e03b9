//! The recorder of one tenant: what it caches between batches, and how it appends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use watchbill_core::ledger::{Batch, Entry, Head, LedgerReader, MAX_BATCH_BYTES, entries_of};
use watchbill_core::ports::{Bus, Precondition, Topic, Write};
use watchbill_core::repo::{self, LedgerPeek, ParkedKey};
use watchbill_core::service::{Core, ToPark, older_log};
use watchbill_domain::{LogEntry, TenantId, Timestamp};

use crate::error::RecordError;
use crate::projections::{PendingProjection, Projections};
use crate::publish::Publishing;
use crate::recent::RecordedVersions;
use crate::recorded::{Recorded, RecordedItem};

/// Maximum clock difference between machines.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(5);
/// Approximate JSON size of an entry in bytes, for splitting batches.
const ENTRY_BYTES: usize = 400;
/// Maximum total pause of an append while the store is busy: five or six attempts with DynamoDB,
/// which asks for 100 ms. After that the changes are parked.
const MAX_PAUSES: Duration = Duration::from_secs(2);

pub struct TenantRecorder {
    pub(crate) tenant: TenantId,
    pub(crate) ledger: LedgerReader,
    pub(crate) head: Head,
    pub(crate) recent: RecordedVersions,
    pub(crate) publishing: Publishing,
    pub(crate) projections: Projections,
    /// The last batch that this process has published or parked.
    pub(crate) sent: Arc<AtomicU64>,
    /// Until when other recorders count as active on this ledger, on the monotonic clock.
    pub(crate) shared_until: Duration,
}

/// Where changes come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The feed: changes of a parked item join it.
    Feed,
    /// A replay of parked changes.
    Parked,
}

impl TenantRecorder {
    /// Reads the head and brings the projections up to it.
    pub async fn open(
        core: &Core,
        tenant: TenantId,
        sent: Arc<AtomicU64>,
        shared_until: Duration,
    ) -> Result<Self, RecordError> {
        let ledger = LedgerReader::new(core.store().clone(), tenant.clone());
        let head = ledger.head().await?;
        let projections = Projections::open(core, &ledger, tenant.clone(), head.seq).await?;
        let mut opened = Self {
            // Nothing is known yet, so the first change makes the ledger be read back to its
            // time.
            recent: RecordedVersions::since(
                core.clock().now().max(head.recorded_at).plus(2 * CLOCK_SKEW),
            ),
            publishing: Publishing::default(),
            tenant,
            ledger,
            head,
            projections,
            sent,
            shared_until,
        };
        // The newest batch contains the position of those before it.
        opened.note_place();
        opened.find_place(core).await?;
        Ok(opened)
    }

    /// Appends what is not recorded yet and publishes it, as far as there is time. Returns the
    /// number of entries.
    pub async fn record(
        &mut self,
        core: &Core,
        bus: &Arc<dyn Bus>,
        changes: Vec<Recorded>,
        from: Source,
        until: Duration,
    ) -> Result<usize, RecordError> {
        let changes = match from {
            Source::Feed => self.join_parked(core, changes).await?,
            Source::Parked => changes,
        };
        let open = self.unrecorded(core, changes).await?;
        let now = core.clock().now();
        let mut entries = Vec::with_capacity(2 * open.len());
        for (change, known) in open {
            entries.extend(self.entries(change, known, now));
        }
        let recorded = entries.len();
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut ahead = self.projections.ahead(&core.rules().reputation);
            let batch = batch_of(&mut entries, &mut ahead);
            let batch = self.append(core, batch).await?;
            self.projections.appended(&batch, ahead);
            core.wake().wake(&Topic::Ledger(self.tenant.clone()));
            self.publish(core, bus, Some(&batch), until).await?;
            if self.projections.save_if_due(core, batch.seq, self.head.published).await? {
                self.note_place();
            }
        }
        Ok(recorded)
    }

    /// Removes changes of parked items and parks them too, so that an item's changes are
    /// recorded in order. One read for all of them, and none for items whose previous change
    /// this recorder handled.
    async fn join_parked(
        &mut self,
        core: &Core,
        changes: Vec<Recorded>,
    ) -> Result<Vec<Recorded>, RecordError> {
        let unsure =
            |change: &&Recorded| !self.recent.is_settled_before(&change.key, change.version);
        let keys: Vec<Arc<str>> =
            changes.iter().filter(unsure).map(|change| change.key.clone()).collect();
        if keys.is_empty() {
            return Ok(changes);
        }
        let parked = core.parking().find(&self.tenant, &keys).await?;
        let now = core.clock().now();
        let parked: HashMap<Arc<str>, Option<ParkedKey>> = keys
            .into_iter()
            .zip(parked)
            .map(|(key, parked)| (key, parked.map(|parked| parked.value)))
            .collect();
        let (mut join, mut rest) = (Vec::new(), Vec::new());
        for change in changes {
            match parked.get(&change.key) {
                Some(Some(parked)) if parked.first.is_some() => join.push(change.to_park()),
                Some(None) => {
                    self.recent.nothing_parked(&change.key, change.version - 1, now);
                    rest.push(change);
                }
                // Record it; its events wait behind the parked ones.
                Some(Some(_)) | None => rest.push(change),
            }
        }
        core.parking().park(&self.tenant, &join, "an earlier change is parked").await?;
        Ok(rest)
    }

    /// The changes that may not be fully recorded yet, with their item's last recorded version,
    /// if known.
    async fn unrecorded(
        &mut self,
        core: &Core,
        changes: Vec<Recorded>,
    ) -> Result<Vec<(Recorded, Option<u64>)>, RecordError> {
        let mut open = Vec::with_capacity(changes.len());
        let mut oldest: Option<Timestamp> = None;
        for mut change in changes {
            // Changes of one key arrive in order and without a gap, so everything before this
            // version arrived earlier.
            let known = self.recent.version(&change.key);
            let recorded = known.unwrap_or(change.version - 1);
            if recorded >= change.last() {
                self.pass_by(&change, core.clock().now());
                continue;
            }
            if change.lacks_older(recorded)
                && let RecordedItem::Task(task, older) = &mut change.what
            {
                *older = self.older(core, task).await?;
            }
            oldest = oldest.into_iter().chain(change.happened_after(recorded)).min();
            open.push((change, known));
        }
        if let Some(since) = oldest.map(|at| at.minus(CLOCK_SKEW))
            && !self.recent.covers(since)
        {
            self.look_back_to(since, &mut open).await?;
        }
        Ok(open)
    }

    /// Handles a version without log entries, such as one by which an item was only pushed
    /// forward.
    fn pass_by(&mut self, change: &Recorded, now: Timestamp) {
        let brings_nothing = change.last() < change.version;
        if brings_nothing && self.recent.is_settled_before(&change.key, change.version) {
            self.recent.nothing_parked(&change.key, change.version, now);
        }
    }

    /// Reads what was recorded since the earliest of these changes; repeats can be nowhere else.
    /// All of it is cached as far as memory allows, and these items' versions in any case.
    async fn look_back_to(
        &mut self,
        since: Timestamp,
        changes: &mut [(Recorded, Option<u64>)],
    ) -> Result<(), RecordError> {
        let mut wanted: HashMap<Arc<str>, &mut Option<u64>> =
            changes.iter_mut().map(|(change, known)| (change.key.clone(), known)).collect();
        let mut recent = RecordedVersions::since(since);
        if let Some(first) = self.ledger.first_since(since).await? {
            for seq in first..=self.head.seq {
                let Some(batch) = self.ledger.batch(seq).await? else { continue };
                for entry in &batch.entries {
                    let (key, version) = self.place_of(entry);
                    recent.note(&key, version, batch.recorded_at);
                    if let Some(known) = wanted.get_mut(&key) {
                        **known = (**known).max(Some(version));
                    }
                }
            }
        }
        self.recent = recent;
        Ok(())
    }

    /// The partition and version of the item that an entry belongs to.
    pub(crate) fn place_of(&self, entry: &Entry) -> (Arc<str>, u64) {
        match entry {
            Entry::Task(entry) => {
                (repo::task_partition(&self.tenant, &entry.task), entry.change.version)
            }
            Entry::Published(event) => {
                (repo::event_key(&self.tenant, &event.event_id).partition, 1)
            }
            Entry::AuditRecord(record) => (repo::record_key(&self.tenant, &record.id).partition, 1),
        }
    }

    /// The entries of a change that are not recorded yet.
    fn entries(&mut self, change: Recorded, known: Option<u64>, now: Timestamp) -> Vec<Entry> {
        let recorded = known.unwrap_or(change.version - 1);
        let last = change.last();
        if recorded >= last {
            return Vec::new();
        }
        let entries = match change.what {
            RecordedItem::Event(event) => vec![Entry::Published(*event)],
            RecordedItem::AuditRecord(record) => vec![Entry::AuditRecord(record)],
            RecordedItem::Task(task, older) => entries_of(*task, older, recorded),
        };
        self.recent.note(&change.key, last, now);
        entries
    }

    /// Reads log entries that left the header before they were recorded; rarely any.
    async fn older(&self, core: &Core, task: &LedgerPeek) -> Result<Vec<LogEntry>, RecordError> {
        let partition = repo::task_partition(&self.tenant, &task.id);
        let items = core.store().collect(&partition, repo::LOGS).await?;
        older_log(&items).map_err(|error| RecordError::Change(error.to_string()))
    }

    /// Appends by put-if-absent at the next number. A conflict means that another recorder is
    /// active; the error makes this one reload its state.
    async fn append(&mut self, core: &Core, entries: Vec<Entry>) -> Result<Batch, RecordError> {
        // Never earlier than the previous batch or its own entries, even if a clock was set
        // back: batches are searched by this time, and the newest is the last one.
        let happened = entries.iter().map(at_of).max().unwrap_or_default();
        let recorded_at = core.clock().now().max(self.head.recorded_at).max(happened);
        let (batch, item) = Batch::new(
            self.tenant.clone(),
            self.head.seq + 1,
            recorded_at,
            self.head.hash.clone(),
            self.head.published,
            entries,
        );
        let writes = vec![Write::Put { item, expect: Precondition::Absent }];
        if core.context().transact_within(writes, MAX_PAUSES).await?.is_err() {
            let reason = format!("another recorder wrote ledger batch {}", batch.seq);
            return Err(RecordError::Contended(reason));
        }
        self.head.seq = batch.seq;
        self.head.hash.clone_from(&batch.hash);
        self.head.recorded_at = batch.recorded_at;
        self.note_place();
        Ok(batch)
    }
}

impl Recorded {
    pub fn to_park(&self) -> ToPark {
        let (partition, first) = (self.key.clone(), Some(self.version));
        ToPark { partition, first, last: self.last(), unsent: None }
    }
}

/// Takes as many entries as fit in one batch, each followed by the records that result from it.
fn batch_of(
    entries: &mut std::iter::Peekable<impl Iterator<Item = Entry>>,
    ahead: &mut PendingProjection<'_>,
) -> Vec<Entry> {
    let chunk = MAX_BATCH_BYTES / ENTRY_BYTES;
    let mut batch = Vec::new();
    let mut bytes = 0;
    while let Some(next) = entries.peek_mut() {
        let weighs = weight(next);
        if !batch.is_empty() && (batch.len() >= chunk || bytes + weighs > MAX_BATCH_BYTES) {
            break;
        }
        let records = ahead.records(next);
        bytes += weighs + records.iter().map(weight).sum::<usize>();
        batch.extend(entries.next());
        batch.extend(records);
    }
    batch
}

fn at_of(entry: &Entry) -> Timestamp {
    match entry {
        Entry::Published(event) => event.timestamp,
        Entry::AuditRecord(record) => record.at,
        Entry::Task(entry) => entry.change.at,
    }
}

/// Approximate JSON size of an entry in bytes.
fn weight(entry: &Entry) -> usize {
    match entry {
        Entry::Published(event) => {
            ENTRY_BYTES + serde_json::to_vec(&event.payload).map_or(0, |json| json.len())
        }
        Entry::AuditRecord(record) => {
            ENTRY_BYTES + serde_json::to_vec(record).map_or(0, |json| json.len())
        }
        Entry::Task(entry) => {
            let note = entry.change.note.as_ref().map_or(0, String::len);
            let events = &entry.change.events;
            let payloads: usize = events
                .iter()
                .filter(|event| !event.payload.is_empty())
                .map(|event| serde_json::to_vec(&event.payload).map_or(0, |json| json.len()))
                .sum();
            ENTRY_BYTES + note + payloads
        }
    }
}
