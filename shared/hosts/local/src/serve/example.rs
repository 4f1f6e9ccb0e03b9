//! Tests that `watchbill.example.yaml` has every setting with its default, with the code of
//! `serve`.

use std::path::{Path, PathBuf};

use super::args::ServeArgs;
use super::config::{Config, Env};
use super::file::File;

/// Settings without a default: their values in the example are examples only.
const NO_DEFAULT: &[&str] = &[
    "jwt_secret",
    "jwks_url",
    "jwks_file",
    "issuer",
    "audience",
    "limit",
    "webhook",
    "url",
    "ca_file",
];

fn example() -> String {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let path = Path::new(&manifest).join("../../../watchbill.example.yaml");
    std::fs::read_to_string(path).expect("the example is at the root of the repository")
}

/// The setting of a line such as `#port: 8000`, or of a nested one, `#  own: true`.
fn setting(line: &str) -> Option<&str> {
    let bare = line.strip_prefix('#')?;
    let bare = bare.strip_prefix("  ").unwrap_or(bare);
    let (name, _) = bare.split_once(':')?;
    let word = |c: char| c.is_ascii_lowercase() || c == '_';
    (!name.is_empty() && name.chars().all(word)).then_some(name)
}

/// The example with all its settings switched on, except those in `without`.
fn switched_on(without: &[&str]) -> String {
    let text = example();
    let lines = text.lines().filter_map(|line| match setting(line) {
        Some(name) if without.contains(&name) => None,
        Some(_) => line.strip_prefix('#'),
        None => Some(line),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn load(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("watchbill.yaml");
    std::fs::write(&path, text).unwrap();
    let args = ServeArgs { config: Some(path), ..ServeArgs::default() };
    Config::load(&args, &Env::new()).unwrap_or_else(|error| panic!("{error:#}\n{text}"))
}

#[test]
fn the_example_as_it_is_changes_nothing() {
    assert_eq!(load(&example()).rules, load("").rules);
}

#[test]
fn every_value_in_the_example_is_the_default() {
    let mut without = NO_DEFAULT.to_vec();
    // The defaults are built in, so a file of that name need not exist.
    without.extend(["reactions", "policy"]);
    let (example, plain) = (load(&switched_on(&without)), load(""));
    assert_eq!(example.rules, plain.rules);
    assert_eq!((example.host, example.port), (plain.host, plain.port));
    assert_eq!((&example.data, example.slots), (&plain.data, plain.slots));
    assert_eq!(example.data, PathBuf::from(".watchbill"));
    assert_eq!(example.rate_limits.to_owned(), plain.rate_limits);
    assert_eq!(example.trusted_proxies, plain.trusted_proxies);
    assert_eq!(example.connections, plain.connections);
    assert_eq!(example.body_within, plain.body_within);
    assert_eq!(example.cors_origins, plain.cors_origins);
    assert_eq!(example.cors_credentials, plain.cors_credentials);
    assert_eq!(example.log_folders, plain.log_folders);
    assert_eq!(example.probe_private, plain.probe_private);
    assert_eq!(example.probe_hosts, plain.probe_hosts);
    assert_eq!((&example.log, example.log_json), (&plain.log, plain.log_json));
    assert_eq!(example.first_task, plain.first_task);
    assert_eq!(example.redis, plain.redis);
    assert_eq!(example.governance.on_failure(), plain.governance.on_failure());
}

/// The parser lists the known settings when it finds an unknown one.
#[test]
fn no_setting_is_missing_in_the_example() {
    let text = switched_on(&[]);
    File::parse(&text).unwrap_or_else(|error| panic!("{error:#}\n{text}"));
    let groups = [
        "",
        "auth",
        "cors",
        "connections",
        "approvals",
        "retries",
        "sla",
        "keep",
        "logs",
        "probes",
        "notify",
        "redis",
    ];
    for group in groups {
        let odd =
            if group.is_empty() { "odd: 1".to_owned() } else { format!("{group}: {{odd: 1}}") };
        let refused = File::parse(&odd).expect_err("an unknown setting is rejected").to_string();
        let (_, known) =
            refused.split_once("expected ").expect("the error lists the known settings");
        let known = known.trim_start_matches("one of ").replace(" or ", ", ");
        let names =
            known.split(',').map(|name| name.trim().trim_matches('`')).filter(|n| !n.is_empty());
        // It is known only to report where it has moved.
        let names = names.filter(|name| *name != "gates");
        for name in names {
            let listed = example().lines().any(|line| setting(line) == Some(name));
            assert!(listed, "'{name}' of '{group}' is not in watchbill.example.yaml");
        }
    }
}
