//! Routes of the service itself: information, health, statistics and documentation.

use http::Method;
use std::collections::BTreeMap;

use http::{HeaderValue, StatusCode, header};
use watchbill_wire::{GovernanceHealth, Health, ServiceInfo, StatsView};

use crate::config::HealthReport;
use crate::docs;
use crate::req::Req;
use crate::route::{Access, Doc, HandlerResult, Route, Success, json, raw};

pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/",
        access: Access::Public,
        handler: |req| Box::pin(info(req)),
        doc: Doc::new(
            "Service",
            "service_info",
            "Name and version",
            Success::Json(|g| g.subschema_for::<ServiceInfo>()),
        ),
    },
    Route {
        method: Method::GET,
        path: "/health",
        access: Access::Public,
        handler: |req| Box::pin(health(req)),
        doc: Doc {
            text: "503 if the store is unavailable. The counts are at most a second old.",
            errors: &[503],
            ..Doc::new(
                "Service",
                "health",
                "Check the service's health",
                Success::Json(|g| g.subschema_for::<Health>()),
            )
        },
    },
    Route {
        method: Method::GET,
        path: "/stats",
        access: Access::Optional,
        handler: |req| Box::pin(stats(req)),
        doc: Doc {
            text: "With a key: the counts of its tenant, also by agent and priority.",
            errors: &[503],
            ..Doc::new(
                "Service",
                "stats",
                "Count open tasks",
                Success::Json(|g| g.subschema_for::<StatsView>()),
            )
        },
    },
    Route {
        method: Method::GET,
        path: "/openapi.json",
        access: Access::Public,
        handler: |req| Box::pin(openapi(req)),
        doc: Doc::new(
            "Service",
            "openapi",
            "This document",
            Success::Json(|_| schemars::json_schema!({ "type": "object" })),
        ),
    },
    Route {
        method: Method::GET,
        path: "/docs",
        access: Access::Public,
        handler: |req| Box::pin(page(req)),
        doc: Doc::new("Service", "docs", "The API documentation page", Success::Text("text/html")),
    },
];

async fn info(req: Req) -> HandlerResult {
    json(&ServiceInfo {
        service: "watchbill".into(),
        version: req.state.shared().version.clone(),
        status: "running".into(),
    })
}

async fn health(req: Req) -> HandlerResult {
    let report = match &req.state.shared().health {
        Some(source) => source.report().await,
        None => HealthReport { redis: "disabled".into(), more: BTreeMap::new() },
    };
    let governance = req.core().governance();
    let degraded = !governance.is_reached().await;
    let figures = req.core().stats().queue().await?;
    json(&Health {
        status: "healthy".into(),
        redis: report.redis,
        queue_stats: figures.queue.into(),
        counted_at: Some(figures.read_at),
        governance: Some(GovernanceHealth {
            mode: governance.on_failure().as_str().to_owned(),
            state: if degraded { "degraded" } else { "ok" }.to_owned(),
        }),
        more: report.more,
    })
}

async fn stats(req: Req) -> HandlerResult {
    json(&match &req.caller {
        Some(caller) => StatsView::detailed(req.core().stats().of(&caller.tenant).await?),
        None => StatsView::public(req.core().stats().queue().await?),
    })
}

async fn openapi(req: Req) -> HandlerResult {
    let document = req.state.openapi();
    Ok(raw(StatusCode::OK, "application/json", document))
}

async fn page(req: Req) -> HandlerResult {
    let mut page = raw(StatusCode::OK, "text/html; charset=utf-8", docs::PAGE.into());
    page.headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, req.state.shared().docs_policy.clone());
    page.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(page)
}
