//! Measures redaction in MB/s for `cargo xtask bench redact`: clean text, ordinary logs,
//! hostile texts of 1 and 4 MB, JSON. For a folder of logs it also counts how many lines
//! change.

use std::borrow::Cow;
use std::hint::black_box;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use watchbill_redact as redact;
use watchbill_testkit::hostile;

const MB: usize = 1_000_000;
/// The fastest of this many measurements counts.
const ROUNDS: usize = 3;

fn main() {
    let mut args = std::env::args().skip(1);
    let data = args.find(|arg| arg == "--data").and_then(|_| args.next());
    let mut figures = json!({
        "clean": rate(&repeated(PROSE)),
        "log": rate(&repeated(LOG)),
        "url": rate(&repeated(URL)),
        "json": rate(&format!("[{}1]", repeated(OBJECT))),
        "secrets": rate(&repeated(SECRETS)),
    });
    let (slowest, growth) = over_hostile();
    figures["hostile"] = slowest.into();
    figures["growth"] = growth.into();
    if let Some(data) = data {
        figures["changed"] = changed(Path::new(&data)).into();
    }
    println!("{figures}");
}

const PROSE: &str =
    "The disk on host web-7 is nearly full; the service answers within two seconds.\n";
const LOG: &str = "2026-11-30T01:02:03Z INFO web-7 order 4711 of customer 12 was sent in 12 ms\n";
const URL: &str =
    "2026-11-30T01:02:03Z INFO GET https://api.example.com/v1/things/42?page=2 200 12ms\n";
const OBJECT: &str =
    "{\"ts\":\"2026-11-30T01:02:03Z\",\"level\":\"info\",\"msg\":\"order sent\",\"n\":5},";
const SECRETS: &str =
    "2026-11-30T01:02:03Z WARN login of bob with password=x1y2z3 at https://a:b@example.com\n";

/// Four megabytes of a repeated line.
fn repeated(line: &str) -> String {
    line.repeat(4 * MB / line.len())
}

/// CPU time of this thread, so that other load of the machine doesn't count.
fn worked() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn seconds(text: &str) -> f64 {
    let counts = (0..ROUNDS).map(|_| {
        let start = worked();
        drop(black_box(redact::text(black_box(text))));
        worked() - start
    });
    counts.fold(f64::MAX, f64::min)
}

fn rate(text: &str) -> f64 {
    text.len() as f64 / MB as f64 / seconds(text)
}

/// The lowest MB/s over hostile texts of 4 MB, and the largest growth of time from 1 to 4 MB.
fn over_hostile() -> (f64, f64) {
    let (mut slowest, mut growth) = (f64::MAX, 0.0_f64);
    for hostile in hostile() {
        let (small, large) = ((hostile.text)(MB), (hostile.text)(4 * MB));
        let grown = seconds(&large) / seconds(&small);
        let rate = rate(&large);
        eprintln!("{:40} {rate:6.1} MB/s, {grown:.1} times as long", hostile.name);
        slowest = slowest.min(rate);
        growth = growth.max(grown);
    }
    (slowest, growth)
}

/// Percentage of lines that change, in all files of a folder.
fn changed(folder: &Path) -> f64 {
    let (mut lines, mut changed) = (0_usize, 0_usize);
    for file in std::fs::read_dir(folder).expect("the folder can be read") {
        let path = file.expect("the folder can be read").path();
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let (before, changed_before) = (lines, changed);
        for line in text.lines() {
            lines += 1;
            changed += usize::from(matches!(redact::text(line), Cow::Owned(_)));
        }
        eprintln!("{}: {} of {}", path.display(), changed - changed_before, lines - before);
    }
    100.0 * changed as f64 / lines.max(1) as f64
}
