//! The resolved configuration: command line before environment before file. Every error names
//! the setting and its value.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use watchbill_api::{BODY_WITHIN, JwtConfig, RateLimits, StaticKey, TrustedProxies};
use watchbill_core::decide::EngineConfig;
use watchbill_core::reactions::Reaction;
use watchbill_core::service::Governance;
use watchbill_domain::{Role, Switch, TenantId, hash_key, parse_span};
use watchbill_notifier::{APPROVER, LINK_FOR};
use watchbill_wire::settings::{allow, on_or_off, words};

pub use watchbill_wire::settings::Env;

use super::args::ServeArgs;
use super::connections::Limits;
use super::file::{File, read};
use super::policy;
use crate::bridge::config::RedisConfig;

pub struct Config {
    pub host: IpAddr,
    pub port: u16,
    pub data: PathBuf,
    /// 0: tasks are only accepted.
    pub slots: usize,
    pub rules: EngineConfig,
    pub governance: Governance,
    /// The policy file. `None` for the built-in policy.
    pub policy: Option<PathBuf>,
    pub reactions: Vec<Reaction>,
    pub static_keys: Vec<StaticKey>,
    pub operator_key_hash: Option<String>,
    pub jwt: JwtSettings,
    pub rate_limits: RateLimits,
    pub trusted_proxies: TrustedProxies,
    pub connections: Limits,
    /// The timeout for the body of a call.
    pub body_within: Duration,
    pub cors_origins: Vec<String>,
    pub cors_credentials: bool,
    pub log_folders: Vec<PathBuf>,
    pub probe_private: bool,
    pub probe_hosts: Vec<String>,
    pub notify: Option<Notify>,
    pub first_task: bool,
    pub redis: RedisConfig,
    pub log: String,
    pub log_json: bool,
}

/// Which notices are sent, and where to.
pub struct Notify {
    pub url: String,
    pub secret: Option<String>,
    pub events: Vec<String>,
    /// The URL of this server in links. By default its own address.
    pub public_url: Option<String>,
    /// Who reads the notices and decides by their links.
    pub approver: String,
    pub link_for: Duration,
}

/// With fewer connections, hardly any would be left for callers next to event streams.
const MIN_CONNECTIONS: usize = 16;
/// The limits of timeouts: what honest clients need, and how long a connection is worth keeping.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Events that cause a notice by default.
const NOTIFIED_EVENTS: &[&str] = &[
    "approval.requested",
    "approval.escalated",
    "task.failed",
    "sla.violation",
    "alert.triggered",
];

/// How tokens are verified.
pub struct JwtSettings {
    pub config: JwtConfig,
    pub jwks_url: Option<String>,
}

