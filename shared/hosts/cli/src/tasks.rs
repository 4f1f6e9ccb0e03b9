//! Commands that show and change tasks and approvals.

use std::io;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use watchbill_domain::Timestamp;

use super::args::{GetArgs, ListArgs, WaitArgs};
use super::client::Call;
use super::failure::Failure;
use super::out::{Output, Response, Style};
use super::table::{Cell, Column, Table};
use super::text::{age, moment, relative};
use super::view::{first, list as items, pairs, scalar, text, time, title};
use super::{Session, card, wait};

/// The largest page size of the server.
const PAGE_SIZE: u32 = 200;

impl Session<'_> {
    /// Prints the server's document for `--json`, else what `human` makes of it.
    pub fn show(
        &mut self,
        answer: &Response,
        human: impl FnOnce(&mut Output, &Value) -> io::Result<()>,
    ) -> Result<(), Failure> {
        if self.out.json {
            return Ok(self.out.document(&answer.body)?);
        }
        Ok(human(self.out, &answer.value)?)
    }

    pub fn now(&self) -> Timestamp {
        self.client.clock.now()
    }

    pub fn print(&mut self, table: &Table) -> Result<(), Failure> {
        for line in table.lines(self.out.columns(), self.out.color()) {
            self.out.line(&line)?;
        }
        Ok(())
    }
}

pub fn show_task(s: &mut Session<'_>, task: &Value) -> Result<(), Failure> {
    let now = s.now();
    Ok(card::task(s.out, task, now)?)
}

pub async fn get(mut s: Session<'_>, args: GetArgs) -> Result<(), Failure> {
    if args.wait.wait {
        return wait_for(s, &args.id, &args.wait).await;
    }
    let answer = s.client.ask(Call::get(&["tasks", &args.id]), s.out).await?;
    let now = s.now();
    s.show(&answer, |out, value| card::task(out, &value["task"], now))
}

/// Follows a task, then shows its last state.
pub async fn wait_for(mut s: Session<'_>, id: &str, args: &WaitArgs) -> Result<(), Failure> {
    let waited = tokio::select! {
        waited = wait::until_settled(s.client, s.out, id, args) => waited?,
        () = (s.interrupt)() => {
            return Err(Failure::Interrupted(format!(
                "no longer waiting; task {id} continues: watchbill get {id}"
            )));
        }
    };
    let now = s.now();
    s.show(&waited.answer, |out, value| card::task(out, &value["task"], now))?;
    waited.end
}

/// One page. Each task is kept as the server wrote it.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    tasks: Vec<&'a RawValue>,
    #[serde(default)]
    next_cursor: Option<String>,
}

pub async fn list(mut s: Session<'_>, args: ListArgs) -> Result<(), Failure> {
    let wanted = if args.all { usize::MAX } else { args.limit as usize };
    let mut tasks: Vec<Box<RawValue>> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let room = u32::try_from(wanted - tasks.len()).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
        let call = filtered(&args).query("limit", room).filter("cursor", cursor.as_deref());
        let answer = s.client.ask(call, s.out).await?;
        let page: Page<'_> = serde_json::from_slice(&answer.body)
            .map_err(|e| Failure::Nonsense("GET /tasks".to_owned(), e.to_string()))?;
        let is_only = tasks.is_empty();
        let is_last = page.next_cursor.is_none() || page.next_cursor == cursor;
        tasks.extend(page.tasks.into_iter().map(ToOwned::to_owned));
        if is_last || tasks.len() >= wanted {
            if s.out.json && is_only {
                return Ok(s.out.document(&answer.body)?);
            }
            let next = page.next_cursor.filter(|_| !is_last);
            return finish(&mut s, &tasks, next.as_deref());
        }
        cursor = page.next_cursor;
    }
}

fn filtered(args: &ListArgs) -> Call {
    Call::get(&["tasks"])
        .filter("status", args.status.as_deref())
        .filter("assigned_to", args.agent.as_deref())
        .filter("type", args.task_type.as_deref())
        .filter("priority", args.priority.as_deref())
        .filter("source", args.source.as_deref())
        .filter("parent", args.parent.as_deref())
}

