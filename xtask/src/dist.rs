//! `cargo xtask dist` builds the binary that is shipped.

use anyhow::{Context, Result};

use crate::cmd;
use crate::ctx::Ctx;

pub fn run(ctx: &Ctx) -> Result<()> {
    cmd::run(&mut ctx.cargo(&[
        "build",
        "--package",
        "watchbill",
        "--profile",
        "dist",
        "--locked",
    ]))?;
    let binary = ctx.target.join("dist/watchbill");
    let size = binary.metadata().with_context(|| format!("can't read {}", binary.display()))?.len();
    println!("{}  {}", binary.display(), mebibytes(size));
    Ok(())
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
