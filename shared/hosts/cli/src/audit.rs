//! Lists and exports the audit log, and verifies its hash chain.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use watchbill_core::ledger::{LedgerBreak, PositionContent, Verifier};
use watchbill_domain::{Timestamp, parse_span};
use watchbill_wire::BatchList;

use super::Session;
use super::args::{AuditCommand, AuditFilterArgs};
use super::client::Call;
use super::failure::Failure;
use super::table::{Cell, Column, Table};
use super::text::moment;
use super::view::{text, time};

/// The largest page size that the server allows.
const PAGE_SIZE: usize = 200;

pub async fn audit(s: Session<'_>, command: AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::List { filter, limit } => list(s, &filter, limit as usize).await,
        AuditCommand::Export { filter } => export(s, &filter).await,
        AuditCommand::Verify { head } => verify(s, head.as_deref()).await,
    }
}

/// One page. Each entry is kept as the server wrote it.
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

/// Up to when the audit log is complete, as the first page reports it.
struct RecordedUntil {
    time: Option<String>,
    batch: u64,
}

/// Passes entries to `each`, page by page, until `wanted` were seen. An empty page need not be
/// the last: the server reads a part of the ledger at a time.
async fn pages(
    s: &mut Session<'_>,
    filter: &AuditFilterArgs,
    wanted: usize,
    mut each: impl FnMut(&mut Session<'_>, &RawValue) -> Result<(), Failure>,
) -> Result<(RecordedUntil, bool), Failure> {
    let (mut seen, mut cursor) = (0, None::<String>);
    let mut until: Option<RecordedUntil> = None;
    loop {
        let room = (wanted - seen).min(PAGE_SIZE);
        let call =
            filtered(filter, s.now())?.query("limit", room).filter("cursor", cursor.as_deref());
        let answer = s.client.ask(call, s.out).await?;
        let page: Page<'_> = serde_json::from_slice(&answer.body)
            .map_err(|e| Failure::Nonsense("GET /audit".to_owned(), e.to_string()))?;
        for entry in &page.entries {
            each(s, entry)?;
        }
        seen += page.entries.len();
        let until =
            until.get_or_insert(RecordedUntil { time: page.recorded_until, batch: page.batch });
        let is_last = page.next_cursor.is_none() || page.next_cursor == cursor;
        if is_last || seen >= wanted {
            let RecordedUntil { time, batch } = until;
            return Ok((RecordedUntil { time: time.take(), batch: *batch }, !is_last));
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

/// Parses a point in time: RFC 3339, a day, or how long ago.
fn when(name: &str, text: &str, now: Timestamp) -> Result<String, Failure> {
    let moment = Timestamp::parse(text)
        .or_else(|_| Timestamp::parse(&format!("{text}T00:00:00Z")))
        .or_else(|_| parse_span(text).map(|span| now.minus(span)));
    moment.map(|moment| moment.to_string()).map_err(|_| {
        Failure::Usage(format!(
            "--{name} '{text}' is not a time: write 2026-01-31T08:00:00Z, 2026-01-31, or 24h for \
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
        s.out.note("there are more: use --limit, or 'watchbill audit export' for all");
    }
    note_recorded_until(&mut s, &until);
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

fn note_recorded_until(s: &mut Session<'_>, until: &RecordedUntil) {
    match until.time.as_deref().map(Timestamp::parse) {
        Some(Ok(time)) => {
            s.out.note(&format!("recorded until {}, batch {}", moment(time), until.batch));
        }
        _ => s.out.note("nothing is recorded yet"),
    }
}

/// Prints one entry per line, newest first, with the bytes that the server wrote.
async fn export(mut s: Session<'_>, filter: &AuditFilterArgs) -> Result<(), Failure> {
    let (until, _) = pages(&mut s, filter, usize::MAX, |s, entry| {
        // A server may format its JSON over several lines.
        let one_line = match entry.get().contains('\n') {
            false => entry.get().to_owned(),
            true => serde_json::from_str::<Value>(entry.get()).unwrap_or_default().to_string(),
        };
        Ok(s.out.document(one_line.as_bytes())?)
    })
    .await?;
    note_recorded_until(&mut s, &until);
    Ok(())
}

/// Reads every batch and verifies hashes, order and chain locally, trusting only the bytes.
async fn verify(s: Session<'_>, head: Option<&str>) -> Result<(), Failure> {
    let mut from = 1;
    let mut verifier: Option<Verifier> = None;
    // The batch whose hash the user kept elsewhere.
    let mut kept = None;
    loop {
        let call = Call::get(&["audit", "batches"]).query("from", from);
        let answer = s.client.ask(call, s.out).await?;
        let page: BatchList = serde_json::from_value(answer.value)
            .map_err(|e| Failure::Nonsense("GET /audit/batches".to_owned(), e.to_string()))?;
        let verifier = verifier.get_or_insert_with(|| Verifier::new(page.tenant_id.clone()));
        for place in page.batches {
            while verifier.next() < place.seq {
                verifier.push(PositionContent::Missing).map_err(broken)?;
            }
            verifier.push(PositionContent::from(place)).map_err(broken)?;
            if head == Some(verifier.head()) {
                kept = Some(verifier.next() - 1);
            }
        }
        s.out.draw(&format!("{} batches verified", verifier.next() - 1));
        match page.next {
            // Only accept a forward step, so that a server can't make this loop endless.
            Some(next) if next == verifier.next() && next > from => from = next,
            Some(next) => {
                let reason = format!("batch {} is followed by batch {next}", verifier.next() - 1);
                return Err(Failure::Nonsense("GET /audit/batches".to_owned(), reason));
            }
            None if verifier.next() <= page.seen => {
                verifier.push(PositionContent::Missing).map_err(broken)?;
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
            "no batch of this ledger has the hash '{head}' that you saved: the end of the ledger \
             was cut off, or the ledger was rewritten"
        )));
    }
    let (batches, entries, newest) = (verified.batches, verified.entries, &verified.head);
    if s.out.json {
        let document = json!({
            "success": true, "batches": batches, "entries": entries, "head": newest, "kept": kept,
        });
        return Ok(s.out.document(document.to_string().as_bytes())?);
    }
    s.out.line(&format!("the hash chain is intact: {batches} batches, {entries} entries"))?;
    if let Some(kept) = kept {
        s.out.line(&format!("the hash that you saved is that of batch {kept}"))?;
    }
    Ok(s.out.line(&format!("head: {}", if newest.is_empty() { "none" } else { newest }))?)
}

fn broken(broken: LedgerBreak) -> Failure {
    Failure::Broken(broken.to_string())
}
