//! Tests the README's description of the command line.

use std::path::Path;

use watchbill::exit::EXIT_CODES;

#[test]
fn the_exit_codes_of_the_readme_are_those_of_the_program() {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let readme = std::fs::read_to_string(Path::new(&manifest).join("../../../README.md"))
        .expect("the README is at the root of the repository");
    let rows: Vec<(String, String)> = readme
        .lines()
        .skip_while(|line| !line.starts_with("| exit code |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| {
            let (code, meaning) = line.trim_matches('|').split_once('|')?;
            // In Markdown, literals are in backticks.
            Some((code.trim().to_owned(), meaning.trim().replace('`', "")))
        })
        .collect();
    let codes: Vec<(String, String)> = EXIT_CODES
        .iter()
        .map(|(exit, meaning)| ((*exit as u8).to_string(), (*meaning).to_owned()))
        .collect();
    assert_eq!(rows, codes, "the table under '| exit code |' in README.md");
}
