//! The paths of the repository and the build.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

pub struct Ctx {
    /// The root of the clone.
    pub root: PathBuf,
    /// Where cargo builds: CARGO_TARGET_DIR, or `target` in the clone.
    pub target: PathBuf,
    /// A folder of logs to measure with, if one is given.
    pub data: Option<PathBuf>,
}

impl Ctx {
    pub fn find() -> Result<Self> {
        // Set by `cargo run`. Read now and not at compile time: with a target folder that clones
        // share, the binary may have been built by another clone.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .context("CARGO_MANIFEST_DIR is not set; run this as `cargo xtask`")?;
        let root = Path::new(&manifest).parent().context("xtask has no parent folder")?.to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => env::current_dir()?.join(folder),
            None => root.join("target"),
        };
        Ok(Self { root, target, data: None })
    }

    /// A folder of xtask's own, kept between runs: tools, logs, reports.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.target.join("xtask").join(name);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("can't create the folder {}", folder.display()))?;
        Ok(folder)
    }

    /// The same, emptied: for the data of one run.
    pub fn fresh_folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder(name)?;
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("can't empty the folder {}", folder.display()))?;
        self.folder(name)
    }

    /// A command in the clone's root.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    pub fn cargo(&self, args: &[&str]) -> Command {
        let mut command = self.command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(args).env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// The metadata of cargo for the workspace and, with `deps`, for all dependencies.
    pub fn metadata(&self, deps: bool) -> Result<Value> {
        let mut command = self.cargo(&["metadata", "--format-version", "1", "--locked"]);
        if !deps {
            command.arg("--no-deps");
        }
        let text = crate::cmd::output(&mut command)?;
        serde_json::from_str(&text).context("cargo metadata did not print JSON")
    }
}
