//! Measures how long the disk takes to make a small write durable.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

use super::{Figure, percentile};
use crate::ctx::Ctx;
use crate::stopwatch::Stopwatch;

const WRITES: usize = 200;
/// Two SQLite pages: about what a group of commits adds to the log.
const BLOCK: [u8; 8192] = [0x5a; 8192];

pub fn run(ctx: &Ctx) -> Result<Vec<Figure>> {
    let sorted = fdatasyncs(ctx)?;
    Ok(vec![
        Figure::new("fdatasync of 8 KiB, median", percentile(&sorted, 50), "µs"),
        Figure::new("fdatasync of 8 KiB, 95 of 100", percentile(&sorted, 95), "µs"),
    ])
}

/// Microseconds of each overwrite with its fdatasync, ascending. A write that extends the file
/// would make the file system write metadata as well.
pub fn fdatasyncs(ctx: &Ctx) -> Result<Vec<f64>> {
    let path = ctx.folder("bench")?.join("fdatasync");
    let file = File::create(&path).with_context(|| format!("can't create {}", path.display()))?;
    file.write_all_at(&BLOCK, 0)?;
    file.sync_all()?;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let watch = Stopwatch::start();
        file.write_all_at(&BLOCK, 0)?;
        file.sync_data()?;
        times.push(watch.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(&path)?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_is_timed() {
        let folder = tempfile::tempdir().unwrap();
        let ctx =
            Ctx { root: folder.path().to_owned(), target: folder.path().to_owned(), data: None };
        let times = fdatasyncs(&ctx).unwrap();
        assert_eq!(times.len(), WRITES);
        assert!(times.is_sorted() && times[0] > 0.0);
    }
}
