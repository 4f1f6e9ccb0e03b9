//! Converts the form of the file to a policy.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

use serde_saphyr::Spanned;
use sha2::{Digest as _, Sha256};
use watchbill_domain::{Agent, Amount, Price, Priority, Role, Switch, TaskType, Timestamp};
use watchbill_governance::{
    BudgetLimits, Condition, EnvironmentKind, Environments, Freeze, FreezeWhen, GateRule,
    GateRules, Inventory, Policy, Prices, PrioritiesFor, RuleEffect, ToolRule,
    normalized_environment,
};

use crate::condition::CelCondition;
use crate::form::{self, Text};

/// The largest quorum.
const MAX_QUORUM: u8 = 20;
/// US dollars. A larger amount is treated as a typing error.
const MAX_USD: f64 = 1_000_000.0;

/// A fault in a policy file, and its position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", at(*.line, *.column))]
pub struct PolicyFileError {
    /// Counted from 1; `None` if the fault is in the file as a whole.
    pub line: Option<u64>,
    pub column: Option<u64>,
    pub what: String,
}

fn at(line: Option<u64>, column: Option<u64>) -> String {
    match (line, column) {
        (Some(line), Some(column)) => format!("line {line} column {column}: "),
        _ => String::new(),
    }
}

/// Reads the text of a `policy.yaml`. Missing parts are as in the built-in policy. The list of
/// tool rules replaces the built-in one, so that what the file shows is what applies.
pub fn read_policy(text: &str) -> Result<Policy, PolicyFileError> {
    let file = parse(text)?;
    let quorum = quorum(&file.quorum, 1)?;
    let environments = environments(&file.environments)?;
    Ok(Policy {
        fingerprint: Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect(),
        gates: gates(&file.gates)?,
        gate_rules: unique(&file.gates.rules, |rule| &rule.name)?
            .map(|rule| gate_rule(rule, quorum))
            .collect::<Result<_, _>>()?,
        quorum,
        environments,
        tools: match &file.tools {
            Some(tools) => unique(tools, |rule| &rule.name)?
                .map(|rule| tool_rule(rule, quorum))
                .collect::<Result<_, _>>()?,
            None => Policy::default().tools,
        },
        inventory: inventory(&file.inventory)?,
        freezes: unique(&file.freezes, |freeze| &freeze.name)?
            .map(freeze)
            .collect::<Result<_, _>>()?,
        limits: limits(&file.limits)?,
        prices: prices(&file)?,
    })
}

fn parse(text: &str) -> Result<form::File, PolicyFileError> {
    // A file of comments only is an empty file.
    let mut lines = text.lines().map(str::trim);
    if lines.all(|line| line.is_empty() || line.starts_with('#') || line == "---") {
        return Ok(form::File::default());
    }
    serde_saphyr::from_str(text).map_err(|error| {
        // Keeps position and fault; the parser adds the surrounding lines.
        let message = error.to_string();
        let first = message.lines().next().unwrap_or_default();
        let first = first.strip_prefix("error: ").unwrap_or(first);
        let location = error.location();
        let (line, column) = (location.map(|l| l.line()), location.map(|l| l.column()));
        let what = first.strip_prefix(&at(line, column)).unwrap_or(first).to_owned();
        PolicyFileError { line, column, what }
    })
}

/// A fault of a value, at its position.
fn wrong<T>(place: &Spanned<T>, what: impl Display) -> PolicyFileError {
    let at = place.referenced;
    PolicyFileError { line: Some(at.line()), column: Some(at.column()), what: what.to_string() }
}

fn each<T: Ord>(
    list: &[Text],
    what: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeSet<T>, PolicyFileError> {
    let one = |text: &Text| {
        parse(text.value.trim()).map_err(|fault| wrong(text, format!("{what}: {fault}")))
    };
    list.iter().map(one).collect()
}

fn word(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it is empty".to_owned()),
        text => Ok(text.to_owned()),
    }
}

fn to_text(error: impl Display) -> String {
    error.to_string()
}

/// The rules of a list. Their names must differ, because approvals and refusals refer to them.
fn unique<'f, T>(
    list: &'f [Spanned<T>],
    name: impl Fn(&'f T) -> &'f Text,
) -> Result<impl Iterator<Item = &'f T>, PolicyFileError> {
    let mut seen = BTreeSet::new();
    for item in list {
        let name = name(&item.value);
        if name.value.trim().is_empty() {
            return Err(wrong(name, "name: it is empty"));
        }
        if !seen.insert(name.value.trim()) {
            return Err(wrong(name, format!("name: '{}' is used twice", name.value)));
        }
    }
    Ok(list.iter().map(|item| &item.value))
}

fn quorum(form: &Option<Spanned<u8>>, default: u8) -> Result<u8, PolicyFileError> {
    match form {
        None => Ok(default),
        Some(quorum) if (1..=MAX_QUORUM).contains(&quorum.value) => Ok(quorum.value),
        Some(quorum) => Err(wrong(
            quorum,
            format!("quorum: {} is not between 1 and {MAX_QUORUM}", quorum.value),
        )),
    }
}

