//! The embedded store: one SQLite file, one thread that writes it, a few that read.
//!
//! - `writer`, `queue`, `apply`, `statements`: commits, in groups, one transaction each.
//! - `reader`, `recent`: reads; what was written last is still in memory.
//! - `tail`, `feed`: the change feed.
//! - `schema`, `lock`, `checkpoint`: the file, its versions, its owner, its log.
//! - `traces`, `guard`: that it is the file it should be, at the start and at each commit.
//! - `copies`: what a copy from outside of the store needs. `codec`: how keys, rows, changes and cursors are written.
//!
//! How to change the form of the file: add a step at the end of `schema::MIGRATIONS`;
//! never edit one that was released.

mod apply;
mod checkpoint;
mod codec;
pub(crate) mod copies;
mod error;
mod feed;
mod guard;
mod lock;
mod queue;
mod reader;
mod recent;
mod schema;
mod statements;
mod store;
mod tail;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_files;
#[cfg(test)]
mod tests_of_items;
mod traces;
mod writer;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

pub use checkpoint::LogReport;
pub use error::OpenError;
use error::reason_of;
pub use feed::Feed;
use watchbill_core::offload::Offload;

use checkpoint::Checkpoints;
use guard::Guard;
use lock::{Lock, Mark};
use queue::Queue;
use reader::Readers;
use recent::Recent;
use tail::Tail;
use writer::Writer;

/// What happens when the outcome of a COMMIT is in doubt. It gets the reason.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// How a store is opened; the defaults suit one small machine.
#[derive(Clone)]
pub struct Options {
    /// So many commits may wait; beyond, they are answered `Busy`.
    pub queue: usize,
    /// Bytes of memory for items written last.
    pub recent_bytes: usize,
    /// Bytes of memory for the tail of the change feed.
    pub tail_bytes: usize,
    /// Connections for reading, each with up to 4 MB of cache. All but two serve long reads.
    pub readers: usize,
    /// Bytes that the write-ahead log may have: from here on it is moved into the database,
    /// and its file is cut back to this. Larger: fewer pages are moved, because more of them
    /// were overwritten meanwhile; smaller: a quicker start after a crash.
    pub log_bytes: u64,
    /// By default the process ends at once: what is in memory may be more than what is on
    /// disk, and only a new start from the log can tell.
    pub on_fatal: OnFatal,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue: 4096,
            recent_bytes: 12 << 20,
            tail_bytes: 8 << 20,
            readers: 4,
            log_bytes: 64 << 20,
            on_fatal: Arc::new(|reason| {
                tracing::error!(reason, "the store is in doubt, the process ends");
                eprintln!("watchbill: {reason}");
                std::process::abort();
            }),
        }
    }
}

/// The embedded [`Store`](watchbill_core::ports::Store).
pub struct SqliteStore {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Reads for callers that may take long, and those of the bundle itself: neither waits for
    /// the other, and together they leave connections to the short reads on the spot.
    long_reads: Offload,
    own_reads: Offload,
    path: PathBuf,
    epoch: u64,
}

/// What blocking threads need of the store.
struct Shared {
    queue: Arc<Queue>,
    recent: Arc<Recent>,
    tail: Arc<Tail>,
    checkpoints: Arc<Checkpoints>,
    readers: Readers,
    /// Holds the folder's lock for the store's life; after the readers, so that it goes last.
    guard: Arc<Guard>,
}

impl SqliteStore {
    /// Opens `watchbill.db` in a folder, which is made if need be, and locks it against
    /// other processes. Blocks for as long as a log left by a crash takes to read.
    pub fn open(folder: &Path, options: Options) -> Result<Self, OpenError> {
        let lock = Lock::take(folder)?;
        let path = folder.join("watchbill.db");
        traces::check_absent(&lock, &path)?;
        traces::restrict_all(folder, &path)?;
        let conn = schema::open_writer(&lock, &path, schema::MIGRATIONS)?;
        let epoch = schema::bump_epoch(&conn, &path)?;
        Self::start(lock, conn, path, epoch, options)
    }

