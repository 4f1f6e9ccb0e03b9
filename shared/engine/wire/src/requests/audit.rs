use watchbill_core::service::{AUDIT_KINDS, AuditFilter};
use watchbill_domain::TaskId;

use super::queries::{LIMIT, cursor_field, limit};
use super::{ANY_ID, line};
use crate::form::{BadForm, Field, Form, Kind};

/// `GET /audit`.
#[derive(Clone, Debug)]
pub struct AuditQuery {
    pub filter: AuditFilter,
    pub limit: usize,
    pub cursor: Option<String>,
}

impl AuditQuery {
    pub const FIELDS: &[Field] = &[
        Field::maybe("kind", Kind::Choice(AUDIT_KINDS), "Only entries of this kind."),
        Field::maybe("task", ANY_ID, "Only what is about this task."),
        Field::maybe("actor", line(128), "Only what this one did."),
        Field::maybe("since", Kind::Time, "Only what happened then or later."),
        Field::maybe("until", Kind::Time, "Only what happened then or before."),
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

/// Batches of a page.
const MOST_BATCHES: u64 = 100;

impl BatchQuery {
    pub const FIELDS: &[Field] = &[
        Field::maybe(
            "from",
            Kind::Int { least: 1, most: 999_999_999_999 },
            "The first batch; 1 if left out.",
        ),
        Field::maybe(
            "limit",
            Kind::Int { least: 1, most: MOST_BATCHES },
            "Most batches of a page; 100 if left out. A page ends sooner where batches are large.",
        ),
    ];

    pub fn read(mut form: Form) -> Result<Self, BadForm> {
        let query = Self {
            from: form.int("from").unwrap_or(1),
            limit: form.int("limit").unwrap_or(MOST_BATCHES),
        };
        form.done().map(|()| query)
    }
}
