//! The configuration as the bundle uses it: the file, with the environment above it and the
//! command line above both. Every fault names the setting and its value.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use watchbill_api::{JwtConfig, RateLimits, StaticKey};
use watchbill_core::decide::{GateRules, Rules};
use watchbill_core::domain::{Agent, Priority, Role, TaskType, TenantId, hash_key, parse_span};
use watchbill_core::reactions::{Reaction, ReactionForm};

use super::file::{File, Switch, in_a_line, read};
use crate::cli::args::ServeArgs;

/// The reactions that come with Watchbill.
const SHIPPED_REACTIONS: &str = include_str!("../../reactions.yaml");

pub struct Config {
    pub host: IpAddr,
    pub port: u16,
    pub data: PathBuf,
    /// None at all: tasks are only accepted.
    pub slots: usize,
    pub rules: Rules,
    pub reactions: Vec<Reaction>,
    pub static_keys: Vec<StaticKey>,
    pub operator_key_hash: Option<String>,
    pub jwt: JwtSettings,
    pub rate_limits: RateLimits,
    pub cors_origins: Vec<String>,
    pub cors_credentials: bool,
    pub log_folders: Vec<PathBuf>,
    pub probe_private: bool,
    pub probe_hosts: Vec<String>,
    pub first_task: bool,
    pub log: String,
    pub log_json: bool,
}

/// What tokens are checked with.
pub struct JwtSettings {
    pub config: JwtConfig,
    pub jwks_url: Option<String>,
}

