//! The rows of the matrix: one or more calls for every route.

use serde_json::json;
use watchbill_api::Access;
use watchbill_domain::Role;

use crate::common::{TestRequest, ask};
use crate::matrix::scene::{FREEZE, Scene};

/// A route, and one call of it that works in the tenant for an authorized caller.
pub struct Row {
    pub route: &'static str,
    /// Which call, if a route has several.
    pub what: &'static str,
    pub access: Access,
    pub call: fn(&Scene) -> TestRequest,
    /// The status for an authorized caller.
    pub ok: u16,
    /// The status for an authorized caller of another tenant: 404 if the call names something,
    /// 200 if it is about the caller's own tenant.
    pub elsewhere: u16,
}

const fn row(
    route: &'static str,
    what: &'static str,
    access: Access,
    elsewhere: u16,
    call: fn(&Scene) -> TestRequest,
) -> Row {
    Row { route, what, access, call, ok: 200, elsewhere }
}

const ANYONE: Access = Access::Public;
const LINK: Access = Access::Link;
const USER: Access = Access::Needs(Role::User);
const AGENT: Access = Access::Needs(Role::Agent);
const APPROVER: Access = Access::Needs(Role::Approver);
const ADMIN: Access = Access::Needs(Role::Admin);
const OPERATOR: Access = Access::Needs(Role::Operator);

/// The caller's own: nothing of another tenant is named.
const OWN: u16 = 200;
const ABSENT: u16 = 404;

