//! Routes for tasks.

use http::Method;
use watchbill_core::ports::Topic;
use watchbill_core::service::{Core, FullTask, Identity};
use watchbill_domain::{Role, Status, TaskId};
use watchbill_wire::{
    AnswerRequest as AnswerForm, CreateTask, PatchStatus, Reason, StatusAnswer, TaskAnswer,
    TaskChanged, TaskCreated, TaskList, TaskQuery, TaskView, Timeline, TimelineQuery, TimelineView,
    WatchQuery,
};

use super::{TASK_ID, follow::Wait};
use crate::ApiError;
use crate::req::{IDEMPOTENCY, Req};
use crate::route::{Access, Body, Doc, HandlerResult, Route, Success, json, json_of};

pub const ROUTES: &[Route] = &[
    Route {
        method: Method::POST,
        path: "/tasks",
        access: Access::Needs(Role::Agent),
        handler: |req| Box::pin(create(req)),
        doc: Doc {
            text: "Returns once the task is durable. If a gate applies, the task waits for an \
                   approval, which the message names.",
            headers: &[IDEMPOTENCY],
            body: Some(Body {
                fields: CreateTask::FIELDS,
                required: true,
                one_of: false,
                example: r#"{"type":"monitor","payload":{"service":"system"},"priority":"P2"}"#,
            }),
            errors: &[400, 404, 409, 413, 415, 503],
            ..Doc::new(
                "Tasks",
                "create_task",
                "Create a task",
                Success::Json(|g| g.subschema_for::<TaskCreated>()),
            )
        },
    },
    Route {
        method: Method::GET,
        path: "/tasks",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(list(req)),
        doc: Doc {
            text: "Newest first. With `wait`, the call waits while its page would be empty; \
                   external workers find their tasks this way. With `wait`, `assigned_to` and \
                   `status=assigned`, the assigned tasks are followed by the agent's tasks that \
                   are blocked because this build lacks the agent (`agent_not_built`): a worker \
                   may claim either.",
            query: TaskQuery::FIELDS,
            errors: &[400, 404, 503],
            ..Doc::new(
                "Tasks",
                "list_tasks",
                "List tasks",
                Success::Json(|g| g.subschema_for::<TaskList>()),
            )
        },
    },
    Route {
        method: Method::GET,
        path: "/tasks/{id}",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(get(req)),
        doc: Doc {
            text: "With `wait`, the call waits until the task has changed.",
            path: TASK_ID,
            query: WatchQuery::FIELDS,
            errors: &[400, 404, 503],
            ..Doc::new(
                "Tasks",
                "get_task",
                "Read a task",
                Success::Json(|g| g.subschema_for::<TaskAnswer>()),
            )
        },
    },
    Route {
        method: Method::PATCH,
        path: "/tasks/{id}/status",
        access: Access::Needs(Role::Agent),
        handler: |req| Box::pin(patch(req)),
        doc: Doc {
            text: "How external workers run tasks: `in_progress` claims the task for the caller; \
                   `completed`, `failed` and `blocked` are accepted only from the caller that \
                   claimed it, or directly from status `assigned`. Workers that share a key each \
                   send their own `worker`: the claim then returns a `fence`, only that worker can \
                   repeat it, and the task ends only with that fence. Never opens a gate. 409 if \
                   the change is not possible now.",
            path: TASK_ID,
            query: PatchStatus::QUERY,
            body: Some(Body {
                fields: PatchStatus::FIELDS,
                required: true,
                one_of: false,
                example: r#"{"status":"completed","result":{"ok":true}}"#,
            }),
            errors: &[400, 404, 409, 413, 415, 503],
            ..Doc::new(
                "Tasks",
                "set_task_status",
                "Change a task's status",
                Success::Json(|g| g.subschema_for::<StatusAnswer>()),
            )
        },
    },
    Route {
        method: Method::POST,
        path: "/tasks/{id}/answer",
        access: Access::Needs(Role::Approver),
        handler: |req| Box::pin(answer(req)),
        doc: Doc {
            text: "Send either `choice` or `text`. The task continues with it.",
            path: TASK_ID,
            body: Some(Body {
                fields: AnswerForm::FIELDS,
                required: true,
                one_of: true,
                example: r#"{"text":"use the replica"}"#,
            }),
            errors: &[400, 404, 409, 413, 415, 503],
            ..Doc::new(
                "Tasks",
                "answer_task",
                "Answer a blocked task's question",
                Success::Json(|g| g.subschema_for::<TaskChanged>()),
            )
        },
    },
    Route {
        method: Method::POST,
        path: "/tasks/{id}/cancel",
        access: Access::Needs(Role::Agent),
        handler: |req| Box::pin(cancel(req)),
        doc: Doc {
            path: TASK_ID,
            query: Reason::FIELDS,
            body: Some(Body {
                fields: Reason::FIELDS,
                required: false,
                one_of: false,
                example: r#"{"reason":"no longer needed"}"#,
            }),
            errors: &[400, 404, 409, 413, 415, 503],
            ..Doc::new(
                "Tasks",
                "cancel_task",
                "Cancel a task",
                Success::Json(|g| g.subschema_for::<TaskChanged>()),
            )
        },
    },
    Route {
        method: Method::POST,
        path: "/tasks/{id}/retry",
        access: Access::Needs(Role::Agent),
        handler: |req| Box::pin(retry(req)),
        doc: Doc {
            text: "Retries a waiting task at once. For a failed or cancelled task, creates a new \
                   one, whose id is in the response.",
            path: TASK_ID,
            errors: &[400, 404, 409, 503],
            ..Doc::new(
                "Tasks",
                "retry_task",
                "Retry a task",
                Success::Json(|g| g.subschema_for::<TaskChanged>()),
            )
        },
    },
    Route {
        method: Method::GET,
        path: "/tasks/{id}/timeline",
        access: Access::Needs(Role::User),
        handler: |req| Box::pin(timeline(req)),
        doc: Doc {
            text: "Changes, steps, approvals and events, in order. A task with many changes has \
                   several pages.",
            path: TASK_ID,
            query: TimelineQuery::FIELDS,
            errors: &[400, 404, 503],
            ..Doc::new(
                "Tasks",
                "task_timeline",
                "Read a task's timeline",
                Success::Json(|g| g.subschema_for::<Timeline>()),
            )
        },
    },
];

