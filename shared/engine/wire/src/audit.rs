//! The audit log, and the ledger's batches for clients that verify the hash chain.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watchbill_core::ledger::{PositionContent, RawBatch};
use watchbill_core::service::{AuditBatches, AuditEntry, AuditPage};
use watchbill_domain::{TaskId, TenantId, Timestamp};

use crate::{rfc3339, schemas};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct AuditList {
    pub success: bool,
    pub count: usize,
    pub entries: Vec<AuditView>,
    pub next_cursor: Option<String>,
    /// Later changes may not be recorded yet. Null if nothing is recorded.
    #[serde(with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::optional_time")]
    pub recorded_until: Option<Timestamp>,
    /// The ledger's newest batch; 0 if there is none.
    pub batch: u64,
}

impl From<AuditPage> for AuditList {
    fn from(page: AuditPage) -> Self {
        let entries: Vec<_> = page.entries.into_iter().map(AuditView::from).collect();
        Self {
            success: true,
            count: entries.len(),
            entries,
            next_cursor: page.next_cursor,
            recorded_until: page.recorded_until,
            batch: page.batch,
        }
    }
}

/// One entry of the audit log.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuditEntry")]
pub struct AuditView {
    /// The number of the ledger batch that contains the entry.
    pub seq: u64,
    /// Its position in the batch, from 1.
    pub place: usize,
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub at: Timestamp,
    pub kind: String,
    /// Who did it: a key's name, a token's `sub`, an agent's run, or `watchbill` itself.
    pub actor: String,
    /// What it was done to.
    pub subject: String,
    pub text: String,
    #[schemars(schema_with = "schemas::optional_id")]
    pub task_id: Option<TaskId>,
    /// The task's version after the change.
    pub version: Option<u64>,
    pub details: Map<String, Value>,
    pub trace_id: Option<String>,
}

impl From<AuditEntry> for AuditView {
    fn from(entry: AuditEntry) -> Self {
        let AuditEntry { seq, place, at, kind, actor, subject, text, task_id, version, .. } = entry;
        let (details, trace_id) = (entry.details, entry.trace_id);
        Self { seq, place, at, kind, actor, subject, text, task_id, version, details, trace_id }
    }
}

/// Batches of the ledger as stored, so that a client can verify the hash chain itself.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct BatchList {
    pub success: bool,
    #[schemars(schema_with = "schemas::id")]
    pub tenant_id: TenantId,
    pub count: usize,
    pub batches: Vec<PlaceView>,
    /// The newest batch that the server knows of. A missing batch before it was removed.
    pub seen: u64,
    /// Where the next page begins; null at the end.
    pub next: Option<u64>,
}

impl BatchList {
    pub fn new(tenant: TenantId, page: AuditBatches) -> Self {
        let batches: Vec<_> =
            page.batches.into_iter().map(|(seq, found)| PlaceView::new(seq, found)).collect();
        Self {
            success: true,
            tenant_id: tenant,
            count: batches.len(),
            batches,
            seen: page.seen,
            next: page.next,
        }
    }
}

/// A position in the ledger and its content.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "LedgerPlace")]
pub struct PlaceView {
    pub seq: u64,
    /// Null if there is no batch, or none that can be read.
    pub batch: Option<BatchView>,
    /// Why there is no batch: `missing`, or what makes it unreadable.
    pub fault: Option<String>,
}

/// The batch's hash is SHA-256 over: `tenant_id`, a zero byte, `digests`, a zero byte (all four
/// omitted if `digests` is null), `seq` and `recorded_at` in milliseconds since 1970 (eight
/// bytes each, big endian), `previous`, `lines`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "LedgerBatch")]
pub struct BatchView {
    pub tenant_id: String,
    /// The number stored in the batch.
    pub seq: u64,
    /// RFC 3339 with milliseconds.
    pub recorded_at: String,
    /// Hash of the previous batch, in hex; empty for the first batch.
    pub previous: String,
    /// Hash of this batch, in hex.
    pub hash: String,
    /// For each line the first four bytes of its SHA-256, in hex.
    pub digests: Option<String>,
    /// JSON, one entry per line, each line ended by a line feed.
    pub lines: String,
}

const MISSING: &str = "missing";

impl PlaceView {
    fn new(seq: u64, found: PositionContent) -> Self {
        let (batch, fault) = match found {
            PositionContent::Batch(batch) => (Some(BatchView::from(batch)), None),
            PositionContent::Unreadable(reason) => (None, Some(reason)),
            PositionContent::Missing => (None, Some(MISSING.to_owned())),
        };
        Self { seq, batch, fault }
    }
}

impl From<RawBatch> for BatchView {
    fn from(batch: RawBatch) -> Self {
        Self {
            tenant_id: batch.tenant.to_string(),
            seq: batch.seq,
            recorded_at: batch.recorded_at.to_string(),
            previous: batch.previous,
            hash: batch.hash,
            digests: batch.digests,
            // We only write UTF-8. Other bytes are replaced, so the hash rightly does not
            // match.
            lines: String::from_utf8_lossy(&batch.lines).into_owned(),
        }
    }
}

impl From<PlaceView> for PositionContent {
    /// The batch in the form that the verifier takes.
    fn from(place: PlaceView) -> Self {
        let Some(batch) = place.batch else {
            return match place.fault {
                Some(fault) if fault != MISSING => PositionContent::Unreadable(fault),
                _ => PositionContent::Missing,
            };
        };
        let tenant = TenantId::parse(&batch.tenant_id).map_err(|e| e.to_string());
        let recorded_at = Timestamp::parse(&batch.recorded_at).map_err(|e| e.to_string());
        match (tenant, recorded_at) {
            (Ok(tenant), Ok(recorded_at)) => PositionContent::Batch(RawBatch {
                tenant,
                seq: batch.seq,
                recorded_at,
                previous: batch.previous,
                hash: batch.hash,
                published: 0,
                digests: batch.digests,
                lines: batch.lines.into_bytes(),
            }),
            (Err(reason), _) | (_, Err(reason)) => PositionContent::Unreadable(reason),
        }
    }
}