fn condition(form: &Option<Text>) -> Result<Option<Arc<dyn Condition>>, PolicyFileError> {
    let Some(text) = form else { return Ok(None) };
    let compiled = CelCondition::compile(&text.value);
    let compiled = compiled.map_err(|fault| wrong(text, format!("when: {fault}")))?;
    Ok(Some(Arc::new(compiled)))
}

fn gates(form: &form::Gates) -> Result<GateRules, PolicyFileError> {
    if form.all == Some(Switch::Off) {
        return Ok(GateRules::off());
    }
    let mut gates = GateRules::default();
    if let Some(list) = &form.priorities {
        gates.priorities = each(list, "priorities", |t| Priority::parse(t).map_err(to_text))?;
    }
    if let Some(text) = &form.priorities_for {
        gates.priorities_for =
            PrioritiesFor::parse(text.value.trim()).map_err(|fault| wrong(text, fault))?;
    }
    if let Some(list) = &form.production {
        gates.production = each(list, "production", |t| TaskType::parse(t).map_err(to_text))?;
    }
    gates.feature_flags = form.feature_flags.unwrap_or(gates.feature_flags);
    Ok(gates)
}

fn gate_rule(form: &form::GateRule, default: u8) -> Result<GateRule, PolicyFileError> {
    let name = form.name.value.trim().to_owned();
    Ok(GateRule {
        reason: form.reason.clone().unwrap_or_else(|| format!("the rule '{name}' asks for it")),
        name,
        types: each(&form.types, "types", |t| TaskType::parse(t).map_err(to_text))?,
        when: condition(&form.when)?,
        quorum: quorum(&form.quorum, default)?,
    })
}

fn tool_rule(form: &form::Tool, default: u8) -> Result<ToolRule, PolicyFileError> {
    let name = form.name.value.trim().to_owned();
    let say = match form.say {
        form::RuleEffectForm::Allow => RuleEffect::Allow,
        form::RuleEffectForm::Ask => RuleEffect::Ask,
        form::RuleEffectForm::Deny => RuleEffect::Deny,
    };
    if let (Some(place), false) = (&form.quorum, say == RuleEffect::Ask) {
        return Err(wrong(place, "quorum: only a rule with 'say: ask' has one"));
    }
    Ok(ToolRule {
        reason: form.reason.clone().unwrap_or_else(|| format!("the rule '{name}' says so")),
        name,
        agents: each(&form.agents, "agents", |t| Agent::parse(t).map_err(to_text))?,
        tools: each(&form.tools, "tools", word)?,
        environments: each(&form.environments, "environments", kind)?,
        when: condition(&form.when)?,
        effect: say,
        quorum: quorum(&form.quorum, if say == RuleEffect::Ask { default } else { 1 })?,
    })
}

fn kind(text: &str) -> Result<EnvironmentKind, String> {
    let kinds = [EnvironmentKind::Production, EnvironmentKind::Staging, EnvironmentKind::Sandbox];
    let found = kinds.into_iter().find(|kind| kind.as_str() == text);
    found.ok_or_else(|| {
        format!("'{text}' is not a kind of environment: use production, staging or sandbox")
    })
}

/// The names of the file are added to the built-in ones: no list can make production less
/// strict.
fn environments(form: &form::Environments) -> Result<Environments, PolicyFileError> {
    let mut environments = Environments::default();
    let names = |list: &[Text], what| each(list, what, |name| word(&normalized_environment(name)));
    environments.production.extend(names(&form.production, "production")?);
    let listed = names(&form.staging, "staging")?;
    not_in(&form.staging, "staging", &[("production", &environments.production)])?;
    environments.staging.extend(listed);
    let listed = names(&form.sandbox, "sandbox")?;
    let stricter = [("production", &environments.production), ("staging", &environments.staging)];
    not_in(&form.sandbox, "sandbox", &stricter)?;
    environments.sandbox.extend(listed);
    Ok(environments)
}

fn not_in(
    list: &[Text],
    what: &str,
    others: &[(&str, &BTreeSet<String>)],
) -> Result<(), PolicyFileError> {
    for text in list {
        let name = normalized_environment(&text.value);
        if let Some((other, _)) = others.iter().find(|(_, names)| names.contains(&name)) {
            return Err(wrong(
                text,
                format!("{what}: '{}' is already listed as {other}", text.value),
            ));
        }
    }
    Ok(())
}

fn inventory(form: &form::Inventory) -> Result<Inventory, PolicyFileError> {
    Ok(Inventory {
        projects: each(&form.projects, "projects", word)?,
        services: each(&form.services, "services", word)?,
        repositories: each(&form.repositories, "repositories", word)?,
        hosts: each(&form.hosts, "hosts", host)?,
    })
}

