//! Finds the shipped binary, or builds it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The shipped binary, built from this clone with the profile of these tests. `cargo xtask test`
/// builds it beforehand and names it in `WATCHBILL_BIN`.
pub fn watchbill() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| env::var_os("WATCHBILL_BIN").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let root = Path::new(&manifest).parent().expect("tests/ lies in the clone");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([
        "build",
        "--package",
        "watchbill",
        "--bin",
        "watchbill",
        "--message-format=json",
    ]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.current_dir(root).stderr(Stdio::inherit()).output().expect("cargo runs");
    assert!(output.status.success(), "watchbill does not build");
    let text = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let built = messages.filter(|message| message["target"]["name"] == "watchbill");
    let mut paths = built.filter_map(|message| Some(message["executable"].as_str()?.into()));
    paths.next_back().expect("cargo says where it has put the binary")
}
