//! Tests of the data folder: backup and damage.

mod backup;
mod damage;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use watchbill_core::decide::EngineConfig;
use watchbill_core::service::{Core, NewTask, Ports};
use watchbill_domain::TaskId;
use watchbill_local::wake::LocalWake;
use watchbill_sqlite::blobs::FolderBlobs;
use watchbill_sqlite::sqlite::{Options, SqliteStore};
use watchbill_testkit::{FakeClock, SeededEntropy, a_task};

/// A core over the store in a folder, without an in-memory cache.
pub fn open(data: &Path, seed: u64) -> (Core, Arc<SqliteStore>) {
    open_at(data, seed, Arc::new(FakeClock::default()))
}

/// The same, at a time that the test sets.
pub fn open_at(data: &Path, seed: u64, clock: Arc<FakeClock>) -> (Core, Arc<SqliteStore>) {
    let options = Options { recent_bytes: 0, ..Options::default() };
    let store = Arc::new(SqliteStore::open(data, options).unwrap());
    let ports = Ports {
        store: store.clone(),
        blobs: Arc::new(FolderBlobs::open(data).unwrap()),
        clock,
        entropy: Arc::new(SeededEntropy::new(seed)),
        wake: Arc::new(LocalWake::new()),
    };
    let core = Core::new(ports, Arc::new(EngineConfig::default()), store.epoch());
    (core, store)
}

pub fn payload(bytes: usize) -> Map<String, Value> {
    json!({ "text": "x".repeat(bytes) }).as_object().cloned().unwrap()
}

pub async fn create(core: &Core, bytes: usize) -> TaskId {
    let new = NewTask { payload: payload(bytes), ..a_task() };
    core.tasks().create(new).await.unwrap().task.task.id
}

/// Changes the bytes of a task's header on disk.
pub fn damage(database: &Path, task: &TaskId) {
    let conn = rusqlite::Connection::open(database).unwrap();
    let sql = "UPDATE items SET body = zeroblob(9) WHERE key = CAST(? AS BLOB)";
    let key = format!("T#default#task#{task}\u{0}0");
    assert_eq!(conn.execute(sql, [key.as_bytes()]).unwrap(), 1);
}
