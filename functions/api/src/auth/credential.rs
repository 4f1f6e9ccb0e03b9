//! Re-authenticates calls that are held open, so that a revoked key or expired token ends them.

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};
use watchbill_domain::Caller;

use super::API_KEY;
use crate::error::ApiError;
use crate::state::ApiState;

/// Maximum age of a held call's authentication, and of the store read that it uses: a revoked
/// key keeps a call for at most twice as long.
pub const PROOF_AGE: Duration = Duration::from_secs(2);

/// The key or token of a call.
#[derive(Clone)]
pub struct Credential(HeaderMap);

impl Credential {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut own = HeaderMap::new();
        for name in [HeaderName::from_static(API_KEY), header::AUTHORIZATION] {
            // Authentication uses the first value of each header.
            if let Some(value) = headers.get(&name) {
                own.insert(name, value.clone());
            }
        }
        Self(own)
    }
}

/// A held call's caller, and when it was last authenticated.
pub struct Session {
    state: ApiState,
    credential: Credential,
    caller: Caller,
    proved: Duration,
}

impl Session {
    /// For a call that has just begun.
    pub fn new(state: ApiState, credential: Credential, caller: Caller) -> Self {
        let proved = state.core().clock().monotonic();
        Self { state, credential, caller, proved }
    }

    /// Checks that the key or token still belongs to the same name, role and tenant. Fails with
    /// 401 if it does not, and with 503 if that is unknown now.
    pub async fn prove(&mut self) -> Result<(), ApiError> {
        let core = self.state.core();
        let now = core.clock().monotonic();
        if now.saturating_sub(self.proved) < PROOF_AGE {
            return Ok(());
        }
        let auth = &self.state.shared().auth;
        let found = auth.caller_as_of(core, &self.credential.0, PROOF_AGE).await?;
        if found.as_ref() != Some(&self.caller) {
            return Err(ApiError::unauthorized(
                "the key or token no longer belongs to this caller",
            ));
        }
        self.proved = now;
        Ok(())
    }
}
