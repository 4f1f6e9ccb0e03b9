//! Python tools, each in its own virtual environment under the target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt;
use crate::cmd;
use crate::ctx::Ctx;

/// The tool's program.
pub fn need(ctx: &Ctx, tool: &str) -> Result<PathBuf> {
    program(ctx, tool, tool)
}

/// A Python that has the library.
pub fn python_with(ctx: &Ctx, library: &str) -> Result<PathBuf> {
    program(ctx, library, "python")
}

/// A program installed from `xtask/requirements/<tool>.txt`, which pins all versions.
fn program(ctx: &Ctx, tool: &str, program: &str) -> Result<PathBuf> {
    let file = ctx.root.join("xtask/requirements").join(tool).with_extension("txt");
    let wanted = fs::read_to_string(&file)
        .with_context(|| format!("can't read the pinned versions in {}", file.display()))?;
    let folder = ctx.folder("venv")?.join(tool);
    let program = folder.join("bin").join(program);
    // Written last, so that an interrupted installation does not count as complete.
    let installed = folder.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|have| have == wanted) && program.exists() {
        return Ok(program);
    }
    create(&folder)?;
    let pip = folder.join("bin/pip");
    let args = ["install", "--quiet", "--disable-pip-version-check", "--requirement"];
    cmd::run(Command::new(&pip).args(args).arg(&file))
        .with_context(|| format!("pip could not install {tool}; is PyPI reachable?"))?;
    fs::write(&installed, &wanted).context("can't record what was installed")?;
    Ok(program)
}

fn create(folder: &Path) -> Result<()> {
    let python = apt::need("python3", "python3")?;
    let mut command = Command::new(python);
    command.args(["-m", "venv", "--clear"]).arg(folder);
    if cmd::output(&mut command).is_ok() {
        return Ok(());
    }
    // Debian's python3 comes without ensurepip, which venv needs.
    apt::install("python3-venv").context("python3 can't create virtual environments")?;
    cmd::run(&mut command)
}