/// The environment, as a map so that tests can bring their own.
pub type Env = BTreeMap<String, String>;

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
                .with_context(|| format!("host '{text}' is no IP address such as 127.0.0.1"))?,
            (None, None) => IpAddr::from([127, 0, 0, 1]),
        };
        let agents_off = match env.get("WATCHBILL_AGENTS") {
            Some(text) => !on_or_off("WATCHBILL_AGENTS", text)?,
            None => file.agents == Some(Switch::Off),
        };
        let slots = match number(env, "WATCHBILL_SLOTS")?.or(file.slots).unwrap_or(32) {
            0 => bail!("slots 0 would run nothing: to only accept tasks say agents: off"),
            slots if slots > 4096 => bail!("slots {slots}: 4096 are the most"),
            slots => slots,
        };
        Ok(Self {
            host,
            port: args.port.or(file.port).unwrap_or(8000),
            data: args.data.clone().or(file.data.clone()).unwrap_or_else(|| ".watchbill".into()),
            slots: if agents_off { 0 } else { slots },
            rules: rules(&file, env)?,
            reactions: reactions(&file, env)?,
            static_keys: static_keys(env)?,
            operator_key_hash: env.get("ORCHESTRATOR_OPERATOR_KEY").map(|key| hash_key(key)),
            jwt: jwt(&file, env)?,
            rate_limits: rate_limits(&file, env)?,
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
            first_task: match env.get("WATCHBILL_FIRST_TASK") {
                Some(text) => on_or_off("WATCHBILL_FIRST_TASK", text)?,
                None => file.first_task.unwrap_or(true),
            },
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

fn rules(file: &File, env: &Env) -> anyhow::Result<Rules> {
    let mut rules = Rules { approve_own: true, ..Rules::default() };
    for (task_type, agent) in &file.routes {
        let task_type = TaskType::parse(task_type).context("routes")?;
        rules.routes.insert(task_type, Agent::parse(agent).context("routes")?);
    }
    let external = match env.get("EXTERNAL_AGENTS") {
        Some(list) => words(list),
        None => file.external_agents.clone(),
    };
    for agent in external {
        rules.external.insert(Agent::parse(&agent).context("external_agents")?);
    }
    rules.gates = gates(file, env)?;
    set_span(&mut rules.decide_within, "approvals.decide_within", &file.approvals.decide_within)?;
    set_span(&mut rules.use_within, "approvals.use_within", &file.approvals.use_within)?;
    rules.approve_own = match env.get("APPROVAL_SELF") {
        Some(text) => allow("APPROVAL_SELF", text)?,
        None => file.approvals.own.unwrap_or(true),
    };
    set_span(&mut rules.retry.base, "retries.base", &file.retries.base)?;
    set_span(&mut rules.retry.cap, "retries.cap", &file.retries.cap)?;
    rules.retry.max_retries = file.retries.most.unwrap_or(rules.retry.max_retries);
    set_span(&mut rules.lease.run, "run_limit", &file.run_limit)?;
    if rules.lease.run > Duration::from_secs(15 * 60) {
        bail!("run_limit: 15 minutes are the most; longer work suspends and goes on");
    }
    set_span(&mut rules.lease.outside, "worker_lease", &file.worker_lease)?;
    for (priority, target) in &file.sla.targets {
        let priority = Priority::parse(priority).context("sla.targets")?;
        let span = parse_span(target).context("sla.targets")?;
        rules.sla.targets.insert(priority, span);
    }
    rules.sla.threshold = match file.sla.threshold.unwrap_or(rules.sla.threshold) {
        percent @ 1..=100 => percent,
        other => bail!("sla.threshold {other}: use 1 to 100 percent"),
    };
    rules.sla.lift = file.sla.lift.unwrap_or(false);
    set_span(&mut rules.keep_tasks, "keep.tasks", &file.keep.tasks)?;
    set_span(&mut rules.keep_approvals, "keep.approvals", &file.keep.approvals)?;
    if rules.keep_approvals < Duration::from_secs(30 * 86_400) {
        bail!("keep.approvals: the history of approvals is kept 30 days at least");
    }
    Ok(rules)
}

fn gates(file: &File, env: &Env) -> anyhow::Result<GateRules> {
    let off = match env.get("WATCHBILL_GATES") {
        Some(text) => !on_or_off("WATCHBILL_GATES", text)?,
        None => file.gates.all == Some(Switch::Off),
    };
    if off {
        return Ok(GateRules::off());
    }
    let mut gates = GateRules::default();
    if let Some(list) = &file.gates.priorities {
        let parsed: Result<BTreeSet<_>, _> = list.iter().map(|p| Priority::parse(p)).collect();
        gates.priorities = parsed.context("gates.priorities")?;
    }
    if let Some(list) = &file.gates.production {
        let parsed: Result<BTreeSet<_>, _> = list.iter().map(|t| TaskType::parse(t)).collect();
        gates.production = parsed.context("gates.production")?;
    }
    gates.feature_flags = file.gates.feature_flags.unwrap_or(gates.feature_flags);
    Ok(gates)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ReactionsFile {
    reactions: Vec<ReactionForm>,
}

fn reactions(file: &File, env: &Env) -> anyhow::Result<Vec<Reaction>> {
    let path = env.get("WATCHBILL_REACTIONS").map(PathBuf::from).or(file.reactions.clone());
    let (text, name) = match &path {
        Some(path) => (read(path)?, path.display().to_string()),
        None => (SHIPPED_REACTIONS.to_owned(), "the shipped reactions".to_owned()),
    };
    parse_reactions(&text).with_context(|| format!("{name} are not as they should be"))
}

fn parse_reactions(text: &str) -> anyhow::Result<Vec<Reaction>> {
    match serde_saphyr::from_str::<ReactionsFile>(text) {
        Ok(file) => Ok(Reaction::check_all(file.reactions)?),
        Err(error) => bail!("{}", in_a_line(&error)),
    }
}

/// `ORCHESTRATOR_API_KEY_<NAME>=<key>:<role>`
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

fn words(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

fn set_span(into: &mut Duration, name: &str, text: &Option<String>) -> anyhow::Result<()> {
    if let Some(text) = text {
        *into = parse_span(text).with_context(|| name.to_owned())?;
        if into.is_zero() {
            bail!("{name}: it can't be zero");
        }
    }
    Ok(())
}

fn number(env: &Env, name: &str) -> anyhow::Result<Option<usize>> {
    let parse = |text: &String| {
        text.parse().with_context(|| format!("{name} '{text}' is not a whole number"))
    };
    env.get(name).map(parse).transpose()
}

fn on_or_off(name: &str, text: &str) -> anyhow::Result<bool> {
    match text {
        "on" | "true" | "1" => Ok(true),
        "off" | "false" | "0" => Ok(false),
        other => bail!("{name} '{other}': use on or off"),
    }
}

fn allow(name: &str, text: &str) -> anyhow::Result<bool> {
    match text {
        "allow" | "on" | "true" | "1" => Ok(true),
        "deny" | "off" | "false" | "0" => Ok(false),
        other => bail!("{name} '{other}': use allow or deny"),
    }
}
