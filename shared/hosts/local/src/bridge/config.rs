use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Deserialize;
use watchbill_core::ports::{Clock, Entropy};
use watchbill_redis::{RedisOptions, RedisPeer};
use watchbill_redis_bridge::{BadSetting, Drain, Settings};
use watchbill_wire::peer::PeerError;
use watchbill_wire::settings::Env;

/// What can be said of the bridge on the command line; the environment says the same.
#[derive(Args, Clone, Debug, Default)]
pub struct BridgeArgs {
    /// The Redis, such as redis://user:password@host:6379/0; rediss:// with TLS,
    /// redis+sentinel:// and redis+cluster:// see docs/redis.md. A password is better kept in
    /// REDIS_URL, where it is in no list of processes
    #[arg(long, value_name = "URL", env = "REDIS_URL", hide_env_values = true)]
    pub redis: Option<String>,
    /// Take these agents' tasks out of the queue there and run them here: ops, or on for all
    /// whose work is built
    #[arg(long, value_name = "AGENTS", env = "REDIS_DRAIN")]
    pub drain: Option<String>,
    /// Hand these tasks to the workers there: types such as bugfix, or agents as agent:dev. The
    /// server has to be told as well, by its own REDIS_FEED
    #[arg(long, value_name = "TYPES", env = "REDIS_FEED")]
    pub feed: Option<String>,
    /// Events from there, to there, or both: in, out
    #[arg(long, value_name = "WAYS", env = "REDIS_EVENTS")]
    pub events: Option<String>,
    /// Show the dashboards there: approvals, cost
    #[arg(long, value_name = "WHAT", env = "REDIS_MIRROR")]
    pub mirror: Option<String>,
    /// Serve these domains of the domain network: devops
    #[arg(long, value_name = "DOMAINS", env = "REDIS_DOMAINS")]
    pub domains: Option<String>,
    /// The tenant that the key is to be of; the server decides by the key alone, and another
    /// one ends the start [default: not looked at]
    #[arg(long, value_name = "TENANT", env = "REDIS_TENANT")]
    pub tenant: Option<String>,
    /// Certificates (PEM) of the authority that signed the Redis server's
    #[arg(long, value_name = "FILE", env = "REDIS_CA_FILE", value_hint = clap::ValueHint::FilePath)]
    pub ca_file: Option<PathBuf>,
    /// Look once at both sides, say what is there, and end
    #[arg(long)]
    pub check: bool,
}

/// The section `redis` of `watchbill.yaml`; its values are written as in the environment.
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

/// Where the Redis is, and what goes over the bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisConfig {
    /// With its password: never shown.
    pub url: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub settings: Settings,
}

impl RedisConfig {
    /// What `watchbill bridge` was told.
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
        Ok(Self { url: said(args.redis.clone()), ca_file: args.ca_file.clone(), settings })
    }

    /// What `watchbill serve` was told: the command line (which is above the environment), the
    /// environment, the file.
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
        Ok(Self { url: said(url), ca_file, settings })
    }

    /// The Redis of that URL; it is connected to when it is first needed. An error is one of
    /// the settings, with its name and without its password.
    pub fn open(
        &self,
        url: &str,
        clock: &Arc<dyn Clock>,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<RedisPeer, Unusable> {
        let mut options = RedisOptions::new(clock.clone(), entropy.clone());
        options.ca_file.clone_from(&self.ca_file);
        RedisPeer::open(url, options).map_err(Unusable)
    }

    /// What is on, a direction a line.
    pub fn in_words(&self) -> Vec<(&'static str, String)> {
        let settings = &self.settings;
        let mut lines = Vec::new();
        match &settings.drain {
            None => {}
            Some(Drain::Built) => {
                lines.push((
                    "drain",
                    "tasks of every agent whose work is built run here".to_owned(),
                ));
            }
            Some(Drain::Agents(agents)) => {
                lines.push(("drain", format!("tasks of {} run here", list(agents))));
            }
            Some(Drain::Finish) => {
                lines.push(("drain", "nothing new is taken, what was is finished".to_owned()));
            }
        }
        if settings.feed.finish {
            lines.push(("feed", "nothing more is handed over, what was comes home".to_owned()));
        } else if !settings.feed.is_empty() {
            let agents = settings.feed.agents.iter().map(|agent| format!("agent:{agent}"));
            let types = settings.feed.types.iter().map(ToString::to_string);
            let fed: Vec<_> = types.chain(agents).collect();
            lines.push(("feed", format!("{} go to the workers there", fed.join(", "))));
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
            lines.push(("mirror", format!("{} are shown there", mirrored.join(" and "))));
        }
        if !settings.domains.is_empty() {
            lines.push(("domains", format!("{} served here", list(&settings.domains))));
        }
        if lines.is_empty() {
            lines.push(("", NOTHING.to_owned()));
        }
        lines
    }
}

/// Settings with which no Redis can be looked for.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Unusable(PeerError);

const NOTHING: &str = "nothing is switched on, only the connection is watched: see REDIS_DRAIN, \
                       REDIS_FEED, REDIS_EVENTS, REDIS_MIRROR, REDIS_DOMAINS in docs/redis.md";

fn said(text: Option<String>) -> Option<String> {
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
    fn what_is_on_is_said() {
        let words = |pairs: &[(&str, &str)]| -> Vec<String> {
            let env = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let config = RedisConfig::of_serve(None, &env, &RedisFile::default()).unwrap();
            config.in_words().into_iter().map(|(word, text)| format!("{word} {text}")).collect()
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
                "feed bugfix, agent:dev go to the workers there",
                "events in and out",
                "mirror approvals and cost are shown there",
                "domains devops served here",
            ]
        );
        assert!(words(&[]).concat().contains("nothing is switched on"));
    }
}
