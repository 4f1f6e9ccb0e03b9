//! `watchbill serve`: the bundle with its HTTP API, on this machine.

pub mod args;
mod bootstrap;
mod config;
pub mod connections;
pub mod console;
#[cfg(test)]
mod example;
mod file;
mod health;
pub mod policy;

use std::io::{ErrorKind, IsTerminal as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use tracing_subscriber::EnvFilter;
use watchbill_alerts::StoredAlerts;
use watchbill_api::{AgentInfo, ApiConfig, ApiState, JwksSource, JwtConfig};
use watchbill_catalog::OpsPorts;
use watchbill_core::ports::{Clock, Entropy, FixedSecret};
use watchbill_core::service::Core;
use watchbill_domain::{Agent, TenantId};
use watchbill_host::clock::SystemClock;
use watchbill_host::entropy::SystemEntropy;
use watchbill_host::log_files::LogFolders;
use watchbill_host::system::LocalSystem;
use watchbill_http::key_set::KeySetUrl;
use watchbill_http::webhook::HttpWebhook;
use watchbill_notifier::Links;
use watchbill_redact as redact;
use watchbill_redact::RedactingWriter;
use watchbill_redis::RedisLegacyQueue;
use watchbill_redis_bridge::CoreBackend;
use watchbill_runtime::history::TaskHistory;
use watchbill_wire::agent_id;

use crate::bridge::{RunningBridge, local_context};
use crate::bundle::{Bundle, Notices, ParkedReport, Settings, registry};
use crate::tasks::Tasks;
use args::ServeArgs;
use config::Config;

/// How long running tasks may take to end once the bundle is stopped.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How long open connections may take to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// A wrong setting. Nothing was started.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BadConfig(anyhow::Error);

/// Runs the bundle until it is stopped.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config = Config::load(&args, &config::environment()).map_err(BadConfig)?;
    start_log(&config.log, config.log_json).map_err(BadConfig)?;
    // Before the bundle starts, so that an invalid URL leaves nothing behind.
    let peer = peer(&config).map_err(BadConfig)?;
    let listener = listen(SocketAddr::new(config.host, config.port))?;
    let address = listener.local_addr().context("reading the listener's address")?;
    let link_secret = bootstrap::link_secret(&config.data)?;
    let settings = Settings {
        rules: config.rules.clone(),
        governance: config.governance.clone(),
        reactions: config.reactions.clone(),
        notices: match &config.notify {
            Some(notify) => Some(notices(notify, address, link_secret.clone())?),
            None => None,
        },
        slots: config.slots,
        ..Settings::default()
    };
    let bundle = Bundle::start(&config.data, settings, |core| agents(core, &config)).await?;
    let redis = peer.map(|peer| bridged(peer, &config, &bundle));
    if redis.is_none() && !config.redis.settings.is_idle() {
        console::line(
            "redis",
            "no REDIS_URL: the enabled directions are left to a separate bridge",
        );
    }
    let served = serve(listener, address, config, link_secret, &bundle, redis.as_ref()).await;
    console::line("stopping", "no new work is started, running tasks may finish");
    if let Some(redis) = redis {
        redis.stop().await;
    }
    bundle.stop(TIMEOUT).await;
    console::line("stopped", "everything accepted is on disk");
    served
}

