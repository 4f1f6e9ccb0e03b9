//! The recorder of one tenant: what it remembers between batches.

use std::sync::Arc;
use std::time::Duration;

use watchbill_core::domain::{Event, EventType, LogEntry, TenantId, Timestamp};
use watchbill_core::handler::HandlerError;
use watchbill_core::ledger::{Batch, Entry, Head, LedgerReader, MAX_BATCH_BYTES, entries_of};
use watchbill_core::ports::{Bus, Commit, CommitError, Expect, Topic, Write};
use watchbill_core::repo::{self, LedgerPeek};
use watchbill_core::service::{Core, older_log};

use crate::folds::{Ahead, Folds};
use crate::recent::Recent;
use crate::recorded::{Recorded, Subject};

/// Clocks of two machines may differ by this much.
const SKEW: Duration = Duration::from_secs(5);
/// About what one entry weighs in JSON, for cutting batches.
const ENTRY_BYTES: usize = 400;
const TRIES: u32 = 64;

pub struct TenantRecorder {
    tenant: TenantId,
    ledger: LedgerReader,
    head: Head,
    recent: Recent,
    folds: Folds,
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
        let folds = Folds::open(core, &ledger, tenant.clone(), head.seq).await?;
        let recorder = Self {
            // Nothing is known yet, so the first change has the ledger read back to its time.
            recent: Recent::since(core.clock().now().max(head.recorded_at).plus(2 * SKEW)),
            tenant,
            ledger,
            head,
            folds,
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
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut ahead = self.folds.ahead(&core.rules().reputation);
            let batch = batch_of(&mut entries, &mut ahead);
            let batch = self.append(core, batch).await?;
            self.folds.appended(&batch, ahead);
            self.publish(core, bus, &batch).await?;
            self.head.published = batch.seq;
            self.folds.save_if_due(core, batch.seq).await?;
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

    /// Keeps the folds with the batch they go up to.
    pub async fn save(&mut self, core: &Core) -> Result<(), HandlerError> {
        self.folds.save(core, self.head.seq).await
    }
}

/// As many of the entries as one batch holds, each with the records that it brings.
fn batch_of(
    entries: &mut std::iter::Peekable<impl Iterator<Item = Entry>>,
    ahead: &mut Ahead<'_>,
) -> Vec<Entry> {
    let chunk = MAX_BATCH_BYTES / ENTRY_BYTES;
    let mut batch = Vec::new();
    let mut bytes = 0;
    while let Some(next) = entries.peek() {
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
