//! The API's configuration, as its host provides it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::SecretSource;
use watchbill_core::service::WaitBounds;
use watchbill_domain::{Agent, Role, TenantId};

use crate::address::TrustedProxies;
use crate::auth::JwtConfig;
use crate::limits::RateLimits;

/// A key from the environment; only its hash is kept.
#[derive(Clone, Debug)]
pub struct StaticKey {
    pub name: String,
    /// SHA-256 in hex, as `hash_key` makes it.
    pub key_hash: String,
    pub role: Role,
    pub tenant: TenantId,
}

/// An agent of this installation, for `GET /agents`.
#[derive(Clone, Debug)]
pub struct AgentInfo {
    pub agent: Agent,
    /// Whether this installation runs it; otherwise external workers do.
    pub built: bool,
    /// `running`, `paused`, `external` or `not_built`.
    pub status: String,
}

impl AgentInfo {
    /// Derives the status from the rules. `paused`: this installation only accepts tasks for
    /// now.
    pub fn new(agent: Agent, rules: &EngineConfig, paused: bool) -> Self {
        let status = if rules.external.contains(&agent) {
            "external"
        } else if !agent.is_built() {
            "not_built"
        } else if paused {
            "paused"
        } else {
            "running"
        };
        Self { agent, built: agent.is_built(), status: status.to_owned() }
    }
}

/// What the host knows about its health beyond the store.
#[derive(Clone, Debug, Default)]
pub struct HealthReport {
    /// `connected`, `disabled` or `unreachable`.
    pub redis: String,
    /// Shown next to it, such as the lag of the change feed.
    pub more: BTreeMap<String, Value>,
}

#[async_trait]
pub trait HealthSource: Send + Sync {
    async fn report(&self) -> HealthReport;
}

/// The API's settings. Nothing is read from the environment here.
pub struct ApiConfig {
    pub version: String,
    pub static_keys: Vec<StaticKey>,
    /// SHA-256 in hex of the operator's key, which creates tenants.
    pub operator_key_hash: Option<String>,
    /// The source of an admin key, read when a key is unknown here.
    pub first_key: Option<Arc<dyn SecretSource>>,
    /// The secret that signs approval links; without it there are none.
    pub link_secret: Option<Arc<dyn SecretSource>>,
    pub jwt: JwtConfig,
    pub rate_limits: RateLimits,
    /// Origins of pages that may call; `*` allows any.
    pub cors_origins: Vec<String>,
    /// Whether such pages may send credentials such as cookies.
    pub cors_credentials: bool,
    pub health: Option<Arc<dyn HealthSource>>,
    pub agents: Vec<AgentInfo>,
    /// Whether the host can hold a connection open for server-sent events.
    pub streams: bool,
    /// Proxies that are trusted to report the client address.
    pub trusted_proxies: TrustedProxies,
    /// Time limit for receiving a call's body.
    pub body_within: Duration,
    /// How many connections the host can hold, if known. Running calls, event streams and
    /// waiting calls are bounded so that they never take all of them.
    pub connections: Option<usize>,
    /// How many calls may wait at once over all processes, if each call has its own process.
    pub waits: Option<WaitBounds>,
}

/// The largest body arrives within it at 42 KB/s.
pub const BODY_WITHIN: Duration = Duration::from_secs(30);

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            static_keys: Vec::new(),
            operator_key_hash: None,
            first_key: None,
            link_secret: None,
            jwt: JwtConfig::default(),
            rate_limits: RateLimits::default(),
            cors_origins: Vec::new(),
            cors_credentials: false,
            health: None,
            agents: Vec::new(),
            streams: true,
            trusted_proxies: TrustedProxies::default(),
            body_within: BODY_WITHIN,
            connections: None,
            waits: None,
        }
    }
}

/// Why the API refuses to start.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error(
        "the JWT secret has {bytes} bytes: use at least {least}, for instance 32 random bytes in \
         hex"
    )]
    ShortSecret { bytes: usize, least: usize },
    #[error("the hash of key '{name}' is not a SHA-256 in hex")]
    BadHash { name: String },
    #[error("keys '{first}' and '{second}' are the same key: give each its own")]
    SameKey { first: String, second: String },
    #[error("key '{name}' has role operator: only the operator key may have it")]
    OperatorRole { name: String },
    #[error(
        "CORS origin '*' together with credentials lets any page act as its visitor: name the \
         origins"
    )]
    AnyOriginWithCredentials,
    #[error("CORS origin '{0}' is not an origin such as https://ops.example.com, without a path")]
    BadOrigin(String),
    #[error("rate limit for '{0}': there is no such route")]
    NoSuchRoute(String),
}
