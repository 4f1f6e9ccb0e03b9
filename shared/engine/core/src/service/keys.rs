//! API keys: created, listed, revoked, and found by their hash.

use std::sync::Arc;

use serde_json::json;
use watchbill_domain::{ApiKey, Caller, Role, TenantId, folded_name, hash_key, is_reserved_name};
use watchbill_governance::RecordKind;

use super::cursor::Cursors;
use super::cursor::cursors::KEYS;
use super::records::{NewAuditRecord, about_key, record_write};
use super::{Context, KeyPage, Listed, ServiceError};
use crate::ports::{ListCursor, ListRange, Precondition, Query, WhichList, Write};
use crate::repo::{self, KeyRecord, Versioned, decode, encode};

/// Maximum number of a tenant's keys; revoked ones do not count. Creating a key reads the names
/// of all.
pub const MAX_KEYS: usize = 1_000;
/// Keys read at once.
const PAGE_SIZE: usize = 200;
/// Keys revoked by an earlier version have no expiry: up to this many get one whenever a key is
/// created or revoked.
const MAX_MOVED: usize = 25;

/// A key consists of this prefix and so many hex digits.
const KEY_PREFIX: &str = "wb_";
const KEY_DIGITS: usize = 64;

struct NewKey<'a> {
    name: &'a str,
    role: Role,
    made_by: Option<String>,
}

/// Creates, lists and revokes API keys. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    context: Context,
}

impl Keys {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// Creates a key and returns it once: only its hash is kept.
    pub async fn create(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        name: &str,
        role: Role,
    ) -> Result<(String, ApiKey), ServiceError> {
        let made_by = Some(caller.root().to_owned());
        let (secret, new) = (self.random(), NewKey { name, role, made_by });
        Ok((secret.clone(), self.make_key(caller, tenant, new, secret, Vec::new()).await?))
    }

    /// Creates the first admin key, which has no creator. Its secret comes from [`Keys::random`]
    /// and is stored already by the caller, so it is not lost whatever happens afterwards.
    pub async fn create_first(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        name: &str,
        secret: String,
    ) -> Result<ApiKey, ServiceError> {
        if !is_key(&secret) {
            let message =
                format!("a key is {KEY_PREFIX} followed by {KEY_DIGITS} hexadecimal digits");
            return Err(ServiceError::Invalid { field: "key", message });
        }
        let new = NewKey { name, role: Role::Admin, made_by: None };
        self.make_key(caller, tenant, new, secret, Vec::new()).await
    }

    /// Creates a tenant by creating its first key, with the role admin.
    pub async fn create_tenant(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        name: &str,
    ) -> Result<(String, ApiKey), ServiceError> {
        let unique = self.context.entropy().uuid7(self.context.clock().now()).to_string();
        let created = NewAuditRecord {
            kind: RecordKind::TenantCreated,
            of: &[&unique],
            subject: tenant.as_str(),
            text: format!("tenant {tenant} created, with the admin key {name}"),
            details: json!({ "admin": name }),
        };
        let record = record_write(&created.record(&self.context, tenant, &caller.name));
        let (secret, new) = (self.random(), NewKey { name, role: Role::Admin, made_by: None });
        Ok((secret.clone(), self.make_key(caller, tenant, new, secret, vec![record]).await?))
    }

