//! Checks which crates may depend on each other, and which folders of core may use each other.

use std::path::Path;

use serde_json::Value;

use super::{assert_none, cargo};

/// A member of the workspace with the members that it depends on.
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

/// The engine's crates, each with the engine crates that it may depend on. None depends on ops,
/// integrations, hosts or functions.
const ENGINE: &[(&str, &[&str])] = &[
    ("redact", &[]),
    // What it reports about a command is shown to people, so it redacts secrets itself.
    ("command-guard", &["redact"]),
    ("domain", &["redact"]),
    ("governance", &["redact", "command-guard", "domain"]),
    ("core", &["redact", "domain", "governance"]),
    // Of core it uses only the port `Clock`, because it re-reads its text now and then.
    ("policy", &["redact", "domain", "governance", "core"]),
    ("runtime", &["redact", "domain", "governance", "core"]),
    ("wire", &["redact", "domain", "governance", "core"]),
    ("testkit", &["redact", "domain", "governance", "core", "runtime", "wire"]),
];

/// The folders of core, each with the folders that it may use.
const CORE: &[(&str, &[&str])] = &[
    ("handler", &[]),
    ("offload", &[]),
    ("reactions", &[]),
    ("ports", &["handler"]),
    ("decide", &["reactions"]),
    ("repo", &["decide", "ports"]),
    ("ledger", &["offload", "ports", "repo"]),
    ("service", &["decide", "handler", "ledger", "offload", "ports", "repo"]),
];

/// Dependencies that the rules would forbid, and why they are allowed.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "shared/hosts/lambda",
        "shared/ops/catalog",
        "every function plans with the same tools: an approval that one of them showed is proved \
         by another, so no main may choose",
    ),
    (
        "shared/hosts/cli",
        "functions/redis-bridge",
        "`watchbill bridge` implements the bridge's port to our side over the client",
    ),
    ("shared/hosts/cli", "shared/integrations/redis", "`watchbill bridge --check` asks the Redis"),
    ("shared/hosts/cli", "shared/integrations/sqlite", "`watchbill backup` copies the data folder"),
];

