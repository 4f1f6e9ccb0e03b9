//! The public keys of an identity provider, fetched and cached as a JWKS document.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::Mutex;
use watchbill_core::ports::Clock;

use crate::error::ApiError;

/// How long a document is used before it is fetched again, so that a key withdrawn by the
/// provider is rejected here too.
const CACHE_TTL: Duration = Duration::from_secs(600);
/// Minimum time between fetches, whatever tokens arrive.
const RETRY_DELAY: Duration = Duration::from_secs(30);
/// How long a document that can't be refreshed stays in use.
const MAX_STALENESS: Duration = Duration::from_secs(6 * 3600);
const MAX_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 64;

/// The source of a JWKS document: a URL, a file or a value.
#[async_trait]
pub trait JwksSource: Send + Sync {
    /// Returns the document's text. The error is the reason, for the log.
    async fn fetch(&self) -> Result<String, String>;
}

/// A document given as a value.
pub struct StaticJwks(pub String);

#[async_trait]
impl JwksSource for StaticJwks {
    async fn fetch(&self) -> Result<String, String> {
        Ok(self.0.clone())
    }
}

type Key = (Arc<DecodingKey>, Algorithm);

#[derive(Default)]
struct KeySet {
    /// Several keys may share an id: a provider need not make them unique.
    keys: HashMap<String, Vec<Key>>,
    /// The key to use for tokens without `kid`, if there is exactly one.
    only: Option<Key>,
    fetched: Option<Duration>,
    tried: Option<Duration>,
}

/// The keys of an identity provider, fetched when first needed.
pub struct Jwks {
    source: Arc<dyn JwksSource>,
    held: Mutex<KeySet>,
}

impl Jwks {
    pub fn new(source: Arc<dyn JwksSource>) -> Self {
        Self { source, held: Mutex::default() }
    }

    /// The keys that may have signed a token with this `kid`; at least one.
    pub async fn keys(&self, clock: &dyn Clock, kid: Option<&str>) -> Result<Vec<Key>, ApiError> {
        let now = clock.monotonic();
        // One call fetches while the others wait for it.
        let mut held = self.held.lock().await;
        let age = held.fetched.map(|at| now.saturating_sub(at));
        let found = held.find(kid).is_some();
        let may_try = held.tried.is_none_or(|at| now.saturating_sub(at) >= RETRY_DELAY);
        if may_try && (!found || age.is_none_or(|age| age >= CACHE_TTL)) {
            held.tried = Some(now);
            match self.source.fetch().await.and_then(|text| parse(&text)) {
                Ok(keys) => {
                    let fresh = KeySet { fetched: Some(now), tried: Some(now), ..keys };
                    *held = fresh;
                }
                Err(reason) => tracing::warn!(reason, "the JWKS document can't be fetched"),
            }
        }
        let age = held.fetched.map(|at| now.saturating_sub(at));
        match age {
            Some(age) if age < MAX_STALENESS => held.find(kid).ok_or_else(|| {
                ApiError::unauthorized("the token is refused: its key is not in the JWKS document")
            }),
            _ => Err(ApiError::unavailable(
                "tokens can't be verified now: the JWKS document can't be fetched",
                RETRY_DELAY,
            )),
        }
    }
}

impl KeySet {
    fn find(&self, kid: Option<&str>) -> Option<Vec<Key>> {
        match kid {
            Some(kid) => self.keys.get(kid).cloned(),
            None => self.only.clone().map(|key| vec![key]),
        }
    }
}

fn parse(text: &str) -> Result<KeySet, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("the document has {} bytes; the maximum is {MAX_BYTES}", text.len()));
    }
    let set: JwkSet =
        serde_json::from_str(text).map_err(|e| format!("not a JWKS document: {e}"))?;
    let mut usable: Vec<_> = set.keys.iter().filter_map(usable).collect();
    if usable.len() > MAX_KEYS {
        let found = usable.len();
        tracing::warn!(
            found,
            used = MAX_KEYS,
            "the JWKS document has too many signature keys: only the first ones are used, tokens \
             signed with the others are rejected"
        );
        usable.truncate(MAX_KEYS);
    }
    let only = match usable.as_slice() {
        [(_, key)] => Some(key.clone()),
        _ => None,
    };
    let mut keys = HashMap::<_, Vec<_>>::new();
    for (kid, key) in usable {
        if let Some(kid) = kid {
            keys.entry(kid).or_default().push(key);
        }
    }
    Ok(KeySet { keys, only, ..KeySet::default() })
}

/// Returns a signature key for a supported algorithm, which the key's type alone determines.
fn usable(jwk: &Jwk) -> Option<(Option<String>, Key)> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        _ => return None,
    };
    let for_signatures =
        jwk.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature);
    let declared = jwk.common.key_algorithm.as_ref().map(ToString::to_string);
    let fits = declared.is_none_or(|declared| declared == format!("{algorithm:?}"));
    let key = DecodingKey::from_jwk(jwk).ok()?;
    (for_signatures && fits).then(|| (jwk.common.key_id.clone(), (Arc::new(key), algorithm)))
}
