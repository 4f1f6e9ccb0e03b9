//! The database's schema and opening: pragmas, migrations and checks.

use std::path::Path;

use rusqlite::Connection;

use super::lock::Lock;
use super::{OpenError, traces};
use crate::private;

/// Marks a file as ours: "WtBl".
const APPLICATION_ID: i32 = 0x5774_426c;

/// Step `n` leads from version `n` to `n + 1`. Only ever append.
pub(super) const MIGRATIONS: &[&str] = &[V1, V2];

/// Row ids are in creation order, so new rows go to the end of the table. An update touches
/// only what has changed: an index whose columns are not set is left alone. `key` and the lists
/// join their two parts (see `codec`). The due index starts with the time, because 32 tails
/// would mean 32 pages for each group of commits, while a few extra due rows cost the sweeper
/// next to nothing. The body is last, so that the columns before it are read without its
/// overflow pages. A row of `changes` holds those of one group.
const V1: &str = "
    CREATE TABLE items (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL,
        v INTEGER NOT NULL,
        w BLOB NOT NULL,
        kind TEXT NOT NULL,
        schema INTEGER NOT NULL,
        list BLOB,
        list2 BLOB,
        due INTEGER,
        shard INTEGER NOT NULL,
        expires INTEGER,
        counters TEXT,
        body BLOB NOT NULL,
        room BLOB
    ) STRICT;
    CREATE UNIQUE INDEX items_key ON items (key);
    CREATE INDEX items_list ON items (list, key) WHERE list IS NOT NULL;
    CREATE INDEX items_list2 ON items (list2, key) WHERE list2 IS NOT NULL;
    CREATE INDEX items_due ON items (due, shard) WHERE due IS NOT NULL;
    CREATE INDEX items_expires ON items (expires) WHERE expires IS NOT NULL;
    CREATE TABLE changes (
        last INTEGER PRIMARY KEY,
        n INTEGER NOT NULL,
        packed BLOB NOT NULL
    ) STRICT;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO meta VALUES ('epoch', 0);
";

/// The first version whose items have a checksum.
pub(super) const WITH_SUMS: usize = 2;

/// A checksum of each item (see `codec::sum_of`); older items have none.
const V2: &str = "ALTER TABLE items ADD COLUMN sum INTEGER";

/// The writer's page cache: 24 MB, enough for the ends of all its indexes.
const WRITER_CACHE_KIB: i64 = 24 * 1024;
const READER_CACHE_KIB: i64 = 4 * 1024;

fn sqlite(doing: &'static str, path: &Path) -> impl Fn(rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::from_sqlite(doing, &path, source)
}

/// Opens the writing connection and migrates the file to the newest version.
pub(super) fn open_writer(
    lock: &Lock,
    path: &Path,
    migrations: &[&str],
) -> Result<Connection, OpenError> {
    // SQLite gives the log the database's permissions, so these are set first.
    match private::private_options().create_new(true).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(OpenError::Folder { folder: path.to_owned(), source: error });
        }
        _ => {}
    }
    let conn = Connection::open(path).map_err(sqlite("open", path))?;
    conn.set_prepared_statement_cache_capacity(64);
    let doing = sqlite("set up", path);
    let version = check_ours(&conn, path, migrations.len())?;
    match version {
        0 => traces::check_blank(lock, path, &conn)?,
        _ => traces::check_age(lock, path, &conn)?,
    }
    let mode: String = conn
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(sqlite("switch to a write-ahead log in", path))?;
    if mode != "wal" {
        return Err(OpenError::NoWal { path: path.to_owned(), mode });
    }
    conn.pragma_update(None, "synchronous", "FULL").map_err(&doing)?;
    // A separate thread makes checkpoints (see `checkpoint`).
    conn.pragma_update(None, "wal_autocheckpoint", 0).map_err(&doing)?;
    conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB).map_err(&doing)?;
    conn.pragma_update(None, "temp_store", "MEMORY").map_err(&doing)?;
    migrate(&conn, path, version, migrations)?;
    Ok(conn)
}

