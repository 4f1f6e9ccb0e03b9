//! Any tampering with a ledger is detected, and the batch and the entry are named.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, json};
use watchbill_core::ledger::{
    Batch, Entry, LedgerBreak, PositionContent, RawBatch, Tampering, Verified, Verifier,
};
use watchbill_core::ports::{Item, NewItem};
use watchbill_domain::{
    Agent, ChangeKind, Event, EventId, EventPriority, EventType, LogEntry, Priority, Status,
    TaskEntry, TaskId, TaskType, TenantId, Timestamp,
};
use watchbill_governance::{AuditRecord, RecordKind};

fn at(n: u64) -> Timestamp {
    Timestamp::from_millis(1_760_000_000_000 + n as i64 * 1_000)
}

/// A task change, an event or a record: each number gives another entry, so no two are equal.
fn entry(n: u64) -> Entry {
    match n % 3 {
        0 => Entry::Task(TaskEntry {
            task: TaskId::parse(&format!("task-{n}")).unwrap(),
            task_type: TaskType::Monitor,
            priority: Priority::P2,
            agent: Agent::Ops,
            trace_id: "trace".into(),
            hops: 0,
            created_at: None,
            change: LogEntry {
                version: n,
                at: at(n),
                what: ChangeKind::Created,
                by: "alex".into(),
                status: Status::Assigned,
                before: None,
                note: None,
                run: None,
                events: Vec::new(),
                outcome: None,
            },
        }),
        1 => Entry::Published(Event {
            event_id: EventId::parse(&format!("e-{n}")).unwrap(),
            event_type: EventType::parse("deploy.failed").unwrap(),
            priority: EventPriority::High,
            source_agent: "ci".into(),
            trace_id: "trace".into(),
            task_id: None,
            payload: Map::new(),
            timestamp: at(n),
            metadata: Map::new(),
            hops: 0,
        }),
        _ => Entry::AuditRecord(Box::new(record(n, RecordKind::KeyCreated, Map::new()))),
    }
}

fn record(n: u64, kind: RecordKind, details: Map<String, serde_json::Value>) -> AuditRecord {
    AuditRecord {
        id: format!("r-{n}"),
        tenant: TenantId::default(),
        at: at(n),
        kind,
        by: "alex".into(),
        subject: "key".into(),
        text: "key created".into(),
        task: None,
        details,
        events: Vec::new(),
        trace_id: None,
        expires: at(n + 100),
    }
}

/// A new item as the store returns it.
fn stored(new: NewItem) -> Item {
    Item {
        key: new.key,
        version: 1,
        write_id: watchbill_core::ports::WriteId(1),
        kind: (*new.kind).into(),
        schema: new.schema,
        body: new.body,
        counters: Default::default(),
        list: new.list,
        list2: new.list2,
        due: new.due,
        expires: new.expires,
    }
}

fn chain(sizes: &[usize]) -> Vec<Item> {
    let (mut previous, mut n) = (String::new(), 0);
    let batch = |(seq, size): (usize, &usize)| {
        let entries = (0..*size as u64).map(|place| entry(n + place)).collect();
        n += *size as u64;
        let seq = seq as u64 + 1;
        let (batch, item) =
            Batch::new(TenantId::default(), seq, at(n), previous.clone(), seq - 1, entries);
        previous = batch.hash;
        stored(item)
    };
    sizes.iter().enumerate().map(batch).collect()
}

fn lines(item: &Item) -> Vec<Vec<u8>> {
    RawBatch::open(item).unwrap().lines().map(<[u8]>::to_vec).collect()
}

/// The same header with other lines: what write access to the table allows.
fn with_lines(item: &Item, lines: &[Vec<u8>]) -> Item {
    let end = item.body.iter().position(|byte| *byte == b'\n').unwrap();
    let mut packer = DeflateEncoder::new(item.body[..=end].to_vec(), Compression::fast());
    for line in lines {
        packer.write_all(line).unwrap();
        packer.write_all(b"\n").unwrap();
    }
    Item { body: packer.finish().unwrap().into(), ..item.clone() }
}

fn walk(items: &[Option<Item>]) -> Result<Verified, LedgerBreak> {
    let mut verifier = Verifier::new(TenantId::default());
    for item in items {
        verifier.push(item.as_ref().map_or(PositionContent::Missing, PositionContent::from))?;
    }
    verifier.finish()
}

