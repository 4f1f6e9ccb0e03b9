//! Routes for agents and their reputation, budgets, and freeze overrides.

use http::Method;
use std::collections::BTreeMap;

use watchbill_core::ledger::Stats;
use watchbill_core::service::{Core, EventFilter, ServiceError};
use watchbill_domain::{Agent, Role, TaskId, TenantId, Timestamp};
use watchbill_wire::{
    AgentAnswer, AgentList, AgentView, BudgetView, Field, FieldType, OverrideFreeze, PageQuery,
    ReputationList, SetLimits, TaskChanged, WorkerView,
};

use super::TASK_ID;
use crate::req::Req;
use crate::route::{Access, Body, Doc, HandlerResult, Route, Success, json};
use crate::{AgentInfo, ApiError};

/// Task starts searched for an agent's last one.
const STARTS: usize = 100;

const AGENT: &[Field] = &[Field::required(
    "type",
    FieldType::Choice(Agent::SPELLINGS),
    "The agent, such as `ops` or `ops_agent`.",
)];

pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/agents",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(list(req)),
        doc: Doc {
            text: "With their task counts and their trust levels in the caller's tenant.",
            errors: &[503],
            ..Doc::new(
                "Agents",
                "list_agents",
                "List agents",
                Success::Json(|g| g.subschema_for::<AgentList>()),
            )
        },
    },
    Route {
        method: Method::GET,
        path: "/agents/{type}",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(get(req)),
        doc: Doc {
            text: "Score, trust level, what is missing for the next level, and the permitted \
                   operations.",
            path: AGENT,
            errors: &[400, 404, 503],
            ..Doc::new(
                "Agents",
                "get_agent",
                "Read an agent",
                Success::Json(|g| g.subschema_for::<AgentAnswer>()),
            )
        },
    },
    Route {
        method: Method::GET,
        path: "/agents/{type}/events",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(events(req)),
        doc: Doc {
            text: "Score changes, newest first. A page may be empty and still have a cursor, \
                   because each call searches only a part.",
            path: AGENT,
            query: PageQuery::EARNED,
            errors: &[400, 404, 503],
            ..Doc::new(
                "Agents",
                "agent_events",
                "List changes of an agent's score",
                Success::Json(|g| g.subschema_for::<ReputationList>()),
            )
        },
    },
    Route {
        method: Method::GET,
        path: "/budget",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(budget(req)),
        doc: Doc {
            text: "The model costs of the caller's tenant in this UTC day and hour, what is \
                   reserved for running calls, and the limits.",
            errors: &[503],
            ..Doc::new(
                "Budget",
                "get_budget",
                "Read the budget",
                Success::Json(|g| g.subschema_for::<BudgetView>()),
            )
        },
    },
    Route {
        method: Method::PUT,
        path: "/budget/limits",
        access: Access::Needs(Role::Admin),
        handler: |req| Box::pin(set_limits(req)),
        doc: Doc {
            text: "The tenant's own limits, which override the policy's. Omitted fields keep their \
                   values; what `GET /budget` returns can be sent back. Other instances may use \
                   the old limits for another 30 s.",
            body: Some(Body {
                fields: SetLimits::FIELDS,
                required: true,
                one_of: false,
                example: r#"{"day_usd":5.00,"hour_tokens":20000}"#,
            }),
            errors: &[400, 413, 415, 503],
            ..Doc::new(
                "Budget",
                "set_budget_limits",
                "Set limits",
                Success::Json(|g| g.subschema_for::<BudgetView>()),
            )
        },
    },
    Route {
        method: Method::POST,
        path: "/tasks/{id}/override",
        access: Access::Needs(Role::Approver),
        handler: |req| Box::pin(override_freeze(req)),
        doc: Doc {
            text: "Exempts this one task from a freeze of the policy. The freeze defines who may \
                   do this: 403 for others. 404 if the policy has no such freeze.",
            path: TASK_ID,
            body: Some(Body {
                fields: OverrideFreeze::FIELDS,
                required: true,
                one_of: false,
                example: r#"{"freeze":"year-end","reason":"the fix of the outage"}"#,
            }),
            errors: &[400, 404, 409, 413, 415, 503],
            ..Doc::new(
                "Tasks",
                "override_freeze",
                "Override a freeze for a task",
                Success::Json(|g| g.subschema_for::<TaskChanged>()),
            )
        },
    },
];