/// The top folder of a member, and its name in it.
#[derive(Clone, Copy, PartialEq)]
enum Room<'a> {
    Engine(&'a str),
    Ops(&'a str),
    Integration(&'a str),
    Host(&'a str),
    Function,
    Outside,
}

fn room(folder: &str) -> Room<'_> {
    match folder.split('/').collect::<Vec<_>>()[..] {
        ["shared", "engine", name] => Room::Engine(name),
        ["shared", "ops", name] => Room::Ops(name),
        ["shared", "integrations", name] => Room::Integration(name),
        ["shared", "hosts", name] => Room::Host(name),
        ["functions", _] => Room::Function,
        ["tests" | "xtask"] => Room::Outside,
        _ => panic!("{folder}: a new folder; add to tests/repo/arrows.rs who may depend on it"),
    }
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

/// The rule that a dependency of the folder `from` on the folder `to` breaks.
fn wrong(from: &str, arrow: &Arrow, to: &str) -> Option<&'static str> {
    if EXCEPTIONS.iter().any(|(a, b, _)| (*a, *b) == (from, to)) {
        return None;
    }
    match (room(from), room(to)) {
        // Not even in tests: a test that needs two of them is a test of the whole.
        (Room::Integration(_), Room::Integration(_)) => Some("no integration knows another"),
        (Room::Function, Room::Function) => Some("no function knows another"),
        // A test may use anything else.
        _ if arrow.kind == Kind::Dev => None,
        (_, Room::Engine("testkit")) if !matches!(room(from), Room::Outside) => {
            Some("testkit is for tests")
        }
        (Room::Outside, _) => None,
        (Room::Engine(from), Room::Engine(to)) => {
            let known = ENGINE.iter().find(|(name, _)| *name == from);
            let (_, known) = known.unwrap_or_else(|| {
                panic!("{from}: a new engine crate; add its dependencies to tests/repo/arrows.rs")
            });
            (!known.contains(&to)).then_some("the engine's arrows point down")
        }
        (Room::Engine(_), _) => Some("the engine knows nothing of ops"),
        (_, Room::Engine(_)) => None,
        (Room::Ops("catalog"), Room::Ops(_)) => None,
        (Room::Ops(_), Room::Ops(_)) => Some("no capability knows another"),
        // The ports that they implement.
        (Room::Integration(_), Room::Ops(to)) => {
            (to == "catalog").then_some("an integration knows the ports it implements")
        }
        (Room::Function, Room::Ops(_)) => None,
        // The wiring of a Lambda main, behind its feature.
        (Room::Function, Room::Integration(_) | Room::Host("lambda")) => {
            (!arrow.optional).then_some("a function's library knows ports")
        }
        (Room::Host("lambda"), Room::Integration("aws")) => None,
        (Room::Host("local"), Room::Integration("aws")) => Some("AWS stays out of the binary"),
        (Room::Host("local"), Room::Function | Room::Ops(_) | Room::Integration(_)) => None,
        (Room::Host("cli"), Room::Host("local")) => None,
        _ => Some("arrows point inwards"),
    }
}

#[test]
fn crates_depend_only_on_what_the_rules_allow() {
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
    assert_none("a forbidden dependency", &found);
}

/// Each crate costs time at every link.
#[test]
fn the_number_of_crates_is_bounded() {
    let members = members();
    let count = members.iter().filter(|member| member.folder.starts_with("shared/")).count();
    assert!(count <= 22, "{count} crates below shared/, 22 are the most");
}

#[test]
fn every_exception_is_used_and_explained() {
    let members = members();
    let named = |folder: &str| members.iter().find(|member| member.folder == folder);
    let unused = EXCEPTIONS.iter().filter(|(from, to, why)| {
        let to = named(to).map(|member| &member.name);
        let used = named(from).is_some_and(|from| {
            from.knows.iter().any(|arrow| Some(&arrow.to) == to && arrow.kind == Kind::Normal)
        });
        !used || why.is_empty()
    });
    let unused: Vec<String> = unused.map(|(from, to, _)| format!("{from} → {to}")).collect();
    assert_none("an unused exception", &unused);
}

/// A commit that bypasses `Context::transact` would not be retried while the store is busy, nor
/// checked when its response is lost.
#[test]
fn every_commit_goes_through_transact() {
    let home = Path::new("shared/engine/core/src/service/context.rs");
    let shipped = |path: &std::path::PathBuf| {
        let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        // Implementations of the store receive commits; testkit and examples are not shipped.
        let other = ["integrations", "testkit", "tests", "examples", "xtask"];
        let port = Path::new("shared/engine/core/src/ports/store.rs");
        path != home
            && path != port
            && !parts.iter().any(|part| other.contains(&&**part) || part.ends_with("tests.rs"))
    };
    let found = super::rust_files().filter(shipped).filter(|path| {
        let text = super::text(path);
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        code.replace("self.commit(", "").contains(".commit(") || code.contains("Commit {")
    });
    let found: Vec<String> = found.map(|path| path.display().to_string()).collect();
    assert_none("a commit that bypasses Context::transact", &found);
}

/// The names of core's folders that a text uses: `crate::ports`, `crate::{ports::{a, b}, repo}`.
fn folders_used(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let boundary = text[..at].chars().next_back();
        if boundary.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let Some(list) = rest.strip_prefix('{') else {
            used.push(rest.split(|c| !is_name(c)).next().unwrap_or_default().to_owned());
            continue;
        };
        // The first name of each part, however deeply its rest is nested.
        let (mut depth, mut is_first, mut name) = (1, true, String::new());
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 1 && is_first && is_name(c) {
                name.push(c);
            } else if !c.is_whitespace() && !name.is_empty() {
                used.push(std::mem::take(&mut name));
                is_first = false;
            }
            if depth == 0 {
                break;
            }
            is_first |= depth == 1 && c == ',';
        }
    }
    used
}

#[test]
fn folders_of_core_use_only_those_below_them() {
    let mut found = Vec::new();
    for path in super::rust_files().filter(|path| path.starts_with("shared/engine/core/src")) {
        let inner = path.strip_prefix("shared/engine/core/src").expect("it lies there");
        let from = inner.iter().next().expect("a file has a name").to_string_lossy();
        let from = from.trim_end_matches(".rs");
        let Some((_, known)) = CORE.iter().find(|(name, _)| *name == from) else {
            assert_eq!(
                from, "lib",
                "{from}: a new folder; add to tests/repo/arrows.rs what it may depend on"
            );
            continue;
        };
        for to in folders_used(&super::text(&path)) {
            let is_folder = CORE.iter().any(|(name, _)| *name == to);
            if is_folder && to != from && !known.contains(&to.as_str()) {
                found.push(format!("{}: {from} → {to}", path.display()));
            }
        }
    }
    assert_none("a folder of core that uses one above it", &found);
}

