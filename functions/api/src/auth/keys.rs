//! Authenticates API keys: keys of the environment, the first admin key, and stored keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use watchbill_core::ports::SecretSource;
use watchbill_core::service::Core;
use watchbill_domain::{Caller, Role, TenantId, hash_key};
use watchbill_wire::operator_key;

use super::hash::KeyHash;
use crate::config::{ConfigError, StaticKey};
use crate::error::ApiError;

/// Cache TTL of a key found in the store: a revoked key works at most this long on other
/// instances, and not at all on the one that revoked it.
pub const CACHE_TTL: Duration = Duration::from_secs(30);
const CACHE_SIZE: usize = 4_096;
/// No valid key is longer.
const MAX_BYTES: usize = 512;

struct Cached {
    caller: Caller,
    /// When the store was read.
    read: Duration,
}

impl Cached {
    fn is_younger(&self, than: Duration, now: Duration) -> bool {
        now.saturating_sub(self.read) < than
    }
}

pub struct Keys {
    fixed: Vec<(KeyHash, Caller)>,
    first: Option<Arc<dyn SecretSource>>,
    cache: Mutex<HashMap<KeyHash, Cached>>,
}

impl Keys {
    pub fn new(fixed: &[StaticKey], operator: Option<&str>) -> Result<Self, ConfigError> {
        let mut keys = Vec::with_capacity(fixed.len() + 1);
        let mut add = |name: &str, hash: &str, role, tenant: &TenantId| {
            let hash = KeyHash::parse(hash)
                .ok_or_else(|| ConfigError::BadHash { name: name.to_owned() })?;
            let caller =
                Caller { name: name.to_owned(), role, tenant: tenant.clone(), made_by: None };
            if let Some((_, other)) = keys.iter().find(|(h, _): &&(KeyHash, Caller)| *h == hash) {
                let first = other.name.clone();
                return Err(ConfigError::SameKey { first, second: name.to_owned() });
            }
            keys.push((hash, caller));
            Ok(())
        };
        for key in fixed {
            if key.role == Role::Operator {
                return Err(ConfigError::OperatorRole { name: key.name.clone() });
            }
            add(&key.name, &key.key_hash, key.role, &key.tenant)?;
        }
        if let Some(hash) = operator {
            add("operator", hash, Role::Operator, &TenantId::default())?;
        }
        Ok(Self { fixed: keys, first: None, cache: Mutex::default() })
    }

    /// Adds an admin key that a secret store holds.
    pub fn beginning_with(self, first: Option<Arc<dyn SecretSource>>) -> Self {
        Self { first, ..self }
    }

    /// Whether the environment defines keys for this tenant.
    pub fn serve(&self, tenant: &TenantId) -> bool {
        self.fixed.iter().any(|(_, c)| c.role != Role::Operator && c.tenant == *tenant)
    }

    /// The caller whose key this is, from a store read not older than `age`.
    pub async fn caller(&self, core: &Core, key: &[u8], age: Duration) -> Result<Caller, ApiError> {
        let unknown = || ApiError::unauthorized("the API key is not known here, or was revoked");
        let Ok(text) = std::str::from_utf8(key) else { return Err(unknown()) };
        if text.is_empty() || text.len() > MAX_BYTES {
            return Err(unknown());
        }
        let hash = KeyHash::of(key);
        if let Some(caller) = self.fixed(&hash) {
            return Ok(caller);
        }
        let now = core.clock().monotonic();
        if let Some(caller) = self.cached(&hash, now, age) {
            return Ok(caller);
        }
        let found = match core.keys().by_hash(&hash_key(text)).await? {
            Some(key) => Some(Caller {
                made_by: key.maker().map(str::to_owned),
                name: key.name,
                role: key.role,
                tenant: key.tenant,
            }),
            None => self.first(&hash).await,
        };
        let Some(caller) = found else {
            self.lock().remove(&hash);
            return Err(unknown());
        };
        self.keep(hash, caller.clone(), now);
        Ok(caller)
    }

    /// Returns the admin if this is the first admin key, or the operator if it is the key
    /// derived from that one.
    async fn first(&self, hash: &KeyHash) -> Option<Caller> {
        let key = match self.first.as_ref()?.fetch().await {
            Ok(key) => key,
            Err(reason) => {
                tracing::error!(reason, "the first admin key can't be fetched");
                return None;
            }
        };
        let admin = KeyHash::of(key.as_bytes()) == *hash;
        let operator = KeyHash::of(operator_key(&key).as_bytes()) == *hash;
        let (name, role) = match (admin, operator) {
            (true, _) => ("admin", Role::Admin),
            (_, true) => ("operator", Role::Operator),
            _ => return None,
        };
        Some(Caller { name: name.into(), role, tenant: TenantId::default(), made_by: None })
    }

    /// Compares every key, so that the time taken does not reveal which one matched.
    fn fixed(&self, hash: &KeyHash) -> Option<Caller> {
        let mut found = None;
        for (known, caller) in &self.fixed {
            if known == hash {
                found = Some(caller);
            }
        }
        found.cloned()
    }

    fn cached(&self, hash: &KeyHash, now: Duration, age: Duration) -> Option<Caller> {
        let cache = self.lock();
        cache.get(hash).filter(|key| key.is_younger(age, now)).map(|key| key.caller.clone())
    }

    fn keep(&self, hash: KeyHash, caller: Caller, now: Duration) {
        let mut cache = self.lock();
        if cache.len() >= CACHE_SIZE {
            cache.retain(|_, key| key.is_younger(CACHE_TTL, now));
        }
        if cache.len() < CACHE_SIZE || cache.contains_key(&hash) {
            cache.insert(hash, Cached { caller, read: now });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyHash, Cached>> {
        self.cache.lock().expect("nothing under this lock panics")
    }

    /// Drops a tenant's key from the cache when it is revoked.
    pub fn forget(&self, tenant: &TenantId, name: &str) {
        let mut cache = self.lock();
        cache.retain(|_, key| key.caller.tenant != *tenant || key.caller.name != name);
    }
}