async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    config: Config,
    link_secret: Arc<FixedSecret>,
    bundle: &Bundle,
    redis: Option<&RunningBridge>,
) -> anyhow::Result<()> {
    let admin = bootstrap::admin_key(&bundle.core, &config.data).await?;
    let most = connections::files::connections();
    let most = config.connections.most.map_or(most, |wanted| wanted.min(most));
    let table = Arc::new(connections::Table::new(most));
    let api = api_config(&config, link_secret, bundle, redis, &table)?;
    let agents = api.agents.clone();
    let router = watchbill_api::router(ApiState::new(bundle.core.clone(), api)?);
    listener.set_nonblocking(true).context("preparing the listener")?;
    let listener = tokio::net::TcpListener::from_std(listener).context("preparing the listener")?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let server = connections::Server {
        limits: config.connections.clone(),
        table,
        trusted: config.trusted_proxies.clone(),
        clock: bundle.core.clock().clone(),
    };
    let mut server = tokio::spawn(async move { server.run(listener, router, stopped).await });
    console::started(&address, &config, &admin, bundle.store.epoch());
    log_agents(&bundle.core, &agents).await;
    let mut tasks = Tasks::sharing(bundle.broken());
    let wanted = bootstrap::wanted(&config, &admin);
    let first = tasks.spawn("the first task", bootstrap::first_task(bundle.core.clone(), wanted));
    let served = tokio::select! {
        ended = &mut server => ended.context("the server failed"),
        signal = wait_for_signal() => signal,
        broken = broken(bundle, redis) => Err(broken),
    };
    first.abort();
    let _ = stop.send(true);
    if tokio::time::timeout(CLOSE_TIMEOUT, &mut server).await.is_err() {
        // Event streams do not end by themselves.
        server.abort();
    }
    served
}

/// Waits until a part that others rely on fails. Nothing in this process can fix that.
async fn broken(bundle: &Bundle, redis: Option<&RunningBridge>) -> anyhow::Error {
    let (bundle, bridge) = (bundle.broken(), redis.map(RunningBridge::broken).unwrap_or_default());
    let why = tokio::select! {
        why = bundle.wait() => why,
        why = bridge.wait() => why,
    };
    anyhow!("{why}; restart it, nothing that was acknowledged is lost")
}

pub fn start_log(log: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(log)
        .with_context(|| format!("log '{log}' is invalid; use error, warn, info or debug"))?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour)
        .with_writer(|| RedactingWriter::new(std::io::stderr()));
    redact::clean_panics();
    let started = match json {
        true => builder.json().try_init(),
        false => builder.with_target(false).try_init(),
    };
    started.map_err(|error| anyhow!(error).context("the log can't be started"))
}

/// Called before anything is written, so that an occupied port only causes an error.
fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "port {} on {} is in use; stop the program that uses it or choose another port with \
             --port",
            address.port(),
            address.ip()
        ),
        ErrorKind::PermissionDenied => {
            anyhow!(
                "port {} needs permissions that this user lacks; choose one above 1023",
                address.port()
            )
        }
        ErrorKind::AddrNotAvailable => {
            anyhow!("{} is not an address of this machine; use 127.0.0.1 or 0.0.0.0", address.ip())
        }
        _ => anyhow::Error::new(error).context(format!("can't listen on {address}")),
    })
}

fn agents(core: &Core, config: &Config) -> Vec<Arc<dyn watchbill_runtime::run::TaskAgent>> {
    let probes = watchbill_http::probes::NetProbes::new(
        watchbill_http::probes::ProbePolicy {
            allow_private: config.probe_private,
            allow_hosts: config.probe_hosts.clone(),
        },
        core.clock().clone(),
    );
    let logs = (!config.log_folders.is_empty())
        .then(|| Arc::new(LogFolders::new(config.log_folders.clone())) as _);
    registry::agents(OpsPorts {
        metrics: Some(Arc::new(LocalSystem::new(core.clock().clone()))),
        probes: Some(Arc::new(probes)),
        logs,
        history: Some(Arc::new(TaskHistory::new(core.clone()))),
        alerts: Some(Arc::new(StoredAlerts::new(core.clone()))),
    })
}

