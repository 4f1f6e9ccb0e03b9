//! Commands that submit tasks and publish events.

use serde_json::{Map, Value, json};

use super::args::{PublishArgs, SubmitArgs};
use super::client::Call;
use super::failure::Failure;
use super::out::Style;
use super::tasks::{show_task, wait_for};
use super::view::text;
use super::{Session, payload};

pub async fn submit(mut s: Session<'_>, args: SubmitArgs) -> Result<(), Failure> {
    let body = body(&mut s, &args)?;
    // Always with a key: a lost response must not lead to a second task.
    let key = match &args.idempotency_key {
        Some(key) => key.clone(),
        None => s.client.entropy.uuid7(s.client.clock.now()).to_string(),
    };
    let call = Call::post(&["tasks"]).body(body).idempotent(&key);
    let answer = match s.client.ask(call, s.out).await {
        Ok(answer) => answer,
        Err(failure) => {
            if failure.is_passing() {
                s.out.note(&format!(
                    "the task may have been accepted; submit it again with --idempotency-key \
                     {key}, and it is created only once"
                ));
            }
            return Err(failure);
        }
    };
    let id = text(&answer.value, "task_id");
    let message = text(&answer.value, "message");
    if args.wait.wait {
        s.out.note(&format!("{message} ({id})"));
        return wait_for(s, &id, &args.wait).await;
    }
    if s.out.json {
        return Ok(s.out.document(&answer.body)?);
    }
    s.out.line(&message)?;
    show_task(&mut s, &answer.value["task"])
}

fn body(s: &mut Session<'_>, args: &SubmitArgs) -> Result<Value, Failure> {
    let mut body = Map::new();
    body.insert("type".to_owned(), json!(args.task_type));
    body.insert("payload".to_owned(), Value::Object(args.payload.object(&mut *s.stdin)?));
    let optional =
        [("priority", &args.priority), ("source", &args.source), ("parent_task_id", &args.parent)];
    for (name, value) in optional {
        if let Some(value) = value {
            body.insert(name.to_owned(), json!(value));
        }
    }
    if let Some(target) = &args.sla_target {
        // A bare number means seconds, which the API expects as a JSON number.
        let target = target.parse::<u64>().map_or_else(|_| json!(target), |seconds| json!(seconds));
        body.insert("sla_target".to_owned(), target);
    }
    if let Some(metadata) = &args.metadata {
        let metadata = payload::object("--metadata", metadata, &mut *s.stdin)?;
        body.insert("metadata".to_owned(), Value::Object(metadata));
    }
    Ok(Value::Object(body))
}

pub async fn publish(mut s: Session<'_>, args: PublishArgs) -> Result<(), Failure> {
    let mut body = Map::new();
    body.insert("event_type".to_owned(), json!(args.event_type));
    body.insert("source_agent".to_owned(), json!(args.source));
    body.insert("payload".to_owned(), Value::Object(args.payload.object(&mut *s.stdin)?));
    let optional =
        [("task_id", args.task), ("trace_id", args.trace_id), ("priority", args.priority)];
    for (name, value) in optional {
        if let Some(value) = value {
            body.insert(name.to_owned(), json!(value));
        }
    }
    let call = Call::post(&["events", "publish"]).body(Value::Object(body));
    let answer = s.client.ask(call, s.out).await?;
    s.show(&answer, |out, value| {
        let message = text(value, "message");
        out.line(&out.paint(Style::Good, &message))
    })
}