async fn create(mut req: Req) -> HandlerResult {
    let identity = req.identity()?;
    let body = req.body().await?;
    let (task, id) = CreateTask::read_with_id(&body)?;
    let identity = match (identity, id) {
        (identity, None) => identity,
        (Identity::Fresh, Some(id)) => Identity::Given(id),
        (_, Some(_)) => {
            let why =
                "'task_id' and 'Idempotency-Key' both identify the task: send only one of them";
            return Err(ApiError::conflict(why));
        }
    };
    let new = task.into_new_task(req.caller(), req.trace_id(), identity);
    let created = req.core().tasks().create(new).await?;
    json_of(req.core(), created.task.weight(), TaskCreated::from(created)).await
}

async fn list(mut req: Req) -> HandlerResult {
    let query = TaskQuery::read(req.query(TaskQuery::FIELDS))?;
    let tenant = req.caller().tenant.clone();
    // Every change extends the ledger; an external worker's list has its own topic.
    let topic = match (query.filter.status, query.filter.agent) {
        (Some(Status::Assigned), Some(_)) => Topic::External(tenant.clone()),
        _ => Topic::Ledger(tenant.clone()),
    };
    let mut wait = Wait::new(&mut req, topic, query.wait)?;
    let core = req.core();
    let page = loop {
        let page =
            core.tasks().list(&tenant, &query.filter, query.limit, query.cursor.clone()).await?;
        // A page with a cursor covers only a part: the caller must continue.
        if !page.entries.is_empty() || page.next.is_some() || !wait.more().await? {
            break page;
        }
    };
    wait.over().await;
    let bytes = page.entries.iter().map(FullTask::weight).sum();
    let tasks: Vec<_> = page.entries.into_iter().map(TaskView::from).collect();
    let (count, next_cursor, unreadable) = (tasks.len(), page.next, page.unreadable);
    let list = TaskList { success: true, count, tasks, next_cursor, unreadable };
    json_of(core, bytes, list).await
}