    /// `extra_writes`: further writes of the key's commit.
    async fn make_key(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        NewKey { name, role, made_by }: NewKey<'_>,
        key: String,
        extra_writes: Vec<Write>,
    ) -> Result<ApiKey, ServiceError> {
        check_name(name)?;
        let live = self.live_keys(tenant).await?;
        let folded = folded_name(name);
        if live.iter().any(|key| folded_name(&key.value.0.name) == folded) {
            let message =
                format!("a key '{name}' already exists; revoke it or choose another name");
            return Err(ServiceError::Conflict { message });
        }
        if live.len() >= MAX_KEYS {
            let message =
                format!("the tenant has {MAX_KEYS} keys, which is the maximum: revoke one first");
            return Err(ServiceError::Conflict { message });
        }
        let record = ApiKey {
            hash: hash_key(&key),
            name: name.to_owned(),
            role,
            tenant: tenant.clone(),
            created_at: self.context.clock().now(),
            created_by: caller.name.clone(),
            made_by,
            prefix: key.chars().take(8).collect(),
            revoked_at: None,
        };
        let item = encode(&KeyRecord(record.clone()), None);
        let mut writes = vec![Write::Put { item, expect: Precondition::Absent }];
        writes.extend(extra_writes);
        writes.push(self.about(caller, &record, RecordKind::KeyCreated));
        match self.context.transact(writes).await? {
            Ok(()) => Ok(record),
            Err(conflict) => Err(conflict.into_error()),
        }
    }

    /// The audit record of an operation on a key. Each operation happens once per key.
    fn about(&self, caller: &Caller, key: &ApiKey, kind: RecordKind) -> Write {
        let what = if kind == RecordKind::KeyRevoked { "revoked" } else { "created" };
        let (name, role) = (&key.name, key.role.as_str());
        let change = NewAuditRecord {
            kind,
            of: &[&key.hash],
            subject: name,
            text: format!("key {name} with role {role} {what}"),
            details: about_key(key),
        };
        record_write(&change.record(&self.context, &key.tenant, &caller.name))
    }

    /// `wb_` and 256 random bits in hex.
    pub fn random(&self) -> String {
        let mut bytes = [0; KEY_DIGITS / 2];
        self.context.entropy().fill(&mut bytes);
        format!("{KEY_PREFIX}{}", watchbill_domain::hex(&bytes))
    }

