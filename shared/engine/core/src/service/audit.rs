//! The audit log for people and their tools. It is not verified here: for proof, read the
//! batches and verify the chain.

use serde_json::{Map, Value, json};
use watchbill_domain::{ChangeKind, TaskEntry, TenantId};
use watchbill_governance::AuditRecord;

use super::cursor::Cursors;
use super::cursor::cursors::AUDIT;
use super::walk::StoreWalk;
use super::weight::{self, PAGE_BYTES, PageRoom};
use super::{
    AuditBatches, AuditEntry, AuditFilter, AuditPage, Context, Governance, ServiceError, Tenants,
};
use crate::ledger::{Entry, PositionContent, RawBatch, SizedBatch};
use crate::repo;

/// The actor of what no caller requested.
const NOBODY: &str = super::records::SYSTEM;
/// The kind of an entry that represents a batch that fails verification.
const BROKEN: &str = "ledger_broken";

/// Task changes that the audit log shows; claims only where they have a note.
const OF_NOTE: &[ChangeKind] = &[
    ChangeKind::Created,
    ChangeKind::Approved,
    ChangeKind::Voted,
    ChangeKind::Rejected,
    ChangeKind::Expired,
    ChangeKind::Escalated,
    ChangeKind::Claimed,
    ChangeKind::Reclaimed,
    ChangeKind::Resumed,
    ChangeKind::Overridden,
    ChangeKind::Held,
    ChangeKind::Blocked,
    ChangeKind::Answered,
    ChangeKind::Retried,
    ChangeKind::Completed,
    ChangeKind::Failed,
    ChangeKind::Cancelled,
];

/// Every kind of entry in the audit log.
pub const AUDIT_KINDS: &[&str] = &[
    "created",
    "approved",
    "voted",
    "rejected",
    "expired",
    "escalated",
    "claimed",
    "reclaimed",
    "resumed",
    "overridden",
    "held",
    "blocked",
    "answered",
    "retried",
    "completed",
    "failed",
    "cancelled",
    "key_created",
    "key_revoked",
    "tenant_created",
    "token_issued",
    "policy_changed",
    "limits_changed",
    "budget_mark",
    "standing_changed",
    "alert_ended",
    "sealed",
    "changes_lost",
    BROKEN,
];

/// Reads the audit log, and adds the records that belong to no task. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    pub(super) context: Context,
    pub(super) governance: Governance,
    pub(super) tenants: Tenants,
}

impl Audit {
    pub(super) fn new(context: Context, governance: Governance, tenants: Tenants) -> Self {
        Self { context, governance, tenants }
    }

