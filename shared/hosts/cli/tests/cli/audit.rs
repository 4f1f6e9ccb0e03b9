//! Tests of `watchbill audit`: verify, list and export.

use clap::Parser as _;
use serde_json::{Map, Value, json};
use watchbill::args::Cli;
use watchbill::exit::Exit;
use watchbill_core::ledger::{Batch, Entry, PositionContent};
use watchbill_core::ports::{Item, NewItem, WriteId};
use watchbill_core::service::AuditBatches;
use watchbill_domain::{Event, EventId, EventPriority, EventType, TenantId, Timestamp};
use watchbill_wire::BatchList;

use super::peer::{Peer, problem, says};
use super::world::run;

fn event(n: u64) -> Event {
    Event {
        event_id: EventId::parse(&format!("e-{n}")).expect("an id"),
        event_type: EventType::parse("deploy.failed").expect("a type"),
        priority: EventPriority::High,
        source_agent: "ci".into(),
        trace_id: "trace".into(),
        task_id: None,
        payload: Map::new(),
        timestamp: Timestamp::from_millis(n as i64),
        metadata: Map::new(),
        hops: 0,
    }
}

fn stored(new: NewItem) -> Item {
    Item {
        key: new.key,
        version: 1,
        write_id: WriteId(1),
        kind: (*new.kind).into(),
        schema: 1,
        body: new.body,
        counters: Default::default(),
        list: new.list,
        list2: None,
        due: None,
        expires: None,
    }
}

/// A chain of batches with two entries each, and their hashes.
fn chain(batches: u64) -> (Vec<(u64, PositionContent)>, Vec<String>) {
    let (mut found, mut hashes) = (Vec::new(), vec![String::new()]);
    for seq in 1..=batches {
        let entries = [1, 2].map(|n| Entry::Published(event(seq * 10 + n))).into();
        let at = Timestamp::from_millis(1_760_000_000_123 + seq as i64);
        let previous = hashes[seq as usize - 1].clone();
        let (batch, item) = Batch::new(TenantId::default(), seq, at, previous, 0, entries);
        found.push((seq, PositionContent::from(&stored(item))));
        hashes.push(batch.hash);
    }
    (found, hashes)
}

fn page(batches: &[(u64, PositionContent)], seen: u64, next: Option<u64>) -> String {
    let page = AuditBatches { batches: batches.to_vec(), seen, next, bytes: 0 };
    serde_json::to_string(&BatchList::new(TenantId::default(), page)).expect("plain JSON")
}

#[test]
fn a_valid_chain_is_reported_with_its_head() {
    let (found, hashes) = chain(5);
    let pages =
        || vec![says(200, page(&found[..3], 5, Some(4))), says(200, page(&found[3..], 5, None))];
    let peer = Peer::new(pages());
    let ran = run(&peer.url, &["audit", "verify"]);
    assert_eq!(
        (ran.exit, ran.out),
        (
            Exit::Fine,
            format!("the hash chain is intact: 5 batches, 10 entries\nhead: {}\n", hashes[5])
        ),
        "{}",
        ran.err
    );
    assert_eq!(peer.lines(), ["GET /audit/batches?from=1", "GET /audit/batches?from=4"]);
    let peer = Peer::new(pages());
    let ran = run(&peer.url, &["audit", "verify", "--head", &hashes[2], "--json"]);
    let said: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (ran.exit, &said["kept"], &said["head"]),
        (Exit::Fine, &json!(2), &json!(hashes[5]))
    );
}

#[test]
fn the_first_broken_entry_is_named() {
    let (mut found, _) = chain(3);
    let PositionContent::Batch(batch) = &mut found[1].1 else { unreachable!("it is a batch") };
    let text = String::from_utf8(batch.lines.clone()).unwrap();
    batch.lines = text.replacen("\"e-22\"", "\"e-66\"", 1).into_bytes();
    let peer = Peer::new(vec![says(200, page(&found, 3, None))]);
    let ran = run(&peer.url, &["audit", "verify"]);
    assert_eq!(ran.exit, Exit::Broken);
    assert_eq!(
        ran.err,
        "error: ledger batch 2 breaks the chain: entry 2 was changed: event e-66\n"
    );
}

