//! Runs the store suite on SQLite, and tests what this store guarantees beyond it.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use tempfile::TempDir;
use watchbill_core::ports::{Change, CommitError, Precondition, Store};
use watchbill_domain::Timestamp;
use watchbill_sqlite::sqlite::{ChangeFeed, OpenError, Options, SqliteStore};
use watchbill_testkit::store_suite::{
    Follow, StoreUnderTest, commit, create, done, get, key, new_item, put, replace,
};

struct UnderTest {
    folder: TempDir,
    options: Options,
    store: Option<Arc<SqliteStore>>,
}

impl UnderTest {
    fn new(options: Options) -> Self {
        let folder = TempDir::new().expect("a folder for the test");
        let store = Some(open(folder.path(), &options));
        Self { folder, options, store }
    }

    fn sqlite(&self) -> Arc<SqliteStore> {
        self.store.clone().expect("it is open")
    }
}

fn open(folder: &Path, options: &Options) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(folder, options.clone()).expect("a store that opens"))
}

fn refused(folder: &Path) -> OpenError {
    match SqliteStore::open(folder, Options::default()) {
        Ok(_) => panic!("the store should not have opened"),
        Err(error) => error,
    }
}

#[async_trait]
impl StoreUnderTest for UnderTest {
    fn store(&self) -> Arc<dyn Store> {
        self.sqlite()
    }

    fn follow(&self, after: u64) -> Box<dyn Follow> {
        Box::new(Following(ChangeFeed::open(self.sqlite(), after)))
    }

    async fn reopen(&mut self) {
        let store = self.store.take().expect("it is open");
        store.close().await;
        drop(store);
        self.store = Some(open(self.folder.path(), &self.options));
    }
}

struct Following(ChangeFeed);

#[async_trait]
impl Follow for Following {
    async fn next(&mut self, max: usize) -> Vec<(u64, Change)> {
        self.0.next(max).await.expect("the feed can be read")
    }
}

mod with_memory_to_spare {
    use super::*;

    watchbill_testkit::store_suite!(async { UnderTest::new(Options::default()) });
}

/// Without memory: each read uses the file, and each follower falls behind.
mod from_the_file {
    use super::*;

    watchbill_testkit::store_suite!(async {
        UnderTest::new(Options { recent_bytes: 0, tail_bytes: 0, ..Options::default() })
    });
}

/// Followers switch between the tail and the table.
mod with_a_short_tail {
    use super::*;

    watchbill_testkit::store_suite!(async {
        UnderTest::new(Options { recent_bytes: 20_000, tail_bytes: 20_000, ..Options::default() })
    });
}

#[tokio::test]
async fn the_epoch_grows_and_a_second_opening_is_refused() {
    let mut under_test = UnderTest::new(Options::default());
    let first = under_test.sqlite().epoch();
    let error = refused(under_test.folder.path());
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    let folder = under_test.folder.path().to_str().unwrap().to_owned();
    assert!(error.to_string().contains(&folder), "{error}");
    under_test.reopen().await;
    assert_eq!(under_test.sqlite().epoch(), first + 1);
}

