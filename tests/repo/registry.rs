//! Checks that the embedded bundle wires every function.

use std::collections::BTreeSet;
use std::path::Path;

use super::{files, text};

const REGISTRY: &str = "shared/hosts/local/src/bundle/registry.rs";

/// The names in `FUNCTIONS`.
fn wired() -> BTreeSet<String> {
    let source = text(Path::new(REGISTRY));
    let (_, list) = source.split_once("FUNCTIONS: &[&str] = &[").expect("the registry's list");
    let (list, _) = list.split_once("];").expect("the list's end");
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
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