async fn list(req: Req) -> HandlerResult {
    let stats = req.core().stats().of(&req.caller().tenant).await?;
    let mut agents = Vec::new();
    for info in &req.state.shared().agents {
        agents.push(view(req.core(), &req.caller().tenant, info, &stats).await?);
    }
    let workers = req.core().reputation().workers(&req.caller().tenant).await?;
    let workers = workers.into_iter().map(|(name, standing)| WorkerView::new(name, &standing));
    json(&AgentList { success: true, count: agents.len(), agents, workers: workers.collect() })
}

async fn get(req: Req) -> HandlerResult {
    let agent = req.param("type", Agent::parse)?;
    let info = info(&req, agent)?;
    let (core, tenant) = (req.core(), &req.caller().tenant);
    let mut view = view(core, tenant, info, &core.stats().of(tenant).await?).await?;
    view.last_heartbeat = view.last_heartbeat.max(last_start(core, tenant, agent).await?);
    json(&AgentAnswer { success: true, agent: view })
}

async fn events(req: Req) -> HandlerResult {
    let agent = req.param("type", Agent::parse)?;
    info(&req, agent)?;
    let query = PageQuery::read(req.query(PageQuery::EARNED))?;
    let (core, tenant) = (req.core(), &req.caller().tenant);
    let page = core.reputation().events(tenant, agent, query.limit, query.cursor).await?;
    json(&ReputationList::new(agent, page))
}

fn info(req: &Req, agent: Agent) -> Result<&AgentInfo, ApiError> {
    let found = req.state.shared().agents.iter().find(|info| info.agent == agent);
    let none = || ServiceError::NotFound { what: "agent", id: agent.to_string() };
    Ok(found.ok_or_else(none)?)
}

async fn view(
    core: &Core,
    tenant: &TenantId,
    info: &AgentInfo,
    stats: &Stats,
) -> Result<AgentView, ApiError> {
    let mut tasks = BTreeMap::<String, u64>::new();
    for row in stats.rows.iter().filter(|row| row.agent == info.agent) {
        *tasks.entry(row.status.as_str().to_owned()).or_default() += row.count;
    }
    let standing = core.reputation().standing(tenant, info.agent).await?;
    let rules = &core.rules().reputation;
    let (agent, status) = (info.agent, info.status.clone());
    Ok(AgentView::new(tenant, agent, info.built, status, tasks, &standing, rules))
}

/// When the agent last started a task, if that is among the latest starts.
async fn last_start(
    core: &Core,
    tenant: &TenantId,
    agent: Agent,
) -> Result<Option<Timestamp>, ApiError> {
    let filter = EventFilter { event_type: Some("task.started".into()), ..EventFilter::default() };
    let page = core.events().list(tenant, &filter, STARTS, None).await?;
    let mut own = page.events.iter().filter(|event| event.source_agent == agent.as_str());
    Ok(own.next().map(|event| event.timestamp))
}

async fn budget(req: Req) -> HandlerResult {
    shown_budget(req.core(), &req.caller().tenant).await
}

async fn set_limits(mut req: Req) -> HandlerResult {
    let body = req.body().await?;
    let set = SetLimits::read(&body)?;
    let (core, caller) = (req.core(), req.caller());
    if !set.is_empty() {
        let limits = set.applied_to(core.budgets().limits(&caller.tenant).await?);
        core.budgets().set_limits(caller, limits).await?;
    }
    shown_budget(core, &caller.tenant).await
}

async fn shown_budget(core: &Core, tenant: &TenantId) -> HandlerResult {
    let state = core.budgets().state(tenant).await?;
    let limits = core.budgets().limits(tenant).await?;
    json(&BudgetView::new(&state, &limits, core.clock().now()))
}

async fn override_freeze(mut req: Req) -> HandlerResult {
    let id = req.param("id", TaskId::parse)?;
    let body = req.body().await?;
    let OverrideFreeze { freeze, reason } = OverrideFreeze::read(&body)?;
    let full = req.core().tasks().override_freeze(req.caller(), &id, &freeze, &reason).await?;
    let message = format!("Freeze '{freeze}' overridden for this task by {}", req.caller().name);
    let (task_id, status) = (full.task.id.clone(), full.task.status);
    json(&TaskChanged { success: true, task_id, status, message, task: full.into() })
}