fn whole(items: Vec<Item>) -> Vec<Option<Item>> {
    items.into_iter().map(Some).collect()
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..6usize, 2..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn an_untouched_ledger_holds(sizes in sizes()) {
        let verified = walk(&whole(chain(&sizes))).unwrap();
        let entries = sizes.iter().sum::<usize>() as u64;
        prop_assert_eq!((verified.batches, verified.entries), (sizes.len() as u64, entries));
    }

    #[test]
    fn an_entry_that_was_touched_is_named(
        sizes in sizes(),
        batch in any::<Index>(),
        place in any::<Index>(),
        other in any::<Index>(),
        deed in 0..5u8,
    ) {
        let mut items = chain(&sizes);
        let batch = batch.index(items.len());
        let mut lines = lines(&items[batch]);
        let (place, other) = (place.index(lines.len()), other.index(lines.len()));
        let (place, how) = match deed {
            0 => {
                let text = String::from_utf8(lines[place].clone()).unwrap();
                lines[place] = text.replace(['a', 'e'], "x").into_bytes();
                (place, Tampering::Changed)
            }
            1 => {
                lines.insert(place, serde_json::to_vec(&entry(9_001)).unwrap());
                (place, Tampering::Added)
            }
            2 => {
                lines.remove(place);
                (place, Tampering::Missing)
            }
            3 => {
                lines.insert(place, lines[place].clone());
                (place + 1, Tampering::Added)
            }
            _ => {
                prop_assume!(place != other);
                lines.swap(place, other);
                (place.min(other), Tampering::Moved)
            }
        };
        items[batch] = with_lines(&items[batch], &lines);
        let broken = walk(&whole(items)).unwrap_err();
        let named = broken.entry.clone().unwrap();
        prop_assert_eq!(
            (broken.seq, named.place, named.how),
            (batch as u64 + 1, place + 1, how),
            "{}", broken
        );
    }

    /// If number, hash and digests were forged to match too, the next batch reveals it.
    #[test]
    fn a_batch_with_a_right_looking_hash_is_named(
        sizes in sizes(),
        batch in any::<Index>(),
        size in 1..4u64,
    ) {
        let mut items = chain(&sizes);
        let batch = batch.index(items.len() - 1);
        let old = Batch::read(&items[batch]).unwrap();
        let entries = (0..size).map(|n| entry(7_000 + n)).collect();
        let Batch { tenant, seq, recorded_at, previous, published, .. } = old;
        let (_, forged) = Batch::new(tenant, seq, recorded_at, previous, published, entries);
        items[batch] = stored(forged);
        let broken = walk(&whole(items)).unwrap_err();
        prop_assert_eq!(broken.seq, batch as u64 + 1, "{}", broken);
    }

    #[test]
    fn batches_removed_swapped_or_doubled_are_named(
        sizes in sizes(),
        one in any::<Index>(),
        other in any::<Index>(),
        deed in 0..3u8,
    ) {
        let items = chain(&sizes);
        let (one, other) = (one.index(items.len()), other.index(items.len()));
        let mut items = whole(items);
        let first = match deed {
            0 => {
                items[one] = None;
                one
            }
            1 => {
                prop_assume!(one != other);
                items.swap(one, other);
                one.min(other)
            }
            _ => {
                let twin = items[one].clone();
                items.insert(one, twin);
                one + 1
            }
        };
        let broken = walk(&items).unwrap_err();
        prop_assert_eq!(broken.seq, first as u64 + 1, "{}", broken);
    }

    /// All hashes from there on are recomputed: only a seal, or a hash stored elsewhere,
    /// reveals it.
    #[test]
    fn a_rewritten_ledger_is_revealed_by_its_seals(batch in 0..4usize) {
        let sizes = [2, 2, 2, 2, 2];
        let honest = chain(&sizes);
        let sealed = Batch::read(&honest[3]).unwrap();
        let details = json!({ "seq": 4, "hash": sealed.hash }).as_object().unwrap().clone();
        let seal = Entry::AuditRecord(Box::new(record(50, RecordKind::Sealed, details)));
        let mut items = Vec::new();
        let mut previous = String::new();
        for (place, item) in honest.iter().enumerate() {
            let old = Batch::read(item).unwrap();
            let mut entries = old.entries;
            if place == batch {
                entries[0] = entry(8_000);
            }
            if place == 4 {
                entries.push(seal.clone());
            }
            let (new, item) = Batch::new(
                old.tenant, old.seq, old.recorded_at, previous, old.published, entries,
            );
            previous = new.hash;
            items.push(stored(item));
        }
        let broken = walk(&whole(items)).unwrap_err();
        prop_assert!(broken.seq == 4 && broken.reason.contains("sealed"), "{}", broken);
    }
}

/// A batch in the first format: no digests, and a hash without the tenant.
#[test]
fn a_batch_without_digests_is_still_read() {
    use sha2::Digest as _;
    let line = serde_json::to_vec(&entry(1)).unwrap();
    let lines = [&line[..], b"\n"].concat();
    let mut hash = sha2::Sha256::new();
    hash.update(1u64.to_be_bytes());
    hash.update(at(1).millis().to_be_bytes());
    hash.update(&lines);
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let body = |hash: &str| {
        let at = at(1).millis();
        let header = json!({"t": "default", "seq": 1, "at": at, "prev": "", "hash": hash});
        let mut packer =
            DeflateEncoder::new(format!("{header}\n").into_bytes(), Compression::fast());
        packer.write_all(&lines).unwrap();
        packer.finish().unwrap()
    };
    let item = chain(&[1]).remove(0);
    let old = Item { body: body(&hash).into(), ..item.clone() };
    assert_eq!(Batch::read(&old).unwrap().entries, [entry(1)]);
    assert_eq!(walk(&[Some(old)]).unwrap().head, hash);
    let broken = walk(&[Some(Item { body: body("00").into(), ..item })]).unwrap_err();
    assert_eq!((broken.seq, broken.entry), (1, None));
}

#[test]
fn the_error_names_the_task_and_its_version() {
    let mut items = chain(&[2, 3]);
    let mut lines = lines(&items[1]);
    let text = String::from_utf8(lines[1].clone()).unwrap();
    lines[1] = text.replace("alex", "eve").into_bytes();
    items[1] = with_lines(&items[1], &lines);
    let broken = walk(&whole(items)).unwrap_err();
    assert_eq!(
        broken.to_string(),
        "ledger batch 2 breaks the chain: entry 2 was changed: task task-3 version 3"
    );
}

#[test]
fn changed_digests_are_distinguished_from_changed_entries() {
    let items = chain(&[3]);
    let text = String::from_utf8_lossy(&items[0].body).into_owned();
    let place = text.find("\"dig\":\"").unwrap() + 7;
    let mut body = items[0].body.to_vec();
    body[place] = if body[place] == b'0' { b'1' } else { b'0' };
    let broken = walk(&[Some(Item { body: body.into(), ..items[0].clone() })]).unwrap_err();
    assert!(broken.entry.is_none() && broken.reason.contains("digests"), "{broken}");
}
