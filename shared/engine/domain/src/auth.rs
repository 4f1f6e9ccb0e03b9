//! Roles, callers and API keys.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Person, TenantId, Timestamp, UnknownName, is_reserved_name};

/// What a caller may do. `Admin` includes agent, approver and user; `Agent` and `Approver`
/// include user.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Admin,
    Agent,
    Approver,
    User,
    /// Creates tenants and their first admin, and reads nothing in them.
    Operator,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Agent => "agent",
            Role::Approver => "approver",
            Role::User => "user",
            Role::Operator => "operator",
        }
    }

    /// Parses the roles that a key or a token may have.
    pub fn parse(text: &str) -> Result<Self, UnknownName> {
        match text {
            "admin" => Ok(Role::Admin),
            "agent" => Ok(Role::Agent),
            "approver" => Ok(Role::Approver),
            "user" => Ok(Role::User),
            _ => Err(UnknownName {
                what: "role",
                value: watchbill_redact::shortened(text, 64),
                known: "admin, agent, approver, user".to_owned(),
            }),
        }
    }

    /// Whether this role includes everything that `needed` may do.
    pub fn includes(self, needed: Role) -> bool {
        match self {
            Role::Operator => needed == Role::Operator,
            Role::Admin => needed != Role::Operator,
            Role::Agent | Role::Approver => needed == self || needed == Role::User,
            Role::User => needed == Role::User,
        }
    }
}

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The key's name or the token's `sub`.
    pub name: String,
    pub role: Role,
    pub tenant: TenantId,
    /// The caller who made this key or token, if a caller did. If that caller's own key was
    /// made by someone else, this is the first maker in the chain. Both count as one person.
    pub made_by: Option<String>,
}

impl Caller {
    pub fn new(name: impl Into<String>, role: Role, tenant: TenantId) -> Self {
        Self { name: name.into(), role, tenant, made_by: None }
    }

    pub fn person(&self) -> Person {
        Person::new(&self.name, self.made_by.as_deref())
    }

    /// The name that counts as the maker of whatever this caller makes.
    pub fn root(&self) -> &str {
        self.made_by.as_deref().unwrap_or(&self.name)
    }
}

/// A stored API key. The key itself is shown once and never stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKey {
    /// SHA-256 of the key, hex. Keys carry 256 random bits, so no slow hash is needed.
    pub hash: String,
    pub name: String,
    pub role: Role,
    pub tenant: TenantId,
    pub created_at: Timestamp,
    pub created_by: String,
    /// The person that the key counts as, see [`Caller::made_by`]. `None` for an initial key,
    /// or for a key of a build that did not store this; see [`ApiKey::maker`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
    /// The first characters of the key, so that people can tell keys apart.
    pub prefix: String,
    pub revoked_at: Option<Timestamp>,
}

impl ApiKey {
    /// The person that the key counts as besides its own name. A key without `made_by` counts
    /// as its `created_by`, unless that is a reserved name.
    pub fn maker(&self) -> Option<&str> {
        let by = || Some(&*self.created_by).filter(|by| !is_reserved_name(by));
        self.made_by.as_deref().or_else(by)
    }
}

/// SHA-256 of a key, in hex.
pub fn hash_key(key: &str) -> String {
    crate::hex(&Sha256::digest(key.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_never_approve_and_operators_read_nothing() {
        assert!(Role::Admin.includes(Role::Approver));
        assert!(Role::Admin.includes(Role::Agent));
        assert!(!Role::Agent.includes(Role::Approver));
        assert!(!Role::Approver.includes(Role::Agent));
        assert!(!Role::User.includes(Role::Agent));
        assert!(!Role::Operator.includes(Role::User));
        assert!(!Role::Admin.includes(Role::Operator));
        assert!(Role::parse("operator").is_err());
    }

    #[test]
    fn a_key_that_did_not_keep_its_maker_counts_as_who_made_it() {
        let key = |made_by: Option<&str>, created_by: &str| ApiKey {
            hash: String::new(),
            name: "k".into(),
            role: Role::Approver,
            tenant: TenantId::default(),
            created_at: Timestamp::default(),
            created_by: created_by.into(),
            made_by: made_by.map(str::to_owned),
            prefix: "wb_".into(),
            revoked_at: None,
        };
        assert_eq!(key(None, "kim").maker(), Some("kim"));
        assert_eq!(key(Some("ann"), "kim").maker(), Some("ann"), "the first of them");
        for own in ["first-start", "Operator", "system", "schedule:x"] {
            assert_eq!(key(None, own).maker(), None, "made by Watchbill itself: {own}");
        }
    }
}
