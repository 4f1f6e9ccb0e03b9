//! Installs programs from Debian packages.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use super::which;
use crate::cmd;

/// The program, installed from `package` if it is missing and we are root on Debian.
pub fn need(program: &str, package: &str) -> Result<PathBuf> {
    if let Some(found) = which(program) {
        return Ok(found);
    }
    install(package).with_context(|| format!("`{program}` is needed and not on the PATH"))?;
    which(program)
        .with_context(|| format!("the package {package} is installed, but contains no `{program}`"))
}

/// Installs a Debian package, or fails with the command to do so.
pub fn install(package: &str) -> Result<()> {
    if which("apt-get").is_none() {
        bail!("install `{package}` (its name in Debian) with this system's package manager");
    }
    if cmd::output(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!("install it: sudo apt-get install {package}");
    }
    refresh()?;
    let args = ["install", "--yes", "--no-install-recommends", package];
    cmd::run(&mut apt_get(&args)).with_context(|| format!("apt-get could not install {package}"))
}

/// A fresh machine or image has no package lists. Once per run is enough.
fn refresh() -> Result<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        cmd::run(&mut apt_get(&["update"]))?;
        DONE.get_or_init(|| ());
    }
    Ok(())
}

fn apt_get(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").args(args).env("DEBIAN_FRONTEND", "noninteractive");
    command
}