pub const ROWS: &[Row] = &[
    row("GET /", "", ANYONE, OWN, |_| ask("GET", "/")),
    row("GET /health", "", ANYONE, OWN, |_| ask("GET", "/health")),
    row("GET /openapi.json", "", ANYONE, OWN, |_| ask("GET", "/openapi.json")),
    row("GET /docs", "", ANYONE, OWN, |_| ask("GET", "/docs")),
    row("GET /stats", "", Access::Optional, OWN, |_| ask("GET", "/stats")),
    row("GET /agents", "", USER, OWN, |_| ask("GET", "/agents")),
    row("GET /agents/{type}", "", USER, OWN, |_| ask("GET", "/agents/ops")),
    row("GET /agents/{type}/events", "", USER, OWN, |_| ask("GET", "/agents/ops/events")),
    row("GET /budget", "", USER, OWN, |_| ask("GET", "/budget")),
    row("PUT /budget/limits", "", ADMIN, OWN, |_| {
        ask("PUT", "/budget/limits").json(&json!({ "day_usd": 1.25 }))
    }),
    row("POST /tasks", "", AGENT, OWN, |_| {
        ask("POST", "/tasks").json(&json!({ "type": "monitor", "payload": {} }))
    }),
    row("POST /tasks", "a part of a task", AGENT, ABSENT, |scene| {
        let parent = &scene.task;
        let body = json!({ "type": "monitor", "payload": {}, "parent_task_id": parent });
        ask("POST", "/tasks").json(&body)
    }),
    row("GET /tasks", "", USER, OWN, |_| ask("GET", "/tasks?limit=200")),
    row("GET /tasks", "parts of a task", USER, OWN, |scene| {
        ask("GET", &format!("/tasks?parent={}", scene.task))
    }),
    row("GET /tasks/{id}", "", USER, ABSENT, |scene| ask("GET", &format!("/tasks/{}", scene.task))),
    row("GET /tasks/{id}/timeline", "", USER, ABSENT, |scene| {
        ask("GET", &format!("/tasks/{}/timeline", scene.task))
    }),
    row("PATCH /tasks/{id}/status", "", AGENT, ABSENT, |scene| {
        ask("PATCH", &format!("/tasks/{}/status?status=cancelled", scene.gated))
    }),
    row("POST /tasks/{id}/answer", "", APPROVER, ABSENT, |scene| {
        let path = format!("/tasks/{}/answer", scene.blocked);
        ask("POST", &path).json(&json!({ "text": "the second" }))
    }),
    row("POST /tasks/{id}/cancel", "", AGENT, ABSENT, |scene| {
        ask("POST", &format!("/tasks/{}/cancel", scene.task))
    }),
    row("POST /tasks/{id}/retry", "", AGENT, ABSENT, |scene| {
        ask("POST", &format!("/tasks/{}/retry", scene.cancelled))
    }),
    row("POST /tasks/{id}/override", "", APPROVER, ABSENT, |scene| {
        let body = json!({ "freeze": FREEZE, "reason": "the fix of the outage" });
        ask("POST", &format!("/tasks/{}/override", scene.task)).json(&body)
    }),
    row("POST /events/publish", "", AGENT, OWN, |_| {
        let body = json!({ "event_type": "deploy.failed", "source_agent": "ci", "payload": {} });
        ask("POST", "/events/publish").json(&body)
    }),
    row("GET /events", "", USER, OWN, |_| ask("GET", "/events?limit=200")),
    row("GET /events", "of a task", USER, OWN, |scene| {
        ask("GET", &format!("/events?task_id={}", scene.gated))
    }),
    row("GET /events", "after one", USER, ABSENT, |scene| {
        ask("GET", &format!("/events?after={}", scene.event))
    }),
    row("GET /events", "as a stream after one", USER, ABSENT, |scene| {
        let path = format!("/events?after={}", scene.event);
        ask("GET", &path).header("accept", "text/event-stream")
    }),
    row("GET /approvals/pending", "", USER, OWN, |_| ask("GET", "/approvals/pending")),
    row("GET /approvals/history", "", USER, OWN, |_| ask("GET", "/approvals/history")),
    row("GET /approvals/{id}", "", USER, ABSENT, |scene| {
        ask("GET", &format!("/approvals/{}", scene.approval()))
    }),
    row("POST /approvals/{id}/approve", "", APPROVER, ABSENT, |scene| {
        ask("POST", &format!("/approvals/{}/approve", scene.approval()))
    }),
    row("POST /approvals/{id}/reject", "", APPROVER, ABSENT, |scene| {
        ask("POST", &format!("/approvals/{}/reject?reason=no", scene.approval()))
    }),
    // The link authorizes any bearer, and determines the tenant.
    row("GET /links", "", ANYONE, OWN, |_| ask("GET", "/links")),
    row("GET /links/link.js", "", ANYONE, OWN, |_| ask("GET", "/links/link.js")),
    row("POST /links", "", LINK, OWN, |scene| {
        ask("POST", "/links").json(&json!({ "token": scene.link }))
    }),
    row("POST /links", "decides", LINK, OWN, |scene| {
        ask("POST", "/links")
            .header("content-type", "application/x-www-form-urlencoded")
            .raw(format!("token={}&decision=reject", scene.link))
    }),
    row("POST /auth/token", "", ADMIN, OWN, |_| {
        ask("POST", "/auth/token").json(&json!({ "sub": "carol", "role": "user" }))
    }),
    row("POST /keys", "", ADMIN, OWN, |_| {
        ask("POST", "/keys").json(&json!({ "name": "new", "role": "user" }))
    }),
    row("GET /keys", "", ADMIN, OWN, |_| ask("GET", "/keys")),
    row("DELETE /keys/{name}", "", ADMIN, ABSENT, |_| ask("DELETE", "/keys/helper")),
    row("POST /tenants", "", OPERATOR, OWN, |_| {
        ask("POST", "/tenants").json(&json!({ "tenant": "acme" }))
    }),
    row("GET /audit", "", ADMIN, OWN, |_| ask("GET", "/audit")),
    row("GET /audit", "of a task", ADMIN, OWN, |scene| {
        ask("GET", &format!("/audit?task={}", scene.gated))
    }),
    row("GET /audit/batches", "", ADMIN, OWN, |_| ask("GET", "/audit/batches")),
];
