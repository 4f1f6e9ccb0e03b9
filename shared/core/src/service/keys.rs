use serde_json::json;

use super::ServiceError;
use super::core::Core;
use super::records::{Said, about_key, record_write};
use crate::domain::{ApiKey, Caller, Role, TenantId, folded_name, hash_key, is_reserved_name};
use crate::govern::RecordKind;
use crate::ports::{Expect, ListRange, Query, WhichList, Write};
use crate::repo::{self, KeyRecord, Versioned, decode, encode};

/// How many keys a tenant may have, revoked ones included.
const KEYS: usize = 1_000;

/// A key is this and so many digits in hex.
const KEY_PREFIX: &str = "wb_";
const KEY_DIGITS: usize = 64;

/// What a key is to be.
struct NewKey<'a> {
    name: &'a str,
    role: Role,
    made_by: Option<String>,
}

impl Core {
    /// Makes a key and gives it away once: only its hash is kept.
    pub async fn create_key(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        name: &str,
        role: Role,
    ) -> Result<(String, ApiKey), ServiceError> {
        let made_by = Some(caller.root().to_owned());
        let (secret, new) = (self.random_key(), NewKey { name, role, made_by });
        Ok((secret.clone(), self.make_key(caller, tenant, new, secret, Vec::new()).await?))
    }

    /// The same for the admin's key that everything begins with: it counts as itself. Its secret
    /// is one of [`Core::random_key`] that the caller has put down already, so that it is there
    /// whatever happens after this.
    pub async fn create_first_key(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        name: &str,
        secret: String,
    ) -> Result<ApiKey, ServiceError> {
        if !is_key(&secret) {
            let message = format!("a key is {KEY_PREFIX} and {KEY_DIGITS} hexadecimal digits");
            return Err(ServiceError::Invalid { field: "key", message });
        }
        let new = NewKey { name, role: Role::Admin, made_by: None };
        self.make_key(caller, tenant, new, secret, Vec::new()).await
    }

    /// Makes a tenant by making its first key, with the role admin.
    pub async fn create_tenant(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        name: &str,
    ) -> Result<(String, ApiKey), ServiceError> {
        let unique = self.entropy().uuid7(self.clock().now()).to_string();
        let said = Said {
            kind: RecordKind::TenantCreated,
            of: &[&unique],
            subject: tenant.as_str(),
            text: format!("tenant {tenant} made, with the admin's key {name}"),
            details: json!({ "admin": name }),
        };
        let record = record_write(&self.record(tenant, &caller.name, said));
        let (secret, new) = (self.random_key(), NewKey { name, role: Role::Admin, made_by: None });
        Ok((secret.clone(), self.make_key(caller, tenant, new, secret, vec![record]).await?))
    }

    /// `beside`: what else belongs into the key's commit.
    async fn make_key(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        NewKey { name, role, made_by }: NewKey<'_>,
        key: String,
        beside: Vec<Write>,
    ) -> Result<ApiKey, ServiceError> {
        check_name(name)?;
        let there = self.keys(tenant).await?;
        let folded = folded_name(name);
        let same = |key: &ApiKey| key.revoked_at.is_none() && folded_name(&key.name) == folded;
        if there.iter().any(same) {
            let message =
                format!("there is a key '{name}' already; revoke it or choose another name");
            return Err(ServiceError::Conflict { message });
        }
        if there.len() >= KEYS {
            let message = format!("there are {KEYS} keys already, the most a tenant may have");
            return Err(ServiceError::Conflict { message });
        }
        let record = ApiKey {
            hash: hash_key(&key),
            name: name.to_owned(),
            role,
            tenant: tenant.clone(),
            created_at: self.clock().now(),
            created_by: caller.name.clone(),
            made_by,
            prefix: key.chars().take(8).collect(),
            revoked_at: None,
        };
        let item = encode(&KeyRecord(record.clone()), None);
        let mut writes = vec![Write::Put { item, expect: Expect::Absent }];
        writes.extend(beside);
        writes.push(self.about(caller, &record, RecordKind::KeyCreated));
        match self.commit(writes).await? {
            None => Ok(record),
            Some(conflict) => Err(conflict.gone()),
        }
    }

