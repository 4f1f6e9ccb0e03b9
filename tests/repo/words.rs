//! Words that must not stand in the repository.

use super::{assert_none, files, rust_files, text};

/// In two halves each, so that this file passes its own tests.
const UNFINISHED: &[&str] = &[
    concat!("#[ign", "ore"),
    concat!("todo", "!("),
    concat!("unimpl", "emented!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
];

const HOMES: &[&str] = &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];

#[test]
fn nothing_is_left_unfinished() {
    let found = rust_files().flat_map(|path| {
        lines_with(&text(&path), |line| UNFINISHED.iter().any(|word| line.contains(word)))
            .map(|line| format!("{}:{line}", path.display()))
            .collect::<Vec<_>>()
    });
    assert_none("finish it, or take it out", &found.collect::<Vec<_>>());
}

#[test]
fn no_path_of_somebodys_machine() {
    let found = files().into_iter().flat_map(|path| {
        lines_with(&text(&path), |line| HOMES.iter().any(|home| absolute(line, home)))
            .map(|line| format!("{}:{line}", path.display()))
            .collect::<Vec<_>>()
    });
    assert_none(
        "a path under a home folder is there on one machine only",
        &found.collect::<Vec<_>>(),
    );
}

fn lines_with(text: &str, bad: impl Fn(&str) -> bool) -> impl Iterator<Item = String> {
    let lines = text.lines().enumerate().filter(move |(_, line)| bad(line));
    lines.map(|(number, line)| format!("{}: {}", number + 1, line.trim()))
}

/// Whether a path starts with `home` here, and doesn't only have such a folder within: an
/// URL such as example.com/home/x is none.
fn absolute(line: &str, home: &str) -> bool {
    line.match_indices(home).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"-_.~/}".contains(c))
    })
}

#[test]
fn a_home_is_told_from_a_part_of_a_path() {
    let home = HOMES[0];
    assert!(absolute(&format!("see {home}ann/x"), home));
    assert!(absolute(&format!("{home}ann/x"), home));
    assert!(absolute(&format!("\"{home}ann/x\""), home));
    assert!(!absolute(&format!("https://example.com{home}x"), home));
    assert!(!absolute("at home / at work", home));
}