async fn get(mut req: Req) -> HandlerResult {
    let id = req.param("id", TaskId::parse)?;
    let query = WatchQuery::read(req.query(WatchQuery::FIELDS))?;
    let tenant = req.caller().tenant.clone();
    let topic = Topic::Task(tenant.clone(), id.clone());
    let mut wait = Wait::new(&mut req, topic, query.wait)?;
    let core = req.core();
    let mut full = core.tasks().get(&tenant, &id).await?;
    let version = query.version.unwrap_or(full.version);
    while full.version <= version && wait.more().await? {
        // The header shows whether there is something new; payload and result may be large.
        let header = core.tasks().stored(&tenant, &id).await?;
        if header.is_none_or(|header| header.version > version) {
            full = core.tasks().get(&tenant, &id).await?;
        }
    }
    wait.over().await;
    let bytes = full.weight();
    json_of(core, bytes, TaskAnswer { success: true, task_id: id, task: full.into() }).await
}

async fn patch(mut req: Req) -> HandlerResult {
    let id = req.param("id", TaskId::parse)?;
    let body = req.optional_body().await?;
    let mut query = req.query(PatchStatus::QUERY);
    let (patch, claim) = PatchStatus::read_with_claim(&mut query, &body)?;
    query.done()?;
    let claims_by_name = patch.status == Status::InProgress && claim.worker.is_some();
    let set = req.core().tasks().set_status_as(req.caller(), &id, patch.into(), claim).await?;
    let fence = claims_by_name.then_some(set.fence);
    let task = set.task.task;
    json(&StatusAnswer { success: true, task_id: task.id, status: task.status, fence })
}

async fn answer(mut req: Req) -> HandlerResult {
    let id = req.param("id", TaskId::parse)?;
    let body = req.body().await?;
    let AnswerForm(answer) = AnswerForm::read(&body)?;
    let full = req.core().tasks().answer(req.caller(), &id, answer).await?;
    let message = format!("Answered; assigned to {}", full.task.agent);
    changed(req.core(), full, message).await
}

async fn cancel(mut req: Req) -> HandlerResult {
    let id = req.param("id", TaskId::parse)?;
    let Reason(reason) = reason(&mut req).await?;
    let full = req.core().tasks().cancel(req.caller(), &id, reason).await?;
    let message = format!("Cancelled by {}", req.caller().name);
    changed(req.core(), full, message).await
}

async fn retry(req: Req) -> HandlerResult {
    let id = req.param("id", TaskId::parse)?;
    let full = req.core().tasks().retry(req.caller(), &id).await?;
    let message = if full.task.id == id {
        format!("Task returned to {}", full.task.agent)
    } else {
        format!("Task {} created to retry {id}", full.task.id)
    };
    changed(req.core(), full, message).await
}

async fn timeline(req: Req) -> HandlerResult {
    let id = req.param("id", TaskId::parse)?;
    let query = TimelineQuery::read(req.query(TimelineQuery::FIELDS))?;
    let (core, tenant) = (req.core(), &req.caller().tenant);
    let page = core.tasks().timeline_page(tenant, &id, query.cursor).await?;
    let timeline: Vec<_> = page.entries.into_iter().map(TimelineView::from).collect();
    let (count, next_cursor, unreadable) = (timeline.len(), page.next_cursor, page.unreadable);
    let list = Timeline { success: true, task_id: id, count, timeline, next_cursor, unreadable };
    json_of(core, page.bytes, list).await
}

/// Reads a reason from the query or an optional body.
pub async fn reason(req: &mut Req) -> Result<Reason, crate::ApiError> {
    let body = req.optional_body().await?;
    let mut query = req.query(Reason::FIELDS);
    let reason = Reason::read(&mut query, &body)?;
    query.done()?;
    Ok(reason)
}

async fn changed(core: &Core, full: FullTask, message: String) -> HandlerResult {
    let (task_id, status, bytes) = (full.task.id.clone(), full.task.status, full.weight());
    let answer = TaskChanged { success: true, task_id, status, message, task: full.into() };
    json_of(core, bytes, answer).await
}
