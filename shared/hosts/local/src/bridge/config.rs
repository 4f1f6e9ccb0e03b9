//! The bridge's settings, from the command line, the environment and the file.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Deserialize;
use watchbill_core::ports::{Clock, Entropy};
use watchbill_redis::{RedisLegacyQueue, RedisOptions};
use watchbill_redis_bridge::{BadSetting, Drain, Settings};
use watchbill_wire::legacy::LegacyError;
use watchbill_wire::settings::Env;

/// The bridge's settings on the command line. The environment has the same ones.
#[derive(Args, Clone, Debug, Default)]
pub struct BridgeArgs {
    /// URL of the Redis, such as redis://user:password@host:6379/0; for rediss:// (TLS),
    /// redis+sentinel:// and redis+cluster:// see docs/redis.md. Better set one with a password
    /// in REDIS_URL: lists of processes show the arguments
    #[arg(long, value_name = "URL", env = "REDIS_URL", hide_env_values = true)]
    pub redis: Option<String>,
    /// Import the tasks of these agents from the queue and run them here: ops, or on for all
    /// implemented agents
    #[arg(long, value_name = "AGENTS", env = "REDIS_DRAIN")]
    pub drain: Option<String>,
    /// Export these tasks to workers at the Redis: types such as bugfix, or agents as
    /// agent:dev. The server needs the same REDIS_FEED
    #[arg(long, value_name = "TYPES", env = "REDIS_FEED")]
    pub feed: Option<String>,
    /// Exchange events: in (import), out (export), or both
    #[arg(long, value_name = "WAYS", env = "REDIS_EVENTS")]
    pub events: Option<String>,
    /// What to show to dashboards at the Redis: approvals, cost
    #[arg(long, value_name = "WHAT", env = "REDIS_MIRROR")]
    pub mirror: Option<String>,
    /// Serve these domains of the domain network: devops
    #[arg(long, value_name = "DOMAINS", env = "REDIS_DOMAINS")]
    pub domains: Option<String>,
    /// Tenant that the key must belong to; with a key of another one the bridge does not start
    /// [default: not checked]
    #[arg(long, value_name = "TENANT", env = "REDIS_TENANT")]
    pub tenant: Option<String>,
    /// CA certificates (PEM) that the certificate of the Redis is verified with
    #[arg(long, value_name = "FILE", env = "REDIS_CA_FILE", value_hint = clap::ValueHint::FilePath)]
    pub ca_file: Option<PathBuf>,
    /// Check both sides once, print what was found, and exit
    #[arg(long)]
    pub check: bool,
}

/// The section `redis` of `watchbill.yaml`. Its values have the same format as in the
/// environment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisFile {
    pub url: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub drain: Option<String>,
    pub feed: Option<String>,
    pub events: Option<String>,
    pub mirror: Option<String>,
    pub domains: Option<String>,
    pub tenant: Option<String>,
}

/// The Redis and the directions of the bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisConfig {
    /// Contains the password, so it is never shown.
    pub url: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub settings: Settings,
}

impl RedisConfig {
    /// The settings of `watchbill bridge`.
    pub fn of_args(args: &BridgeArgs) -> Result<Self, BadSetting> {
        let settings = Settings::read(|name| match name {
            "REDIS_DRAIN" => args.drain.clone(),
            "REDIS_FEED" => args.feed.clone(),
            "REDIS_EVENTS" => args.events.clone(),
            "REDIS_MIRROR" => args.mirror.clone(),
            "REDIS_DOMAINS" => args.domains.clone(),
            "REDIS_TENANT" => args.tenant.clone(),
            other => std::env::var(other).ok(),
        })?;
        Ok(Self { url: non_empty(args.redis.clone()), ca_file: args.ca_file.clone(), settings })
    }

    /// The settings of `watchbill serve`: command line before environment before file.
    pub fn of_serve(
        redis: Option<&String>,
        env: &Env,
        file: &RedisFile,
    ) -> Result<Self, BadSetting> {
        let settings = Settings::read(|name| {
            let of_file = match name {
                "REDIS_DRAIN" => &file.drain,
                "REDIS_FEED" => &file.feed,
                "REDIS_EVENTS" => &file.events,
                "REDIS_MIRROR" => &file.mirror,
                "REDIS_DOMAINS" => &file.domains,
                "REDIS_TENANT" => &file.tenant,
                _ => &None,
            };
            env.get(name).or(of_file.as_ref()).cloned()
        })?;
        let url = redis.or(env.get("REDIS_URL")).or(file.url.as_ref()).cloned();
        let ca_file = env.get("REDIS_CA_FILE").filter(|text| !text.trim().is_empty());
        let ca_file = ca_file.map(PathBuf::from).or(file.ca_file.clone());
        Ok(Self { url: non_empty(url), ca_file, settings })
    }