fn finish(s: &mut Session<'_>, tasks: &[Box<RawValue>], next: Option<&str>) -> Result<(), Failure> {
    if s.out.json {
        // Several pages become one document in the format of a page.
        let raw: Vec<&str> = tasks.iter().map(|task| task.get()).collect();
        let (count, next) = (tasks.len(), json!(next));
        let document = format!(
            r#"{{"success":true,"count":{count},"tasks":[{}],"next_cursor":{next}}}"#,
            raw.join(",")
        );
        return Ok(s.out.document(document.as_bytes())?);
    }
    if tasks.is_empty() {
        return Ok(s.out.line("no tasks")?);
    }
    let now = s.now();
    let parsed = tasks.iter().map(|task| serde_json::from_str(task.get()).unwrap_or_default());
    let table = Table {
        columns: vec![
            Column::whole("ID"),
            Column::whole("STATUS"),
            Column::spare("PRIO", 1),
            Column::spare("TYPE", 2),
            Column::spare("AGENT", 3),
            Column::spare("AGE", 1),
            Column::cuts("TITLE"),
        ],
        rows: parsed.map(|task: Value| task_row(&task, now)).collect(),
    };
    s.print(&table)?;
    if next.is_some() {
        s.out.note("there are more: use --limit or --all");
    }
    Ok(())
}

fn task_row(task: &Value, now: Timestamp) -> Vec<Cell> {
    let status = text(task, "status");
    let status_style = Style::of_status(&status);
    let priority = text(task, "priority");
    let priority_style = Style::of_priority(&priority);
    vec![
        text(task, "task_id").into(),
        Cell::styled(status, status_style),
        Cell::styled(priority, priority_style),
        text(task, "type").into(),
        text(task, "assigned_to").into(),
        time(task, "created_at").map(|at| age(at, now)).unwrap_or_default().into(),
        title(task).into(),
    ]
}

/// Accepts an approval's id or a task's id. A task names its open approval.
pub async fn approval_id(s: &mut Session<'_>, id: &str) -> Result<String, Failure> {
    if id.starts_with("approval_") {
        return Ok(id.to_owned());
    }
    let answer = s.client.ask(Call::get(&["tasks", id]), s.out).await?;
    let task = &answer.value["task"];
    match text(task, "approval_id") {
        none if none.is_empty() => Err(Failure::Usage(format!(
            "task {id} is {} and waits for no approval; 'watchbill approvals' lists those that do",
            text(task, "status")
        ))),
        approval => Ok(approval),
    }
}

pub async fn approve(mut s: Session<'_>, id: &str) -> Result<(), Failure> {
    let id = approval_id(&mut s, id).await?;
    let answer = s.client.ask(Call::post(&["approvals", &id, "approve"]), s.out).await?;
    s.show(&answer, print_outcome)
}

pub async fn reject(mut s: Session<'_>, id: &str, reason: &str) -> Result<(), Failure> {
    let id = approval_id(&mut s, id).await?;
    let call = Call::post(&["approvals", &id, "reject"]).query("reason", reason);
    let answer = s.client.ask(call, s.out).await?;
    s.show(&answer, print_outcome)
}

/// The result of a change: the server's message, else the new status of the task.
pub fn print_outcome(out: &mut Output, value: &Value) -> io::Result<()> {
    let message = text(value, "message");
    if !message.is_empty() {
        return out.line(&message);
    }
    let status = first(value, &["status"]);
    let status = if status.is_empty() { text(&value["task"], "status") } else { status };
    let id = first(value, &["task_id", "approval_id", "name"]);
    out.line(&format!("{id} {}", out.paint(Style::of_status(&status), &status)))
}

/// The first page that is not empty. An empty page with a cursor covers only a part.
pub async fn first_filled(
    s: &mut Session<'_>,
    call: impl Fn() -> Call,
    field: &str,
) -> Result<Response, Failure> {
    let mut cursor = None::<String>;
    loop {
        let call = call().filter("cursor", cursor.as_deref());
        let answer = s.client.ask(call, s.out).await?;
        let next = Some(text(&answer.value, "next_cursor")).filter(|next| !next.is_empty());
        if !items(&answer.value, field).is_empty() || next.is_none() || next == cursor {
            return Ok(answer);
        }
        cursor = next;
    }
}

