//! Installs parts of the toolchain that a minimal installation leaves out.

use anyhow::{Context, Result, bail};

use super::which;
use crate::cmd;
use crate::ctx::Ctx;

/// Ensures that `cargo <sub>` works. `component` is its name in rustup.
pub fn need(ctx: &Ctx, sub: &str, component: &str) -> Result<()> {
    if cmd::output(&mut ctx.cargo(&[sub, "--version"])).is_ok() {
        return Ok(());
    }
    if which("rustup").is_none() {
        bail!("`cargo {sub}` is needed; install the toolchain's {component}");
    }
    cmd::run(ctx.command("rustup").args(["component", "add", component]))
        .with_context(|| format!("`cargo {sub}` is needed: rustup component add {component}"))
}
