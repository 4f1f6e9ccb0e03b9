//! The functions that there are, and those that the embedded bundle wires.

use std::collections::BTreeSet;
use std::path::Path;

use super::{files, text};

const REGISTRY: &str = "shared/local/src/bundle/registry.rs";

/// The names in `FUNCTIONS`, and those in `ELSEWHERE` with the reason beside them.
fn wired() -> BTreeSet<String> {
    let source = text(Path::new(REGISTRY));
    let list = |after: &str| {
        let (_, list) = source.split_once(after).expect("the registry's list");
        list.split_once("];").expect("the list's end").0.to_owned()
    };
    let named = list("FUNCTIONS: &[&str] = &[");
    let elsewhere = list("ELSEWHERE: &[(&str, &str)] =");
    let firsts = elsewhere.split('(').skip(1).filter_map(|pair| pair.split(',').next());
    let names = named.split(',').chain(firsts).map(str::trim).filter(|name| !name.is_empty());
    names.map(|name| name.trim_matches('"').to_owned()).collect()
}

#[test]
fn every_function_is_wired_in_the_embedded_bundle() {
    let manifests = files()
        .into_iter()
        .filter(|path| path.starts_with("functions") && path.ends_with("Cargo.toml"));
    let folders: BTreeSet<String> = manifests
        .filter_map(|path| Some(path.parent()?.file_name()?.to_str()?.to_owned()))
        .collect();
    assert!(folders.contains("api"), "no functions: {folders:?}");
    assert_eq!(folders, wired(), "the folders of functions/ and FUNCTIONS in {REGISTRY}");
}
