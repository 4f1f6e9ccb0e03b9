//! The stored record of an external effect.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watchbill_domain::{TaskId, TenantId, Timestamp, escape_key_part};

use super::codec::Entity;
use super::keys;
use crate::ports::Key;

/// An external effect: written as an intent before the attempt, with its outcome after it. An
/// effect without an outcome is *unknown*: it is looked up, not repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EffectRecord {
    pub tenant: TenantId,
    pub task: TaskId,
    /// Identifies the effect within its task; the same key is the same effect.
    pub key: String,
    pub what: String,
    pub target: String,
    /// The provider's key of the effect, used to look it up there.
    pub provider_key: String,
    /// The fence of its run.
    pub fence: u64,
    pub intended_at: Timestamp,
    /// Until when the attempt may still reach the provider.
    pub settles_at: Timestamp,
    #[serde(default)]
    pub outcome: Option<EffectResult>,
    /// Hash of the call's tool and arguments: the same key with other arguments is another
    /// effect. Steps of earlier versions have no hash and match any call with their key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_hash: Option<String>,
    /// The task's end is not known yet, so this is set long after it.
    #[serde(default)]
    pub expires: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EffectResult {
    pub at: Timestamp,
    pub success: bool,
    /// The provider's response, or the error.
    pub result: Map<String, Value>,
    /// Found by a lookup after the response was lost.
    #[serde(default)]
    pub looked_up: bool,
}

impl EffectResult {
    pub fn describe(&self) -> String {
        let how = if self.looked_up { " (looked up)" } else { "" };
        if self.success {
            return format!("done{how}");
        }
        let error = self.result.get("error").and_then(Value::as_str).unwrap_or("no reason given");
        format!("failed{how}: {error}")
    }
}

impl Entity for EffectRecord {
    const KIND: &'static str = "step";

    fn key(&self) -> Key {
        let sort = format!("{}{}", keys::STEPS, escape_key_part(&self.key));
        Key::new(keys::task_partition(&self.tenant, &self.task), sort)
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: steps as they were stored before calls were hashed.
    const WITHOUT_HASH: &str = r#"{"tenant":"default","task":"t-1","key":"deploy/shop#1",
        "what":"create deployment","target":"shop","provider_key":"wb-1","fence":1,
        "intended_at":1767607200000,"settles_at":1767607240000,
        "outcome":{"at":1767607201000,"success":true,"result":{"id":1}}}"#;

    #[test]
    fn steps_without_a_hash_stay_readable() {
        let step: EffectRecord =
            serde_json::from_str(WITHOUT_HASH).expect("stored steps are readable");
        assert_eq!(step.call_hash, None);
        assert!(step.outcome.is_some_and(|outcome| outcome.success && !outcome.looked_up));
    }
}
