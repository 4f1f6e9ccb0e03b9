//! Commands for agents' reputation, the budget, freezes and approval documents.

use std::io;

use serde_json::{Map, Value, json};
use watchbill_wire::{ApprovalView, render_approval};

use super::args::{AgentsCommand, BudgetCommand, LimitArgs};
use super::client::Call;
use super::failure::Failure;
use super::out::{Output, Style};
use super::table::{Cell, Column, Table};
use super::tasks::{approval_id, first_filled, print_outcome};
use super::text::{lines, moment, relative};
use super::view::{first, list, pairs, scalar, text, time};
use super::{Session, card};

pub async fn agents(s: Session<'_>, command: Option<AgentsCommand>) -> Result<(), Failure> {
    match command {
        None => list_agents(s).await,
        Some(AgentsCommand::Show { agent }) => show_agent(s, &agent).await,
        Some(AgentsCommand::Events { agent, limit }) => agent_events(s, &agent, limit).await,
    }
}

async fn list_agents(mut s: Session<'_>) -> Result<(), Failure> {
    let answer = s.client.ask(Call::get(&["agents"]), s.out).await?;
    if s.out.json {
        return Ok(s.out.document(&answer.body)?);
    }
    let now = s.now();
    let row = |agent: &Value| -> Vec<Cell> {
        let status = text(agent, "status");
        let style = Style::of_status(&status);
        vec![
            text(agent, "agent").into(),
            text(agent, "name").into(),
            Cell::styled(status, style),
            text(agent, "built").into(),
            pairs(&agent["tasks"]).into(),
            text(agent, "score").into(),
            text(agent, "level").into(),
            time(agent, "last_heartbeat").map(|at| relative(at, now)).unwrap_or_default().into(),
        ]
    };
    let mut table = Table {
        columns: vec![
            Column::whole("AGENT"),
            Column::whole("NAME"),
            Column::whole("STATUS"),
            Column::spare("BUILT", 2),
            Column::cuts("TASKS"),
            Column::spare("SCORE", 1),
            Column::spare("LEVEL", 1),
            Column::spare("SEEN", 3),
        ],
        rows: list(&answer.value, "agents").iter().map(row).collect(),
    };
    table.drop_empty();
    s.print(&table)
}

async fn show_agent(mut s: Session<'_>, agent: &str) -> Result<(), Failure> {
    let answer = s.client.ask(Call::get(&["agents", agent]), s.out).await?;
    let now = s.now();
    s.show(&answer, |out, value| {
        let agent = &value["agent"];
        out.line(&out.paint(Style::Bold, &first(agent, &["name", "agent"])))?;
        let status = text(agent, "status");
        let shown = out.paint(Style::of_status(&status), &status);
        card::field(out, "status", &shown)?;
        card::field(out, "score", &text(agent, "score"))?;
        card::field(out, "level", &text(agent, "level"))?;
        card::field(out, "next", &next_level(agent))?;
        let operations: Vec<String> =
            list(agent, "allowed_operations").iter().filter_map(scalar).collect();
        card::field(out, "allowed", &operations.join(", "))?;
        card::field(out, "tasks", &pairs(&agent["tasks"]))?;
        let seen = time(agent, "last_heartbeat");
        let seen = seen.map(|at| format!("{} UTC ({})", moment(at), relative(at, now)));
        card::field(out, "seen", &seen.unwrap_or_else(|| "not yet".to_owned()))
    })
}

fn next_level(agent: &Value) -> String {
    let next = text(agent, "next_level");
    match (next.is_empty(), agent["points_to_next"].as_f64()) {
        (true, _) => "none, this is the highest".to_owned(),
        (false, Some(points)) if points > 0.0 => {
            format!("{next}, in {} points", text(agent, "points_to_next"))
        }
        (false, _) => format!("{next}, with its next success"),
    }
}

async fn agent_events(mut s: Session<'_>, agent: &str, wanted: u32) -> Result<(), Failure> {
    let call = || Call::get(&["agents", agent, "events"]).query("limit", wanted);
    let answer = first_filled(&mut s, call, "events").await?;
    if s.out.json {
        return Ok(s.out.document(&answer.body)?);
    }
    let events = list(&answer.value, "events");
    if events.is_empty() && text(&answer.value, "next_cursor").is_empty() {
        return Ok(s.out.line("no score changes yet")?);
    }
    let row = |event: &Value| -> Vec<Cell> {
        let delta = event["delta"].as_i64().unwrap_or_default();
        let style = if delta < 0 { Style::Bad } else { Style::Good };
        vec![
            time(event, "at").map(moment).unwrap_or_default().into(),
            Cell::styled(format!("{delta:+}"), style),
            text(event, "event").into(),
            text(event, "task_id").into(),
            text(event, "reason").into(),
        ]
    };
    s.print(&Table {
        columns: vec![
            Column::whole("AT (UTC)"),
            Column::whole("POINTS"),
            Column::whole("EVENT"),
            Column::spare("TASK", 1),
            Column::cuts("REASON"),
        ],
        rows: events.iter().map(row).collect(),
    })
}

