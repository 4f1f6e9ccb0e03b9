//! `watchbill bridge`: a process of its own between a server and a Redis.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use watchbill_core::ports::{Clock, Entropy};
use watchbill_domain::{Agent, TenantId};
use watchbill_local::bridge::config::{BridgeArgs, RedisConfig};
use watchbill_local::bridge::{Running, sides};
use watchbill_local::serve::{say, start_log, wait_for_signal};
use watchbill_redis::RedisPeer;
use watchbill_wire::peer::{PeerDomains as _, PeerError, PeerQueue as _};
use watchbill_wire::{AgentList, TaskList};

use super::args::Global;
use super::client::{Call, Client};
use super::failure::Failure;
use super::out::Out;
use super::world::World;
use super::{Session, card, connect};
use crate::http_home::HttpHome;

/// Works until it is told to stop. What goes wrong on the way stands in the log, and is tried
/// again; what can't be right from the start ends it.
pub async fn run(global: &Global, args: &BridgeArgs, world: World) -> Result<(), Failure> {
    let set = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let log_json = set("WATCHBILL_LOG_FORMAT", "text") == "json";
    start_log(&set("WATCHBILL_LOG", "info"), log_json)
        .map_err(|error| Failure::Usage(format!("{error:#}")))?;
    let (clock, entropy, data) = (world.clock.clone(), world.entropy.clone(), world.data.clone());
    let mut out = world.into_out(global.json, global.no_color);
    let (config, url) = configured(args)?;
    let (server, key) = connect(global, &data, &mut out)?;
    let client = Client::new(server, key, clock.clone(), entropy.clone())?;
    let peer = open(&config, &url, &clock, &entropy)?;
    say::line("bridge", &format!("{} ⇄ {}", peer.place(), client.shown()));
    for (word, text) in config.in_words() {
        say::line(word, &text);
    }
    match look_at_server(&client, args).await {
        Err(away) if away.is_passing() => tracing::warn!("{away}; trying again"),
        other => _ = other?,
    }
    let home = Arc::new(HttpHome::over(client));
    let running = Running::start(sides(home, Arc::new(peer), clock, entropy), config.settings);
    let broken = running.broken();
    let ended = tokio::select! {
        signal = wait_for_signal() => signal,
        why = broken.wait() => Err(anyhow::anyhow!("{why}; start it again, nothing is lost")),
    };
    say::line("stopping", "letting what is under way end");
    running.stop().await;
    say::line("stopped", "what was taken and is not recorded yet is taken again");
    ended.map_err(|error| Failure::Local(format!("{error:#}")))
}

/// One look at both sides.
pub async fn check(s: Session<'_>, args: &BridgeArgs) -> Result<(), Failure> {
    let (config, url) = configured(args)?;
    let peer = open(&config, &url, &s.client.clock, &s.client.entropy)?;
    let about = peer.about().await?;
    if about.role == "slave" {
        return Err(Failure::Peer(PeerError::Refused(format!(
            "{} is a replica, which takes no writes; name the master, or its sentinels",
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
    for (word, text) in config.in_words() {
        let word = if word.is_empty() { "directions" } else { word };
        found.insert(word.to_owned(), text.into());
    }
    show(s.out, &Value::Object(found))
}

fn show(out: &mut Out, found: &Value) -> Result<(), Failure> {
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
) -> Result<RedisPeer, Failure> {
    config.open(url, clock, entropy).map_err(|error| Failure::Usage(error.to_string()))
}

fn configured(args: &BridgeArgs) -> Result<(RedisConfig, String), Failure> {
    let config = RedisConfig::of_args(args).map_err(|error| Failure::Usage(error.to_string()))?;
    let none = "no Redis is named: give --redis redis://HOST:6379, or set REDIS_URL";
    let url = config.url.clone().ok_or_else(|| Failure::Usage(none.to_owned()))?;
    Ok((config, url))
}

/// How much stands in the keys that the directions have to do with. A key of another kind is
/// found here.
async fn queue(peer: &RedisPeer, config: &RedisConfig) -> Result<Value, Failure> {
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

/// Whether the server lets us in, which agents' work is built there, and whose tasks the key
/// shows, where there are any.
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
                "the key is of the tenant '{of_key}' and REDIS_TENANT says '{wanted}'; over HTTP \
                 the key decides: give a key of '{wanted}', or leave REDIS_TENANT out"
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