    /// Newest first, in recording order.
    pub async fn list(
        &self,
        tenant: &TenantId,
        filter: &AuditFilter,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<AuditPage, ServiceError> {
        let (ledger, cursors) = (self.context.ledger(tenant), Cursors::new(AUDIT, tenant, ""));
        let newest = ledger.listed_head().await?;
        let mut page = AuditPage { batch: newest, ..AuditPage::default() };
        let head = self.context.store().get(&repo::ledger_key(tenant, newest)).await?;
        page.recorded_until = head.as_ref().and_then(RawBatch::recorded_at);
        // Changes since that time were recorded since that time.
        let first = match filter.since {
            Some(since) => ledger.first_since(since).await?.unwrap_or(newest + 1),
            None => 1,
        };
        let (mut seq, mut before) = match cursor {
            None => (newest, usize::MAX),
            Some(cursor) => cursors.open_batch(&cursor)?,
        };
        let (mut walk, mut room) = (StoreWalk::new(&**self.context.clock()), PageRoom::of_page());
        while seq >= first {
            if walk.is_over() {
                page.next_cursor = Some(cursors.seal_batch(seq, usize::MAX));
                return Ok(page);
            }
            let look = ledger.look(seq).await?;
            walk.read(look.as_ref().and_then(|found| found.as_ref().ok()).map_or(0, |(_, n)| *n));
            if look.is_none() && seq > newest {
                // The list of batches may lag behind a cursor; the batch is not missing.
                seq -= 1;
                continue;
            }
            for entry in audit_of(seq, look).into_iter().rev() {
                if entry.place >= before || !fits(&entry, filter) {
                    continue;
                }
                let place = entry.place;
                if !room.takes(weight::audit_entry(&entry)) {
                    page.next_cursor = Some(cursors.seal_batch(seq, place + 1));
                    return Ok(page);
                }
                page.bytes = room.taken();
                page.entries.push(entry);
                if page.entries.len() == limit {
                    page.next_cursor = Some(cursors.seal_batch(seq, place));
                    return Ok(page);
                }
            }
            before = usize::MAX;
            seq -= 1;
        }
        Ok(page)
    }

    /// The ledger's stored batches from a number on, for callers that verify the chain.
    pub async fn batches(
        &self,
        tenant: &TenantId,
        from: u64,
        limit: u64,
    ) -> Result<AuditBatches, ServiceError> {
        let ledger = self.context.ledger(tenant);
        let seen = ledger.seen().await?;
        let mut page = AuditBatches { seen, batches: Vec::new(), next: None, bytes: 0 };
        let mut walk = StoreWalk::new(&**self.context.clock());
        for seq in from..from.saturating_add(limit) {
            if page.bytes >= PAGE_BYTES || walk.is_over() {
                page.next = Some(seq);
                return Ok(page);
            }
            let found = match self.context.store().get(&repo::ledger_key(tenant, seq)).await? {
                Some(item) => {
                    self.context.offload().run(move |_| PositionContent::from(&item)).await
                }
                None if seq <= seen => PositionContent::Missing,
                None => return Ok(page),
            };
            let weight = match &found {
                PositionContent::Batch(batch) => batch.lines.len(),
                PositionContent::Missing | PositionContent::Unreadable(_) => 0,
            };
            walk.read(weight);
            page.bytes += weight;
            page.batches.push((seq, found));
        }
        page.next = Some(from.saturating_add(limit));
        Ok(page)
    }
}

/// The entries of one batch. A batch that fails verification becomes one entry that reports it,
/// so that it does not hide the other batches.
fn audit_of(seq: u64, look: Option<SizedBatch>) -> Vec<AuditEntry> {
    let batch = match look {
        Some(Ok((batch, _))) => batch,
        Some(Err(error)) => return vec![broken(seq, &error.to_string())],
        None => return vec![broken(seq, &format!("ledger batch {seq} is missing"))],
    };
    let entries = batch.entries.into_iter().enumerate();
    let entries = entries.filter_map(|(place, entry)| match entry {
        Entry::Task(entry) => of_task(seq, place + 1, entry),
        Entry::AuditRecord(record) => Some(of_record(seq, place + 1, *record)),
        Entry::Published(_) => None,
    });
    entries.collect()
}

fn of_task(seq: u64, place: usize, entry: TaskEntry) -> Option<AuditEntry> {
    let change = entry.change;
    let begins =
        matches!(change.what, ChangeKind::Claimed | ChangeKind::Reclaimed | ChangeKind::Resumed);
    if !OF_NOTE.contains(&change.what) || (begins && change.note.is_none()) {
        return None;
    }
    let mut text = match change.before {
        Some(before) => format!("{before} → {}", change.status),
        None => change.status.to_string(),
    };
    if let Some(note) = &change.note {
        text = format!("{text}: {note}");
    }
    let details = json!({
        "status": change.status,
        "type": entry.task_type,
        "priority": entry.priority,
        "agent": entry.agent,
    });
    let mut details = object(details);
    if let Some(before) = change.before {
        details.insert("before".into(), json!(before));
    }
    if let Some(run) = change.run {
        details.insert("run".into(), json!(run));
    }
    Some(AuditEntry {
        seq,
        place,
        at: change.at,
        kind: change.what.as_str().to_owned(),
        actor: if change.by.is_empty() { NOBODY.to_owned() } else { change.by },
        subject: format!("{} task", entry.task_type),
        text,
        task_id: Some(entry.task),
        version: Some(change.version),
        details,
        trace_id: Some(entry.trace_id),
    })
}

fn of_record(seq: u64, place: usize, record: AuditRecord) -> AuditEntry {
    AuditEntry {
        seq,
        place,
        at: record.at,
        kind: record.kind.as_str().to_owned(),
        actor: record.by,
        subject: record.subject,
        text: record.text,
        task_id: record.task,
        version: None,
        details: record.details,
        trace_id: record.trace_id,
    }
}

fn broken(seq: u64, why: &str) -> AuditEntry {
    AuditEntry {
        seq,
        place: 1,
        at: Default::default(),
        kind: BROKEN.to_owned(),
        actor: NOBODY.to_owned(),
        subject: "ledger".to_owned(),
        text: format!("{why}; run 'watchbill audit verify' for details"),
        task_id: None,
        version: None,
        details: Map::new(),
        trace_id: None,
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn fits(entry: &AuditEntry, filter: &AuditFilter) -> bool {
    let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|w| w == found);
    // The time of a broken batch's entries is unknown.
    let in_time = entry.kind == BROKEN
        || (filter.since.is_none_or(|since| entry.at >= since)
            && filter.until.is_none_or(|until| entry.at <= until));
    is(&filter.kind, &entry.kind)
        && is(&filter.actor, &entry.actor)
        && filter.task.as_ref().is_none_or(|task| entry.task_id.as_ref() == Some(task))
        && in_time
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchbill_governance::RecordKind;

    #[test]
    fn every_kind_can_be_filtered_for() {
        let records = RecordKind::ALL.iter().map(|kind| kind.as_str());
        let kinds = OF_NOTE.iter().map(|what| what.as_str()).chain(records).chain([BROKEN]);
        assert_eq!(kinds.collect::<Vec<_>>(), AUDIT_KINDS);
    }
}
