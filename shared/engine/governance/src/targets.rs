//! Checks the targets of a call against the inventory.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Inventory;

/// Nesting depth of objects and lists that is searched.
const DEEPEST: usize = 128;

#[derive(Clone, Copy, PartialEq)]
enum TargetKind {
    Project,
    Service,
    Repository,
    Host,
    Url,
    /// May be of any kind.
    Target,
}

fn kind(name: &str) -> Option<TargetKind> {
    Some(match name.to_ascii_lowercase().as_str() {
        "project" | "projects" | "project_name" | "project_id" | "projectid" => TargetKind::Project,
        "service" | "services" | "service_name" | "servicename" => TargetKind::Service,
        "repo" | "repos" | "repository" | "repositories" | "repo_url" | "repository_url" => {
            TargetKind::Repository
        }
        "host" | "hosts" | "hostname" | "hostnames" | "server" | "servers" => TargetKind::Host,
        "url" | "urls" | "uri" | "endpoint" | "endpoints" | "base_url" => TargetKind::Url,
        "target" | "targets" => TargetKind::Target,
        _ => return None,
    })
}

pub fn find(arguments: &Map<String, Value>, inventory: &Inventory) -> Option<String> {
    if *inventory == Inventory::default() {
        return None;
    }
    in_object(arguments, inventory, 0)
}

fn in_object(fields: &Map<String, Value>, inventory: &Inventory, depth: usize) -> Option<String> {
    if depth > DEEPEST {
        return Some("its targets are nested too deep to be inspected".to_owned());
    }
    fields.iter().find_map(|(name, value)| match kind(name) {
        Some(kind) => of_kind(name, kind, value, inventory, depth),
        None => below(value, inventory, depth),
    })
}

fn below(value: &Value, inventory: &Inventory, depth: usize) -> Option<String> {
    match value {
        Value::Object(fields) => in_object(fields, inventory, depth + 1),
        Value::Array(items) if depth <= DEEPEST => {
            items.iter().find_map(|item| below(item, inventory, depth + 1))
        }
        _ => None,
    }
}

fn of_kind(
    name: &str,
    kind: TargetKind,
    value: &Value,
    inventory: &Inventory,
    depth: usize,
) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => {
            (!is_known(kind, text, inventory)).then(|| not_listed(name, &format!("'{text}'")))
        }
        Value::Array(items) if depth <= DEEPEST => {
            items.iter().find_map(|item| of_kind(name, kind, item, inventory, depth + 1))
        }
        // `service: {name: api}` names the target one level down.
        Value::Object(fields) => in_object(fields, inventory, depth + 1).or_else(|| {
            let named = fields.iter().filter(|(key, _)| *key == "name" || *key == "id");
            named.into_iter().find_map(|(_, v)| of_kind(name, kind, v, inventory, depth + 1))
        }),
        // A value that can't be checked counts against the call.
        other => listed(kind, inventory).then(|| not_listed(name, &other.to_string())),
    }
}

fn not_listed(name: &str, value: &str) -> String {
    let short: String = watchbill_redact::text(value).chars().take(200).collect();
    format!("{name} {short} is not in the policy's inventory")
}

/// Whether the inventory lists any of this kind.
fn listed(kind: TargetKind, inventory: &Inventory) -> bool {
    match kind {
        TargetKind::Project => !inventory.projects.is_empty(),
        TargetKind::Service => !inventory.services.is_empty(),
        TargetKind::Repository => !inventory.repositories.is_empty(),
        TargetKind::Host | TargetKind::Url => !inventory.hosts.is_empty(),
        TargetKind::Target => *inventory != Inventory::default(),
    }
}

fn is_known(kind: TargetKind, text: &str, inventory: &Inventory) -> bool {
    let text = text.trim();
    if !listed(kind, inventory) {
        return true;
    }
    match kind {
        TargetKind::Project => inventory.projects.contains(text),
        TargetKind::Service => inventory.services.contains(text),
        TargetKind::Repository => is_repository(text, &inventory.repositories),
        TargetKind::Host => host(text).is_some_and(|host| is_host(&host, &inventory.hosts)),
        TargetKind::Url => url_host(text).is_some_and(|host| is_host(&host, &inventory.hosts)),
        TargetKind::Target => {
            inventory.projects.contains(text)
                || inventory.services.contains(text)
                || is_repository(text, &inventory.repositories)
                || [host(text), url_host(text)]
                    .into_iter()
                    .flatten()
                    .any(|host| is_host(&host, &inventory.hosts))
        }
    }
}

/// `*.example.com` matches all hosts below example.com.
fn is_host(host: &str, hosts: &BTreeSet<String>) -> bool {
    let below = |known: &String| {
        known.strip_prefix('*').is_some_and(|suffix| {
            host.len() > suffix.len() && host.ends_with(suffix) && suffix.starts_with('.')
        })
    };
    hosts.contains(host) || hosts.iter().any(below)
}

