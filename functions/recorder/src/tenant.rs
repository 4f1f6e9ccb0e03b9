//! The recorder of one tenant: what it remembers between batches.

use std::sync::Arc;
use std::time::Duration;

use watchbill_core::domain::{Event, EventType, LogEntry, TenantId, Timestamp};
use watchbill_core::govern::Record;
use watchbill_core::handler::HandlerError;
use watchbill_core::ledger::{
    Batch, Entry, Head, LedgerReader, MAX_BATCH_BYTES, StatsFold, entries_of,
};
use watchbill_core::ports::{Bus, Commit, CommitError, Expect, Topic, Write};
use watchbill_core::repo::{self, Fold, LedgerPeek, Versioned, decode, encode};
use watchbill_core::service::{Core, STATS_FOLD, older_log};

use crate::recent::Recent;

/// Clocks of two machines may differ by this much.
const SKEW: Duration = Duration::from_secs(5);
/// The folds are kept after this many batches.
const SAVE_EVERY: u64 = 64;
/// About what one entry weighs in JSON, for cutting batches.
const ENTRY_BYTES: usize = 400;
const TRIES: u32 = 64;

/// A change that the ledger is to hold.
pub struct Recorded {
    key: Arc<str>,
    /// The first version that it is about; the log may hold later ones.
    version: u64,
    what: Subject,
}

enum Subject {
    Task(Box<LedgerPeek>),
    Event(Box<Event>),
    Record(Box<Record>),
}

impl Recorded {
    pub fn task(key: Arc<str>, version: u64, task: LedgerPeek) -> Self {
        Self { key, version, what: Subject::Task(Box::new(task)) }
    }

    pub fn event(key: Arc<str>, version: u64, event: Event) -> Self {
        Self { key, version, what: Subject::Event(Box::new(event)) }
    }

    pub fn record(key: Arc<str>, version: u64, record: Record) -> Self {
        Self { key, version, what: Subject::Record(Box::new(record.clean())) }
    }

    /// The last version that it is about.
    fn last(&self) -> u64 {
        match &self.what {
            Subject::Event(_) | Subject::Record(_) => self.version,
            Subject::Task(task) => task.log.last().map_or(self.version, |entry| entry.version),
        }
    }

    /// When the change happened, or a moment before it where the header no longer says.
    fn at(&self) -> Timestamp {
        match &self.what {
            Subject::Event(event) => event.timestamp,
            Subject::Record(record) => record.at,
            Subject::Task(task) => {
                let of_version = |entry: &&LogEntry| entry.version <= self.version;
                task.log.iter().rev().find(of_version).map_or(task.created_at, |entry| entry.at)
            }
        }
    }
}

pub struct TenantRecorder {
    tenant: TenantId,
    ledger: LedgerReader,
    head: Head,
    recent: Recent,
    stats: StatsFold,
    /// Version of the fold's item, and up to which batch it goes.
    saved: (Option<u64>, u64),
}

impl TenantRecorder {
    /// Reads the head, brings the fold up to it and publishes again what an earlier process
    /// may have left unpublished.
    pub async fn open(
        core: &Core,
        bus: &Arc<dyn Bus>,
        tenant: TenantId,
    ) -> Result<Self, HandlerError> {
        let ledger = LedgerReader::new(core.store().clone(), tenant.clone());
        let head = ledger.head().await?;
        let kept = core.store().get(&repo::fold_key(&tenant, STATS_FOLD)).await?;
        let kept: Option<Versioned<Fold>> = kept.as_ref().map(decode).transpose()?;
        let mut stats = StatsFold::default();
        let mut applied = 0;
        if let Some(kept) = &kept
            && let Ok(state) = serde_json::from_value(kept.value.state.clone())
        {
            stats = state;
            applied = kept.value.seq_applied;
        }
        for seq in applied + 1..=head.seq {
            if let Some(batch) = ledger.batch(seq).await? {
                stats.apply(&batch);
            }
        }
        let recorder = Self {
            // Nothing is known yet, so the first change has the ledger read back to its time.
            recent: Recent::since(core.clock().now().max(head.recorded_at).plus(2 * SKEW)),
            saved: (kept.as_ref().map(|kept| kept.version), applied),
            tenant,
            ledger,
            head,
            stats,
        };
        for seq in recorder.head.published + 1..=recorder.head.seq {
            if let Some(batch) = recorder.ledger.batch(seq).await? {
                recorder.publish(core, bus, &batch).await?;
            }
        }
        Ok(recorder)
    }

