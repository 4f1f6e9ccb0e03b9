//! `cargo xtask dist` builds the binary that is shipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cmd;
use crate::ctx::Ctx;
use crate::tools::apt;

/// What `cargo xtask dist` makes.
pub struct Shipped {
    pub binary: PathBuf,
    /// Its symbols. A debugger finds them next to the binary.
    pub symbols: PathBuf,
}

pub fn run(ctx: &Ctx) -> Result<()> {
    let Shipped { binary, symbols } = build(ctx)?;
    for file in [&binary, &symbols] {
        let size = file.metadata().with_context(|| format!("can't read {}", file.display()))?.len();
        println!("{}  {}", file.display(), mebibytes(size));
    }
    Ok(())
}

/// Builds the binary and splits off its symbols, which are half as large again.
pub fn build(ctx: &Ctx) -> Result<Shipped> {
    let objcopy = apt::need("objcopy", "binutils")?;
    let args = ["build", "--package", "watchbill", "--profile", "dist", "--locked"];
    cmd::run(ctx.cargo(&args).env("CARGO_PROFILE_DIST_STRIP", "false"))?;
    let (built, folder) = (ctx.target.join("dist/watchbill"), ctx.folder("dist")?);
    let (binary, symbols) = (folder.join("watchbill"), folder.join("watchbill.debug"));
    let run = |option: &str, from: &Path, to: &Path| {
        cmd::run(Command::new(&objcopy).arg(option).arg(from).arg(to))
    };
    run("--only-keep-debug", &built, &symbols)?;
    run("--strip-all", &built, &binary)?;
    let link = format!("--add-gnu-debuglink={}", symbols.display());
    cmd::run(Command::new(&objcopy).arg(link).arg(&binary))?;
    Ok(Shipped { binary, symbols })
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB ({bytes} bytes)", bytes as f64 / 1_048_576.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_told_in_both_units() {
        assert_eq!(super::mebibytes(1_572_864), "1.5 MiB (1572864 bytes)");
    }
}