pub fn environment() -> Env {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

impl Config {
    pub fn load(args: &ServeArgs, env: &Env) -> anyhow::Result<Self> {
        let file = File::load(args.config.as_deref())?;
        let host = match (args.host, &file.host) {
            (Some(host), _) => host,
            (None, Some(text)) => text
                .parse()
                .with_context(|| format!("host '{text}' is not an IP address such as 127.0.0.1"))?,
            (None, None) => IpAddr::from([127, 0, 0, 1]),
        };
        let agents_off = match env.get("WATCHBILL_AGENTS") {
            Some(text) => !on_or_off("WATCHBILL_AGENTS", text)?,
            None => file.agents == Some(Switch::Off),
        };
        let slots = match number(env, "WATCHBILL_SLOTS")?.or(file.slots).unwrap_or(32) {
            0 => bail!("slots 0 would run nothing: to only accept tasks, set agents: off"),
            slots if slots > 4096 => bail!("slots {slots}: the maximum is 4096"),
            slots => slots,
        };
        let (governance, policy) = policy::governance(&file, env)?;
        // The rules leave exported tasks to external workers, wherever the setting comes from.
        let mut of_rules = env.clone();
        if let Some(fed) = &file.redis.feed {
            of_rules.entry("REDIS_FEED".to_owned()).or_insert_with(|| fed.clone());
        }
        Ok(Self {
            host,
            port: args.port.or(file.port).unwrap_or(8000),
            data: args.data.clone().or(file.data.clone()).unwrap_or_else(|| ".watchbill".into()),
            slots: if agents_off { 0 } else { slots },
            rules: file.rules_form().rules(&of_rules, true)?,
            governance,
            policy,
            reactions: reactions(&file, env)?,
            static_keys: static_keys(env)?,
            operator_key_hash: env.get("ORCHESTRATOR_OPERATOR_KEY").map(|key| hash_key(key)),
            jwt: jwt(&file, env)?,
            rate_limits: rate_limits(&file, env)?,
            trusted_proxies: trusted_proxies(&file, env)?,
            connections: connections(&file)?,
            body_within: within("body_within", file.connections.body_within.as_ref(), BODY_WITHIN)?,
            cors_origins: match env.get("ORCHESTRATOR_CORS_ORIGINS") {
                Some(list) => words(list),
                None => file.cors.origins.clone(),
            },
            cors_credentials: file.cors.credentials,
            log_folders: match env.get("LOG_DIRS") {
                Some(list) => list.split(':').filter(|f| !f.is_empty()).map(Into::into).collect(),
                None => file.logs.folders.clone(),
            },
            probe_private: match env.get("PROBE_ALLOW_PRIVATE") {
                Some(text) => allow("PROBE_ALLOW_PRIVATE", text)?,
                None => file.probes.allow_private.unwrap_or(false),
            },
            probe_hosts: match env.get("PROBE_ALLOW_HOSTS") {
                Some(list) => words(list),
                None => file.probes.allow_hosts.clone(),
            },
            notify: notify(&file, env)?,
            first_task: match env.get("WATCHBILL_FIRST_TASK") {
                Some(text) => on_or_off("WATCHBILL_FIRST_TASK", text)?,
                None => file.first_task.unwrap_or(true),
            },
            redis: RedisConfig::of_serve(args.redis.as_ref(), env, &file.redis)?,
            log: env.get("WATCHBILL_LOG").cloned().or(file.log).unwrap_or_else(|| "info".into()),
            log_json: match env.get("WATCHBILL_LOG_FORMAT").cloned().or(file.log_format).as_deref()
            {
                None | Some("text") => false,
                Some("json") => true,
                Some(other) => bail!("log_format '{other}': use text or json"),
            },
        })
    }
}

fn reactions(file: &File, env: &Env) -> anyhow::Result<Vec<Reaction>> {
    let path = env.get("WATCHBILL_REACTIONS").map(PathBuf::from).or(file.reactions.clone());
    match &path {
        Some(path) => watchbill_intake::read_reactions(&read(path)?)
            .with_context(|| format!("{} is invalid", path.display())),
        None => Ok(watchbill_intake::shipped_reactions()),
    }
}

fn notify(file: &File, env: &Env) -> anyhow::Result<Option<Notify>> {
    let url = env.get("WATCHBILL_WEBHOOK_URL").cloned().or(file.notify.webhook.clone());
    let Some(url) = url else { return Ok(None) };
    let setting =
        |name: &str, of_file: &Option<String>| env.get(name).or(of_file.as_ref()).cloned();
    let link_for = match setting("WATCHBILL_LINK_FOR", &file.notify.link_for) {
        Some(text) => parse_span(&text).context("notify.link_for")?,
        None => LINK_FOR,
    };
    let events = match env.get("NOTIFY_EVENTS") {
        Some(list) => Some(words(list)),
        None => file.notify.events.clone(),
    };
    let default_events = || NOTIFIED_EVENTS.iter().map(|name| (*name).to_owned()).collect();
    let secret = env.get("WATCHBILL_WEBHOOK_SECRET").cloned();
    Ok(Some(Notify {
        url,
        secret,
        events: events.unwrap_or_else(default_events),
        public_url: setting("WATCHBILL_PUBLIC_URL", &file.notify.public_url),
        approver: setting("WATCHBILL_APPROVER", &file.notify.approver)
            .unwrap_or_else(|| APPROVER.to_owned()),
        link_for,
    }))
}

/// Reads `ORCHESTRATOR_API_KEY_<NAME>=<key>:<role>`.
fn static_keys(env: &Env) -> anyhow::Result<Vec<StaticKey>> {
    let mut keys = Vec::new();
    for (variable, value) in env {
        let Some(name) = variable.strip_prefix("ORCHESTRATOR_API_KEY_") else { continue };
        let Some((key, role)) = value.rsplit_once(':') else {
            bail!("{variable} is not <key>:<role>, such as s3cr3t…:agent");
        };
        if key.is_empty() {
            bail!("{variable} has an empty key; it should be <key>:<role>");
        }
        let role = Role::parse(role).with_context(|| variable.clone())?;
        keys.push(StaticKey {
            name: name.to_ascii_lowercase(),
            key_hash: hash_key(key),
            role,
            tenant: TenantId::default(),
        });
    }
    Ok(keys)
}

fn jwt(file: &File, env: &Env) -> anyhow::Result<JwtSettings> {
    let secret = env.get("ORCHESTRATOR_JWT_SECRET").cloned().or(file.auth.jwt_secret.clone());
    let jwks_url = env.get("WATCHBILL_JWKS_URL").cloned().or(file.auth.jwks_url.clone());
    let jwks = match &file.auth.jwks_file {
        Some(path) => {
            let text = read(path)?;
            Some(std::sync::Arc::new(watchbill_api::StaticJwks(text)) as _)
        }
        None => None,
    };
    let config = JwtConfig {
        hs_secret: secret,
        jwks,
        issuer: file.auth.issuer.clone(),
        audience: file.auth.audience.clone(),
    };
    Ok(JwtSettings { config, jwks_url })
}

fn rate_limits(file: &File, env: &Env) -> anyhow::Result<RateLimits> {
    match env.get("RATE_LIMITS").or(file.rate_limits.as_ref()) {
        None => Ok(RateLimits::default()),
        Some(text) => RateLimits::parse(text).with_context(|| format!("RATE_LIMITS '{text}'")),
    }
}

fn trusted_proxies(file: &File, env: &Env) -> anyhow::Result<TrustedProxies> {
    let of_env = env.get("TRUSTED_PROXIES").map(|list| words(list));
    let networks = of_env.as_ref().unwrap_or(&file.trusted_proxies);
    TrustedProxies::parse(networks.iter().map(String::as_str)).context("trusted_proxies")
}

fn connections(file: &File) -> anyhow::Result<Limits> {
    let (form, default) = (&file.connections, Limits::default());
    if let Some(few) = form.limit.filter(|limit| *limit < MIN_CONNECTIONS) {
        bail!("connections.limit {few}: the minimum is {MIN_CONNECTIONS}");
    }
    let headers = form.headers_within.as_ref();
    let stalled = form.stalled_after.as_ref();
    Ok(Limits {
        most: form.limit,
        headers_within: within("headers_within", headers, default.headers_within)?,
        stalled_after: within("stalled_after", stalled, default.stalled_after)?,
    })
}

/// A timeout of connections. None of them can be switched off.
fn within(name: &str, text: Option<&String>, default: Duration) -> anyhow::Result<Duration> {
    let Some(text) = text else { return Ok(default) };
    let span = parse_span(text).with_context(|| format!("connections.{name} '{text}'"))?;
    match span {
        span if span < MIN_TIMEOUT || span > MAX_TIMEOUT => {
            bail!("connections.{name} '{text}': use a time from 1s to 1h")
        }
        span => Ok(span),
    }
}

fn number(env: &Env, name: &str) -> anyhow::Result<Option<usize>> {
    let parse = |text: &String| {
        text.parse().with_context(|| format!("{name} '{text}' is not a whole number"))
    };
    env.get(name).map(parse).transpose()
}