fn host(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    if name.is_empty() || name.contains(['/', ':', '@', '*', ' ']) && !name.starts_with('[') {
        return Err(format!("'{text}' is not a host such as web-1, *.example.com or [::1]"));
    }
    Ok(text.to_ascii_lowercase())
}

fn freeze(form: &form::Freeze) -> Result<Freeze, PolicyFileError> {
    let name = form.name.value.trim().to_owned();
    let when = match (&form.from, &form.until, &form.weekly) {
        (Some(from), Some(until), None) => once(from, until)?,
        (None, None, Some(form)) => weekly(form)?,
        _ => {
            let what = format!("freeze '{name}' needs either from and until, or weekly");
            return Err(wrong(&form.name, what));
        }
    };
    Ok(Freeze {
        reason: form.reason.clone().unwrap_or_else(|| "work waits".to_owned()),
        name,
        environments: each(&form.environments, "environments", kind)?,
        when,
        override_roles: each(&form.passed_by.roles, "roles", |t| Role::parse(t).map_err(to_text))?,
        override_names: each(&form.passed_by.names, "names", word)?,
    })
}

fn once(from: &Text, until: &Text) -> Result<FreezeWhen, PolicyFileError> {
    let moment = |text: &Text| Timestamp::parse(&text.value).map_err(|error| wrong(text, error));
    let (start, end) = (moment(from)?, moment(until)?);
    if end <= start {
        return Err(wrong(until, "until: it must be later than from"));
    }
    Ok(FreezeWhen::Once { from: start, until: end })
}

fn weekly(form: &form::Weekly) -> Result<FreezeWhen, PolicyFileError> {
    let zone = jiff::tz::TimeZone::get(form.zone.value.trim()).map_err(|_| {
        let what = format!("zone: '{}' is not a time zone such as Europe/Berlin", form.zone.value);
        wrong(&form.zone, what)
    })?;
    let (from, until) = (week_minute(&form.from)?, week_minute(&form.until)?);
    if from == until {
        return Err(wrong(&form.until, "until: it equals from, so the freeze would never apply"));
    }
    Ok(FreezeWhen::Weekly { zone, from, until })
}

/// `fri 18:00`: the weekday, 1 for Monday, and the minute of the day.
fn week_minute(text: &Text) -> Result<(i8, u16), PolicyFileError> {
    let parsed = || {
        let lower = text.value.trim().to_ascii_lowercase();
        let (day, time) = lower.split_once(' ')?;
        let days = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
        let day = days.iter().position(|name| *name == day || name[..3] == *day)?;
        let (hour, minute) = time.trim().split_once(':')?;
        let number = |digits: &str| match digits.len() {
            1 | 2 if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<u16>().ok(),
            _ => None,
        };
        let (hour, minute) = (number(hour)?, number(minute)?);
        (hour < 24 && minute < 60).then_some((day as i8 + 1, hour * 60 + minute))
    };
    parsed().ok_or_else(|| {
        let what = format!("'{}' is not a weekday with a time such as fri 18:00", text.value);
        wrong(text, what)
    })
}

fn limits(form: &form::Limits) -> Result<BudgetLimits, PolicyFileError> {
    let limit = |form: &form::Limit, default: Amount| -> Result<Amount, PolicyFileError> {
        Ok(Amount {
            micro_usd: form.usd.as_ref().map_or(Ok(default.micro_usd), micro_usd)?,
            tokens: form.tokens.unwrap_or(default.tokens),
        })
    };
    let default = BudgetLimits::default();
    Ok(BudgetLimits {
        day: limit(&form.day, default.day)?,
        hour: limit(&form.hour, default.hour)?,
        task: limit(&form.task, default.task)?,
    })
}

fn prices(file: &form::File) -> Result<Prices, PolicyFileError> {
    let price = |form: &form::Price| -> Result<Price, PolicyFileError> {
        Ok(Price { input: micro_usd(&form.input_usd)?, output: micro_usd(&form.output_usd)? })
    };
    let read = |(model, form): (&String, &form::Price)| Ok((model.clone(), price(form)?));
    Ok(Prices(file.prices.iter().map(read).collect::<Result<_, _>>()?))
}

/// Millionths of a dollar; an amount that is not a whole number of them is refused.
fn micro_usd(usd: &Spanned<f64>) -> Result<u64, PolicyFileError> {
    let dollars = usd.value;
    if !(0.0..=MAX_USD).contains(&dollars) {
        return Err(wrong(usd, format!("{dollars} is not an amount from 0 to {MAX_USD} USD")));
    }
    let micro = (dollars * 1_000_000.0).round();
    // Both sides are the double nearest to the same decimal; otherwise there are further
    // digits.
    if micro / 1_000_000.0 != dollars {
        let what = format!("{dollars} USD is not a whole number of millionths of a dollar");
        return Err(wrong(usd, format!("{what}: write at most six decimal places")));
    }
    Ok(micro as u64)
}