/// The Redis to bridge to, if one is named.
fn peer(config: &Config) -> anyhow::Result<Option<RedisLegacyQueue>> {
    let Some(url) = &config.redis.url else { return Ok(None) };
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
        (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
    Ok(Some(config.redis.open(url, &clock, &entropy)?))
}

/// Starts the bridge to a Redis in this process.
fn bridged(peer: RedisLegacyQueue, config: &Config, bundle: &Bundle) -> RunningBridge {
    let (clock, core) = (bundle.core.clock().clone(), bundle.core.clone());
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    console::line("redis", &peer.place());
    for (word, text) in config.redis.describe() {
        console::line("", format!("{word} {text}").trim_start());
    }
    let settings = config.redis.settings.clone();
    let built = Agent::taking_tasks().filter(|agent| agent.is_built());
    let backend = CoreBackend::new(core, settings.tenant.clone(), built.collect());
    RunningBridge::start(local_context(Arc::new(backend), Arc::new(peer), clock, entropy), settings)
}

fn notices(
    notify: &config::Notify,
    address: SocketAddr,
    secret: Arc<FixedSecret>,
) -> anyhow::Result<Notices> {
    let clock = Arc::new(SystemClock::new());
    let webhook = HttpWebhook::new(&notify.url, notify.secret.as_deref(), clock)?;
    let links = Links {
        secret,
        base: notify.public_url.clone().unwrap_or_else(|| format!("http://{address}")),
        to: notify.approver.clone(),
        lifetime: notify.link_for,
    };
    Ok(Notices { webhook: Arc::new(webhook), types: notify.events.clone(), links: Some(links) })
}

fn api_config(
    config: &Config,
    link_secret: Arc<FixedSecret>,
    bundle: &Bundle,
    redis: Option<&RunningBridge>,
    table: &Arc<connections::Table>,
) -> anyhow::Result<ApiConfig> {
    let mut jwt: JwtConfig = config.jwt.config.clone();
    if let Some(url) = &config.jwt.jwks_url {
        jwt.jwks = Some(Arc::new(UrlJwks(KeySetUrl::new(url)?)));
    }
    Ok(ApiConfig {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        static_keys: config.static_keys.clone(),
        operator_key_hash: config.operator_key_hash.clone(),
        first_key: None,
        link_secret: Some(link_secret),
        jwt,
        rate_limits: config.rate_limits.clone(),
        cors_origins: config.cors_origins.clone(),
        cors_credentials: config.cors_credentials,
        health: Some(Arc::new(health::EmbeddedHealth::new(
            bundle.lag_handle(),
            parked_now(bundle),
            redis.map(|running| running.bridge().clone()),
            table.clone(),
            health::InternalState { store: bundle.store.clone(), core: bundle.core.clone() },
        ))),
        agents: agent_infos(config),
        streams: true,
        trusted_proxies: config.trusted_proxies.clone(),
        body_within: config.body_within,
        connections: Some(table.figures().most),
        // All waiting calls are in this process, which counts them itself.
        waits: None,
    })
}

fn parked_now(bundle: &Bundle) -> impl Fn() -> ParkedReport + Send + Sync + use<> {
    let (parked, clock) = (bundle.parked(), bundle.core.clock().clone());
    move || parked.report(clock.now())
}

fn agent_infos(config: &Config) -> Vec<AgentInfo> {
    let info = |agent| AgentInfo::new(agent, &config.rules, config.slots == 0);
    Agent::taking_tasks().map(info).collect()
}

/// Logs which agents run here, with their reputation in the default tenant. A read error does
/// not stop the start.
async fn log_agents(core: &Core, infos: &[AgentInfo]) {
    let tenant = TenantId::default();
    for info in infos {
        let agent = info.agent;
        let (name, status) = (agent.long_name(), info.status.as_str());
        let agent_id = agent_id(&tenant, agent);
        if status != "running" {
            tracing::info!(agent = name, agent_id, status, "agent does not run here");
            continue;
        }
        match core.reputation().standing(&tenant, agent).await {
            Ok(standing) => tracing::info!(
                agent = name,
                agent_id,
                permission_level = standing.level.as_str(),
                reputation_score = standing.score(),
                "agent registered"
            ),
            Err(error) => tracing::warn!(
                agent = name,
                agent_id,
                "agent registered; its reputation can't be read now: {error}"
            ),
        }
    }
}

struct UrlJwks(KeySetUrl);

#[async_trait]
impl JwksSource for UrlJwks {
    async fn fetch(&self) -> Result<String, String> {
        self.0.fetch().await
    }
}

pub async fn wait_for_signal() -> anyhow::Result<()> {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        tokio::select! {
            interrupted = interrupt => interrupted.context("listening for Ctrl-C")?,
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    interrupt.await.context("listening for Ctrl-C")?;
    Ok(())
}
