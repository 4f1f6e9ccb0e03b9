//! Checks the sizes of files, and that links and folders lead where they should.

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
fn every_file_begins_with_what_it_is_for() {
    let silent = rust_files().filter(|path| !text(path).starts_with("//! "));
    let silent: Vec<_> = silent.map(|path| path.display().to_string()).collect();
    assert_none("begin the file with one line `//! …` that says what it is for", &silent);
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

/// The targets of a text's relative links, without their anchors.
fn relative_links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local = targets.filter(|target| !target.contains(':') && !target.starts_with('#'));
    local.map(|target| target.split('#').next().unwrap_or_default()).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut dead = Vec::new();
    for path in files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let folder = root().join(path.parent().unwrap_or(Path::new("")));
        for target in relative_links(&text(&path)) {
            if !folder.join(target).exists() {
                dead.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert_none("a link leads nowhere", &dead);
    assert_eq!(relative_links("[a](b.md#c) [d](https://e) [f](#g) [h](../i)"), ["b.md", "../i"]);
}

/// What a document quotes in backticks, outside blocks of code.
fn quoted(text: &str) -> Vec<&str> {
    let blocks = text.split("```").step_by(2);
    blocks.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_file_and_test_that_a_document_names_exists() {
    const FOLDERS: &[&str] = &["shared/", "functions/", "tests/", "xtask/", "infra/", "docs/"];
    let code: String = rust_files().map(|path| text(&path)).collect();
    let is_test = |name: &str| {
        name.matches('_').count() > 2
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let mut missing = Vec::new();
    for path in files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        // What a release changed may have moved since.
        if path.file_name().is_some_and(|name| name == "CHANGELOG.md") {
            continue;
        }
        for name in quoted(&text(&path)) {
            let is_path = FOLDERS.iter().any(|folder| name.starts_with(folder))
                && name.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
            let is_there = match is_path {
                true => root().join(name).exists() || is_of_rust(name),
                false => !is_test(name) || code.contains(name),
            };
            if !is_there {
                missing.push(format!("{}: `{name}`", path.display()));
            }
        }
    }
    assert_none("a document names what does not exist", &missing);
    assert_eq!(quoted("a `b` c `d`\n```\n`e`\n```\n`f`"), ["b", "d", "f"]);
}

/// `tests/crash` may be the module `tests/crash.rs`.
fn is_of_rust(name: &str) -> bool {
    root().join(format!("{}.rs", name.trim_end_matches('/'))).exists()
}

/// Each binary is linked separately, which takes longer than running its tests.
#[test]
fn a_crate_has_one_binary_of_integration_tests() {
    let metadata = super::cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"]);
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("metadata lists packages");
    assert!(packages.len() > 20, "{} packages", packages.len());
    let several = packages.iter().filter_map(|package| {
        let targets = package["targets"].as_array().expect("a package has targets");
        let tests = targets.iter().filter(|target| target["kind"][0] == "test");
        let names: Vec<_> = tests.map(|target| target["name"].to_string()).collect();
        (names.len() > 1).then(|| format!("{}: {}", package["name"], names.join(", ")))
    });
    assert_none(
        "make one tests/all.rs of them, with `autotests = false`",
        &several.collect::<Vec<_>>(),
    );
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
