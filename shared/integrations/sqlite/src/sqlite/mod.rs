//! The embedded store: one SQLite file, one writer thread, a few readers.
//!
//! - `writer`, `queue`, `apply`, `statements`: commits, in groups, one transaction each.
//! - `reader`, `recent`: reads; recently written items are still in memory.
//! - `tail`, `feed`: the change feed.
//! - `schema`, `lock`, `checkpoint`: the file, its versions, its owner, its log.
//! - `traces`, `guard`: checks that it is the right file, at the start and at each commit.
//! - `copies`: access for copies from outside the store. `codec`: encodings.
//!
//! To change the schema: add a step at the end of `schema::MIGRATIONS`; never edit one that was
//! released.

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
pub use feed::ChangeFeed;
use watchbill_core::offload::BlockingPool;

use checkpoint::Checkpoints;
use guard::Guard;
use lock::{DatabaseMark, Lock};
use queue::Queue;
use reader::Readers;
use recent::ItemCache;
use tail::Tail;
use writer::Writer;

/// Called with the reason when the outcome of a COMMIT is in doubt.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// How a store is opened; the defaults suit one small machine.
#[derive(Clone)]
pub struct Options {
    /// Most waiting commits; further ones are answered `Busy`.
    pub queue: usize,
    /// Memory for recently written items, in bytes.
    pub recent_bytes: usize,
    /// Memory for the tail of the change feed, in bytes.
    pub tail_bytes: usize,
    /// Reader connections, each with up to 4 MB of cache. All but two serve long reads.
    pub readers: usize,
    /// Size of the write-ahead log, in bytes, at which it is moved into the database and to
    /// which its file is truncated. A larger log moves fewer pages, because more of them were
    /// overwritten meanwhile; a smaller one starts faster after a crash.
    pub log_bytes: u64,
    /// By default the process ends at once: memory may be ahead of the disk, and only a new
    /// start from the log can tell.
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
                tracing::error!(reason, "the state of the store is unknown: ending the process");
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
    /// Pools for reads of callers that may take long, and for the bundle's own. Neither waits
    /// for the other, and together they leave connections to short reads.
    long_reads: BlockingPool,
    own_reads: BlockingPool,
    path: PathBuf,
    epoch: u64,
}

/// What blocking threads need of the store.
struct Shared {
    queue: Arc<Queue>,
    recent: Arc<ItemCache>,
    tail: Arc<Tail>,
    checkpoints: Arc<Checkpoints>,
    readers: Readers,
    /// Holds the folder's lock; declared after the readers, so that it is dropped last.
    guard: Arc<Guard>,
}

impl SqliteStore {
    /// Opens `watchbill.db` in a folder, which is created if necessary, and locks it against
    /// other processes. Blocks while a log left by a crash is read.
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
        lock.mark(DatabaseMark { epoch, seq: last_seq }).map_err(unusable)?;
        let checkpoints = Arc::new(Checkpoints::new(&path, options.log_bytes));
        checkpoints.watch(&mut conn).map_err(started)?;
        let queue = Arc::new(Queue::new(options.queue));
        let on_fatal = options.on_fatal;
        let guard = Guard::new(lock, &path, epoch, queue.clone(), on_fatal).map_err(unusable)?;
        let shared = Arc::new(Shared {
            queue,
            recent: Arc::new(ItemCache::new(options.recent_bytes)),
            tail: Arc::new(Tail::new(last_seq, options.tail_bytes)),
            checkpoints,
            readers: Readers::open(&path, options.readers, reader::MAX_READ)?,
            guard: Arc::new(guard),
        });
        let threads = Mutex::new(start_threads(&shared, conn, &path)?);
        let long_reads = BlockingPool::new(options.readers.saturating_sub(2));
        let own_reads = BlockingPool::new(1);
        Ok(Self { shared, threads, long_reads, own_reads, path, epoch })
    }

    /// Increments with each opening: a lease of an older epoch belongs to a dead process.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the last committed change; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.shared.tail.last()
    }

    /// The write-ahead log's size, at most a second old.
    pub fn log(&self) -> LogReport {
        self.shared.checkpoints.report()
    }

    /// Commits what is queued, moves the log into the database and ends the threads. Later
    /// commits are refused; reads still work.
    pub async fn close(self: &Arc<Self>) {
        let this = self.clone();
        // The closure does not panic: a joined thread's panic is dropped there.
        let _ = tokio::task::spawn_blocking(move || this.shut()).await;
    }

    fn shut(&self) {
        self.shared.queue.close("the store is closed");
        self.shared.checkpoints.stop();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A panic was reported by its thread, and waiting callers got an error.
            let _ = thread.join();
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.shut();
    }
}

/// A thread that panics leaves commits unanswered or a growing log, so it is as fatal as a
/// COMMIT in doubt.
fn or_fatal(guard: &Guard, name: &str, work: impl FnOnce()) {
    if std::panic::catch_unwind(AssertUnwindSafe(work)).is_err() {
        guard.die(&format!(
            "the thread {name} panicked; restart the process, nothing acknowledged is lost"
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
