//! Checks the bans, licences and sources of deny.toml, and the known advisories.
//!
//! `cargo deny check bans licenses sources` reads the same file. This check reads the part that
//! we use, because building cargo-deny takes more than two minutes on two cores, longer than all
//! else a fresh machine has to build. Advisories change daily: `advisories` uses a pinned copy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use toml::Table;

use super::{Report, advisories, licence};
use crate::cmd;
use crate::ctx::Ctx;

pub fn run(ctx: &Ctx) -> Result<Report> {
    let text = fs::read_to_string(ctx.root.join("deny.toml")).context("can't read deny.toml")?;
    let rules = Rules::read(&text)?;
    let tree = ["tree", "--workspace", "--all-features", "--locked", "--edges", "normal,build,dev"];
    let mut tree = ctx.cargo(&tree);
    tree.args(["--target", "all", "--prefix", "none", "--format", "{p}"]);
    let packages = Package::all(&ctx.metadata(true)?, &built(&cmd::output(&mut tree)?))?;
    let mut complaints = rules.complaints(&packages);
    let (known, summary) = advisories::complaints(ctx, &text)?;
    complaints.extend(known);
    println!("{} packages checked; {summary}", packages.len());
    if complaints.is_empty() {
        return Ok(Report::new());
    }
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    bail!("{} complaints", complaints.len())
}

/// A crate that is built into something of ours, on any platform.
#[derive(Default)]
struct Package {
    name: String,
    version: String,
    licence: String,
    /// `None` for a path dependency, which is our own.
    source: Option<String>,
}

impl Package {
    fn all(metadata: &Value, built: &BTreeSet<String>) -> Result<Vec<Self>> {
        let packages =
            metadata["packages"].as_array().context("cargo metadata lists no packages")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let packages = packages.iter().map(|package| Self {
            name: text(&package["name"]),
            version: text(&package["version"]),
            licence: text(&package["license"]),
            source: package["source"].as_str().map(str::to_owned),
        });
        let packages: Vec<Self> =
            packages.filter(|p| built.contains(&format!("{} v{}", p.name, p.version))).collect();
        if packages.len() < built.len() {
            bail!(
                "cargo tree lists {} crates, cargo metadata only {}",
                built.len(),
                packages.len()
            );
        }
        Ok(packages)
    }
}

/// `name vX.Y.Z` of all built crates. Cargo.lock and cargo metadata also name crates behind
/// features that are never switched on (such as ring behind rustls-webpki's).
fn built(tree: &str) -> BTreeSet<String> {
    let lines = tree.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some(format!("{} {}", words.next()?, words.next()?))
    });
    lines.collect()
}

struct Rules {
    bans: Vec<Ban>,
    licences: Vec<String>,
    /// Crate → additional licences that are allowed only for it.
    exceptions: BTreeMap<String, Vec<String>>,
    registries: Vec<String>,
}

struct Ban {
    name: String,
    /// Versions below this are banned; all if `None`. deny.toml writes it `<0.23`.
    below: Option<Vec<u64>>,
    reason: String,
}

impl Rules {
    fn read(text: &str) -> Result<Self> {
        let file: Table = text.parse().context("deny.toml is not TOML")?;
        let section = |name: &str| {
            file.get(name)
                .and_then(|s| s.as_table())
                .with_context(|| format!("deny.toml has no [{name}]"))
        };
        let licences = section("licenses")?;
        let exceptions =
            tables(licences, "exceptions").map(|e| (string(e, "crate"), strings(e, "allow")));
        Ok(Self {
            bans: tables(section("bans")?, "deny").map(Ban::read).collect::<Result<_>>()?,
            licences: strings(licences, "allow"),
            exceptions: exceptions.collect(),
            registries: strings(section("sources")?, "allow-registry"),
        })
    }

    fn complaints(&self, packages: &[Package]) -> Vec<String> {
        packages.iter().flat_map(|package| self.complaints_about(package)).collect()
    }

