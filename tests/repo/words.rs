//! Text that must not occur in the repository.

use super::{assert_none, files, rust_files, text};

/// Each is split in two halves, so that this file passes its own tests.
const UNFINISHED: &[&str] = &[
    concat!("#[ign", "ore"),
    concat!("todo", "!("),
    concat!("unimpl", "emented!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
];

const HOMES: &[&str] = &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];

/// Names that the code had before it took the field's words, in two halves as above.
const OLD_NAMES: &[&str] = &[
    concat!("Judge", "ment"),
    concat!("With", "held"),
    concat!("asked", "_hash"),
    concat!("put", "_up"),
    concat!("take", "_back"),
    concat!("count_lost", "_run"),
    concat!("postpone", "_look"),
    concat!("put", "_beside"),
    concat!("in", "_words"),
    concat!("in", "_short"),
    concat!("Cant", "Tell"),
    concat!("Looked", "Up"),
    concat!("Run", "End"),
    concat!("Alert", "Book"),
    concat!("Http", "Home"),
    concat!("Core", "Home"),
    concat!("Worker", "Word"),
    concat!("Fed", "Task"),
    concat!("Told", "Event"),
    concat!("Policy", "Telling"),
    concat!("What", "Peek"),
    concat!("Earned", "By"),
    concat!("Not", "Taken"),
    concat!("Held", "Back"),
    concat!("No", "Place"),
    concat!("Wanted", "At"),
    concat!("Queue", "Figures"),
    concat!("Feed", "Handler"),
    concat!("gated", "_as"),
    concat!("moved", "_on"),
    concat!("Alerts", "Seen"),
    concat!("har", "den"),
    concat!("TR", "IES"),
    concat!("AG", "AIN"),
    concat!("GLA", "NCE"),
    concat!("BELI", "EVED"),
    concat!("AT_", "ONCE"),
    concat!("SETT", "LING"),
];

/// How names of limits began.
const OLD_PREFIXES: &[&str] =
    &[concat!("MO", "ST_"), concat!("LONG", "EST_"), concat!("LEA", "ST_")];

/// Turns of phrase that readers had to puzzle over, in comments and documents.
const OLD_PHRASES: &[&str] = &[
    concat!("put ", "up"),
    concat!("puts ", "up"),
    concat!("worker ", "outside"),
    concat!("workers ", "outside"),
    concat!("stands ", "beside"),
    concat!("ends ", "unheard"),
    concat!("come to ", "rest"),
    concat!("is told ", "of"),
    concat!("so long at the ", "most"),
];

#[test]
fn code_uses_the_names_of_the_field() {
    let is_old = |word: &str| {
        OLD_NAMES.contains(&word) || OLD_PREFIXES.iter().any(|start| word.starts_with(start))
    };
    let found = rust_files().flat_map(|path| {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let words = |line: &str| line.split(|c| !is_name(c)).any(is_old);
        let found: Vec<_> = lines_with(&text(&path), words).collect();
        found.into_iter().map(move |line| format!("{}:{line}", path.display()))
    });
    assert_none(
        "use the name of the field; docs/glossary.md has our own words",
        &found.collect::<Vec<_>>(),
    );
}

#[test]
fn prose_uses_the_words_of_the_field() {
    let has_old = |line: &str| {
        let line = line.to_lowercase();
        OLD_PHRASES.iter().any(|phrase| line.contains(phrase))
    };
    let found = files().into_iter().flat_map(|path| {
        let extension = path.extension().map(|e| e.to_string_lossy().into_owned());
        let is_prose = |line: &str| match extension.as_deref() {
            Some("rs") => line.trim_start().starts_with("//"),
            // What a release said stays as it was said.
            Some("md") => path.file_name().is_none_or(|name| name != "CHANGELOG.md"),
            _ => false,
        };
        let found: Vec<_> =
            lines_with(&text(&path), |line| is_prose(line) && has_old(line)).collect();
        let path = path.display().to_string();
        found.into_iter().map(move |line| format!("{path}:{line}"))
    });
    assert_none("say it plainly; docs/glossary.md has our own words", &found.collect::<Vec<_>>());
}

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

/// Whether a path starts with `home` here. A path that only contains such a folder, such as the
/// URL example.com/home/x, does not count.
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
