//! What `serve` shows the user: plain lines on standard output.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use watchbill_domain::Agent;

use super::bootstrap::AdminKey;
use super::config::Config;

/// Prints one line: a label on the left, its text on the right. A closed terminal is no error.
pub fn line(word: &str, text: &str) {
    let mut out = std::io::stdout();
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = match colour {
        true => writeln!(out, "\x1b[36m{word:>10}\x1b[0m  {text}"),
        false => writeln!(out, "{word:>10}  {text}"),
    };
}

pub fn started(address: &SocketAddr, config: &Config, admin: &AdminKey, epoch: u64) {
    line("watchbill", &format!("{} at http://{address}", env!("CARGO_PKG_VERSION")));
    line("data", &format!("{} (start number {epoch})", shown(&config.data)));
    match admin {
        AdminKey::Made { key, file } => {
            line("admin key", key);
            line("", &format!("shown only once; the command line reads it from {}", shown(file)));
        }
        AdminKey::There { file } => line("admin key", &format!("in {}", shown(file))),
        AdminKey::Elsewhere => line("keys", "from the environment and the store"),
    }
    line("docs", &format!("http://{address}/docs"));
    let key = match admin {
        AdminKey::Made { key, .. } => key.clone(),
        AdminKey::There { file } => format!("$(cat {})", file.display()),
        AdminKey::Elsewhere => "YOUR-KEY".to_owned(),
    };
    line("try", "this, in another terminal:");
    line(
        "",
        &format!(
            "curl -s http://{address}/tasks -H \"X-API-Key: {key}\" \
             -H 'Content-Type: application/json' \
             -d '{{\"type\":\"monitor\",\"payload\":{{\"service\":\"system\"}}}}'"
        ),
    );
    line("agents", &agents(config));
    if let Some(path) = &config.policy {
        line("policy", &shown(path));
    }
}

fn agents(config: &Config) -> String {
    if config.slots == 0 {
        return "off: tasks are accepted, but not run".to_owned();
    }
    let external = &config.rules.external;
    let named = |wanted: &dyn Fn(Agent) -> bool| {
        Agent::taking_tasks()
            .filter(|agent| wanted(*agent))
            .map(Agent::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut parts = Vec::new();
    for (what, agents) in [
        ("running", named(&|a| !external.contains(&a) && a.is_built())),
        ("left to external workers", named(&|a| external.contains(&a))),
        (
            "not implemented, for external workers to claim",
            named(&|a| !external.contains(&a) && !a.is_built()),
        ),
    ] {
        if !agents.is_empty() {
            parts.push(format!("{agents} ({what})"));
        }
    }
    parts.join("; ")
}

fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
