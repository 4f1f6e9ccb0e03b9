//! Requests for the audit log and for batches of the ledger.

use watchbill_core::service::{AUDIT_KINDS, AuditFilter};
use watchbill_domain::TaskId;

use super::queries::{LIMIT, cursor_field, limit};
use super::{ANY_ID, line};
use crate::form::{BadForm, Field, FieldType, Form};

/// `GET /audit`.
#[derive(Clone, Debug)]
pub struct AuditQuery {
    pub filter: AuditFilter,
    pub limit: usize,
    pub cursor: Option<String>,
}

impl AuditQuery {
    pub const FIELDS: &[Field] = &[
        Field::optional("kind", FieldType::Choice(AUDIT_KINDS), "Only entries of this kind."),
        Field::optional("task", ANY_ID, "Only entries about this task."),
        Field::optional("actor", line(128), "Only entries of this actor."),
        Field::optional("since", FieldType::Time, "Only entries at or after this time."),
        Field::optional("until", FieldType::Time, "Only entries at or before this time."),
        LIMIT,
        cursor_field!("a1", "/audit", AUDIT),
    ];

    pub fn read(mut form: Form) -> Result<Self, BadForm> {
        let filter = AuditFilter {
            kind: form.text("kind"),
            task: form.parsed("task", TaskId::parse),
            actor: form.text("actor"),
            since: form.time("since"),
            until: form.time("until"),
        };
        let query = Self { filter, limit: limit(&mut form), cursor: form.text("cursor") };
        form.done().map(|()| query)
    }
}

/// `GET /audit/batches`.
#[derive(Clone, Copy, Debug)]
pub struct BatchQuery {
    pub from: u64,
    pub limit: u64,
}

/// Maximum batches of a page.
const MAX_BATCHES: u64 = 100;

impl BatchQuery {
    pub const FIELDS: &[Field] = &[
        Field::optional(
            "from",
            FieldType::Int { least: 1, most: 999_999_999_999 },
            "The first batch; default 1.",
        ),
        Field::optional(
            "limit",
            FieldType::Int { least: 1, most: MAX_BATCHES },
            "Maximum number of batches on a page; default 100. Pages of large batches have fewer.",
        ),
    ];

    pub fn read(mut form: Form) -> Result<Self, BadForm> {
        let query = Self {
            from: form.int("from").unwrap_or(1),
            limit: form.int("limit").unwrap_or(MAX_BATCHES),
        };
        form.done().map(|()| query)
    }
}
