//! Who did what, and the proof that nobody changed what is written of it.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use watchbill_core::ledger::{Broken, Found, Verifier};
use watchbill_domain::{Timestamp, parse_span};
use watchbill_wire::BatchList;

use super::Session;
use super::args::{AuditCommand, AuditFilterArgs};
use super::client::Call;
use super::failure::Failure;
use super::table::{Cell, Column, Table};
use super::text::moment;
use super::view::{text, time};

/// The most entries that the server gives at once.
const PAGE: usize = 200;

pub async fn audit(s: Session<'_>, command: AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::List { filter, limit } => list(s, &filter, limit as usize).await,
        AuditCommand::Export { filter } => export(s, &filter).await,
        AuditCommand::Verify { head } => verify(s, head.as_deref()).await,
    }
}

/// One page, with each entry as the server wrote it.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    entries: Vec<&'a RawValue>,
    #[serde(default)]
    next_cursor: Option<String>,
    #[serde(default)]
    recorded_until: Option<String>,
    #[serde(default)]
    batch: u64,
}

/// Up to when it is recorded, as the first page says it.
struct Until {
    time: Option<String>,
    batch: u64,
}

/// Hands over page by page until `wanted` entries were seen. A page may be empty and not the
/// last one: the server looks at a part of the ledger at a time.
async fn pages(
    s: &mut Session<'_>,
    filter: &AuditFilterArgs,
    wanted: usize,
    mut each: impl FnMut(&mut Session<'_>, &RawValue) -> Result<(), Failure>,
) -> Result<(Until, bool), Failure> {
    let (mut seen, mut cursor) = (0, None::<String>);
    let mut until: Option<Until> = None;
    loop {
        let room = (wanted - seen).min(PAGE);
        let call =
            filtered(filter, s.now())?.query("limit", room).filter("cursor", cursor.as_deref());
        let answer = s.client.ask(call, s.out).await?;
        let page: Page<'_> = serde_json::from_slice(&answer.body)
            .map_err(|e| Failure::Nonsense("GET /audit".to_owned(), e.to_string()))?;
        for entry in &page.entries {
            each(s, entry)?;
        }
        seen += page.entries.len();
        let until = until.get_or_insert(Until { time: page.recorded_until, batch: page.batch });
        let is_last = page.next_cursor.is_none() || page.next_cursor == cursor;
        if is_last || seen >= wanted {
            let Until { time, batch } = until;
            return Ok((Until { time: time.take(), batch: *batch }, !is_last));
        }
        cursor = page.next_cursor;
    }
}

fn filtered(filter: &AuditFilterArgs, now: Timestamp) -> Result<Call, Failure> {
    let moment = |name: &str, text: &Option<String>| {
        text.as_deref().map(|text| when(name, text, now)).transpose()
    };
    let (since, until) = (moment("since", &filter.since)?, moment("until", &filter.until)?);
    Ok(Call::get(&["audit"])
        .filter("kind", filter.kind.as_deref())
        .filter("task", filter.task.as_deref())
        .filter("actor", filter.actor.as_deref())
        .filter("since", since.as_deref())
        .filter("until", until.as_deref()))
}

/// A moment as people say it: RFC 3339, a day, or how long ago.
fn when(name: &str, text: &str, now: Timestamp) -> Result<String, Failure> {
    let moment = Timestamp::parse(text)
        .or_else(|_| Timestamp::parse(&format!("{text}T00:00:00Z")))
        .or_else(|_| parse_span(text).map(|span| now.minus(span)));
    moment.map(|moment| moment.to_string()).map_err(|_| {
        Failure::Usage(format!(
            "--{name} '{text}' is no moment: write 2026-01-31T08:00:00Z, 2026-01-31, or 24h for \
             a day ago"
        ))
    })
}

async fn list(mut s: Session<'_>, filter: &AuditFilterArgs, wanted: usize) -> Result<(), Failure> {
    let mut entries: Vec<Box<RawValue>> = Vec::new();
    let (until, more) = pages(&mut s, filter, wanted, |_, entry| {
        entries.push(entry.to_owned());
        Ok(())
    })
    .await?;
    if s.out.json {
        let raw: Vec<&str> = entries.iter().map(|entry| entry.get()).collect();
        let (count, raw) = (entries.len(), raw.join(","));
        let (time, batch) = (json!(until.time), until.batch);
        let document = format!(
            r#"{{"success":true,"count":{count},"entries":[{raw}],"recorded_until":{time},"batch":{batch}}}"#
        );
        return Ok(s.out.document(document.as_bytes())?);
    }
    if entries.is_empty() {
        s.out.line("no entries")?;
    } else {
        let parsed = entries.iter().map(|entry| serde_json::from_str(entry.get()));
        let table = Table {
            columns: vec![
                Column::whole("WHEN"),
                Column::whole("KIND"),
                Column::whole("WHO"),
                Column::spare("SUBJECT", 1),
                Column::spare("TASK", 2),
                Column::spare("PLACE", 3),
                Column::cuts("WHAT"),
            ],
            rows: parsed.map(|entry| row(&entry.unwrap_or_default())).collect(),
        };
        s.print(&table)?;
    }
    if more {
        s.out.note("there are more: --limit, or 'watchbill audit export' for all");
    }
    say_until(&mut s, &until);
    Ok(())
}

fn row(entry: &Value) -> Vec<Cell> {
    vec![
        time(entry, "at").map(moment).unwrap_or_default().into(),
        text(entry, "kind").into(),
        text(entry, "actor").into(),
        text(entry, "subject").into(),
        text(entry, "task_id").into(),
        format!("{}.{}", text(entry, "seq"), text(entry, "place")).into(),
        text(entry, "text").into(),
    ]
}

fn say_until(s: &mut Session<'_>, until: &Until) {
    match until.time.as_deref().map(Timestamp::parse) {
        Some(Ok(time)) => {
            s.out.note(&format!("recorded until {}, batch {}", moment(time), until.batch));
        }
        _ => s.out.note("nothing is recorded yet"),
    }
}

/// One entry a line, newest first, to the byte as the server wrote it.
async fn export(mut s: Session<'_>, filter: &AuditFilterArgs) -> Result<(), Failure> {
    let (until, _) = pages(&mut s, filter, usize::MAX, |s, entry| {
        // A server may lay out its JSON over several lines.
        let one_line = match entry.get().contains('\n') {
            false => entry.get().to_owned(),
            true => serde_json::from_str::<Value>(entry.get()).unwrap_or_default().to_string(),
        };
        Ok(s.out.document(one_line.as_bytes())?)
    })
    .await?;
    say_until(&mut s, &until);
    Ok(())
}

/// Reads every batch and verifies hashes, order and chain here: the server's word counts for
/// nothing but the bytes it shows.
async fn verify(s: Session<'_>, head: Option<&str>) -> Result<(), Failure> {
    let mut from = 1;
    let mut verifier: Option<Verifier> = None;
    // The batch whose hash was kept elsewhere.
    let mut kept = None;
    loop {
        let call = Call::get(&["audit", "batches"]).query("from", from);
        let answer = s.client.ask(call, s.out).await?;
        let page: BatchList = serde_json::from_value(answer.value)
            .map_err(|e| Failure::Nonsense("GET /audit/batches".to_owned(), e.to_string()))?;
        let verifier = verifier.get_or_insert_with(|| Verifier::new(page.tenant_id.clone()));
        for place in page.batches {
            while verifier.next() < place.seq {
                verifier.push(Found::Missing).map_err(broken)?;
            }
            verifier.push(Found::from(place)).map_err(broken)?;
            if head == Some(verifier.head()) {
                kept = Some(verifier.next() - 1);
            }
        }
        s.out.draw(&format!("{} batches verified", verifier.next() - 1));
        match page.next {
            // Only forward, so that no server keeps us here for ever.
            Some(next) if next == verifier.next() && next > from => from = next,
            Some(next) => {
                let reason = format!("after batch {} comes batch {next}", verifier.next() - 1);
                return Err(Failure::Nonsense("GET /audit/batches".to_owned(), reason));
            }
            None if verifier.next() <= page.seen => {
                verifier.push(Found::Missing).map_err(broken)?;
            }
            None => break,
        }
    }
    let verified = match verifier {
        Some(verifier) => verifier.finish().map_err(broken)?,
        None => Default::default(),
    };
    if let (Some(head), None) = (head, kept) {
        return Err(Failure::Broken(format!(
            "no batch of this ledger has the hash '{head}' that was kept elsewhere: its end was \
             cut off, or it was written anew"
        )));
    }
    let (batches, entries, newest) = (verified.batches, verified.entries, &verified.head);
    if s.out.json {
        let document = json!({
            "success": true, "batches": batches, "entries": entries, "head": newest, "kept": kept,
        });
        return Ok(s.out.document(document.to_string().as_bytes())?);
    }
    s.out.line(&format!("the chain holds: {batches} batches, {entries} entries"))?;
    if let Some(kept) = kept {
        s.out.line(&format!("the hash that was kept elsewhere is that of batch {kept}"))?;
    }
    Ok(s.out.line(&format!("head: {}", if newest.is_empty() { "none" } else { newest }))?)
}

fn broken(broken: Broken) -> Failure {
    Failure::Broken(broken.to_string())
}
