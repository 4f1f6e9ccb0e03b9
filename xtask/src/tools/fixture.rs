//! The emulated AWS in which the functions run as deployed: `tests/deployed/fixture.py`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::proc::{self, Server};
use super::{apt, venv};
use crate::cmd;
use crate::ctx::Ctx;

/// Many times the usual duration.
const TIMEOUT: Duration = Duration::from_secs(120);

pub struct Fixture {
    server: Server,
    python: PathBuf,
    folder: PathBuf,
}

impl Fixture {
    /// Builds the functions and starts an AWS that has their archives, and no stack yet.
    pub fn up(ctx: &Ctx) -> Result<Self> {
        // Before the build, so that a missing program is reported at once.
        let python = venv::need(ctx, "ministack")?.with_file_name("python");
        // The tests of the checking scripts run first.
        let mut checks = ctx.command(&python);
        checks.args(["-B", "-m", "unittest", "discover", "--quiet", "tests/deployed"]);
        cmd::run(&mut checks)?;
        let binaries = functions(ctx)?;
        let folder = ctx.fresh_folder("fixture")?;
        let (port, emulator_port) = (proc::free_port()?, proc::free_port()?);
        let mut command = ctx.command(&python);
        command.args(["-B", "tests/deployed/fixture.py", "--template", "template.yaml"]);
        command.arg("--binaries").arg(&binaries).arg("--folder").arg(&folder);
        command.args(["--port", &port.to_string()]);
        command.args(["--emulator-port", &emulator_port.to_string()]);
        // Functions inherit its environment, and must not get ours.
        command.env_clear().envs(env::var_os("PATH").map(|path| ("PATH", path)));
        let server = Server::start(ctx, "fixture", command, port, "/health", TIMEOUT)?;
        Ok(Self { server, python, folder })
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Ends it, and checks the roles against all calls since it was started.
    pub fn end(self, ctx: &Ctx) -> Result<()> {
        self.server.terminate(TIMEOUT)?;
        let mut command = ctx.command(&self.python);
        cmd::run(command.args(["-B", "tests/deployed/roles.py"]).arg(&self.folder))
            .context("the roles of template.yaml do not match what the functions call")
    }
}

/// An empty emulated AWS for tests of the adapters: with default settings, without permission
/// checks, so that each test may be its own account.
pub fn plain(ctx: &Ctx) -> Result<Server> {
    let program = venv::need(ctx, "ministack")?;
    let port = proc::free_port()?;
    let mut command = ctx.command(program);
    command.env_clear().envs(env::var_os("PATH").map(|path| ("PATH", path)));
    command.envs([
        ("GATEWAY_PORT", port.to_string().as_str()),
        ("BIND_HOST", "127.0.0.1"),
        ("IOT_MTLS_ENABLED", "0"),
        ("SFTP_ENABLED", "0"),
        ("LOG_LEVEL", "WARNING"),
    ]);
    command.env("TMPDIR", ctx.fresh_folder("emulator")?);
    Server::start(ctx, "emulator", command, port, "/_ministack/health", TIMEOUT)
}

/// The functions' binaries in their own folder. The tests' profile has built the SDK already,
/// and checks arithmetic too.
fn functions(ctx: &Ctx) -> Result<PathBuf> {
    let strip = apt::need("strip", "binutils")?;
    let names = names(&ctx.root.join("functions"))?;
    // The whole workspace with its tests: otherwise cargo builds the SDK again with other
    // features.
    cmd::run(&mut ctx.cargo(&["build", "--locked", "--workspace", "--bins", "--tests"]))?;
    let folder = ctx.fresh_folder("functions")?;
    for name in names {
        // Debug information is ten times the code, and AWS accepts 250 MB of both.
        let mut command = Command::new(&strip);
        command.args(["--strip-debug", "-o"]).arg(folder.join(&name));
        cmd::run(command.arg(ctx.target.join("debug").join(&name)))?;
    }
    Ok(folder)
}

/// The folders of `functions/`, after which the binaries are named.
fn names(functions: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(functions).context("can't read the folder functions")? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").exists() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort();
    if names.is_empty() {
        bail!("{} contains no function", functions.display());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_named_by_their_folders() {
        let folder = tempfile::tempdir().unwrap();
        assert!(names(folder.path()).is_err());
        for name in ["ops-agent", "api", "notes"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        for name in ["ops-agent", "api"] {
            fs::write(folder.path().join(name).join("Cargo.toml"), "").unwrap();
        }
        assert_eq!(names(folder.path()).unwrap(), ["api", "ops-agent"]);
    }
}
