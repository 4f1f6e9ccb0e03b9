//! Routes for the audit log and the ledger batches that contain it.

use http::Method;
use watchbill_domain::Role;
use watchbill_wire::{AuditList, AuditQuery, BatchList, BatchQuery};

use crate::req::Req;
use crate::route::{Access, Doc, HandlerResult, Route, Success, json_as_is_of, json_of};

pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/audit",
        access: Access::Needs(Role::Admin),
        handler: |req| Box::pin(list(req)),
        doc: Doc {
            text: "Newest first: who did what to tasks, approvals, keys, policy and limits. The \
                   records are complete up to `recorded_until`. A page may be empty and still have \
                   a cursor, because each call searches only a part.",
            query: AuditQuery::FIELDS,
            errors: &[400, 404, 503],
            ..Doc::new(
                "Audit",
                "list_audit",
                "List audit records",
                Success::Json(|g| g.subschema_for::<AuditList>()),
            )
        },
    },
    Route {
        method: Method::GET,
        path: "/audit/batches",
        access: Access::Needs(Role::Admin),
        handler: |req| Box::pin(batches(req)),
        doc: Doc {
            text: "The tenant's ledger batch by batch, each with the hash of the previous one, to \
                   verify the chain without trusting this server, as `watchbill audit verify` \
                   does.",
            query: BatchQuery::FIELDS,
            errors: &[400, 503],
            ..Doc::new(
                "Audit",
                "list_audit_batches",
                "List the ledger's batches",
                Success::Json(|g| g.subschema_for::<BatchList>()),
            )
        },
    },
];

async fn list(req: Req) -> HandlerResult {
    let query = AuditQuery::read(req.query(AuditQuery::FIELDS))?;
    let tenant = &req.caller().tenant;
    let page = req.core().audit().list(tenant, &query.filter, query.limit, query.cursor).await?;
    json_of(req.core(), page.bytes, AuditList::from(page)).await
}

async fn batches(req: Req) -> HandlerResult {
    let query = BatchQuery::read(req.query(BatchQuery::FIELDS))?;
    let tenant = &req.caller().tenant;
    let page = req.core().audit().batches(tenant, query.from, query.limit).await?;
    let bytes = page.bytes;
    // Records were redacted before they were written; changing a word now would break the
    // hashes.
    let list = BatchList::new(tenant.clone(), page);
    json_as_is_of(req.core(), bytes, list).await
}