/// `example/shop` also matches as an address at github.com; other hosts must be named.
fn is_repository(text: &str, known: &BTreeSet<String>) -> bool {
    if known.contains(text) {
        return true;
    }
    let path = |rest: &str| rest.trim_matches('/').trim_end_matches(".git").to_owned();
    let (host, path) = match text.split_once("://") {
        Some((_, after)) => match (url_host(text), after.split_once('/')) {
            (Some(host), Some((_, rest))) if !rest.contains(['?', '#', '%']) => (host, path(rest)),
            _ => return false,
        },
        // git@github.com:example/shop.git
        None => match text.split_once(':') {
            Some((before, rest)) => match host(before.rsplit('@').next().unwrap_or(before)) {
                Some(host) => (host, path(rest)),
                None => return false,
            },
            None => return known.contains(&path(text)),
        },
    };
    if path.split('/').any(|part| part == ".." || part == "." || part.is_empty()) {
        return false;
    }
    known.contains(&format!("{host}/{path}")) || host == "github.com" && known.contains(&path)
}

/// The host of a text, which may have a port, in lower case. `None` if it is not a host.
fn host(text: &str) -> Option<String> {
    let host = match text.strip_prefix('[') {
        Some(rest) => &text[..=rest.find(']')? + 1],
        None => text.split_once(':').map_or(text, |(host, _)| host),
    };
    let port = text[host.len()..].strip_prefix(':');
    let port_fits = text.len() == host.len()
        || port.is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    (port_fits && !host.is_empty() && host.chars().all(fits)).then_some(host)
}

/// The host of a URL. Programs disagree on the meaning of `\`, spaces and control characters in
/// a URL, so a URL with one of them has none.
fn url_host(text: &str) -> Option<String> {
    if text.contains(['\\', ' ']) || text.chars().any(char::is_control) {
        return None;
    }
    let (scheme, rest) = text.split_once("://")?;
    if scheme.is_empty() || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    host(authority.rsplit('@').next().unwrap_or(authority))
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn said_of(arguments: &Value, inventory: &Inventory) -> Option<String> {
        find(arguments.as_object().unwrap(), inventory)
    }

    pub fn inventory() -> Inventory {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
        Inventory {
            projects: words(&["shop"]),
            services: words(&["api", "worker"]),
            repositories: words(&["example/shop", "git.example.com/ops/tools"]),
            hosts: words(&["web-1", "*.example.com", "[::1]"]),
        }
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(text in ".{0,200}", name in "(url|host|repo|repository|service|target)") {
            let _ = said_of(&json!({ name.clone(): text }), &inventory());
            let _ = said_of(&json!({ name: [{ "name": text }] }), &inventory());
        }
    }

    #[test]
    fn targets_outside_the_inventory_are_refused() {
        let fine = [
            json!({ "project": "shop", "service": "api", "repo": "example/shop" }),
            json!({ "project": null, "other": "anything" }),
            json!({ "services": ["api", "worker"] }),
            json!({ "service": { "name": "api" } }),
            json!({ "repository": "https://github.com/example/shop.git" }),
            json!({ "repository": "git@github.com:example/shop.git" }),
            json!({ "repository": "https://git.example.com/ops/tools" }),
            json!({ "host": "WEB-1:22" }),
            json!({ "host": "a.b.example.com." }),
            json!({ "url": "https://user@www.example.com:8443/x?y#z" }),
            json!({ "url": "http://[::1]:8080/" }),
            json!({ "target": "worker" }),
            json!({ "target": "https://www.example.com/health" }),
        ];
        for arguments in fine {
            assert_eq!(said_of(&arguments, &inventory()), None, "{arguments}");
        }
        let wrong = [
            json!({ "project": "shop2" }),
            json!({ "project": 7 }),
            json!({ "project": "SHOP" }),
            json!({ "services": ["api", "db"] }),
            json!({ "service": { "name": "db" } }),
            json!({ "nested": [{ "deep": { "project": "other" } }] }),
            json!({ "repo": "evil/shop" }),
            json!({ "repository": "https://evil.com/example/shop" }),
            json!({ "repository": "https://github.com/example/shop/../../evil/shop" }),
            json!({ "host": "example.com" }),
            json!({ "host": "evil-example.com" }),
            json!({ "url": "https://evil.com/www.example.com" }),
            json!({ "url": "https://www.example.com@evil.com/" }),
            json!({ "url": "https://evil.com\\@www.example.com/" }),
            json!({ "url": "https://evil.com#.example.com" }),
            json!({ "url": "www.example.com" }),
            json!({ "target": "db" }),
            json!({ "target": true }),
        ];
        for arguments in wrong {
            assert!(said_of(&arguments, &inventory()).is_some(), "{arguments}");
        }
        let hosts_alone = Inventory { hosts: inventory().hosts, ..Inventory::default() };
        assert_eq!(said_of(&json!({ "project": "any" }), &hosts_alone), None);
    }
}