    /// The record of what was done to a key. Each is done to it once.
    fn about(&self, caller: &Caller, key: &ApiKey, kind: RecordKind) -> Write {
        let what = if kind == RecordKind::KeyRevoked { "revoked" } else { "made" };
        let (name, role) = (&key.name, key.role.as_str());
        let said = Said {
            kind,
            of: &[&key.hash],
            subject: name,
            text: format!("key {name} with role {role} {what}"),
            details: about_key(key),
        };
        record_write(&self.record(&key.tenant, &caller.name, said))
    }

    /// `wb_` and 256 random bits in hex.
    pub fn random_key(&self) -> String {
        let mut bytes = [0; KEY_DIGITS / 2];
        self.entropy().fill(&mut bytes);
        format!("{KEY_PREFIX}{}", crate::domain::hex(&bytes))
    }

    pub async fn keys(&self, tenant: &TenantId) -> Result<Vec<ApiKey>, ServiceError> {
        Ok(self.stored_keys(tenant).await?.into_iter().map(|key| key.value.0).collect())
    }

    async fn stored_keys(
        &self,
        tenant: &TenantId,
    ) -> Result<Vec<Versioned<KeyRecord>>, ServiceError> {
        let query = Query {
            list: WhichList::First,
            partition: repo::keys_list(tenant),
            range: ListRange::default(),
            descending: true,
            limit: KEYS,
            cursor: None,
        };
        let page = self.store().query(query).await?;
        let items = self.get_readable(&page.entries).await?;
        let keys = items.iter().flatten().map(|item| self.past_unreadable(decode(item)));
        Ok(keys.filter_map(Result::transpose).collect::<Result<_, _>>()?)
    }

    /// Two made at the same time may bear one name: all of them are revoked.
    pub async fn revoke_key(&self, caller: &Caller, name: &str) -> Result<ApiKey, ServiceError> {
        let keys = self.stored_keys(&caller.tenant).await?;
        let mut revoked = None;
        for mut stored in keys {
            if stored.value.0.name != name || stored.value.0.revoked_at.is_some() {
                continue;
            }
            stored.value.0.revoked_at = Some(self.clock().now());
            let item = encode(&stored.value, stored.unknown.as_deref());
            let write = Write::Put { item, expect: Expect::Version(stored.version) };
            let record = self.about(caller, &stored.value.0, RecordKind::KeyRevoked);
            if let Some(conflict) = self.commit(vec![write, record]).await? {
                return Err(conflict.gone());
            }
            revoked = Some(stored.value.0);
        }
        let Some(key) = revoked else {
            return Err(ServiceError::NotFound { what: "key", id: name.to_owned() });
        };
        tracing::info!(key = name, by = %caller.name, "key {name} revoked");
        Ok(key)
    }

    /// A live key by the hash of it.
    pub async fn key_by_hash(&self, hash: &str) -> Result<Option<ApiKey>, ServiceError> {
        let Some(item) = self.store().get(&repo::api_key(hash)).await? else { return Ok(None) };
        let key: Versioned<KeyRecord> = decode(&item)?;
        Ok(Some(key.value.0).filter(|key| key.revoked_at.is_none()))
    }
}

/// Whether a text has the form of a key that was made here.
pub fn is_key(text: &str) -> bool {
    let digits = text.strip_prefix(KEY_PREFIX).unwrap_or_default().as_bytes();
    digits.len() == KEY_DIGITS && digits.iter().all(u8::is_ascii_hexdigit)
}

fn check_name(name: &str) -> Result<(), ServiceError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if is_reserved_name(name) {
        return Err(ServiceError::Invalid {
            field: "name",
            message: format!(
                "'{name}' is a name under which Watchbill itself acts: choose another"
            ),
        });
    }
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        let shown = json!(name.chars().take(64).collect::<String>());
        return Err(ServiceError::Invalid {
            field: "name",
            message: format!("{shown} is no name for a key: use 1 to 64 letters, digits, - _ . @"),
        });
    }
    Ok(())
}