    pub async fn record(
        &mut self,
        core: &Core,
        bus: &Arc<dyn Bus>,
        changes: Vec<Recorded>,
    ) -> Result<(), HandlerError> {
        self.remember_back_to(&changes).await?;
        let now = core.clock().now();
        let mut entries = Vec::with_capacity(2 * changes.len());
        for change in changes {
            entries.extend(self.entries(core, change, now).await?);
        }
        let chunk = MAX_BATCH_BYTES / ENTRY_BYTES;
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while let Some(next) = entries.peek() {
                let weight = weight(next);
                if !batch.is_empty() && (batch.len() >= chunk || bytes + weight > MAX_BATCH_BYTES) {
                    break;
                }
                bytes += weight;
                batch.extend(entries.next());
            }
            let batch = self.append(core, batch).await?;
            self.publish(core, bus, &batch).await?;
            self.head.published = batch.seq;
            self.stats.apply(&batch);
            if batch.seq >= self.saved.1 + SAVE_EVERY || self.saved.0.is_none() {
                self.save(core).await?;
            }
        }
        Ok(())
    }

    /// Makes sure that what was recorded since the oldest of these changes is known.
    async fn remember_back_to(&mut self, changes: &[Recorded]) -> Result<(), HandlerError> {
        let oldest = changes.iter().map(Recorded::at).min();
        let Some(oldest) = oldest.filter(|at| !self.recent.covers(at.minus(SKEW))) else {
            return Ok(());
        };
        let since = oldest.minus(SKEW);
        let mut recent = Recent::since(since);
        if let Some(first) = self.ledger.first_since(since).await? {
            for seq in first..=self.head.seq {
                let Some(batch) = self.ledger.batch(seq).await? else { continue };
                for entry in &batch.entries {
                    let (key, version) = self.place_of(entry);
                    recent.note(&key, version, batch.recorded_at);
                }
            }
        }
        self.recent = recent;
        Ok(())
    }

    fn place_of(&self, entry: &Entry) -> (Arc<str>, u64) {
        match entry {
            Entry::Task(entry) => {
                (repo::task_partition(&self.tenant, &entry.task), entry.change.version)
            }
            Entry::Published(event) => {
                (repo::event_key(&self.tenant, &event.event_id).partition, 1)
            }
            Entry::Record(record) => (repo::record_key(&self.tenant, &record.id).partition, 1),
        }
    }

    /// What of a change is not recorded yet.
    async fn entries(
        &mut self,
        core: &Core,
        change: Recorded,
        now: Timestamp,
    ) -> Result<Vec<Entry>, HandlerError> {
        // Changes of one key come in order and without a gap, so everything before this
        // version had its own turn.
        let known = self.recent.version(&change.key);
        let recorded = known.unwrap_or(change.version - 1);
        let last = change.last();
        if recorded >= last {
            return Ok(Vec::new());
        }
        let entries = match change.what {
            Subject::Event(event) => vec![Entry::Published(*event)],
            Subject::Record(record) => vec![Entry::Record(record)],
            Subject::Task(task) => {
                let older = self.older(core, &task, recorded).await?;
                entries_of(*task, older, recorded)
            }
        };
        self.recent.note(&change.key, last, now);
        Ok(entries)
    }

    /// Log entries that left the header before they were recorded; rarely any.
    async fn older(
        &self,
        core: &Core,
        task: &LedgerPeek,
        recorded: u64,
    ) -> Result<Vec<LogEntry>, HandlerError> {
        let first = task.log.first().map_or(0, |entry| entry.version);
        if first <= recorded + 1 {
            return Ok(Vec::new());
        }
        let partition = repo::task_partition(&self.tenant, &task.id);
        let items = core.store().collect(&partition, repo::LOGS).await?;
        Ok(older_log(&items)?)
    }

    /// Appends by put-if-absent at the next number. Another recorder at the same ledger is
    /// noticed by it; then this one gives up and reads anew.
    async fn append(&mut self, core: &Core, entries: Vec<Entry>) -> Result<Batch, HandlerError> {
        // Never before the batch before it, nor before what it holds, also where a clock was
        // set back: batches are found by this time, and the newest by being last.
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
        let id = core.entropy().write_id();
        for _ in 0..TRIES {
            let writes = vec![Write::Put { item: item.clone(), expect: Expect::Absent }];
            match core.store().commit(Commit { id, writes }).await {
                Ok(()) => {
                    self.head.seq = batch.seq;
                    self.head.hash.clone_from(&batch.hash);
                    self.head.recorded_at = batch.recorded_at;
                    return Ok(batch);
                }
                Err(CommitError::Busy { after }) => core.clock().sleep(after).await,
                Err(CommitError::Unknown { .. }) => {
                    core.clock().sleep(Duration::from_millis(20)).await;
                }
                Err(CommitError::Conflict { .. }) => {
                    let reason = format!("ledger batch {} was written by another", batch.seq);
                    return Err(HandlerError::retry(Duration::from_millis(50), reason));
                }
                Err(CommitError::Store(error)) => return Err(error.into()),
                Err(CommitError::Illegal { reason }) => {
                    return Err(HandlerError::retry(Duration::from_secs(5), reason));
                }
            }
        }
        Err(HandlerError::retry(Duration::from_secs(1), "the store stays busy"))
    }

    async fn publish(
        &self,
        core: &Core,
        bus: &Arc<dyn Bus>,
        batch: &Batch,
    ) -> Result<(), HandlerError> {
        core.wake().wake(&Topic::Ledger(self.tenant.clone()));
        // Most events interest nobody here, and making one costs more than asking.
        let wanted = |event_type: &EventType| bus.wants(&self.tenant, event_type);
        let events: Vec<Event> =
            batch.entries.iter().flat_map(|entry| entry.events_where(wanted)).collect();
        if events.is_empty() {
            return Ok(());
        }
        bus.publish(&self.tenant, &events)
            .await
            .map_err(|error| HandlerError::retry(Duration::from_secs(1), error.to_string()))
    }

    /// Keeps the fold with the batch it goes up to.
    pub async fn save(&mut self, core: &Core) -> Result<(), HandlerError> {
        if self.saved.1 == self.head.seq && self.saved.0.is_some() {
            return Ok(());
        }
        let fold = Fold {
            tenant: self.tenant.clone(),
            name: STATS_FOLD.to_owned(),
            seq_applied: self.head.seq,
            state: serde_json::to_value(&self.stats).expect("counts are plain JSON"),
        };
        let expect = self.saved.0.map_or(Expect::Absent, Expect::Version);
        let writes = vec![Write::Put { item: encode(&fold, None), expect }];
        let id = core.entropy().write_id();
        match core.store().commit(Commit { id, writes }).await {
            Ok(()) => {
                self.saved = (Some(self.saved.0.unwrap_or(0) + 1), self.head.seq);
                Ok(())
            }
            // Kept later: the ledger has it all.
            Err(CommitError::Busy { .. } | CommitError::Unknown { .. }) => Ok(()),
            Err(CommitError::Store(error)) => Err(error.into()),
            Err(CommitError::Conflict { .. }) => {
                Err(HandlerError::retry(Duration::from_millis(50), "another recorder is at work"))
            }
            Err(CommitError::Illegal { reason }) => {
                Err(HandlerError::retry(Duration::from_secs(5), reason))
            }
        }
    }
}

fn at_of(entry: &Entry) -> Timestamp {
    match entry {
        Entry::Published(event) => event.timestamp,
        Entry::Record(record) => record.at,
        Entry::Task(entry) => entry.change.at,
    }
}

/// About how many bytes of JSON an entry takes.
fn weight(entry: &Entry) -> usize {
    match entry {
        Entry::Published(event) => {
            ENTRY_BYTES + serde_json::to_vec(&event.payload).map_or(0, |json| json.len())
        }
        Entry::Record(record) => {
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