/// A unit test there would meet two builds of its crate: its own and the one that testkit uses.
#[test]
fn what_testkit_knows_uses_it_from_tests_alone() {
    let (_, known) = ENGINE.iter().find(|(name, _)| *name == "testkit").expect("it is there");
    let below = |path: &std::path::PathBuf| {
        known.iter().any(|name| path.starts_with(format!("shared/engine/{name}/src")))
    };
    let found = super::rust_files().filter(below);
    let found = found.filter(|path| super::text(path).contains("watchbill_testkit"));
    let found: Vec<String> = found.map(|path| path.display().to_string()).collect();
    assert_none("a unit test below testkit that uses it", &found);
}

/// A capability is implemented in its own service, not on `Core`, which wires the services.
#[test]
fn core_only_wires_the_services() {
    let here = Path::new("shared/engine/core/src/service/core.rs");
    let others = super::rust_files().filter(|path| path != here);
    let found =
        others.filter(|path| super::text(path).lines().any(|l| l.starts_with("impl Core ")));
    let found: Vec<String> = found.map(|path| path.display().to_string()).collect();
    assert_none("methods of Core outside its one file", &found);
    let text = super::text(here);
    let methods = ["fn ", "async fn ", "const fn "].map(|kind| format!("\n    pub {kind}"));
    let methods: usize = methods.iter().map(|start| text.matches(start.as_str()).count()).sum();
    assert!((3..=24).contains(&methods), "Core has {methods} methods: it wires services");
}

#[test]
fn the_rules_find_forbidden_dependencies() {
    let plain = |kind| Arrow { to: String::new(), kind, optional: false };
    let optional = Arrow { to: String::new(), kind: Kind::Normal, optional: true };
    let (core, wire) = ("shared/engine/core", "shared/engine/wire");
    let (http, sqlite) = ("shared/integrations/http", "shared/integrations/sqlite");
    let (alerts, catalog) = ("shared/ops/alerts", "shared/ops/catalog");
    let normal = || plain(Kind::Normal);
    assert!(wrong(core, &normal(), wire).is_some());
    assert!(wrong(wire, &normal(), core).is_none());
    assert!(wrong(core, &normal(), alerts).is_some());
    assert!(wrong(core, &plain(Kind::Build), "shared/engine/testkit").is_some());
    assert!(wrong(core, &plain(Kind::Dev), "shared/engine/testkit").is_none());
    assert!(wrong(alerts, &normal(), "shared/ops/monitoring").is_some());
    assert!(wrong(alerts, &normal(), catalog).is_some());
    assert!(wrong(catalog, &normal(), alerts).is_none());
    assert!(wrong(http, &normal(), alerts).is_none());
    assert!(wrong(http, &normal(), sqlite).is_some());
    assert!(wrong(http, &plain(Kind::Dev), sqlite).is_some());
    assert!(wrong(http, &plain(Kind::Dev), "shared/hosts/local").is_none());
    assert!(wrong("functions/api", &plain(Kind::Dev), "functions/router").is_some());
    assert!(wrong("functions/api", &normal(), "functions/router").is_some());
    assert!(wrong("functions/api", &normal(), http).is_some());
    assert!(wrong("functions/api", &optional, http).is_none());
    assert!(wrong("functions/api", &normal(), catalog).is_none());
    assert!(wrong("shared/hosts/local", &normal(), "functions/api").is_none());
    assert!(wrong("shared/hosts/local", &normal(), "shared/integrations/aws").is_some());
    assert!(wrong("shared/hosts/lambda", &normal(), "functions/api").is_some());
    assert!(wrong("shared/hosts/cli", &normal(), "functions/api").is_some());
    assert_eq!(
        folders_used(
            "use crate::{ports::{Clock, a::{b}}, repo, handler::c}; $crate::x; crate::decide::a"
        ),
        ["ports", "repo", "handler", "decide"]
    );
}
