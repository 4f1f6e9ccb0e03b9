use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::Mutex;
use watchbill_core::ports::Clock;

use crate::fault::Fault;

/// A document is used so long before it is fetched anew, so that a key withdrawn by the
/// identity provider ends here too.
const FRESH: Duration = Duration::from_secs(600);
/// After a fetch no other is tried for so long, whatever tokens come.
const PAUSE: Duration = Duration::from_secs(30);
/// A document that can't be fetched anew is used on for so long.
const STALE: Duration = Duration::from_secs(6 * 3600);
const MOST_BYTES: usize = 256 * 1024;
const MOST_KEYS: usize = 64;

/// Where a JWKS document comes from: a URL, a file, a value.
#[async_trait]
pub trait JwksSource: Send + Sync {
    /// The document's text; an error says why not, for the log.
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
struct Held {
    /// Several may share a name: a provider need not tell them apart.
    keys: HashMap<String, Vec<Key>>,
    /// The only key, where there is one alone: for tokens without `kid`.
    only: Option<Key>,
    fetched: Option<Duration>,
    tried: Option<Duration>,
}

/// The keys of an identity provider, fetched when first needed.
pub struct Jwks {
    source: Arc<dyn JwksSource>,
    held: Mutex<Held>,
}

impl Jwks {
    pub fn new(source: Arc<dyn JwksSource>) -> Self {
        Self { source, held: Mutex::default() }
    }

    /// The keys that a token of this `kid` may be signed with; one at least.
    pub async fn keys(&self, clock: &dyn Clock, kid: Option<&str>) -> Result<Vec<Key>, Fault> {
        let now = clock.monotonic();
        // One fetches, the others wait for it.
        let mut held = self.held.lock().await;
        let age = held.fetched.map(|at| now.saturating_sub(at));
        let found = held.find(kid).is_some();
        let may_try = held.tried.is_none_or(|at| now.saturating_sub(at) >= PAUSE);
        if may_try && (!found || age.is_none_or(|age| age >= FRESH)) {
            held.tried = Some(now);
            match self.source.fetch().await.and_then(|text| parse(&text)) {
                Ok(keys) => {
                    let fresh = Held { fetched: Some(now), tried: Some(now), ..keys };
                    *held = fresh;
                }
                Err(reason) => tracing::warn!(reason, "the jwks document could not be fetched"),
            }
        }
        let age = held.fetched.map(|at| now.saturating_sub(at));
        match age {
            Some(age) if age < STALE => held.find(kid).ok_or_else(|| {
                Fault::unauthorized("the token is refused: its key is not in the JWKS document")
            }),
            _ => Err(Fault::unavailable(
                "tokens can't be proved now: their keys can't be fetched",
                PAUSE,
            )),
        }
    }
}

impl Held {
    fn find(&self, kid: Option<&str>) -> Option<Vec<Key>> {
        match kid {
            Some(kid) => self.keys.get(kid).cloned(),
            None => self.only.clone().map(|key| vec![key]),
        }
    }
}

fn parse(text: &str) -> Result<Held, String> {
    if text.len() > MOST_BYTES {
        return Err(format!("the document has {} bytes, {MOST_BYTES} are the most", text.len()));
    }
    let set: JwkSet = serde_json::from_str(text).map_err(|e| format!("not a JWKS: {e}"))?;
    let mut usable: Vec<_> = set.keys.iter().filter_map(usable).collect();
    if usable.len() > MOST_KEYS {
        let found = usable.len();
        tracing::warn!(
            found,
            used = MOST_KEYS,
            "the jwks document has {found} keys for signatures: the first {MOST_KEYS} are used, \
             tokens of the others are refused"
        );
        usable.truncate(MOST_KEYS);
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
    Ok(Held { keys, only, ..Held::default() })
}

/// A key for signatures with an algorithm we take; the key's kind alone says which.
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
    let said = jwk.common.key_algorithm.as_ref().map(ToString::to_string);
    let fits = said.is_none_or(|said| said == format!("{algorithm:?}"));
    let key = DecodingKey::from_jwk(jwk).ok()?;
    (for_signatures && fits).then(|| (jwk.common.key_id.clone(), (Arc::new(key), algorithm)))
}