pub async fn approvals(mut s: Session<'_>) -> Result<(), Failure> {
    let call = || Call::get(&["approvals", "pending"]);
    let answer = first_filled(&mut s, call, "approvals").await?;
    if s.out.json {
        return Ok(s.out.document(&answer.body)?);
    }
    let waiting = items(&answer.value, "approvals");
    if waiting.is_empty() {
        return Ok(s.out.line("nothing waits for approval")?);
    }
    let now = s.now();
    let when = |a: &Value, field: &str| time(a, field).map(|at| relative(at, now));
    let row = |a: &Value| -> Vec<Cell> {
        vec![
            text(a, "approval_id").into(),
            when(a, "requested_at").unwrap_or_default().into(),
            when(a, "expires_at").unwrap_or_default().into(),
            text(a, "requested_by").into(),
            text(a, "summary").into(),
        ]
    };
    s.print(&Table {
        columns: vec![
            Column::whole("APPROVAL"),
            Column::spare("REQUESTED", 2),
            Column::spare("EXPIRES", 3),
            Column::spare("BY", 4),
            Column::cuts("SUMMARY"),
        ],
        rows: waiting.iter().map(row).collect(),
    })
}

pub async fn decisions(mut s: Session<'_>, limit: u32) -> Result<(), Failure> {
    let call = || Call::get(&["approvals", "history"]).query("limit", limit);
    let answer = first_filled(&mut s, call, "history").await?;
    if s.out.json {
        return Ok(s.out.document(&answer.body)?);
    }
    let history = items(&answer.value, "history");
    if history.is_empty() {
        return Ok(s.out.line("no decisions yet")?);
    }
    let now = s.now();
    let row = |a: &Value| -> Vec<Cell> {
        let status = text(a, "status");
        let style = Style::of_status(&status);
        let decided = time(a, "decided_at").or_else(|| time(a, "requested_at"));
        vec![
            text(a, "approval_id").into(),
            Cell::styled(status, style),
            decided.map(|at| relative(at, now)).unwrap_or_default().into(),
            first(a, &["approved_by", "rejected_by"]).into(),
            first(a, &["reason", "summary"]).into(),
        ]
    };
    s.print(&Table {
        columns: vec![
            Column::whole("APPROVAL"),
            Column::whole("STATUS"),
            Column::spare("WHEN", 2),
            Column::spare("BY", 1),
            Column::cuts("REASON"),
        ],
        rows: history.iter().map(row).collect(),
    })
}

pub async fn answer(
    mut s: Session<'_>,
    id: &str,
    words: &str,
    choice: bool,
) -> Result<(), Failure> {
    let body = if choice { json!({ "choice": words }) } else { json!({ "text": words }) };
    let answer = s.client.ask(Call::post(&["tasks", id, "answer"]).body(body), s.out).await?;
    s.show(&answer, print_outcome)
}

pub async fn change(
    mut s: Session<'_>,
    id: &str,
    verb: &str,
    reason: Option<&str>,
) -> Result<(), Failure> {
    let call = Call::post(&["tasks", id, verb]).filter("reason", reason);
    let answer = s.client.ask(call, s.out).await?;
    s.show(&answer, print_outcome)
}

pub async fn timeline(mut s: Session<'_>, id: &str) -> Result<(), Failure> {
    let mut cursor = String::new();
    loop {
        let page = Some(cursor.as_str()).filter(|cursor| !cursor.is_empty());
        let call = Call::get(&["tasks", id, "timeline"]).filter("cursor", page);
        let answer = s.client.ask(call, s.out).await?;
        show_timeline(&mut s, &answer)?;
        let next = text(&answer.value, "next_cursor");
        if next.is_empty() || next == cursor {
            return Ok(());
        }
        cursor = next;
    }
}

fn show_timeline(s: &mut Session<'_>, answer: &Response) -> Result<(), Failure> {
    s.show(answer, |out, value| {
        let entries = items(value, "timeline");
        let wide = |field: &str, most: usize| {
            entries.iter().map(|e| text(e, field).chars().count()).max().unwrap_or(0).min(most)
        };
        let (kinds, whats) = (wide("kind", 10), wide("what", 22));
        for entry in entries {
            let at = time(entry, "at").map(moment).unwrap_or_default();
            let at = out.paint(Style::Dim, &at);
            let (kind, what) = (text(entry, "kind"), text(entry, "what"));
            let style = Style::of_status(if what == "claimed" { "in_progress" } else { &what });
            let what = out.paint(style, &format!("{what:<whats$}"));
            let by = text(entry, "by");
            let by = if by.is_empty() { by } else { format!("by {by}  ") };
            let words = scalar(&entry["text"]).unwrap_or_else(|| pairs(&entry["text"]));
            let row = format!("{at}  {kind:<kinds$}  {what}  {by}{words}");
            out.line(row.trim_end())?;
        }
        Ok(())
    })
}