    /// A page of keys, newest first: the valid ones, then the revoked ones.
    pub async fn list(
        &self,
        tenant: &TenantId,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<KeyPage, ServiceError> {
        let cursors = [false, true].map(|revoked| of_list(tenant, revoked));
        let (mut revoked, mut cursor) = match cursor {
            None => (false, None),
            Some(cursor) => opened(&cursors, &cursor)?,
        };
        let (mut keys, mut unreadable) = (Vec::new(), 0);
        loop {
            let list = if revoked { repo::revoked_keys_list } else { repo::keys_list };
            let left = limit - keys.len();
            let page = self.page_of_keys(list(tenant), left, cursor).await?;
            keys.extend(page.entries.into_iter().map(|key| key.value.0));
            unreadable += page.unreadable;
            // The second list follows the last key of the first.
            (revoked, cursor) = match page.next {
                Some(next) => (revoked, Some(next)),
                None if !revoked => (true, None),
                None => return Ok(KeyPage { keys, next_cursor: None, unreadable }),
            };
            if keys.len() >= limit {
                let next = cursor.as_deref().map(ListCursor::parse).transpose()?;
                let cursors = &cursors[usize::from(revoked)];
                let next_cursor = Some(match next {
                    Some(place) => cursors.seal_list(HASHES, &place),
                    None => cursors.seal(""),
                });
                return Ok(KeyPage { keys, next_cursor, unreadable });
            }
        }
    }

    async fn page_of_keys(
        &self,
        partition: Arc<str>,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Listed<Versioned<KeyRecord>>, ServiceError> {
        let query = Query {
            list: WhichList::First,
            partition,
            range: ListRange::default(),
            descending: true,
            limit,
            cursor,
        };
        let page = self.context.store().query(query).await?;
        let (mut entries, mut unreadable) = (Vec::new(), 0);
        for item in self.context.get_each(&page.entries).await? {
            let read = match item {
                Ok(Some(item)) => self.context.past_unreadable(decode(&item))?,
                Ok(None) => continue,
                Err(_) => None,
            };
            unreadable += usize::from(read.is_none());
            entries.extend(read);
        }
        Ok(Listed { entries, next: page.next, unreadable })
    }

    /// All valid keys. Their number is limited. Revoked keys that an earlier version left in
    /// the list are moved out when they are read.
    async fn live_keys(
        &self,
        tenant: &TenantId,
    ) -> Result<Vec<Versioned<KeyRecord>>, ServiceError> {
        let (mut live, mut revoked, mut cursor) = (Vec::new(), Vec::new(), None);
        loop {
            let list = repo::keys_list(tenant);
            let page = self.page_of_keys(list, PAGE_SIZE, cursor).await?;
            for key in page.entries {
                let list = if key.value.0.revoked_at.is_none() { &mut live } else { &mut revoked };
                list.push(key);
            }
            if page.next.is_none() {
                break;
            }
            cursor = page.next;
        }
        for key in revoked.into_iter().take(MAX_MOVED) {
            let item = encode(&key.value, key.unknown.as_deref());
            // A concurrent writer moves it too.
            self.context
                .transact(vec![Write::Put { item, expect: Precondition::Version(key.version) }])
                .await?
                .ok();
        }
        Ok(live)
    }

    /// Two keys created at the same time may have the same name: all of them are revoked.
    pub async fn revoke(&self, caller: &Caller, name: &str) -> Result<ApiKey, ServiceError> {
        let keys = self.live_keys(&caller.tenant).await?;
        let mut revoked = None;
        for mut stored in keys {
            if stored.value.0.name != name {
                continue;
            }
            stored.value.0.revoked_at = Some(self.context.clock().now());
            let item = encode(&stored.value, stored.unknown.as_deref());
            let write = Write::Put { item, expect: Precondition::Version(stored.version) };
            let record = self.about(caller, &stored.value.0, RecordKind::KeyRevoked);
            if let Err(conflict) = self.context.transact(vec![write, record]).await? {
                return Err(conflict.into_error());
            }
            revoked = Some(stored.value.0);
        }
        let Some(key) = revoked else {
            return Err(ServiceError::NotFound { what: "key", id: name.to_owned() });
        };
        tracing::info!(key = name, by = %caller.name, "key revoked");
        Ok(key)
    }

    /// A valid key, by its hash.
    pub async fn by_hash(&self, hash: &str) -> Result<Option<ApiKey>, ServiceError> {
        let found = self.context.load::<KeyRecord>(&repo::api_key(hash)).await?;
        Ok(found.map(|key| key.value.0).filter(|key| key.revoked_at.is_none()))
    }
}

/// Whether a text has the form of a key that was created here.
pub fn is_key(text: &str) -> bool {
    let digits = text.strip_prefix(KEY_PREFIX).unwrap_or_default().as_bytes();
    digits.len() == KEY_DIGITS && digits.iter().all(u8::is_ascii_hexdigit)
}

/// The prefix of the partitions of all keys.
const HASHES: &str = "K#";

fn of_list(tenant: &TenantId, revoked: bool) -> Cursors {
    Cursors::new(KEYS, tenant, if revoked { "revoked" } else { "live" })
}

/// Which list is being read, and from which position in it: from its beginning, if the cursor
/// has none.
fn opened(cursors: &[Cursors; 2], cursor: &str) -> Result<(bool, Option<String>), ServiceError> {
    let revoked = cursors[0].open(cursor).is_err();
    let cursors = &cursors[usize::from(revoked)];
    let place = match cursors.open(cursor)? {
        "" => None,
        _ => Some(cursors.open_list(HASHES, cursor)?.to_string()),
    };
    Ok((revoked, place))
}

fn check_name(name: &str) -> Result<(), ServiceError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if is_reserved_name(name) {
        return Err(ServiceError::Invalid {
            field: "name",
            message: format!("the name '{name}' is reserved for Watchbill: choose another"),
        });
    }
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        let shown = json!(name.chars().take(64).collect::<String>());
        return Err(ServiceError::Invalid {
            field: "name",
            message: format!("{shown} is not a key name: use 1 to 64 letters, digits, - _ . @"),
        });
    }
    Ok(())
}