    fn start(
        lock: Lock,
        mut conn: rusqlite::Connection,
        path: PathBuf,
        epoch: u64,
        options: Options,
    ) -> Result<Self, OpenError> {
        let started = |source| OpenError::from_sqlite("read", &path, source);
        let unusable = |source| OpenError::Folder { folder: path.clone(), source };
        let (_, last_seq) = statements::last_numbers(&conn).map_err(started)?;
        lock.mark(Mark { epoch, seq: last_seq }).map_err(unusable)?;
        let checkpoints = Arc::new(Checkpoints::new(&path, options.log_bytes));
        checkpoints.watch(&mut conn).map_err(started)?;
        let queue = Arc::new(Queue::new(options.queue));
        let on_fatal = options.on_fatal;
        let guard = Guard::new(lock, &path, epoch, queue.clone(), on_fatal).map_err(unusable)?;
        let shared = Arc::new(Shared {
            queue,
            recent: Arc::new(Recent::new(options.recent_bytes)),
            tail: Arc::new(Tail::new(last_seq, options.tail_bytes)),
            checkpoints,
            readers: Readers::open(&path, options.readers, reader::MAX_READ)?,
            guard: Arc::new(guard),
        });
        let threads = Mutex::new(start_threads(&shared, conn, &path)?);
        let long_reads = Offload::new(options.readers.saturating_sub(2));
        let own_reads = Offload::new(1);
        Ok(Self { shared, threads, long_reads, own_reads, path, epoch })
    }

    /// Grows by one with each opening: a lease of an older epoch belongs to a dead process.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the last change that is committed; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.shared.tail.last()
    }

    /// How large the write-ahead log is, as of at most a second ago.
    pub fn log(&self) -> LogReport {
        self.shared.checkpoints.report()
    }

    /// Commits what waits, moves the log into the database and ends the threads. Later
    /// commits are refused; reads still answer.
    pub async fn close(self: &Arc<Self>) {
        let this = self.clone();
        // The closure doesn't panic: it joins, and a thread's panic is dropped there.
        let _ = tokio::task::spawn_blocking(move || this.shut()).await;
    }

    fn shut(&self) {
        self.shared.queue.close("the store is closed");
        self.shared.checkpoints.stop();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A panic has been reported by its thread; whoever waited was told.
            let _ = thread.join();
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.shut();
    }
}

/// A thread that breaks off leaves commits unanswered, or a log that grows: as bad as a COMMIT
/// in doubt.
fn or_fatal(guard: &Guard, name: &str, work: impl FnOnce()) {
    if std::panic::catch_unwind(AssertUnwindSafe(work)).is_err() {
        guard.die(&format!(
            "the thread {name} broke off; start it again, nothing that was answered is lost"
        ));
    }
}

fn start_threads(
    shared: &Shared,
    conn: rusqlite::Connection,
    path: &Path,
) -> Result<Vec<JoinHandle<()>>, OpenError> {
    let writer = Writer {
        conn,
        queue: shared.queue.clone(),
        recent: shared.recent.clone(),
        tail: shared.tail.clone(),
        checkpoints: shared.checkpoints.clone(),
        guard: shared.guard.clone(),
    };
    let mover = schema::open_mover(path)?;
    let (checkpoints, tail) = (shared.checkpoints.clone(), shared.tail.clone());
    let (moves, writes) = (shared.guard.clone(), shared.guard.clone());
    let thread = |name: &str| thread::Builder::new().name(name.to_owned());
    Ok(vec![
        thread("store-log")
            .spawn(move || {
                or_fatal(&moves, "store-log", || checkpoints.run(&mover, &moves, &tail));
            })
            .map_err(OpenError::Thread)?,
        thread("store-writer")
            .spawn(move || or_fatal(&writes, "store-writer", || writer.run()))
            .map_err(OpenError::Thread)?,
    ])
}