pub async fn budget(s: Session<'_>, command: Option<BudgetCommand>) -> Result<(), Failure> {
    match command {
        None => show_budget(s, Call::get(&["budget"])).await,
        Some(BudgetCommand::Set(limits)) => {
            let call = Call::put(&["budget", "limits"]).body(changed(&limits)?);
            show_budget(s, call).await
        }
    }
}

fn changed(limits: &LimitArgs) -> Result<Value, Failure> {
    let LimitArgs { day_usd, day_tokens, hour_usd, hour_tokens, task_usd, task_tokens } = limits;
    let mut body = Map::new();
    for (name, usd) in [("day_usd", day_usd), ("hour_usd", hour_usd), ("task_usd", task_usd)] {
        body.extend(usd.map(|usd| (name.to_owned(), json!(usd))));
    }
    let tokens =
        [("day_tokens", day_tokens), ("hour_tokens", hour_tokens), ("task_tokens", task_tokens)];
    for (name, tokens) in tokens {
        body.extend(tokens.map(|tokens| (name.to_owned(), json!(tokens))));
    }
    if body.is_empty() {
        let what = "give at least one limit, for example: watchbill budget set --day-usd 5";
        return Err(Failure::Usage(what.to_owned()));
    }
    Ok(Value::Object(body))
}

async fn show_budget(mut s: Session<'_>, call: Call) -> Result<(), Failure> {
    let answer = s.client.ask(call, s.out).await?;
    if s.out.json {
        return Ok(s.out.document(&answer.body)?);
    }
    let now = s.now();
    let row = |name: &str| -> Vec<Cell> {
        let period = &answer.value[name];
        let status = text(period, "status");
        let style = Style::of_status(&status);
        let percent = text(period, "percent");
        vec![
            name.into(),
            amount(&period["used"]).into(),
            amount(&period["reserved"]).into(),
            amount(&period["limit"]).into(),
            if percent.is_empty() { percent } else { format!("{percent} %") }.into(),
            Cell::styled(status, style),
            time(period, "resets_at").map(|at| relative(at, now)).unwrap_or_default().into(),
        ]
    };
    s.print(&Table {
        columns: vec![
            Column::whole("PERIOD"),
            Column::whole("USED"),
            Column::spare("RESERVED", 2),
            Column::whole("LIMIT"),
            Column::whole("PERCENT"),
            Column::whole("STATUS"),
            Column::spare("RESETS", 3),
        ],
        rows: ["day", "hour", "task"].map(row).into(),
    })
}

/// Formats as `0.42 USD, 1234 tokens`.
fn amount(value: &Value) -> String {
    match value["usd"].as_f64() {
        Some(usd) => format!("{usd:.2} USD, {} tokens", text(value, "tokens")),
        None => String::new(),
    }
}

pub async fn override_freeze(
    mut s: Session<'_>,
    id: &str,
    freeze: &str,
    reason: &str,
) -> Result<(), Failure> {
    let body = json!({ "freeze": freeze, "reason": reason });
    let answer = s.client.ask(Call::post(&["tasks", id, "override"]).body(body), s.out).await?;
    s.show(&answer, print_outcome)
}

pub async fn approval(mut s: Session<'_>, id: &str) -> Result<(), Failure> {
    let id = approval_id(&mut s, id).await?;
    let answer = s.client.ask(Call::get(&["approvals", &id]), s.out).await?;
    s.show(&answer, |out, value| approval_text(out, &value["approval"]))
}

fn approval_text(out: &mut Output, approval: &Value) -> io::Result<()> {
    let rendered = match serde_json::from_value::<ApprovalView>(approval.clone()) {
        Ok(view) => render_approval(&view),
        // The server has another schema: show its own text, or the fields as they are.
        Err(_) => match approval["text"].as_str() {
            Some(text) => lines(text),
            None => return card::outline(out, approval, 0),
        },
    };
    let mut rows = rendered.lines();
    if let Some(heading) = rows.next() {
        out.line(&out.paint(Style::Bold, heading))?;
    }
    rows.try_for_each(|row| out.line(row))?;
    let id = text(approval, "approval_id");
    if approval["status"] == "pending" {
        let next = format!("watchbill approve {id}, or watchbill reject {id} --reason '…'");
        out.line("")?;
        out.line(&out.paint(Style::Warn, &next))?;
    }
    Ok(())
}
