//! API keys: made, listed, revoked, and known again by their hash.

use std::sync::Arc;

use serde_json::json;
use watchbill_domain::{ApiKey, Caller, Role, TenantId, folded_name, hash_key, is_reserved_name};
use watchbill_governance::RecordKind;

use super::cursor::Cursors;
use super::cursor::cursors::KEYS;
use super::records::{Said, about_key, record_write};
use super::{Context, KeyPage, Listed, ServiceError};
use crate::ports::{Expect, ListCursor, ListRange, Query, WhichList, Write};
use crate::repo::{self, KeyRecord, Versioned, decode, encode};

/// How many keys a tenant may have at once; revoked ones don't count. Each new one looks through
/// the names of all.
pub const MAX_KEYS: usize = 1_000;
/// Keys that are read at once.
const PAGE: usize = 200;
/// Keys revoked by an earlier version, without an end: as many get one whenever a key is made.
const MAX_MOVED: usize = 25;

/// A key is this and so many digits in hex.
const KEY_PREFIX: &str = "wb_";
const KEY_DIGITS: usize = 64;

/// What a key is to be.
struct NewKey<'a> {
    name: &'a str,
    role: Role,
    made_by: Option<String>,
}

/// Makes, lists and revokes API keys. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    context: Context,
}

impl Keys {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// Makes a key and gives it away once: only its hash is kept.
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

    /// The same for the admin's key that everything begins with: it counts as itself. Its secret
    /// is one of [`Keys::random`] that the caller has put down already, so that it is there
    /// whatever happens after this.
    pub async fn create_first(
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
        let unique = self.context.entropy().uuid7(self.context.clock().now()).to_string();
        let said = Said {
            kind: RecordKind::TenantCreated,
            of: &[&unique],
            subject: tenant.as_str(),
            text: format!("tenant {tenant} made, with the admin's key {name}"),
            details: json!({ "admin": name }),
        };
        let record = record_write(&said.record(&self.context, tenant, &caller.name));
        let (secret, new) = (self.random(), NewKey { name, role: Role::Admin, made_by: None });
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
        let there = self.live_keys(tenant).await?;
        let folded = folded_name(name);
        if there.iter().any(|key| folded_name(&key.value.0.name) == folded) {
            let message =
                format!("there is a key '{name}' already; revoke it or choose another name");
            return Err(ServiceError::Conflict { message });
        }
        if there.len() >= MAX_KEYS {
            let message = format!(
                "there are {MAX_KEYS} keys already, the most a tenant may have: revoke one first"
            );
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
        let mut writes = vec![Write::Put { item, expect: Expect::Absent }];
        writes.extend(beside);
        writes.push(self.about(caller, &record, RecordKind::KeyCreated));
        match self.context.transact(writes).await? {
            Ok(()) => Ok(record),
            Err(conflict) => Err(conflict.into_error()),
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
        record_write(&said.record(&self.context, &key.tenant, &caller.name))
    }

    /// `wb_` and 256 random bits in hex.
    pub fn random(&self) -> String {
        let mut bytes = [0; KEY_DIGITS / 2];
        self.context.entropy().fill(&mut bytes);
        format!("{KEY_PREFIX}{}", watchbill_domain::hex(&bytes))
    }

    /// A page of keys, the newest first: those that are good, then those that were revoked.
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
            // After the last of one list comes the first of the other.
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

    /// All keys that are good. Their number is bounded, and what an earlier version left among
    /// them moves out as it is met.
    async fn live_keys(
        &self,
        tenant: &TenantId,
    ) -> Result<Vec<Versioned<KeyRecord>>, ServiceError> {
        let (mut live, mut revoked, mut cursor) = (Vec::new(), Vec::new(), None);
        loop {
            let list = repo::keys_list(tenant);
            let page = self.page_of_keys(list, PAGE, cursor).await?;
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
            // Whoever changes it meanwhile moves it too.
            self.context
                .transact(vec![Write::Put { item, expect: Expect::Version(key.version) }])
                .await?
                .ok();
        }
        Ok(live)
    }

    /// Two made at the same time may bear one name: all of them are revoked.
    pub async fn revoke(&self, caller: &Caller, name: &str) -> Result<ApiKey, ServiceError> {
        let keys = self.live_keys(&caller.tenant).await?;
        let mut revoked = None;
        for mut stored in keys {
            if stored.value.0.name != name {
                continue;
            }
            stored.value.0.revoked_at = Some(self.context.clock().now());
            let item = encode(&stored.value, stored.unknown.as_deref());
            let write = Write::Put { item, expect: Expect::Version(stored.version) };
            let record = self.about(caller, &stored.value.0, RecordKind::KeyRevoked);
            if let Err(conflict) = self.context.transact(vec![write, record]).await? {
                return Err(conflict.into_error());
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
    pub async fn by_hash(&self, hash: &str) -> Result<Option<ApiKey>, ServiceError> {
        let found = self.context.load::<KeyRecord>(&repo::api_key(hash)).await?;
        Ok(found.map(|key| key.value.0).filter(|key| key.revoked_at.is_none()))
    }
}

/// Whether a text has the form of a key that was made here.
pub fn is_key(text: &str) -> bool {
    let digits = text.strip_prefix(KEY_PREFIX).unwrap_or_default().as_bytes();
    digits.len() == KEY_DIGITS && digits.iter().all(u8::is_ascii_hexdigit)
}

/// What the partitions of all keys begin with.
const HASHES: &str = "K#";

fn of_list(tenant: &TenantId, revoked: bool) -> Cursors {
    Cursors::new(KEYS, tenant, if revoked { "revoked" } else { "live" })
}

/// Which list is being read, and from where on in it: from its beginning, if no place is named.
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
