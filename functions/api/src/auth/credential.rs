//! Calls that are held open: whoever made them is proved again as long as they last, so that a
//! revoked key and an ended token keep nothing.

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};
use watchbill_domain::Caller;

use super::API_KEY;
use crate::fault::Fault;
use crate::state::ApiState;

/// How old the proof of a held call may be, and the reading of the store that it rests on: a
/// revoked key keeps a call for twice as long at the most.
pub const PROOF_AGE: Duration = Duration::from_secs(2);

/// The key or token of a call.
#[derive(Clone)]
pub struct Credential(HeaderMap);

impl Credential {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut own = HeaderMap::new();
        for name in [HeaderName::from_static(API_KEY), header::AUTHORIZATION] {
            // The first of each is the one that was looked at.
            if let Some(value) = headers.get(&name) {
                own.insert(name, value.clone());
            }
        }
        Self(own)
    }
}

/// A held call's caller, and when it was last proved.
pub struct Session {
    state: ApiState,
    credential: Credential,
    caller: Caller,
    proved: Duration,
}

impl Session {
    /// Of a call that has just begun.
    pub fn new(state: ApiState, credential: Credential, caller: Caller) -> Self {
        let proved = state.core().clock().monotonic();
        Self { state, credential, caller, proved }
    }

    /// Whether the key or token still stands for this very caller: same name, role and tenant.
    /// A 401 says that it does not, a 503 that this can't be told now.
    pub async fn prove(&mut self) -> Result<(), Fault> {
        let core = self.state.core();
        let now = core.clock().monotonic();
        if now.saturating_sub(self.proved) < PROOF_AGE {
            return Ok(());
        }
        let auth = &self.state.shared().auth;
        let found = auth.caller_as_of(core, &self.credential.0, PROOF_AGE).await?;
        if found.as_ref() != Some(&self.caller) {
            return Err(Fault::unauthorized("the key or token is no longer that of this caller"));
        }
        self.proved = now;
        Ok(())
    }
}
