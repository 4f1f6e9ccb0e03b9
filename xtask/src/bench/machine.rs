//! The machine on which the figures were measured.

use std::fmt;
use std::thread;

use anyhow::{Context, Result};

use super::{disk, percentile};
use crate::cmd;
use crate::ctx::Ctx;

pub struct Machine {
    cores: usize,
    kernel: String,
    fdatasync_us: f64,
}

impl Machine {
    pub fn look(ctx: &Ctx) -> Result<Self> {
        let cores = thread::available_parallelism().context("can't count the cores")?.get();
        let kernel = cmd::output(ctx.command("uname").arg("-sr"))?.trim().to_owned();
        Ok(Self { cores, kernel, fdatasync_us: percentile(&disk::fdatasyncs(ctx)?, 50) })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, kernel, fdatasync_us } = self;
        write!(f, "{cores} cores, {kernel}, fdatasync of 8 KiB {fdatasync_us:.0} µs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_described_on_one_line() {
        let machine = Machine { cores: 2, kernel: "Linux 6.1".to_owned(), fdatasync_us: 812.4 };
        assert_eq!(machine.to_string(), "2 cores, Linux 6.1, fdatasync of 8 KiB 812 µs");
    }
}
