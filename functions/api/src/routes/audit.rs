//! The audit, and the ledger's batches under it.

use watchbill_domain::Role;
use watchbill_wire::{AuditList, AuditQuery, BatchList, BatchQuery};

use crate::req::Req;
use crate::route::{Access, Answer, Doc, Route, Success, Verb, json_as_is_of, json_of};

pub const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/audit",
        access: Access::Needs(Role::Admin),
        handler: |req| Box::pin(list(req)),
        doc: Doc {
            text: "Newest first: what was done to tasks, approvals, keys, policy and limits, by \
                   whom. `recorded_until` says up to when it is recorded. A page may be empty and \
                   still have a cursor: it has looked at a part only.",
            query: AuditQuery::FIELDS,
            errors: &[400, 404, 503],
            ..Doc::new(
                "Audit",
                "list_audit",
                "Who did what",
                Success::Json(|g| g.subschema_for::<AuditList>()),
            )
        },
    },
    Route {
        verb: Verb::Get,
        path: "/audit/batches",
        access: Access::Needs(Role::Admin),
        handler: |req| Box::pin(batches(req)),
        doc: Doc {
            text: "The tenant's ledger as it stands, batch by batch, each with the hash of the one \
                   before: for verifying the chain without trusting this server's word, as \
                   `watchbill audit verify` does.",
            query: BatchQuery::FIELDS,
            errors: &[400, 503],
            ..Doc::new(
                "Audit",
                "list_audit_batches",
                "The chain of the ledger",
                Success::Json(|g| g.subschema_for::<BatchList>()),
            )
        },
    },
];

async fn list(req: Req) -> Answer {
    let query = AuditQuery::read(req.query(AuditQuery::FIELDS))?;
    let tenant = &req.caller().tenant;
    let page = req.core().audit().list(tenant, &query.filter, query.limit, query.cursor).await?;
    json_of(req.core(), page.bytes, AuditList::from(page)).await
}

async fn batches(req: Req) -> Answer {
    let query = BatchQuery::read(req.query(BatchQuery::FIELDS))?;
    let tenant = &req.caller().tenant;
    let page = req.core().audit().batches(tenant, query.from, query.limit).await?;
    let bytes = page.bytes;
    // What was recorded was clean, and with another word in it the hashes would not fit.
    let list = BatchList::new(tenant.clone(), page);
    json_as_is_of(req.core(), bytes, list).await
}
