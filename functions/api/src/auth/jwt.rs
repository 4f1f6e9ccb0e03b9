//! Verifies and mints tokens. The key determines the algorithm, never the token: HS256 only with
//! our secret, RS256 and ES256 only with a JWKS key of that type.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use watchbill_core::ports::Clock;
use watchbill_domain::{Caller, Role, TenantId, Timestamp, is_reserved_name};
use watchbill_redact as redact;

use super::jwks::{Jwks, JwksSource};
use crate::config::ConfigError;
use crate::error::ApiError;

/// RFC 7518, section 3.2: an HS256 key is at least as long as the hash.
const MIN_SECRET: usize = 32;
/// Maximum clock difference between machines.
const CLOCK_LEEWAY: Duration = Duration::from_secs(30);
const MAX_BYTES: usize = 8 * 1024;

/// Which tokens are accepted.
#[derive(Clone, Default)]
pub struct JwtConfig {
    pub hs_secret: Option<String>,
    /// The source of an identity provider's public keys.
    pub jwks: Option<Arc<dyn JwksSource>>,
    /// Required values of `iss` and `aud`, if set, for tokens of the identity provider.
    pub issuer: Option<String>,
    pub audience: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    role: String,
    /// Seconds since 1970; RFC 7519 allows fractions.
    exp: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// The caller that the token's bearer counts as, see `Caller::made_by`; only in tokens
    /// minted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made_by: Option<String>,
}

/// The claims of minted tokens. Times are whole seconds, as most readers expect.
#[derive(Serialize)]
struct TokenClaims<'a> {
    sub: &'a str,
    role: &'a str,
    tenant: &'a str,
    made_by: &'a str,
    iat: i64,
    exp: i64,
}

pub struct Tokens {
    secret: Option<(EncodingKey, DecodingKey)>,
    jwks: Option<Jwks>,
    issuer: Option<String>,
    audience: Option<String>,
}

impl Tokens {
    pub fn new(config: &JwtConfig) -> Result<Self, ConfigError> {
        if let Some(secret) = &config.hs_secret
            && secret.len() < MIN_SECRET
        {
            return Err(ConfigError::ShortSecret { bytes: secret.len(), least: MIN_SECRET });
        }
        let pair = |secret: &String| {
            let secret = secret.as_bytes();
            (EncodingKey::from_secret(secret), DecodingKey::from_secret(secret))
        };
        Ok(Self {
            secret: config.hs_secret.as_ref().map(pair),
            jwks: config.jwks.clone().map(Jwks::new),
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
        })
    }

