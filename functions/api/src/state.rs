use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use watchbill_core::ports::SecretSource;
use watchbill_core::service::Core;

use crate::auth::Auth;
use crate::config::{AgentInfo, ApiConfig, ConfigError, HealthSource};
use crate::cors::Cors;
use crate::limits::Limiter;
use crate::{docs, openapi, routes};

/// Event streams held open at once by one process.
const MOST_STREAMS: usize = 256;

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
    open_streams: Arc<AtomicUsize>,
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
            open_streams: Arc::default(),
        })))
    }

    pub fn core(&self) -> &Core {
        &self.0.core
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    /// The OpenAPI document, made when it is first asked for: few starts ever are.
    pub(crate) fn openapi(&self) -> Bytes {
        let made = self.0.openapi.get_or_init(|| {
            let document = openapi::document(&self.0.version);
            serde_json::to_vec(&document).expect("a JSON value can be written").into()
        });
        made.clone()
    }

    /// A place for one more event stream, until it is dropped.
    pub(crate) fn stream_place(&self) -> Option<StreamPlace> {
        let open = &self.0.open_streams;
        let taken = open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            (n < MOST_STREAMS).then_some(n + 1)
        });
        taken.is_ok().then(|| StreamPlace(open.clone()))
    }
}

pub(crate) struct StreamPlace(Arc<AtomicUsize>);

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
