//! The state that all routes share, and its bounds.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use watchbill_core::ports::SecretSource;
use watchbill_core::service::{Core, WaitBounds};

use crate::address::TrustedProxies;
use crate::auth::Auth;
use crate::config::{AgentInfo, ApiConfig, ConfigError, HealthSource};
use crate::cors::Cors;
use crate::limits::Limiter;
use crate::shares::{Bounds, Shares};
use crate::{docs, openapi, routes};

/// Running calls. A call is short, or it waits and is counted there instead.
const MAX_CALLS: Bounds = Bounds { all: 512, tenant: 384, caller: 256 };
/// Calls that wait for something new: each reads the store every two seconds.
const MAX_WAITS: Bounds = Bounds { all: 512, tenant: 256, caller: 128 };
/// Event streams: each reads the ledger when it grows.
const MAX_STREAMS: Bounds = Bounds { all: 256, tenant: 128, caller: 64 };
/// Bytes of responses not sent yet: what a caller does not read stays in memory.
const MAX_ANSWERS: Bounds = Bounds { all: 128 << 20, tenant: 64 << 20, caller: 32 << 20 };
/// Bytes of bodies that have not fully arrived.
const MAX_BODIES: Bounds = Bounds { all: 128 << 20, tenant: 64 << 20, caller: 32 << 20 };
/// Each kind of call takes at most one in this many of a host's connections.
const PART_OF_CONNECTIONS: usize = 4;

/// What all routes share. Cheap to clone.
#[derive(Clone)]
pub struct ApiState(Arc<Shared>);

pub(crate) struct Shared {
    pub core: Core,
    pub auth: Auth,
    pub limiter: Limiter,
    pub cors: Cors,
    pub health: Option<Arc<dyn HealthSource>>,
    pub link_secret: Option<Arc<dyn SecretSource>>,
    pub agents: Vec<AgentInfo>,
    pub version: String,
    pub streams: bool,
    openapi: OnceLock<Bytes>,
    pub docs_policy: http::HeaderValue,
    pub trusted_proxies: TrustedProxies,
    pub body_within: Duration,
    pub calls: Shares,
    pub waits: Shares,
    pub wait_bounds: Option<WaitBounds>,
    pub event_streams: Shares,
    pub answers: Shares,
    pub bodies: Shares,
}

impl ApiState {
    pub fn new(core: Core, config: ApiConfig) -> Result<Self, ConfigError> {
        let auth = Auth::new(&config)?;
        Ok(Self(Arc::new(Shared {
            core,
            auth,
            limiter: Limiter::new(&config.rate_limits, &routes::all())?,
            cors: Cors::new(&config.cors_origins, config.cors_credentials)?,
            health: config.health,
            link_secret: config.link_secret,
            agents: config.agents,
            version: config.version,
            streams: config.streams,
            openapi: OnceLock::new(),
            docs_policy: docs::policy(),
            trusted_proxies: config.trusted_proxies,
            body_within: config.body_within,
            calls: Shares::new(within(MAX_CALLS, config.connections)),
            waits: Shares::new(within(MAX_WAITS, config.connections)),
            wait_bounds: config.waits,
            event_streams: Shares::new(within(MAX_STREAMS, config.connections)),
            answers: Shares::new(MAX_ANSWERS),
            bodies: Shares::new(MAX_BODIES),
        })))
    }

    pub fn core(&self) -> &Core {
        &self.0.core
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    /// The OpenAPI document, generated at the first request: most processes never need it.
    pub(crate) fn openapi(&self) -> Bytes {
        let made = self.0.openapi.get_or_init(|| {
            let document = openapi::document(&self.0.version);
            serde_json::to_vec(&document).expect("a JSON value serializes").into()
        });
        made.clone()
    }
}

/// Scales the bounds down if the host holds few connections.
fn within(bounds: Bounds, connections: Option<usize>) -> Bounds {
    let all = connections.map_or(bounds.all, |most| bounds.all.min(most / PART_OF_CONNECTIONS));
    let part = |of: usize| (of * all / bounds.all).max(1);
    Bounds { all: all.max(1), tenant: part(bounds.tenant), caller: part(bounds.caller) }
}
