//! Authentication of callers by keys and tokens.

mod credential;
mod hash;
mod jwks;
mod jwt;
mod keys;

use std::time::Duration;

use http::{HeaderMap, header};
use watchbill_core::service::Core;
use watchbill_domain::Caller;

pub use credential::{Credential, PROOF_AGE, Session};
pub use jwks::{JwksSource, StaticJwks};
pub use jwt::JwtConfig;
pub use jwt::Tokens;
pub use keys::Keys;

use crate::config::{ApiConfig, ConfigError};
use crate::error::ApiError;

const API_KEY: &str = "x-api-key";

pub struct Auth {
    keys: Keys,
    tokens: Tokens,
}

impl Auth {
    pub fn new(config: &ApiConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            keys: Keys::new(&config.static_keys, config.operator_key_hash.as_deref())?
                .beginning_with(config.first_key.clone()),
            tokens: Tokens::new(&config.jwt)?,
        })
    }

    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The caller whose key or token the call has, or `None` if it has neither.
    pub async fn caller(
        &self,
        core: &Core,
        headers: &HeaderMap,
    ) -> Result<Option<Caller>, ApiError> {
        self.caller_as_of(core, headers, keys::CACHE_TTL).await
    }

    /// The same, from a store read not older than `age`.
    pub async fn caller_as_of(
        &self,
        core: &Core,
        headers: &HeaderMap,
        age: Duration,
    ) -> Result<Option<Caller>, ApiError> {
        if let Some(key) = headers.get(API_KEY) {
            return self.keys.caller(core, key.as_bytes(), age).await.map(Some);
        }
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
        let token = value.to_str().ok().and_then(|text| text.split_once(' '));
        match token {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                self.tokens.caller(core.clock().as_ref(), token.trim()).await.map(Some)
            }
            _ => Err(ApiError::unauthorized(
                "the Authorization header is not of the form 'Bearer <token>'",
            )),
        }
    }
}
