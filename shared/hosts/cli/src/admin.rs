//! Commands for the server's health and statistics, and for its API keys.

use serde_json::{Value, json};

use super::args::KeysCommand;
use super::client::Call;
use super::failure::Failure;
use super::out::Style;
use super::table::{Cell, Column, Table};
use super::text::relative;
use super::view::{list, text, time};
use super::{Session, card};

pub async fn stats(mut s: Session<'_>) -> Result<(), Failure> {
    let answer = s.client.ask(Call::get(&["stats"]), s.out).await?;
    s.show(&answer, |out, value| card::outline(out, value, 0))
}

/// Status 503 comes with a body that describes the problem. The body is shown, and the command
/// still fails.
pub async fn health(mut s: Session<'_>) -> Result<(), Failure> {
    match s.client.ask(Call::get(&["health"]).once(), s.out).await {
        Ok(answer) => s.show(&answer, |out, value| card::outline(out, value, 0)),
        Err(failure) => {
            if let Failure::Answered(refusal) = &failure
                && let Some(body) = refusal.json().filter(|body| body.get("status").is_some())
                && !s.out.json
            {
                card::outline(s.out, &body, 0)?;
            }
            Err(failure)
        }
    }
}

pub async fn openapi(s: Session<'_>) -> Result<(), Failure> {
    let answer = s.client.ask(Call::get(&["openapi.json"]), s.out).await?;
    Ok(s.out.document(&answer.body)?)
}

pub async fn keys(s: Session<'_>, command: KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::Create { name, role } => create_key(s, &name, &role).await,
        KeysCommand::List => list_keys(s).await,
        KeysCommand::Revoke { name } => revoke_key(s, &name).await,
    }
}

async fn create_key(mut s: Session<'_>, name: &str, role: &str) -> Result<(), Failure> {
    let call = Call::post(&["keys"]).body(json!({ "name": name, "role": role }));
    let answer = s.client.ask(call, s.out).await?;
    if !s.out.json {
        s.out.note("this key is shown only once; save it now");
    }
    // Only the key goes to standard output, so that it can be redirected into a file.
    s.show(&answer, |out, value| out.line(&text(value, "key")))
}

async fn list_keys(mut s: Session<'_>) -> Result<(), Failure> {
    let (mut keys, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let call = Call::get(&["keys"]).filter("cursor", cursor.as_deref());
        let answer = s.client.ask(call, s.out).await?;
        let next = Some(text(&answer.value, "next_cursor").to_owned()).filter(|c| !c.is_empty());
        if s.out.json && cursor.is_none() && next.is_none() {
            return Ok(s.out.document(&answer.body)?);
        }
        keys.extend(list(&answer.value, "keys").iter().cloned());
        if next.is_none() || next == cursor {
            break;
        }
        cursor = next;
    }
    if s.out.json {
        let document = json!({ "success": true, "count": keys.len(), "keys": keys });
        return Ok(s.out.document(document.to_string().as_bytes())?);
    }
    let now = s.now();
    let when = |key: &Value, field| time(key, field).map(|at| relative(at, now));
    let row = |key: &Value| -> Vec<Cell> {
        let (state, style) = match when(key, "revoked_at") {
            Some(revoked) => (format!("revoked {revoked}"), Style::Dim),
            None => ("valid".to_owned(), Style::Good),
        };
        vec![
            text(key, "name").into(),
            text(key, "role").into(),
            text(key, "prefix").into(),
            Cell::styled(state, style),
            when(key, "created_at").unwrap_or_default().into(),
            text(key, "created_by").into(),
        ]
    };
    s.print(&Table {
        columns: vec![
            Column::whole("NAME"),
            Column::whole("ROLE"),
            Column::spare("KEY", 1),
            Column::whole("STATE"),
            Column::spare("CREATED", 2),
            Column::spare("BY", 3),
        ],
        rows: keys.iter().map(row).collect(),
    })
}

async fn revoke_key(mut s: Session<'_>, name: &str) -> Result<(), Failure> {
    let answer = s.client.ask(Call::delete(&["keys", name]), s.out).await?;
    s.show(&answer, |out, _| out.line(&format!("{name} is revoked")))
}
