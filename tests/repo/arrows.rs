//! Who may know whom.

use std::path::Path;

use serde_json::Value;

use super::{assert_none, cargo};

/// A member of the workspace with the members it depends on.
struct Member {
    name: String,
    folder: String,
    knows: Vec<Arrow>,
}

struct Arrow {
    to: String,
    kind: Kind,
    optional: bool,
}

#[derive(PartialEq)]
enum Kind {
    Normal,
    Dev,
    Build,
}

/// Arrows lead from an outer ring to one further in, never within a ring.
fn ring(folder: &str) -> u8 {
    match folder {
        "shared/engine/core" => 0,
        "shared/engine/wire" => 1,
        "shared/engine/runtime" | "shared/engine/policy" => 2,
        "shared/engine/testkit" => 3,
        "shared/hosts/local" | "xtask" => 4,
        "tests" => 5,
        _ if is_adapter(folder) || is_function(folder) => 3,
        _ => panic!("{folder}: a new folder; give it a ring in tests/repo/arrows.rs"),
    }
}

fn is_adapter(folder: &str) -> bool {
    folder.starts_with("shared/adapters-")
}

fn is_function(folder: &str) -> bool {
    folder.starts_with("functions/")
}

fn members() -> Vec<Member> {
    let text = cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"]);
    let metadata: Value = serde_json::from_str(&text).expect("cargo metadata prints JSON");
    let root = metadata["workspace_root"].as_str().expect("metadata names the root");
    let packages = metadata["packages"].as_array().expect("metadata lists packages");
    packages.iter().map(|package| member(package, Path::new(root))).collect()
}

fn member(package: &Value, root: &Path) -> Member {
    let manifest = package["manifest_path"].as_str().expect("a package has a manifest");
    let folder = Path::new(manifest).parent().expect("a manifest lies in a folder");
    let folder = folder.strip_prefix(root).expect("a member lies in the workspace");
    let dependencies = package["dependencies"].as_array().expect("a list, maybe empty");
    let ours = dependencies.iter().filter(|dependency| dependency["path"].is_string());
    let arrow = |dependency: &Value| Arrow {
        to: dependency["name"].as_str().expect("a dependency has a name").to_owned(),
        kind: match dependency["kind"].as_str() {
            Some("dev") => Kind::Dev,
            Some("build") => Kind::Build,
            _ => Kind::Normal,
        },
        optional: dependency["optional"] == true,
    };
    Member {
        name: package["name"].as_str().expect("a package has a name").to_owned(),
        folder: folder.display().to_string(),
        knows: ours.map(arrow).collect(),
    }
}

/// What `from` may not know, and why; `to` is a folder too.
fn wrong(from: &str, arrow: &Arrow, to: &str) -> Option<&'static str> {
    if is_function(from) && is_function(to) {
        return Some("no function knows another");
    }
    if is_adapter(from) && is_adapter(to) {
        return Some("no adapter knows another");
    }
    // The wiring of a Lambda main, behind its feature; and a test may use anything.
    let wiring = is_function(from) && is_adapter(to) && arrow.optional;
    if arrow.kind == Kind::Dev || wiring {
        return None;
    }
    (ring(from) <= ring(to)).then_some("arrows point inwards")
}

#[test]
fn arrows_point_inwards() {
    let members = members();
    assert!(members.iter().any(|member| member.folder == "shared/engine/core"), "no members");
    let folder = |name: &str| members.iter().find(|m| m.name == name).map(|m| m.folder.as_str());
    let mut found = Vec::new();
    for member in &members {
        for arrow in &member.knows {
            let to = folder(&arrow.to).expect("a path dependency is a member");
            let rule = wrong(&member.folder, arrow, to);
            found.extend(rule.map(|rule| format!("{} → {to}: {rule}", member.folder)));
        }
    }
    assert_none("an arrow that may not be", &found);
}

#[test]
fn the_rules_can_tell() {
    let plain = |kind| Arrow { to: String::new(), kind, optional: false };
    let optional = Arrow { to: String::new(), kind: Kind::Normal, optional: true };
    let (core, wire, net) =
        ("shared/engine/core", "shared/engine/wire", "shared/integrations/http");
    assert!(wrong(core, &plain(Kind::Normal), wire).is_some());
    assert!(wrong(core, &plain(Kind::Build), "shared/engine/testkit").is_some());
    assert!(wrong(core, &plain(Kind::Dev), "shared/engine/testkit").is_none());
    assert!(wrong("functions/api", &plain(Kind::Dev), "functions/router").is_some());
    assert!(wrong("functions/api", &plain(Kind::Normal), net).is_some());
    assert!(wrong("functions/api", &optional, net).is_none());
    assert!(wrong(net, &plain(Kind::Dev), "shared/integrations/sqlite").is_some());
    assert!(wrong("shared/hosts/local", &plain(Kind::Normal), "functions/api").is_none());
}
