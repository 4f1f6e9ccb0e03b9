//! Checks and shows the policy file locally. It sends no request to a server.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};
use watchbill_domain::{Amount, Timestamp};
use watchbill_governance::{
    EnvironmentKind, Freeze, Inventory, Policy, PrioritiesFor, RuleEffect, ToolRule,
};
use watchbill_local::serve::policy;
use watchbill_policy::{SHIPPED, read_policy};

use super::args::PolicyCommand;
use super::failure::Failure;
use super::out::{Output, Style};
use super::text::{line, lines, moment};

pub fn policy(command: PolicyCommand, now: Timestamp, out: &mut Output) -> Result<(), Failure> {
    match command {
        PolicyCommand::Check { file } => check(file, now, out),
        PolicyCommand::Show { file } => show(file, out),
    }
}

/// The policy text in force, and its file unless it is the built-in one.
fn found(file: Option<PathBuf>) -> Result<(Option<PathBuf>, String), Failure> {
    let path = policy::found(file).map_err(Failure::Local)?;
    let text = match &path {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("{} can't be read", path.display()))
            .map_err(Failure::Local)?,
        None => SHIPPED.to_owned(),
    };
    Ok((path, text))
}

fn show(file: Option<PathBuf>, out: &mut Output) -> Result<(), Failure> {
    let (path, text) = found(file)?;
    match &path {
        Some(path) => out.note(&format!("from {}", path.display())),
        None => out.note("there is no policy.yaml; this is the built-in policy"),
    }
    Ok(out.document(lines(&text).as_bytes())?)
}

fn check(file: Option<PathBuf>, now: Timestamp, out: &mut Output) -> Result<(), Failure> {
    let (path, text) = found(file)?;
    let name = path.as_deref().map_or("the built-in policy".into(), Path::to_string_lossy);
    let policy = read_policy(&text)
        .map_err(|error| Failure::Invalid(format!("{}: {error}", line(&name))))?;
    if out.json {
        let document = document(path.as_deref(), &policy, now);
        let text = serde_json::to_vec_pretty(&document).expect("a JSON value can be serialized");
        return Ok(out.document(&text)?);
    }
    let valid = out.paint(Style::Good, "valid");
    out.line(&format!("{}: {valid}, fingerprint {:.12}", line(&name), policy.fingerprint))?;
    for (what, rows) in summary(&policy, now) {
        for (place, row) in rows.iter().enumerate() {
            let what = if place == 0 { what } else { "" };
            out.line(&format!("{what:<12}  {}", line(row)))?;
        }
    }
    Ok(())
}

fn summary(policy: &Policy, now: Timestamp) -> Vec<(&'static str, Vec<String>)> {
    let environments = &policy.environments;
    let of = |kind: &str, names: &BTreeSet<String>| format!("{kind}: {}", listed(names, "none"));
    let prices = policy.prices.0.iter().map(|(model, price)| {
        let (input, output) = (usd(price.input), usd(price.output));
        format!("{model}: {input} USD in, {output} USD out, per million tokens")
    });
    let limits = &policy.limits;
    vec![
        ("gates", gates(policy)),
        ("quorum", vec![format!("{} unless a rule sets another", policy.quorum)]),
        (
            "environments",
            vec![
                of("production", &environments.production),
                of("staging", &environments.staging),
                of("sandbox", &environments.sandbox),
                "all others: production".to_owned(),
            ],
        ),
        ("tools", or(policy.tools.iter().map(tool), "no rules: mutating calls require approval")),
        ("inventory", inventory(&policy.inventory)),
        ("freezes", or(policy.freezes.iter().map(|f| freeze(f, now)), "none")),
        (
            "limits",
            vec![limit("day", limits.day), limit("hour", limits.hour), limit("task", limits.task)],
        ),
        ("prices", or(prices, "none")),
    ]
}

fn or(rows: impl Iterator<Item = String>, none: &str) -> Vec<String> {
    let rows: Vec<String> = rows.collect();
    if rows.is_empty() { vec![none.to_owned()] } else { rows }
}