    pub async fn caller(&self, clock: &dyn Clock, token: &str) -> Result<Caller, ApiError> {
        if token.len() > MAX_BYTES {
            return Err(refused("it is too long"));
        }
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| refused("its header is not that of a supported JWT"))?;
        if header.crit.is_some() {
            return Err(refused("its header requires extensions that are not supported"));
        }
        let claims = match header.alg {
            Algorithm::HS256 => {
                let Some((_, key)) = &self.secret else {
                    return Err(refused("HS256 tokens are not accepted here"));
                };
                self.verified(token, key, Algorithm::HS256, false).map_err(because)?
            }
            Algorithm::RS256 | Algorithm::ES256 => {
                let Some(jwks) = &self.jwks else {
                    return Err(refused("RS256 and ES256 tokens are not accepted here"));
                };
                let keys = jwks.keys(clock, header.kid.as_deref()).await?;
                self.verified_by_one(token, &keys, header.alg)?
            }
            _ => return Err(refused("its algorithm is not supported: use HS256, RS256 or ES256")),
        };
        caller_of(claims, clock.now())
    }

    /// Verifies the signature with each key of the token's algorithm.
    fn verified_by_one(
        &self,
        token: &str,
        keys: &[(Arc<DecodingKey>, Algorithm)],
        algorithm: Algorithm,
    ) -> Result<Claims, ApiError> {
        let mut outcome = Err(refused("its algorithm does not match its key"));
        for (key, _) in keys.iter().filter(|(_, of_key)| *of_key == algorithm) {
            match self.verified(token, key, algorithm, true) {
                Ok(claims) => return Ok(claims),
                Err(error) => {
                    let other_key = matches!(error.kind(), ErrorKind::InvalidSignature);
                    outcome = Err(because(error));
                    if !other_key {
                        break;
                    }
                }
            }
        }
        outcome
    }

    /// Verifies the signature. Times are checked later, on our own clock.
    fn verified(
        &self,
        token: &str,
        key: &DecodingKey,
        algorithm: Algorithm,
        foreign: bool,
    ) -> Result<Claims, jsonwebtoken::errors::Error> {
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        if foreign {
            if let Some(issuer) = &self.issuer {
                validation.set_issuer(&[issuer]);
                validation.required_spec_claims.insert("iss".into());
            }
            if let Some(audience) = &self.audience {
                validation.validate_aud = true;
                validation.set_audience(&[audience]);
                validation.required_spec_claims.insert("aud".into());
            }
        }
        jsonwebtoken::decode::<Claims>(token, key, &validation).map(|token| token.claims)
    }

    /// Mints a token for the caller's own tenant. Its bearer counts as the caller too wherever
    /// one person must not count twice.
    pub fn mint(
        &self,
        caller: &Caller,
        sub: &str,
        role: Role,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<String, ApiError> {
        let Some((key, _)) = &self.secret else {
            return Err(ApiError::conflict(
                "tokens can't be minted here: set ORCHESTRATOR_JWT_SECRET to at least 32 bytes",
            ));
        };
        let iat = now.millis() / 1000;
        let exp = iat + lifetime.as_secs() as i64;
        let (tenant, made_by) = (caller.tenant.as_str(), caller.root());
        let claims = TokenClaims { sub, role: role.as_str(), tenant, made_by, iat, exp };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, key).map_err(|error| {
            tracing::error!(%error, "a token could not be signed");
            ApiError::internal()
        })
    }
}

fn refused(why: &str) -> ApiError {
    ApiError::unauthorized(format!("the token is refused: {why}"))
}

fn because(error: jsonwebtoken::errors::Error) -> ApiError {
    refused(why(error.kind()))
}

fn why(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::InvalidIssuer => "its issuer is not the configured one",
        ErrorKind::InvalidAudience => "its audience is not the configured one",
        ErrorKind::Json(_) => "its claims need sub, role and exp, each of the right type",
        _ => "it is malformed",
    }
}

fn caller_of(claims: Claims, now: Timestamp) -> Result<Caller, ApiError> {
    let now = now.millis() as f64 / 1000.0;
    let leeway = CLOCK_LEEWAY.as_secs_f64();
    // NaN would pass, but JSON can't express it.
    if claims.exp + leeway <= now {
        return Err(refused("it has expired"));
    }
    if claims.nbf.is_some_and(|from| from - leeway > now) {
        return Err(refused("it is not valid yet"));
    }
    let sub = claims.sub;
    if sub.is_empty() || sub.chars().count() > 128 || sub.contains(char::is_control) {
        return Err(refused("its sub must be 1 to 128 characters"));
    }
    if redact::holds_secret(&sub) {
        return Err(refused("its sub looks like a secret, and names are displayed"));
    }
    if is_reserved_name(&sub) {
        return Err(refused("its sub is a name reserved for Watchbill itself"));
    }
    let role = Role::parse(&claims.role).map_err(|error| refused(&error.to_string()))?;
    let tenant = match claims.tenant {
        None => TenantId::default(),
        Some(text) => TenantId::parse(&text).map_err(|error| refused(&error.to_string()))?,
    };
    Ok(Caller { name: sub, role, tenant, made_by: claims.made_by })
}
