//! Sizes and places.

use std::path::Path;

use super::{assert_none, files, root, rust_files, text};

#[test]
fn files_are_short_enough_to_read() {
    let long = rust_files().filter_map(|path| {
        let lines = text(&path).lines().count();
        (lines > 500).then(|| format!("{}: {lines} lines", path.display()))
    });
    assert_none(
        "a file has 500 lines at most; split it by what it is about",
        &long.collect::<Vec<_>>(),
    );
}

#[test]
fn the_lambda_mains_only_wire() {
    let is_main = |path: &Path| path.starts_with("functions") && path.ends_with("src/main.rs");
    let long = rust_files().filter(|path| is_main(path)).filter_map(|path| {
        let lines = text(&path).lines().count();
        (lines > 30).then(|| format!("{}: {lines} lines", path.display()))
    });
    assert_none("a function's main has 30 lines at most", &long.collect::<Vec<_>>());
}

#[test]
fn every_decision_is_linked_from_the_architecture() {
    if !root().join("ARCHITECTURE.md").exists() {
        return;
    }
    let architecture = text(Path::new("ARCHITECTURE.md"));
    let missing = files().into_iter().filter(|path| path.starts_with("docs/adr"));
    let missing = missing.map(|path| path.display().to_string());
    let missing: Vec<_> =
        missing.filter(|path| !architecture.contains(&format!("({path})"))).collect();
    assert_none("ARCHITECTURE.md links every file of docs/adr", &missing);
}

#[test]
fn the_walk_sees_the_project_and_nothing_built() {
    let files = files();
    for expected in ["Cargo.toml", ".ci/run", "tests/repo/tree.rs", "shared/engine/core/src/lib.rs"]
    {
        assert!(files.iter().any(|path| path == Path::new(expected)), "{expected}");
    }
    assert!(!files.iter().any(|path| path.starts_with("target") || path.starts_with(".git/")));
}