#[tokio::test]
async fn files_of_others_and_of_newer_builds_are_refused() {
    let folder = TempDir::new().unwrap();
    drop(open(folder.path(), &Options::default()));
    let path = folder.path().join("watchbill.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    drop(conn);
    let error = refused(folder.path());
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");

    std::fs::write(&path, "this is a letter, not a database. ".repeat(200)).unwrap();
    let error = refused(folder.path());
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");

    std::fs::remove_file(&path).unwrap();
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(conn);
    let error = refused(folder.path());
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");

    let error = refused(&path);
    assert!(matches!(error, OpenError::Folder { .. }), "{error}");
}

#[tokio::test]
async fn a_backup_holds_everything_and_can_be_opened() {
    let under_test = UnderTest::new(Options::default());
    let store = under_test.store();
    done(&store, 1, [create(key("a", "0"), "one")]).await;
    let copy = TempDir::new().unwrap();
    let path = copy.path().join("watchbill.db");
    under_test.sqlite().backup_to(&path).await.unwrap();
    done(&store, 2, [replace(key("a", "0"), "two", 1)]).await;
    let again = under_test.sqlite().backup_to(&path).await.unwrap_err();
    assert!(matches!(again, OpenError::CopyExists { .. }), "{again}");
    let copied: Arc<dyn Store> = open(copy.path(), &Options::default());
    assert_eq!(get(&copied, &key("a", "0")).await.unwrap().version, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_answers_busy_and_the_rest_is_done() {
    let under_test = UnderTest::new(Options { queue: 3, ..Options::default() });
    let store = under_test.store();
    // While another connection holds the write lock, the writer can't begin.
    let other = rusqlite::Connection::open(under_test.sqlite().path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel();
    for n in 0..12_u128 {
        let (store, answers) = (store.clone(), answers.clone());
        tokio::spawn(async move {
            let writes = [create(key("a", &n.to_string()), "")];
            answers.send((n, commit(&store, n + 1, writes).await)).unwrap();
        });
    }
    // One group of up to three is at the writer and three wait, so at least six are refused.
    let (mut ok, mut busy) = (0, 0);
    for _ in 0..6 {
        let (n, answer) = answered.recv().await.unwrap();
        assert!(matches!(answer, Err(CommitError::Busy { .. })), "{answer:?}");
        assert_eq!(get(&store, &key("a", &n.to_string())).await, None);
        busy += 1;
    }
    other.execute_batch("ROLLBACK").unwrap();
    for _ in 0..6 {
        match answered.recv().await.unwrap().1 {
            Ok(()) => ok += 1,
            Err(CommitError::Busy { .. }) => busy += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(ok >= 3 && ok + busy == 12, "{ok} done, {busy} refused");
    let all = store.collect("P#a", "").await.unwrap();
    assert_eq!(all.len(), ok, "each that was refused was not done");
}

#[tokio::test]
async fn expired_items_go_and_the_feed_says_so() {
    let under_test = UnderTest::new(Options::default());
    let (store, sqlite) = (under_test.store(), under_test.sqlite());
    for n in 0..5_u8 {
        let mut item = new_item(key("a", &n.to_string()), "");
        item.expires = (n > 0).then(|| Timestamp::from_millis(i64::from(n) * 10));
        done(&store, u128::from(n) + 1, [put(item, Precondition::Absent)]).await;
    }
    let now = Timestamp::from_millis(30);
    assert_eq!(sqlite.purge_expired(now, 2).await.unwrap(), 2);
    assert_eq!(sqlite.purge_expired(now, 2).await.unwrap(), 1);
    assert_eq!(sqlite.purge_expired(now, 2).await.unwrap(), 0);
    let left = store.collect("P#a", "").await.unwrap();
    let left: Vec<_> = left.iter().map(|item| &*item.key.sort).collect();
    assert_eq!(left, ["0", "4"]);
    let changes = sqlite.changes(5, 10).await.unwrap();
    assert_eq!(changes.len(), 3);
    assert!(changes.iter().all(|(_, change)| change.image.is_none()));
}

#[tokio::test]
async fn an_expired_head_takes_its_partition_along() {
    let under_test = UnderTest::new(Options::default());
    let (store, sqlite) = (under_test.store(), under_test.sqlite());
    for (n, partition) in ["a", "ab", "a"].into_iter().enumerate() {
        let sort = ["0", "0", "P"][n];
        let mut item = new_item(key(partition, sort), "");
        item.expires = (n == 0).then(|| Timestamp::from_millis(10));
        done(&store, n as u128 + 1, [put(item, Precondition::Absent)]).await;
    }
    assert_eq!(sqlite.purge_expired(Timestamp::from_millis(10), 10).await.unwrap(), 2);
    assert_eq!(store.collect("P#a", "").await.unwrap(), []);
    assert_eq!(store.collect("P#ab", "").await.unwrap().len(), 1);
}

#[tokio::test]
async fn trimming_forgets_the_old_and_keeps_the_count() {
    let mut under_test = UnderTest::new(Options { tail_bytes: 0, ..Options::default() });
    let (store, sqlite) = (under_test.store(), under_test.sqlite());
    for n in 0..10_u128 {
        done(&store, n + 1, [create(key("a", &n.to_string()), "")]).await;
    }
    assert_eq!(sqlite.trim_changes(4, 3).await.unwrap(), 3);
    assert_eq!(sqlite.trim_changes(4, 3).await.unwrap(), 1);
    assert_eq!(sqlite.changes(0, 1).await.unwrap()[0].0, 5);
    assert_eq!(sqlite.trim_changes(u64::MAX, 100).await.unwrap(), 5, "the newest stays");
    drop((store, sqlite));
    under_test.reopen().await;
    assert_eq!(under_test.sqlite().last_seq(), 10);
    done(&under_test.store(), 99, [create(key("b", "0"), "")]).await;
    assert_eq!(under_test.sqlite().changes(10, 9).await.unwrap()[0].0, 11);
}

#[tokio::test]
async fn a_closed_store_refuses_commits_and_still_reads() {
    let under_test = UnderTest::new(Options::default());
    let store = under_test.store();
    done(&store, 1, [create(key("a", "0"), "")]).await;
    under_test.sqlite().close().await;
    let late = commit(&store, 2, [create(key("b", "0"), "")]).await;
    assert!(matches!(late, Err(CommitError::Store(_))), "{late:?}");
    assert!(get(&store, &key("a", "0")).await.is_some());
    let log = under_test.sqlite().path().with_extension("db-wal");
    assert_eq!(std::fs::metadata(log).map_or(0, |log| log.len()), 0, "the log was moved");
}

/// In the child: commits until it is killed, and reports what was acknowledged. The parent
/// below runs it; on its own it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_commits_until_it_is_killed() {
    let Ok(folder) = std::env::var("STORE_OF_THE_CHILD") else { return };
    let store: Arc<dyn Store> = open(Path::new(&folder), &Options::default());
    let writers: Vec<_> = (0..8_u64)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let k = key("w", &writer.to_string());
                for version in 0.. {
                    let id = u128::from(writer + 1) << 64 | u128::from(version);
                    let write = match version {
                        0 => create(k.clone(), "x"),
                        n => replace(k.clone(), "x", n),
                    };
                    done(&store, id, [write]).await;
                    let line = format!("acknowledged {writer} {}\n", version + 1);
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Starts the child on a folder; `limit`: the most bytes of any of its files.
fn child(folder: &Path, limit: Option<u64>) -> Child {
    let child = ["sqlite_store::child_that_commits_until_it_is_killed", "--exact", "--nocapture"];
    let this = std::env::current_exe().expect("this test's own path");
    let mut command = match limit {
        None => Command::new(this),
        Some(limit) => {
            let mut command = Command::new("prlimit");
            // With the signal ignored, a write beyond the limit fails instead.
            let shell = "trap '' XFSZ; exec \"$0\" \"$@\"";
            command.arg(format!("--fsize={limit}")).args(["sh", "-c", shell]).arg(this);
            command
        }
    };
    command
        .args(child)
        .env("STORE_OF_THE_CHILD", folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child that starts")
}

/// What the child acknowledged until its end: a version for each writer. Calls `at` after
/// `most` acknowledgements.
fn acknowledged(child: &mut Child, most: u64, mut at: impl FnMut(&mut Child)) -> [u64; 8] {
    let lines = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
    let (mut versions, mut count) = ([0; 8], 0);
    for line in lines {
        let line = line.expect("a line of the child");
        let Some((_, rest)) = line.split_once("acknowledged ") else { continue };
        let Some((writer, version)) = rest.split_once(' ') else { continue };
        let writer: usize = writer.parse().expect("the writer's number");
        let version: u64 = version.parse().expect("the version it was told");
        versions[writer] = versions[writer].max(version);
        count += 1;
        if count == most {
            at(child);
        }
    }
    versions
}

/// Opens the store and checks that everything acknowledged is in it.
async fn all_is_there(folder: &Path, acknowledged: [u64; 8]) {
    let sqlite = open(folder, &Options::default());
    let store: Arc<dyn Store> = sqlite.clone();
    let mut written = 0;
    for (writer, version) in acknowledged.into_iter().enumerate() {
        let item = get(&store, &key("w", &writer.to_string())).await;
        let found = item.map_or(0, |item| item.version);
        assert!(found >= version, "writer {writer}: {version} acknowledged, {found} found");
        written += found;
    }
    assert_eq!(sqlite.last_seq(), written, "a change for each write");
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_killed_process() {
    for _ in 0..3 {
        let folder = TempDir::new().unwrap();
        let mut child = child(folder.path(), None);
        // SIGKILL; what is still in the pipe was acknowledged before it.
        let versions = acknowledged(&mut child, 400, |child| child.kill().unwrap());
        child.wait().unwrap();
        assert!(versions.iter().sum::<u64>() >= 400, "it ended by itself: {versions:?}");
        all_is_there(folder.path(), versions).await;
    }
}

/// The log can't be written at a group's COMMIT: an answer given before it, or in spite of it,
/// would acknowledge a lost write.
#[tokio::test]
async fn what_was_acknowledged_is_there_when_a_commit_finds_no_room() {
    let folder = TempDir::new().unwrap();
    let mut child = child(folder.path(), Some(1 << 20));
    let versions = acknowledged(&mut child, u64::MAX, |_| {});
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{said}");
    assert!(said.contains("the store can't commit"), "{said}");
    assert!(versions.iter().sum::<u64>() > 0, "it came to commits at all: {said}");
    all_is_there(folder.path(), versions).await;
}

/// The operator removes a file under a running process, which ends. Nothing that it answered is
/// lost: either the next start finds it, or it says what to restore.
#[tokio::test]
async fn what_was_acknowledged_survives_a_removed_file() {
    for name in ["watchbill.db", "watchbill.db-wal", "watchbill.db-shm", "watchbill.lock"] {
        let folder = TempDir::new().unwrap();
        let removed = folder.path().join(name);
        let mut child = child(folder.path(), None);
        let versions = acknowledged(&mut child, 400, |_| std::fs::remove_file(&removed).unwrap());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success(), "{name}: {said}");
        assert!(said.contains(&format!("{name} was removed")), "{said}");
        let rescued = folder.path().join("watchbill.rescued-1.db");
        assert!(said.contains(rescued.to_str().unwrap()), "{said}");
        if name == "watchbill.db" || name == "watchbill.db-wal" {
            let error = refused(folder.path());
            assert!(error.to_string().contains("watchbill.rescued-"), "{name}: {error}");
        }
        // Restores as the message says.
        for gone in ["watchbill.db", "watchbill.db-wal", "watchbill.db-shm"] {
            std::fs::remove_file(folder.path().join(gone)).ok();
        }
        std::fs::rename(rescued, folder.path().join("watchbill.db")).unwrap();
        all_is_there(folder.path(), versions).await;
    }
}

#[test]
fn the_folder_and_its_files_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let parent = TempDir::new().unwrap();
    let folder = parent.path().join("deep/data");
    let store = SqliteStore::open(&folder, Options::default()).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(store.path()), 0o600);
    drop(store);
    // Dropping releases the lock at once.
    SqliteStore::open(&folder, Options::default()).unwrap();
}
