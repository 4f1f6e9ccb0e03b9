//! Routes for approvals.

use http::Method;
use watchbill_core::service::{FullApproval, Listed};
use watchbill_domain::{ApprovalId, ApprovalStatus, Role};
use watchbill_wire::{
    APPROVAL_ID, ApprovalAnswer, ApprovalDecided, ApprovalHistory, ApprovalList, ApprovalView,
    Field, PageQuery, Reason,
};

use super::tasks::reason;
use crate::req::Req;
use crate::route::{Access, Body, Doc, HandlerResult, Route, Success, json, json_of};

const ID: &[Field] = &[Field::required(
    "id",
    APPROVAL_ID,
    "The approval's id: `approval_<task_id>`, then `approval_<task_id>~2` and so on.",
)];

/// Estimated size of an approval in bytes: it shows up to 16 KB of a payload.
const APPROVAL_BYTES: usize = 16 * 1024;

pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/approvals/pending",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(pending(req)),
        doc: Doc {
            query: PageQuery::PENDING,
            errors: &[400, 404, 503],
            ..Doc::new(
                "Approvals",
                "pending_approvals",
                "List pending approvals",
                Success::Json(|g| g.subschema_for::<ApprovalList>()),
            )
        },
    },
    Route {
        method: Method::GET,
        path: "/approvals/history",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(history(req)),
        doc: Doc {
            query: PageQuery::HISTORY,
            errors: &[400, 404, 503],
            ..Doc::new(
                "Approvals",
                "approval_history",
                "List decided approvals, newest first",
                Success::Json(|g| g.subschema_for::<ApprovalHistory>()),
            )
        },
    },
    Route {
        method: Method::GET,
        path: "/approvals/{id}",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(get(req)),
        doc: Doc {
            path: ID,
            errors: &[400, 404, 503],
            ..Doc::new(
                "Approvals",
                "get_approval",
                "Read an approval",
                Success::Json(|g| g.subschema_for::<ApprovalAnswer>()),
            )
        },
    },
    Route {
        method: Method::POST,
        path: "/approvals/{id}/approve",
        access: Access::Needs(Role::Approver),
        handler: |req| Box::pin(approve(req)),
        doc: Doc {
            text: "Approves exactly the document that was shown, for one use. Nobody may approve \
                   what they submitted themselves, unless the installation allows it. If \
                   `approvals.agents` is on, agents may approve what others submitted.",
            path: ID,
            errors: &[400, 404, 409, 503],
            ..Doc::new(
                "Approvals",
                "approve",
                "Approve",
                Success::Json(|g| g.subschema_for::<ApprovalDecided>()),
            )
        },
    },
    Route {
        method: Method::POST,
        path: "/approvals/{id}/reject",
        access: Access::Needs(Role::Approver),
        handler: |req| Box::pin(reject(req)),
        doc: Doc {
            text: "Cancels the task. If `approvals.agents` is on, agents may reject what others \
                   submitted.",
            path: ID,
            query: Reason::FIELDS,
            body: Some(Body {
                fields: Reason::FIELDS,
                required: false,
                one_of: false,
                example: r#"{"reason":"not before the release"}"#,
            }),
            errors: &[400, 404, 409, 413, 415, 503],
            ..Doc::new(
                "Approvals",
                "reject",
                "Reject",
                Success::Json(|g| g.subschema_for::<ApprovalDecided>()),
            )
        },
    },
];

/// Whether the route decides an approval. If the rules allow it, agents may call it too.
pub fn decides(route: &Route) -> bool {
    matches!(route.path, "/approvals/{id}/approve" | "/approvals/{id}/reject")
}

fn views(page: Listed<FullApproval>) -> (Vec<ApprovalView>, Option<String>) {
    (page.entries.into_iter().map(ApprovalView::from).collect(), page.next)
}

async fn pending(req: Req) -> HandlerResult {
    let query = PageQuery::read(req.query(PageQuery::PENDING))?;
    let tenant = &req.caller().tenant;
    let page = req.core().approvals().pending(tenant, query.limit, query.cursor).await?;
    // Estimated rather than measured: a list of more than a few approvals is large.
    let (bytes, unreadable) = (page.entries.len() * APPROVAL_BYTES, page.unreadable);
    let (approvals, next_cursor) = views(page);
    let count = approvals.len();
    let list = ApprovalList { success: true, count, approvals, next_cursor, unreadable };
    json_of(req.core(), bytes, list).await
}

async fn history(req: Req) -> HandlerResult {
    let query = PageQuery::read(req.query(PageQuery::HISTORY))?;
    let tenant = &req.caller().tenant;
    let page = req.core().approvals().history(tenant, query.limit, query.cursor).await?;
    let (bytes, unreadable) = (page.entries.len() * APPROVAL_BYTES, page.unreadable);
    let (history, next_cursor) = views(page);
    let count = history.len();
    let list = ApprovalHistory { success: true, count, history, next_cursor, unreadable };
    json_of(req.core(), bytes, list).await
}

async fn get(req: Req) -> HandlerResult {
    let id = req.param("id", ApprovalId::parse)?;
    let full = req.core().approvals().get(&req.caller().tenant, &id).await?;
    json(&ApprovalAnswer { success: true, approval: ApprovalView::from(full).with_text() })
}

async fn approve(req: Req) -> HandlerResult {
    let id = req.param("id", ApprovalId::parse)?;
    let given = req.core().approvals().approve(req.caller(), &id).await?.approval;
    let message = match given.status {
        ApprovalStatus::Pending => format!(
            "Approved by {}; {} of {} approvals given",
            req.caller().name,
            given.votes.len(),
            given.quorum
        ),
        _ => format!("Approved by {}", req.caller().name),
    };
    json(&ApprovalDecided { success: true, approval_id: id, message })
}

async fn reject(mut req: Req) -> HandlerResult {
    let id = req.param("id", ApprovalId::parse)?;
    let Reason(reason) = reason(&mut req).await?;
    req.core().approvals().reject(req.caller(), &id, reason).await?;
    let message = format!("Rejected by {}", req.caller().name);
    json(&ApprovalDecided { success: true, approval_id: id, message })
}
