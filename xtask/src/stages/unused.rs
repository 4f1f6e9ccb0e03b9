//! Finds unused dependencies: named in a manifest, but not in that crate's sources.
//!
//! Like cargo-machete, which takes a minute to build. A crate used only by its presence is
//! listed under `[package.metadata.cargo-machete] ignored` (which cargo-machete reads too).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use toml::Table;

use super::Report;
use crate::ctx::Ctx;

pub fn run(ctx: &Ctx) -> Result<Report> {
    let metadata = ctx.metadata(false)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let mut named = BTreeSet::new();
    let mut complaints = Vec::new();
    for package in packages {
        let manifest = package["manifest_path"].as_str().context("a package has no manifest")?;
        let folder = Path::new(manifest).parent().context("a manifest has no folder")?;
        let used = words(&sources(folder)?);
        let dependencies = dependencies(package);
        let ignored = ignored(package);
        let unused =
            dependencies.iter().filter(|d| !ignored.contains(*d) && !used.contains(&ident(d)));
        complaints
            .extend(unused.map(|d| format!("{}: {d}", package["name"].as_str().unwrap_or("?"))));
        named.extend(dependencies);
    }
    let root = fs::read_to_string(ctx.root.join("Cargo.toml")).context("can't read Cargo.toml")?;
    let shared = shared(&root)?;
    complaints.extend(shared.difference(&named).map(|d| format!("workspace: {d}")));
    if complaints.is_empty() {
        return Ok(Report::new());
    }
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    bail!("{} dependencies are not used", complaints.len())
}

/// The names in the manifest: a renamed dependency has its new name.
fn dependencies(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter_map(|d| d["rename"].as_str().or(d["name"].as_str())).map(str::to_owned).collect()
}

fn ignored(package: &Value) -> BTreeSet<String> {
    let names = package["metadata"]["cargo-machete"]["ignored"].as_array().into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// The keys of [workspace.dependencies].
fn shared(manifest: &str) -> Result<BTreeSet<String>> {
    let manifest: Table = manifest.parse().context("Cargo.toml is not TOML")?;
    let keys = manifest.get("workspace").and_then(|w| w.get("dependencies")?.as_table());
    Ok(keys.context("no [workspace.dependencies] in Cargo.toml")?.keys().cloned().collect())
}

fn ident(name: &str) -> String {
    name.replace('-', "_")
}

/// Every word of the code. A word in a comment does not count as a use.
fn words(files: &[String]) -> BTreeSet<String> {
    let lines = files.iter().flat_map(|text| text.lines());
    let code = lines.map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .map(str::to_owned)
        .collect()
}

/// The .rs files of a package: below its folder, without other packages.
fn sources(folder: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    let mut open: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let package = path.join("Cargo.toml").exists() || path.ends_with("target");
            if path.is_dir() && !package {
                open.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path);
                texts.push(text.with_context(|| format!("can't read {}", path.display()))?);
            }
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_crate_is_used_by_its_name_in_code() {
        let used =
            words(&["use serde_json::Value; // and jiff\nlet x = uuid::Uuid::nil();".into()]);
        assert!(used.contains(&ident("serde-json")) && used.contains("uuid"));
        assert!(!used.contains("jiff"));
    }

    #[test]
    fn a_renamed_crate_counts_by_its_new_name() {
        let package = json!({"dependencies": [{"name": "a", "rename": "b"}, {"name": "c", "rename": null}],
            "metadata": {"cargo-machete": {"ignored": ["c"]}}});
        assert_eq!(dependencies(&package), ["b".to_owned(), "c".to_owned()].into());
        assert_eq!(ignored(&package), ["c".to_owned()].into());
    }

    #[test]
    fn the_workspace_names_are_read() {
        let manifest = "[workspace.dependencies]\nserde = \"1\"\nuuid = { version = \"1\" }\n";
        assert_eq!(shared(manifest).unwrap(), ["serde".to_owned(), "uuid".to_owned()].into());
    }
}
