//! Tests of `watchbill policy`.

use std::path::PathBuf;

use serde_json::Value;
use watchbill::exit::Exit;

use super::peer::Peer;
use super::world::{Ran, run};

struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("rules.yaml");
    std::fs::write(&path, text).expect("the test's own file");
    File { _folder: folder, path }
}

fn check(file: &File, more: &[&str]) -> Ran {
    let path = file.path.to_str().expect("a path in UTF-8");
    run(&Peer::absent(), &[&["policy", "check", path], more].concat())
}

#[test]
fn a_policy_is_described_without_a_server() {
    // It is Saturday, 31 January 2026, 8:00 UTC.
    let policy = file(
        "gates:\n  priorities: [P0]\n  priorities_for: mutating\n  production: []\n  feature_flags: false\n  rules:\n    \
         - { name: big, types: [deploy], when: args.replicas > 20, quorum: 2 }\n\
         tools:\n  - { name: none, tools: [deploy], environments: [staging], say: deny }\n\
         inventory: { projects: [shop, billing] }\n\
         freezes:\n  - name: weekend\n    environments: [production]\n    \
         weekly: { zone: UTC, from: fri 18:00, until: mon 06:00 }\n  \
         - { name: may, from: 2026-05-01T00:00:00Z, until: 2026-05-02T00:00:00Z }\n\
         limits: { day: { usd: 7.5 } }\n\
         prices: { large: { input_usd: 3, output_usd: 15 } }\n",
    );
    let ran = check(&policy, &[]);
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Fine, ""));
    for row in [
        "rules.yaml: valid, fingerprint ",
        "gates         priority P0, for mutating tasks\n              big: deploy, when args.replicas > 20, 2 must approve\n",
        "tools         deny   none: deploy, staging\n",
        "inventory     projects: billing, shop\n",
        "freezes       weekend: now, until ",
        "may: next from ",
        "limits        day: 7.50 USD, 100000 tokens\n",
        "prices        large: 3.00 USD in, 15.00 USD out",
    ] {
        assert!(ran.out.contains(row), "'{row}' is not in:\n{}", ran.out);
    }
    let ran = check(&policy, &["--json"]);
    let told: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(told["freezes"][0]["holds_until"], "2026-02-02T06:00:00.000Z");
    assert_eq!(told["freezes"][1]["next_from"], "2026-05-01T00:00:00.000Z");
    assert_eq!(told["limits"]["day"]["usd"], "7.50");
}

#[test]
fn a_fault_is_reported_with_file_and_line() {
    let ran = check(&file("gates:\n  priorities: [P0, P7]\n"), &[]);
    assert_eq!(ran.exit, Exit::Invalid);
    assert!(ran.err.starts_with("error: ") && ran.err.contains("rules.yaml: line 2 column"));
    assert!(ran.err.contains("unknown priority 'P7'"), "{}", ran.err);
    let ran = run(&Peer::absent(), &["policy", "check", "no/such/file.yaml"]);
    assert_eq!(ran.exit, Exit::Usage);
    assert!(ran.err.contains("no/such/file.yaml can't be read"), "{}", ran.err);
}

#[test]
fn without_a_file_the_built_in_policy_is_shown() {
    let ran = run(&Peer::absent(), &["policy", "show"]);
    assert_eq!(ran.exit, Exit::Fine);
    assert!(ran.err.contains("this is the built-in policy"), "{}", ran.err);
    assert!(ran.out.starts_with("# Watchbill's policy"), "{}", ran.out);
    let ran = run(&Peer::absent(), &["policy", "check"]);
    assert!(ran.out.starts_with("the built-in policy: valid"), "{}", ran.out);
}