fn listed<T: Display>(words: &BTreeSet<T>, none: &str) -> String {
    match words.is_empty() {
        true => none.to_owned(),
        false => words.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn kinds(kinds: &BTreeSet<EnvironmentKind>) -> String {
    let names: BTreeSet<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
    listed(&names, "everywhere")
}

fn gates(policy: &Policy) -> Vec<String> {
    let gates = &policy.gates;
    let mut rows = Vec::new();
    if !gates.priorities.is_empty() {
        let of = match gates.priorities_for {
            PrioritiesFor::All => "",
            PrioritiesFor::Mutating => ", for mutating tasks",
        };
        rows.push(format!("priority {}{of}", listed(&gates.priorities, "")));
    }
    if !gates.production.is_empty() {
        rows.push(format!("{} in production", listed(&gates.production, "")));
    }
    if gates.feature_flags {
        rows.push("changes of feature flags".to_owned());
    }
    rows.extend(policy.gate_rules.iter().map(|rule| {
        let when = rule.when.as_ref().map(|when| format!(", when {}", when.text()));
        format!(
            "{}: {}{}, {} must approve",
            rule.name,
            listed(&rule.types, "every type"),
            when.unwrap_or_default(),
            rule.quorum
        )
    }));
    or(rows.into_iter(), "none: tasks are assigned without approval")
}

fn effect(effect: RuleEffect) -> &'static str {
    match effect {
        RuleEffect::Allow => "allow",
        RuleEffect::Ask => "ask",
        RuleEffect::Deny => "deny",
    }
}

fn tool(rule: &ToolRule) -> String {
    let mut text = format!(
        "{:<5}  {}: {}, {}",
        effect(rule.effect),
        rule.name,
        listed(&rule.tools, "every tool"),
        kinds(&rule.environments)
    );
    if !rule.agents.is_empty() {
        text.push_str(&format!(", by {}", listed(&rule.agents, "")));
    }
    if let Some(when) = &rule.when {
        text.push_str(&format!(", when {}", when.text()));
    }
    if rule.effect == RuleEffect::Ask {
        text.push_str(&format!(", {} must approve", rule.quorum));
    }
    text
}

fn inventory(inventory: &Inventory) -> Vec<String> {
    let kinds = [
        ("projects", &inventory.projects),
        ("services", &inventory.services),
        ("repositories", &inventory.repositories),
        ("hosts", &inventory.hosts),
    ];
    let rows = kinds.into_iter().filter(|(_, names)| !names.is_empty());
    or(
        rows.map(|(kind, names)| format!("{kind}: {}", listed(names, ""))),
        "none: targets are not checked",
    )
}

fn freeze(freeze: &Freeze, now: Timestamp) -> String {
    let when = match (freeze.holds_until(now), freeze.next(now)) {
        (Some(until), _) => format!("now, until {} UTC", moment(until)),
        (None, Some((from, until))) => {
            format!("next from {} until {} UTC", moment(from), moment(until))
        }
        (None, None) => "over".to_owned(),
    };
    format!("{}: {when}, {}", freeze.name, kinds(&freeze.environments))
}

fn limit(period: &str, amount: Amount) -> String {
    format!("{period}: {} USD, {} tokens", usd(amount.micro_usd), amount.tokens)
}

/// Two decimal places, or more if needed.
fn usd(micro: u64) -> String {
    let text = format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000);
    let end = text.trim_end_matches('0').len().max(text.len() - 4);
    text[..end].to_owned()
}

fn document(path: Option<&Path>, policy: &Policy, now: Timestamp) -> Value {
    let freezes = policy.freezes.iter().map(|freeze| {
        let next = freeze.next(now);
        json!({
            "name": freeze.name,
            "holds_until": freeze.holds_until(now).map(|at| at.to_string()),
            "next_from": next.map(|(from, _)| from.to_string()),
            "next_until": next.map(|(_, until)| until.to_string()),
        })
    });
    let tools =
        policy.tools.iter().map(|rule| json!({ "name": rule.name, "say": effect(rule.effect) }));
    let amount = |amount: Amount| json!({ "usd": usd(amount.micro_usd), "tokens": amount.tokens });
    json!({
        "file": path.map(|path| path.display().to_string()),
        "fingerprint": policy.fingerprint,
        "gates": gates(policy),
        "quorum": policy.quorum,
        "tools": tools.collect::<Vec<_>>(),
        "freezes": freezes.collect::<Vec<_>>(),
        "limits": {
            "day": amount(policy.limits.day),
            "hour": amount(policy.limits.hour),
            "task": amount(policy.limits.task),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::usd;

    #[test]
    fn amounts_have_two_digits_or_as_many_as_it_takes() {
        for (micro, text) in [
            (0, "0.00"),
            (5_000_000, "5.00"),
            (250_000, "0.25"),
            (1_234_567, "1.234567"),
            (5, "0.000005"),
        ] {
            assert_eq!(usd(micro), text);
        }
    }
}