/// The chain reveals every batch that the server leaves out.
#[test]
fn a_missing_batch_is_detected() {
    let (found, _) = chain(3);
    let missing = [found[0].clone(), (2, PositionContent::Missing), found[2].clone()];
    let silent = [found[0].clone(), found[2].clone()];
    for batches in [&missing[..], &silent[..]] {
        let peer = Peer::new(vec![says(200, page(batches, 3, None))]);
        let ran = run(&peer.url, &["audit", "verify"]);
        assert_eq!(ran.exit, Exit::Broken);
        assert!(ran.err.contains("ledger batch 2") && ran.err.contains("missing"), "{}", ran.err);
    }
    let peer = Peer::new(vec![says(200, page(&found[..2], 3, None))]);
    assert!(run(&peer.url, &["audit", "verify"]).err.contains("batch 3"), "its end");
}

#[test]
fn a_head_kept_elsewhere_reveals_a_rewritten_ledger() {
    let (_, kept) = chain(6);
    let (found, _) = chain(5);
    let peer = Peer::new(vec![says(200, page(&found, 5, None))]);
    let ran = run(&peer.url, &["audit", "verify", "--head", &kept[6]]);
    assert_eq!(ran.exit, Exit::Broken);
    assert!(ran.err.contains("that you saved"), "{}", ran.err);
    let parsed = Cli::try_parse_from(["watchbill", "audit", "verify", "--head", "abc"]);
    assert!(parsed.unwrap_err().to_string().contains("SHA-256"));
}

#[test]
fn a_server_that_pages_in_a_loop_is_rejected() {
    let (found, _) = chain(2);
    let peer = Peer::new(vec![says(200, page(&found, 2, Some(1)))]);
    let ran = run(&peer.url, &["audit", "verify"]);
    assert_eq!(ran.exit, Exit::Server, "{}", ran.err);
    let peer = Peer::new(vec![says(403, problem(403, "needs the role admin"))]);
    assert_eq!(run(&peer.url, &["audit", "verify"]).exit, Exit::Refused);
    let peer = Peer::new(vec![says(200, page(&[], 0, None))]);
    let ran = run(&peer.url, &["audit", "verify"]);
    assert_eq!(ran.out, "the hash chain is intact: 0 batches, 0 entries\nhead: none\n");
}

fn entry(n: u32, kind: &str) -> Value {
    json!({
        "seq": n, "place": 1, "at": "2026-01-31T07:57:00.000Z", "kind": kind, "actor": "root",
        "subject": "helper", "text": "key helper with role user created", "task_id": null,
        "version": null, "details": {}, "trace_id": null, "field_of_a_later_version": 1,
    })
}

fn entries(ids: std::ops::Range<u32>, next: Option<&str>) -> String {
    let entries: Vec<Value> = ids.map(|n| entry(n, "key_created")).collect();
    json!({
        "success": true, "count": entries.len(), "entries": entries, "next_cursor": next,
        "recorded_until": "2026-01-31T07:58:00.000Z", "batch": 9,
    })
    .to_string()
}

#[test]
fn entries_are_listed_with_who_and_what() {
    let peer = Peer::new(vec![says(200, entries(0..1, None))]);
    let args = ["audit", "list", "--kind", "key_created", "--actor", "root", "--since", "24h"];
    let ran = run(&peer.url, &args);
    assert_eq!(ran.exit, Exit::Fine, "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(
        lines[0].starts_with("WHEN") && lines[1].contains("2026-01-31 07:57:00"),
        "{}",
        ran.out
    );
    assert!(lines[1].contains("key_created") && lines[1].contains("root"), "{}", ran.out);
    assert_eq!(ran.err, "recorded until 2026-01-31 07:58:00, batch 9\n");
    assert_eq!(
        peer.lines(),
        ["GET /audit?kind=key_created&actor=root&since=2026-01-30T08%3A00%3A00.000Z&limit=25"]
    );
    let peer = Peer::new(vec![]);
    assert_eq!(run(&peer.url, &["audit", "list", "--since", "soon"]).exit, Exit::Usage);
}

#[test]
fn everything_is_exported_one_entry_a_line() {
    // A page may be empty and not the last.
    let peer = Peer::new(vec![
        says(200, entries(0..2, Some("c1"))),
        says(200, entries(0..0, Some("c2"))),
        says(200, entries(2..3, None)),
    ]);
    let ran = run(&peer.url, &["audit", "export", "--until", "2026-02-01"]);
    let lines: Vec<Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, (0..3).map(|n| entry(n, "key_created")).collect::<Vec<_>>());
    assert_eq!(
        peer.lines(),
        [
            "GET /audit?until=2026-02-01T00%3A00%3A00.000Z&limit=200",
            "GET /audit?until=2026-02-01T00%3A00%3A00.000Z&limit=200&cursor=c1",
            "GET /audit?until=2026-02-01T00%3A00%3A00.000Z&limit=200&cursor=c2",
        ]
    );
}
