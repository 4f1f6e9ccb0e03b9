//! The bridge's settings as users write them. Every direction is off until it is named.

use std::collections::BTreeSet;

use watchbill_domain::{Agent, TenantId};
pub use watchbill_wire::settings::ExportSettings;
use watchbill_wire::settings::{fed_agent, words};

/// An invalid setting: its name, its value, and what would be valid.
#[derive(Debug, thiserror::Error)]
#[error("{name} '{value}': {problem}")]
pub struct BadSetting {
    pub name: &'static str,
    pub value: String,
    pub problem: String,
}

/// Which agents' tasks are imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Every implemented agent.
    Built,
    Agents(BTreeSet<Agent>),
    /// No new ones: tasks already taken are finished and written back.
    Finish,
}

/// The directions of the bridge.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    pub tenant: TenantId,
    pub drain: Option<Drain>,
    pub feed: ExportSettings,
    pub events_in: bool,
    pub events_out: bool,
    pub mirror_approvals: bool,
    pub mirror_cost: bool,
    pub domains: BTreeSet<String>,
}

/// The environment variables of the settings.
pub const NAMES: &[&str] = &[
    "REDIS_TENANT",
    "REDIS_DRAIN",
    "REDIS_FEED",
    "REDIS_EVENTS",
    "REDIS_MIRROR",
    "REDIS_DOMAINS",
    "REDIS_BULLMQ",
];

impl Settings {
    /// Reads the settings by variable name. An empty value counts as unset.
    pub fn read(get: impl Fn(&'static str) -> Option<String>) -> Result<Self, BadSetting> {
        let value_of = |name: &'static str| get(name).filter(|text| !text.trim().is_empty());
        let mut settings = Self::default();
        if let Some(value) = value_of("REDIS_TENANT") {
            settings.tenant = TenantId::parse(value.trim()).map_err(|error| BadSetting {
                name: "REDIS_TENANT",
                problem: error.to_string(),
                value: value.clone(),
            })?;
        }
        if let Some(value) = value_of("REDIS_DRAIN") {
            settings.drain = drain(&value)?;
        }
        if let Some(value) = value_of("REDIS_FEED") {
            settings.feed = ExportSettings::read(&value)
                .map_err(|problem| wrong("REDIS_FEED", &value, problem))?;
        }
        for word in some_of("REDIS_EVENTS", value_of("REDIS_EVENTS"), &["in", "out"])? {
            *(if word == "in" { &mut settings.events_in } else { &mut settings.events_out }) = true;
        }
        for word in some_of("REDIS_MIRROR", value_of("REDIS_MIRROR"), &["approvals", "cost"])? {
            let mirror = match &*word {
                "approvals" => &mut settings.mirror_approvals,
                _ => &mut settings.mirror_cost,
            };
            *mirror = true;
        }
        settings.domains.extend(some_of("REDIS_DOMAINS", value_of("REDIS_DOMAINS"), &["devops"])?);
        if let Some(value) = value_of("REDIS_BULLMQ") {
            let problem =
                "this build does not support BullMQ queues; remove the setting".to_owned();
            return Err(BadSetting { name: "REDIS_BULLMQ", value, problem });
        }
        Ok(settings)
    }

    /// Whether no direction is on.
    pub fn is_idle(&self) -> bool {
        *self == Self { tenant: self.tenant.clone(), ..Self::default() }
    }
}

fn wrong(name: &'static str, value: &str, problem: String) -> BadSetting {
    BadSetting { name, value: value.to_owned(), problem }
}

fn some_of(
    name: &'static str,
    value: Option<String>,
    known: &[&str],
) -> Result<Vec<String>, BadSetting> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let found: Vec<String> = words(&value).into_iter().filter(|word| word != "off").collect();
    match found.iter().find(|word| !known.contains(&word.as_str())) {
        Some(unknown) => {
            let problem = format!("'{unknown}' is unknown; use {}, or off", known.join(", "));
            Err(wrong(name, &value, problem))
        }
        None => Ok(found),
    }
}

fn drain(value: &str) -> Result<Option<Drain>, BadSetting> {
    match value.trim() {
        "off" => return Ok(None),
        "on" => return Ok(Some(Drain::Built)),
        "finish" => return Ok(Some(Drain::Finish)),
        _ => {}
    }
    let agents = words(value).iter().map(|word| fed_agent(word)).collect::<Result<_, _>>();
    let agents = agents.map_err(|problem| wrong("REDIS_DRAIN", value, problem))?;
    Ok(Some(Drain::Agents(agents)))
}

#[cfg(test)]
mod tests {
    use watchbill_domain::TaskType;

    use super::*;

    fn read(pairs: &[(&'static str, &str)]) -> Result<Settings, String> {
        let get = |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Settings::read(get).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_on_until_it_is_named() {
        assert!(read(&[]).unwrap().is_idle());
        assert!(read(&[("REDIS_TENANT", "acme"), ("REDIS_DRAIN", "off")]).unwrap().is_idle());
        assert!(!read(&[("REDIS_DRAIN", "ops")]).unwrap().is_idle());
    }

    #[test]
    fn both_spellings_of_an_agent_are_taken() {
        let settings =
            read(&[("REDIS_DRAIN", "ops_agent, dev"), ("REDIS_FEED", "bugfix,agent:faq_agent")]);
        let settings = settings.unwrap();
        assert_eq!(settings.drain, Some(Drain::Agents([Agent::Ops, Agent::Dev].into())));
        assert_eq!(settings.feed.agents, [Agent::Faq].into());
        assert_eq!(settings.feed.long_names, [Agent::Faq].into());
        assert!(settings.feed.wants(TaskType::Bugfix, Agent::Dev));
        assert!(!settings.feed.wants(TaskType::Feature, Agent::Dev));
    }

    #[test]
    fn finishing_is_a_direction_that_takes_nothing_new() {
        let settings = read(&[("REDIS_DRAIN", "finish"), ("REDIS_FEED", "finish")]).unwrap();
        assert_eq!(settings.drain, Some(Drain::Finish));
        assert!(!settings.feed.is_empty() && !settings.feed.wants(TaskType::Bugfix, Agent::Dev));
        assert!(!settings.is_idle());
    }

    #[test]
    fn invalid_settings_are_named_with_what_would_be_valid() {
        let refused = |pairs: &[(&'static str, &str)]| read(pairs).unwrap_err();
        assert_eq!(
            refused(&[("REDIS_EVENTS", "in,sideways")]),
            "REDIS_EVENTS 'in,sideways': 'sideways' is unknown; use in, out, or off"
        );
        assert!(refused(&[("REDIS_FEED", "ops_cycle")]).contains("not a task type"));
        assert!(refused(&[("REDIS_DRAIN", "cycle")]).contains("not an agent"));
        assert!(refused(&[("REDIS_BULLMQ", "ops-agent")]).contains("does not support BullMQ"));
        assert!(refused(&[("REDIS_TENANT", "Acme")]).contains("lower-case"));
    }
}