/// Opens the connection that moves the log. It never waits for locks, because it retries later.
pub(super) fn open_mover(path: &Path) -> Result<Connection, OpenError> {
    let conn = Connection::open(path).map_err(sqlite("open", path))?;
    let doing = sqlite("set up", path);
    conn.pragma_update(None, "synchronous", "FULL").map_err(&doing)?;
    conn.busy_timeout(std::time::Duration::ZERO).map_err(&doing)?;
    Ok(conn)
}

pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let conn = Connection::open(path).map_err(sqlite("open", path))?;
    let doing = sqlite("set up a reader of", path);
    conn.pragma_update(None, "query_only", true).map_err(&doing)?;
    conn.pragma_update(None, "cache_size", -READER_CACHE_KIB).map_err(&doing)?;
    // A checkpoint that restarts the log may block a reader for a moment.
    conn.busy_timeout(std::time::Duration::from_secs(5)).map_err(&doing)?;
    Ok(conn)
}

/// The file's version, if it is ours and not newer than this build.
pub(super) fn check_ours(conn: &Connection, path: &Path, known: usize) -> Result<usize, OpenError> {
    let number = |pragma: &str| -> Result<i32, OpenError> {
        conn.pragma_query_value(None, pragma, |row| row.get(0)).map_err(sqlite("read", path))
    };
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sqlite("read", path))?;
    if tables > 0 && application != APPLICATION_ID {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    match usize::try_from(version) {
        Ok(version) if version <= known => Ok(version),
        _ => Err(OpenError::Newer { path: path.to_owned(), found: version, known }),
    }
}

fn migrate(
    conn: &Connection,
    path: &Path,
    from: usize,
    migrations: &[&str],
) -> Result<(), OpenError> {
    let to = migrations.len();
    if from == to {
        return Ok(());
    }
    if from > 0 {
        let copy = path.with_extension(format!("before-v{to}.db"));
        copy_anew(conn, &copy)?;
        tracing::info!(copy = %copy.display(), from, to, "copied the database before its migration");
    }
    for (at, step) in migrations.iter().enumerate().skip(from) {
        let version = at + 1;
        let script = format!(
            "BEGIN EXCLUSIVE; {step}; PRAGMA application_id = {APPLICATION_ID};
             PRAGMA user_version = {version}; COMMIT;"
        );
        if let Err(source) = conn.execute_batch(&script) {
            // The first error counts; without a transaction there is nothing to roll back.
            let _ = conn.execute_batch("ROLLBACK");
            return Err(OpenError::from_sqlite("migrate", path, source));
        }
    }
    Ok(())
}

/// Writes a copy over one that an earlier, failed attempt left.
fn copy_anew(conn: &Connection, copy: &Path) -> Result<(), OpenError> {
    let half = copy.with_extension("half");
    let unusable = |source| OpenError::Folder { folder: copy.to_owned(), source };
    if half.exists() {
        std::fs::remove_file(&half).map_err(unusable)?;
    }
    backup(conn, &half)?;
    std::fs::rename(&half, copy).map_err(unusable)?;
    private::sync_folder(private::parent(copy)).map_err(unusable)
}

/// Copies the whole database, compacted, as of now. The copy must not exist yet.
pub(super) fn backup(conn: &Connection, to: &Path) -> Result<(), OpenError> {
    if to.exists() {
        return Err(OpenError::CopyExists { path: to.to_owned() });
    }
    let name = to.to_str().ok_or_else(|| OpenError::BadName { path: to.to_owned() })?;
    let unusable = |source| OpenError::Folder { folder: to.to_owned(), source };
    // VACUUM INTO accepts an empty file, so the copy never has wider permissions.
    let file = private::private_options().create_new(true).open(to).map_err(unusable)?;
    conn.execute("VACUUM INTO ?1", [name]).map_err(sqlite("write a copy to", to))?;
    file.sync_all().map_err(unusable)
}

/// Increments the epoch and returns it.
pub(super) fn bump_epoch(conn: &Connection, path: &Path) -> Result<u64, OpenError> {
    conn.query_row(
        "UPDATE meta SET value = value + 1 WHERE name = 'epoch' RETURNING value",
        [],
        |row| row.get::<_, i64>(0),
    )
    .map(i64::cast_unsigned)
    .map_err(sqlite("write to", path))
}
