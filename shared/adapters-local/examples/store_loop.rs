//! How fast the embedded store is on this machine:
//! `cargo run --release -p watchbill-adapters-local --example store_loop -- [folder] [tasks] [in flight …]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use watchbill_adapters_local::sqlite::{Options, SqliteStore};
use watchbill_core::domain::Timestamp;
use watchbill_core::ports::{Clock, Store};
use watchbill_testkit::{SeededEntropy, store_loop};

struct Watch(Instant);

#[async_trait]
impl Clock for Watch {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Timestamp::from_millis(since.map_or(0, |since| since.as_millis() as i64))
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    async fn sleep(&self, how_long: Duration) {
        tokio::time::sleep(how_long).await;
    }
}

/// Peak resident memory of this process, as Linux tells it.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.map_or("unknown".to_owned(), |line| line["VmHWM:".len()..].trim().to_owned())
}

#[tokio::main(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the watch starts here")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "store-loop-data".to_owned()));
    let tasks = args.next().map_or(100_000, |text| text.parse().expect("a number of tasks"));
    let mut flights: Vec<usize> =
        args.map(|text| text.parse().expect("a number of tasks in flight")).collect();
    if flights.is_empty() {
        flights = vec![1, 32, 128];
    }
    let store = Arc::new(SqliteStore::open(&folder, Options::default()).expect("a folder to use"));
    let clock = Arc::new(Watch(Instant::now()));
    for in_flight in flights {
        let tasks = if in_flight < 8 { tasks / 10 } else { tasks };
        let store: Arc<dyn Store> = store.clone();
        let seed = clock.now().millis().unsigned_abs();
        let entropy = Arc::new(SeededEntropy::new(seed));
        let report = store_loop(store, clock.clone(), entropy, in_flight, tasks).await;
        println!(
            "{in_flight:>4} in flight: {:>7.0} tasks/s; a commit p50 {:?}, p99 {:?}, max {:?}",
            report.tasks_per_second, report.p50, report.p99, report.max
        );
    }
    store.close().await;
    println!("peak memory {}", peak_memory());
}
