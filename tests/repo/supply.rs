//! Checks what the shipped binary is built from. `cargo xtask test --only deny` checks the
//! licences and sources of all dependencies.

use std::collections::BTreeSet;

use super::{assert_none, cargo};

/// `name vX.Y.Z` of every crate that is built in. Cargo resolves for this package alone, because
/// a graph of the whole workspace merges features that no binary has together.
fn built_in(package: &str) -> BTreeSet<String> {
    let args = ["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--locked"];
    let tree = cargo(&args);
    let crates = tree.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some(format!("{} {}", words.next()?, words.next()?))
    });
    crates.collect()
}

#[test]
fn the_embedded_binary_contains_no_aws_crates() {
    let crates = built_in("watchbill");
    assert!(crates.iter().any(|c| c.starts_with("watchbill-core ")), "no tree: {crates:?}");
    let aws = |name: &&String| {
        let tls = name.starts_with("aws-lc-rs ") || name.starts_with("aws-lc-sys ");
        !tls && ["aws-", "aws_", "lambda_"].iter().any(|prefix| name.starts_with(prefix))
    };
    let found: Vec<String> = crates.iter().filter(aws).cloned().collect();
    assert_none("watchbill runs without AWS; cargo tree -p watchbill -e normal -i NAME", &found);
}

#[test]
fn the_embedded_binary_has_one_tls_provider() {
    let crates = built_in("watchbill");
    let old = |name: &&String| {
        let rustls =
            name.strip_prefix("rustls v0.").and_then(|v| v.split('.').next()?.parse().ok());
        name.starts_with("ring ") || rustls.is_some_and(|minor: u32| minor < 23)
    };
    let found: Vec<String> = crates.iter().filter(old).cloned().collect();
    assert_none("ring beside aws-lc-rs panics at run time", &found);
}