    fn complaints_about(&self, package: &Package) -> Vec<String> {
        let Package { name, version, licence, source } = package;
        let banned = self.bans.iter().filter(|ban| ban.hits(package));
        let mut out: Vec<String> = banned
            .map(|ban| {
                format!(
                    "{name} {version} is banned: {}; what depends on it: cargo tree -i {name}",
                    ban.reason
                )
            })
            .collect();
        let mut allowed = self.licences.clone();
        allowed.extend(self.exceptions.get(name).into_iter().flatten().cloned());
        if !licence::allowed(licence, &allowed) {
            out.push(format!("{name} {version} has the licence '{licence}', which is not allowed"));
        }
        // metadata writes registry+<url>, or sparse+<url>, which deny.toml writes the same way.
        if let Some(source) = source
            && !self.registries.iter().any(|r| source.trim_start_matches("registry+") == r)
        {
            out.push(format!("{name} {version} comes from {source}, which is not allowed"));
        }
        out
    }
}

impl Ban {
    fn read(table: &Table) -> Result<Self> {
        let (name, below) = match string(table, "crate").split_once(':') {
            None => (string(table, "crate"), None),
            Some((name, range)) => {
                let bound = range.strip_prefix('<').with_context(|| {
                    format!("deny.toml bans '{name}:{range}'; this check reads only name:<version")
                })?;
                (name.to_owned(), Some(numbers(bound)))
            }
        };
        Ok(Self { name, below, reason: string(table, "reason") })
    }

    fn hits(&self, package: &Package) -> bool {
        let old = |below: &Vec<u64>| numbers(&package.version) < *below;
        self.name == package.name && self.below.as_ref().is_none_or(old)
    }
}

/// `0.21.12` as numbers that compare in order. Pre-releases don't matter here.
fn numbers(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

pub(super) fn string(table: &Table, key: &str) -> String {
    table.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
}

pub(super) fn strings(table: &Table, key: &str) -> Vec<String> {
    let values = table.get(key).and_then(|value| value.as_array()).into_iter().flatten();
    values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

pub(super) fn tables<'a>(table: &'a Table, key: &str) -> impl Iterator<Item = &'a Table> {
    let values = table.get(key).and_then(|value| value.as_array()).into_iter().flatten();
    values.filter_map(|value| value.as_table())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules() -> Rules {
        Rules::read(include_str!("../../../deny.toml")).unwrap()
    }

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: "MIT".to_owned(),
            source: Some("registry+https://github.com/rust-lang/crates.io-index".to_owned()),
        }
    }

    #[test]
    fn bans_name_the_crate_and_the_reason() {
        let rules = rules();
        let complaints = rules.complaints(&[package("ring", "0.17.14")]);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].starts_with("ring 0.17.14 is banned: "), "{complaints:?}");
        assert_eq!(rules.complaints(&[package("rustls", "0.21.12")]).len(), 1);
        assert!(
            rules.complaints(&[package("rustls", "0.23.1"), package("serde", "1.0.0")]).is_empty()
        );
    }

    #[test]
    fn licences_and_sources_count() {
        let copyleft = Package { licence: "GPL-3.0-only".to_owned(), ..package("x", "1.0.0") };
        let none = Package { licence: String::new(), ..package("x", "1.0.0") };
        let git = Package {
            source: Some("git+https://example.com/x#1".to_owned()),
            ..package("x", "1.0.0")
        };
        assert_eq!(rules().complaints(&[copyleft, none, git]).len(), 3);
        assert!(
            rules().complaints(&[Package { source: None, ..package("ours", "0.1.0") }]).is_empty()
        );
    }

    #[test]
    fn only_built_crates_are_checked() {
        let metadata = json!({"packages": [
            {"name": "a", "version": "1.0.0", "license": "MIT"},
            {"name": "a", "version": "2.0.0", "license": "MIT"},
            {"name": "b", "version": "0.1.0", "license": "MIT"},
        ]});
        let tree = built("a v2.0.0\nb v0.1.0 (/clone/b)\nb v0.1.0 (/clone/b) (*)\n");
        let packages = Package::all(&metadata, &tree).unwrap();
        let seen: Vec<_> = packages.iter().map(|p| format!("{} {}", p.name, p.version)).collect();
        assert_eq!(seen, ["a 2.0.0", "b 0.1.0"]);
        assert!(
            Package::all(&metadata, &built("c v1.0.0")).is_err(),
            "an unknown crate is refused"
        );
    }

    #[test]
    fn a_range_that_can_not_be_read_is_refused() {
        let text = "[bans]\ndeny = [{ crate = \"x:>=1\" }]\n[licenses]\n[sources]\n";
        let error = Rules::read(text).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("x:>=1"), "{error}");
    }
}
