use watchbill_core::service::{FullApproval, Listed};
use watchbill_domain::{ApprovalId, ApprovalStatus, Role};
use watchbill_wire::{
    APPROVAL_ID, ApprovalAnswer, ApprovalDecided, ApprovalHistory, ApprovalList, ApprovalView,
    Field, PageQuery, Reason,
};

use super::tasks::reason;
use crate::req::Req;
use crate::route::{Access, Answer, Body, Doc, Route, Success, Verb, json, json_of};

const ID: &[Field] = &[Field::needed(
    "id",
    APPROVAL_ID,
    "The approval's id: `approval_<task_id>`, then `approval_<task_id>~2` and so on.",
)];

/// What an approval may weigh: it shows up to 16 KB of a payload.
const APPROVAL_BYTES: usize = 16 * 1024;

pub const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/approvals/pending",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(pending(req)),
        doc: Doc {
            query: PageQuery::PENDING,
            errors: &[400, 404, 503],
            ..Doc::new(
                "Approvals",
                "pending_approvals",
                "What waits for a decision",
                Success::Json(|g| g.subschema_for::<ApprovalList>()),
            )
        },
    },
    Route {
        verb: Verb::Get,
        path: "/approvals/history",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(history(req)),
        doc: Doc {
            query: PageQuery::HISTORY,
            errors: &[400, 404, 503],
            ..Doc::new(
                "Approvals",
                "approval_history",
                "What was decided, newest first",
                Success::Json(|g| g.subschema_for::<ApprovalHistory>()),
            )
        },
    },
    Route {
        verb: Verb::Get,
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
        verb: Verb::Post,
        path: "/approvals/{id}/approve",
        access: Access::Needs(Role::Approver),
        handler: |req| Box::pin(approve(req)),
        doc: Doc {
            text: "Leave for exactly what was shown, once. Nobody approves what they submitted \
                   themselves, unless the installation allows it. Where `approvals.agents` is on, \
                   agents may, of what others submitted.",
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
        verb: Verb::Post,
        path: "/approvals/{id}/reject",
        access: Access::Needs(Role::Approver),
        handler: |req| Box::pin(reject(req)),
        doc: Doc {
            text: "The task is cancelled. Where `approvals.agents` is on, agents may, of what \
                   others submitted.",
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

/// Whether an approval is decided by it: where the rules say so, by agents too.
pub fn decides(route: &Route) -> bool {
    matches!(route.path, "/approvals/{id}/approve" | "/approvals/{id}/reject")
}

fn views(page: Listed<FullApproval>) -> (Vec<ApprovalView>, Option<String>) {
    (page.entries.into_iter().map(ApprovalView::from).collect(), page.next)
}

async fn pending(req: Req) -> Answer {
    let query = PageQuery::read(req.query(PageQuery::PENDING))?;
    let tenant = &req.caller().tenant;
    let page = req.core().approvals().pending(tenant, query.limit, query.cursor).await?;
    // What a list of approvals weighs is not counted again: more than a few are large.
    let (bytes, unreadable) = (page.entries.len() * APPROVAL_BYTES, page.unreadable);
    let (approvals, next_cursor) = views(page);
    let count = approvals.len();
    let list = ApprovalList { success: true, count, approvals, next_cursor, unreadable };
    json_of(req.core(), bytes, list).await
}

async fn history(req: Req) -> Answer {
    let query = PageQuery::read(req.query(PageQuery::HISTORY))?;
    let tenant = &req.caller().tenant;
    let page = req.core().approvals().history(tenant, query.limit, query.cursor).await?;
    let (bytes, unreadable) = (page.entries.len() * APPROVAL_BYTES, page.unreadable);
    let (history, next_cursor) = views(page);
    let count = history.len();
    let list = ApprovalHistory { success: true, count, history, next_cursor, unreadable };
    json_of(req.core(), bytes, list).await
}

async fn get(req: Req) -> Answer {
    let id = req.param("id", ApprovalId::parse)?;
    let full = req.core().approvals().get(&req.caller().tenant, &id).await?;
    json(&ApprovalAnswer { success: true, approval: ApprovalView::from(full).told() })
}

async fn approve(req: Req) -> Answer {
    let id = req.param("id", ApprovalId::parse)?;
    let given = req.core().approvals().approve(req.caller(), &id).await?.approval;
    let message = match given.status {
        ApprovalStatus::Pending => format!(
            "Approved by {}; {} of {} have, and others must",
            req.caller().name,
            given.votes.len(),
            given.quorum
        ),
        _ => format!("Approved by {}", req.caller().name),
    };
    json(&ApprovalDecided { success: true, approval_id: id, message })
}

async fn reject(mut req: Req) -> Answer {
    let id = req.param("id", ApprovalId::parse)?;
    let Reason(reason) = reason(&mut req).await?;
    req.core().approvals().reject(req.caller(), &id, reason).await?;
    let message = format!("Rejected by {}", req.caller().name);
    json(&ApprovalDecided { success: true, approval_id: id, message })
}
