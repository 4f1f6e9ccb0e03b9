//! Rules that hold for the repository as a whole.

mod arrows;
mod limits;
mod registry;
mod rights;
mod supply;
mod template;
mod tree;
mod words;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the clone. Read when the tests run, because clones may share build output.
fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    Path::new(&manifest).parent().expect("tests/ lies in the clone").to_owned()
}

/// Every file of the project, as a path from the root, without build output and git's files.
fn files() -> Vec<PathBuf> {
    let root = root();
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the clone can be read") {
            let path = entry.expect("an entry of the clone can be read").path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() {
                let foreign =
                    [".git", "target", ".watchbill", ".aws-sam"].iter().any(|f| name == *f);
                open.extend((!foreign).then_some(path));
            } else {
                found.push(path.strip_prefix(&root).expect("it lies in the clone").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> impl Iterator<Item = PathBuf> {
    files().into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
}

/// The texts of all Rust files below a folder of this name.
pub fn text_of_rust_files(folder: &'static str) -> impl Iterator<Item = String> {
    let inside = move |path: &PathBuf| path.components().any(|part| part.as_os_str() == folder);
    rust_files().filter(inside).map(|path| text(&path))
}

/// The text of a file, or an empty string if it is not text.
pub fn text(path: &Path) -> String {
    let bytes = fs::read(root().join(path)).expect("a file of the clone can be read");
    String::from_utf8(bytes).unwrap_or_default()
}

/// What cargo prints for `args`.
fn cargo(args: &[&str]) -> String {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(args).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

/// Fails with everything that is wrong, not only with the first fault.
#[track_caller]
fn assert_none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}
