//! `watchbill bridge` runs a process between a server and a legacy queue in Redis.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use watchbill_core::ports::{Clock, Entropy};
use watchbill_domain::{Agent, TenantId};
use watchbill_local::bridge::config::{BridgeArgs, RedisConfig};
use watchbill_local::bridge::{RunningBridge, local_context};
use watchbill_local::serve::{console, start_log, wait_for_signal};
use watchbill_redis::RedisLegacyQueue;
use watchbill_wire::legacy::{LegacyDomains as _, LegacyError, LegacyTasks as _};
use watchbill_wire::{AgentList, TaskList};

use super::args::Global;
use super::client::{Call, Client};
use super::context::CliContext;
use super::failure::Failure;
use super::out::Output;
use super::{Session, card, connect};
use crate::http_backend::HttpBackend;

/// Runs until a signal stops it. Errors are logged and retried; a bad configuration ends it.
pub async fn run(global: &Global, args: &BridgeArgs, context: CliContext) -> Result<(), Failure> {
    let set = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let log_json = set("WATCHBILL_LOG_FORMAT", "text") == "json";
    start_log(&set("WATCHBILL_LOG", "info"), log_json).map_err(Failure::Setting)?;
    let (clock, entropy, data) =
        (context.clock.clone(), context.entropy.clone(), context.data.clone());
    let mut out = context.into_out(global.json, global.no_color);
    let (config, url) = configured(args)?;
    let (server, key) = connect(global, &data, &mut out)?;
    let client = Client::new(server, key, clock.clone(), entropy.clone())?;
    let peer = open(&config, &url, &clock, &entropy)?;
    console::line("bridge", &format!("{} ⇄ {}", peer.place(), client.shown()));
    for (word, text) in config.describe() {
        console::line(word, &text);
    }
    match look_at_server(&client, args).await {
        Err(away) if away.is_passing() => tracing::warn!("{away}; trying again"),
        other => _ = other?,
    }
    let backend = Arc::new(HttpBackend::over(client));
    let running = RunningBridge::start(
        local_context(backend, Arc::new(peer), clock, entropy),
        config.settings,
    );
    let broken = running.broken();
    let ended = tokio::select! {
        signal = wait_for_signal() => signal,
        why = broken.wait() => Err(anyhow::anyhow!("{why}; restart it, nothing is lost")),
    };
    console::line("stopping", "waiting for the work in progress");
    running.stop().await;
    console::line("stopped", "imports that are not recorded yet are repeated at the next start");
    ended.map_err(Failure::Local)
}

pub async fn check(s: Session<'_>, args: &BridgeArgs) -> Result<(), Failure> {
    let (config, url) = configured(args)?;
    let peer = open(&config, &url, &s.client.clock, &s.client.entropy)?;
    let about = peer.about().await?;
    if about.role == "slave" {
        return Err(Failure::Peer(LegacyError::Refused(format!(
            "{} is a replica, which accepts no writes; give the URL of the master or sentinels",
            peer.place()
        ))));
    }
    let mut found = Map::new();
    found.insert("redis".into(), peer.place().into());
    found.insert("version".into(), about.version.into());
    found.insert("role".into(), about.role.into());
    found.insert("queue".into(), queue(&peer, &config).await?);
    let (built, tenant) = look_at_server(s.client, args).await?;
    let built: Vec<_> = built.into_iter().map(Agent::as_str).collect();
    found.insert("server".into(), s.client.shown().into());
    found.insert("built".into(), built.join(", ").into());
    found.extend(tenant.map(|tenant| ("tenant".to_owned(), tenant.to_string().into())));
    for (word, text) in config.describe() {
        let word = if word.is_empty() { "directions" } else { word };
        found.insert(word.to_owned(), text.into());
    }
    show(s.out, &Value::Object(found))
}

fn show(out: &mut Output, found: &Value) -> Result<(), Failure> {
    let written = match out.json {
        true => out.document(found.to_string().as_bytes()),
        false => card::outline(out, found, 0),
    };
    Ok(written?)
}

fn open(
    config: &RedisConfig,
    url: &str,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<RedisLegacyQueue, Failure> {
    config.open(url, clock, entropy).map_err(|error| Failure::Setting(error.into()))
}

fn configured(args: &BridgeArgs) -> Result<(RedisConfig, String), Failure> {
    let config = RedisConfig::of_args(args).map_err(|error| Failure::Setting(error.into()))?;
    let none = "no Redis URL is set: give --redis redis://HOST:6379, or set REDIS_URL";
    let url = config.url.clone().ok_or_else(|| Failure::Usage(none.to_owned()))?;
    Ok((config, url))
}

/// Counts the items in the configured keys. Finds keys of the wrong Redis type.
async fn queue(peer: &RedisLegacyQueue, config: &RedisConfig) -> Result<Value, Failure> {
    let (mut worked_on, mut cursor) = (0, 0);
    loop {
        let (next, ids) = peer.worked_on(cursor).await?;
        worked_on += ids.len();
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    let mut found = json!({
        "waiting": peer.depth().await?,
        "worked_on": worked_on,
        "fed_from_here": peer.offered().await?.len(),
    });
    for domain in &config.settings.domains {
        found[format!("tasks:pending:{domain}")] = peer.pending(domain).await?.into();
        found[format!("tasks:active:{domain}")] = peer.open(domain).await?.len().into();
    }
    Ok(found)
}

/// Checks the key. Returns the built agents, and the tenant of the key's tasks, if any.
async fn look_at_server(
    client: &Client,
    args: &BridgeArgs,
) -> Result<(Vec<Agent>, Option<TenantId>), Failure> {
    let agents: AgentList = read(client, Call::get(&["agents"])).await?;
    let built = agents.agents.iter().filter(|agent| agent.built);
    let built = built.filter_map(|agent| Agent::parse(&agent.agent).ok()).collect();
    let tasks: TaskList = read(client, Call::get(&["tasks"]).query("limit", 1)).await?;
    let tenant = tasks.tasks.into_iter().next().map(|task| task.tenant_id);
    match (&tenant, &args.tenant) {
        (Some(of_key), Some(wanted)) if of_key.as_str() != wanted.trim() => {
            Err(Failure::Usage(format!(
                "the key belongs to the tenant '{of_key}', but REDIS_TENANT is '{wanted}'; use a \
                 key of '{wanted}', or remove REDIS_TENANT"
            )))
        }
        _ => Ok((built, tenant)),
    }
}

async fn read<T: serde::de::DeserializeOwned>(client: &Client, call: Call) -> Result<T, Failure> {
    let answer = client.ask_once(&call).await?;
    serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::Nonsense(client.shown(), error.to_string()))
}