    /// The Redis at that URL, connected on first use. An error names the setting, not the
    /// password.
    pub fn open(
        &self,
        url: &str,
        clock: &Arc<dyn Clock>,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<RedisLegacyQueue, BadRedisSettings> {
        let mut options = RedisOptions::new(clock.clone(), entropy.clone());
        options.ca_file.clone_from(&self.ca_file);
        RedisLegacyQueue::open(url, options).map_err(BadRedisSettings)
    }

    /// The active directions, one per line.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let settings = &self.settings;
        let mut lines = Vec::new();
        match &settings.drain {
            None => {}
            Some(Drain::Built) => {
                lines.push(("drain", "tasks of all implemented agents run here".to_owned()));
            }
            Some(Drain::Agents(agents)) => {
                lines.push(("drain", format!("tasks of {} run here", list(agents))));
            }
            Some(Drain::Finish) => {
                lines.push((
                    "drain",
                    "no new tasks are imported, imported ones are finished".to_owned(),
                ));
            }
        }
        if settings.feed.finish {
            lines.push((
                "feed",
                "no new tasks are exported, exported ones are completed".to_owned(),
            ));
        } else if !settings.feed.is_empty() {
            let agents = settings.feed.agents.iter().map(|agent| format!("agent:{agent}"));
            let types = settings.feed.types.iter().map(ToString::to_string);
            let fed: Vec<_> = types.chain(agents).collect();
            lines
                .push(("feed", format!("{} are exported to workers at the Redis", fed.join(", "))));
        }
        match (settings.events_in, settings.events_out) {
            (false, false) => {}
            (true, false) => lines.push(("events", "in".to_owned())),
            (false, true) => lines.push(("events", "out".to_owned())),
            (true, true) => lines.push(("events", "in and out".to_owned())),
        }
        let mirrored = [(settings.mirror_approvals, "approvals"), (settings.mirror_cost, "cost")];
        let mirrored: Vec<_> =
            mirrored.iter().filter(|(on, _)| *on).map(|(_, what)| *what).collect();
        if !mirrored.is_empty() {
            lines.push(("mirror", format!("{} are shown at the Redis", mirrored.join(" and "))));
        }
        if !settings.domains.is_empty() {
            lines.push(("domains", format!("{} are served here", list(&settings.domains))));
        }
        if lines.is_empty() {
            lines.push(("", NOTHING.to_owned()));
        }
        lines
    }
}

/// Settings that can't be used to connect to a Redis.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BadRedisSettings(LegacyError);

const NOTHING: &str = "nothing is enabled, only the connection is checked: see REDIS_DRAIN, \
                       REDIS_FEED, REDIS_EVENTS, REDIS_MIRROR, REDIS_DOMAINS in docs/redis.md";

fn non_empty(text: Option<String>) -> Option<String> {
    text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchbill_domain::{Agent, TenantId};

    #[test]
    fn the_command_line_goes_before_the_environment_and_that_before_the_file() {
        let file = RedisFile {
            url: Some("redis://of-the-file".into()),
            drain: Some("ops".into()),
            tenant: Some("acme".into()),
            ..RedisFile::default()
        };
        let mut env = Env::new();
        let read = |redis: Option<&String>, env: &Env| RedisConfig::of_serve(redis, env, &file);
        let of_file = read(None, &env).unwrap();
        assert_eq!(of_file.url.as_deref(), Some("redis://of-the-file"));
        assert_eq!(of_file.settings.tenant, TenantId::parse("acme").unwrap());
        env.insert("REDIS_URL".into(), "redis://of-the-environment".into());
        env.insert("REDIS_DRAIN".into(), "dev".into());
        let of_env = read(None, &env).unwrap();
        assert_eq!(of_env.url.as_deref(), Some("redis://of-the-environment"));
        assert_eq!(of_env.settings.drain, Some(Drain::Agents([Agent::Dev].into())));
        let typed = "redis://typed".to_owned();
        assert_eq!(read(Some(&typed), &env).unwrap().url, Some(typed));
        env.insert("REDIS_DRAIN".into(), "everything".into());
        assert!(read(None, &env).unwrap_err().to_string().starts_with("REDIS_DRAIN 'everything'"));
    }

    #[test]
    fn active_directions_are_described() {
        let words = |pairs: &[(&str, &str)]| -> Vec<String> {
            let env = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let config = RedisConfig::of_serve(None, &env, &RedisFile::default()).unwrap();
            config.describe().into_iter().map(|(word, text)| format!("{word} {text}")).collect()
        };
        assert_eq!(
            words(&[
                ("REDIS_DRAIN", "ops_agent"),
                ("REDIS_FEED", "agent:dev,bugfix"),
                ("REDIS_EVENTS", "in,out"),
                ("REDIS_MIRROR", "cost,approvals"),
                ("REDIS_DOMAINS", "devops"),
            ]),
            [
                "drain tasks of ops run here",
                "feed bugfix, agent:dev are exported to workers at the Redis",
                "events in and out",
                "mirror approvals and cost are shown at the Redis",
                "domains devops are served here",
            ]
        );
        assert!(words(&[]).concat().contains("nothing is enabled"));
    }
}
