//! The alert store over the core's store. Finds the open alert of a type and target by key,
//! others page by page.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::ports::{Item, Key, ListRange, Precondition, Query, WhichList, Write};
use watchbill_core::repo::{self, Entity, Versioned, decode, encode};
use watchbill_core::service::{Core, ServiceError};
use watchbill_domain::TenantId;
use watchbill_runtime::port_error::{PortError, port_error};

use super::alert_items::{AlertRecord, OpenAlert, open_key};
use super::model::{Alert, AlertMark, AlertStatus, AlertStore, OpenAlerts, RaiseAlert};

/// Maximum number of open alerts per tenant. More could not be told apart, and each costs a row
/// in two lists.
pub const MAX_OPEN: usize = 1_000;
/// Page size of the search for an open alert of a type.
const PAGE_SIZE: usize = 100;
/// Maximum number of keys read to count the open alerts.
const MAX_COUNTED: usize = 100;
const MAX_ATTEMPTS: u32 = 16;
const ALERT_STORE: &str = "the alert store";

/// The alert store over the core's store.
pub struct StoredAlerts {
    core: Core,
}

/// The result of an attempt to write.
enum Tried {
    Done(Alert),
    /// Another writer was faster.
    Again,
    /// The limit of open alerts is reached.
    Full,
}

impl StoredAlerts {
    pub fn new(core: Core) -> Self {
        Self { core }
    }

    async fn load<E: Entity>(&self, key: &Key) -> Result<Option<Versioned<E>>, ServiceError> {
        self.core.context().load(key).await
    }

    async fn record(
        &self,
        tenant: &TenantId,
        alert_id: &str,
    ) -> Result<Option<Versioned<AlertRecord>>, ServiceError> {
        self.load(&repo::alert_key(tenant, alert_id)).await
    }

    /// Returns true if the writes were committed, false if another writer was faster.
    async fn commit(&self, writes: Vec<Write>) -> Result<bool, ServiceError> {
        Ok(self.core.context().transact(writes).await?.is_ok())
    }

    async fn try_raise(
        &self,
        tenant: &TenantId,
        raise: &RaiseAlert,
    ) -> Result<Tried, ServiceError> {
        let rules = &self.core.rules().alerts;
        let open: Option<Versioned<OpenAlert>> =
            self.load(&open_key(tenant, &raise.alert_type, &raise.target)).await?;
        if let Some(open) = &open
            && let Some(stored) = self.record(tenant, &open.value.alert_id).await?
            && (stored.value.is_open() || stored.value.raised_by.contains(&raise.task_id))
        {
            return self.count_up(stored, open, raise).await;
        }
        if self.open_keys(tenant, MAX_OPEN, None).await?.entries.len() >= MAX_OPEN {
            return Ok(Tried::Full);
        }
        let record = AlertRecord::new(tenant, raise, rules);
        let pointer = OpenAlert::new(&record, raise.at, rules);
        let expect = open.map_or(Precondition::Absent, |open| Precondition::Version(open.version));
        let writes = vec![
            Write::Put { item: encode(&record, None), expect: Precondition::Absent },
            Write::Put { item: encode(&pointer, None), expect },
        ];
        self.tried(writes, record).await
    }

    async fn count_up(
        &self,
        stored: Versioned<AlertRecord>,
        open: &Versioned<OpenAlert>,
        raise: &RaiseAlert,
    ) -> Result<Tried, ServiceError> {
        if stored.value.raised_by.contains(&raise.task_id) {
            return Ok(Tried::Done(stored.value.alert));
        }
        let rules = &self.core.rules().alerts;
        let mut record = stored.value;
        record.count_up(raise, rules);
        let item = encode(&record, stored.unknown.as_deref());
        let mut writes = vec![Write::Put { item, expect: Precondition::Version(stored.version) }];
        if open.value.goes_too_early(raise.at, rules) {
            let item = encode(&OpenAlert::new(&record, raise.at, rules), open.unknown.as_deref());
            writes.push(Write::Put { item, expect: Precondition::Version(open.version) });
        }
        self.tried(writes, record).await
    }

    async fn tried(&self, writes: Vec<Write>, record: AlertRecord) -> Result<Tried, ServiceError> {
        Ok(match self.commit(writes).await? {
            true => Tried::Done(record.alert),
            false => Tried::Again,
        })
    }

    /// A page of the keys of open alerts, newest first.
    async fn open_keys(
        &self,
        tenant: &TenantId,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<watchbill_core::ports::Page<Key>, ServiceError> {
        let query = Query {
            list: WhichList::Second,
            partition: repo::open_alerts_list(tenant),
            range: ListRange::default(),
            descending: true,
            limit,
            cursor,
        };
        Ok(self.core.store().query(query).await?)
    }

    /// The alerts of these keys that are still open: the list may lag behind.
    async fn open_of(&self, keys: &[Key]) -> Result<Vec<Alert>, ServiceError> {
        let items = self.core.context().get_readable(keys).await?;
        let mut alerts = Vec::new();
        for item in items.iter().flatten() {
            let record = self.core.context().past_unreadable(decode::<AlertRecord>(item))?;
            let open = record.filter(|record| record.value.is_open());
            alerts.extend(open.map(|record| record.value.alert));
        }
        Ok(alerts)
    }

    async fn open_of_type(
        &self,
        tenant: &TenantId,
        alert_type: &str,
        target: Option<&str>,
    ) -> Result<Option<Alert>, ServiceError> {
        if let Some(target) = target {
            let open: Option<Versioned<OpenAlert>> =
                self.load(&open_key(tenant, alert_type, target)).await?;
            let Some(open) = open else { return Ok(None) };
            let record = self.record(tenant, &open.value.alert_id).await?;
            return Ok(record
                .filter(|stored| stored.value.is_open())
                .map(|stored| stored.value.alert));
        }
        let mut cursor = None;
        loop {
            let page = self.open_keys(tenant, PAGE_SIZE, cursor).await?;
            let open = self.open_of(&page.entries).await?;
            let found = open.into_iter().find(|alert| alert.alert_type == alert_type);
            if found.is_some() || page.next.is_none() {
                return Ok(found);
            }
            cursor = page.next;
        }
    }

    /// Checks a due alert. Ends it if it is untouched for long enough, with an audit record in
    /// the same commit; otherwise schedules the next check. Returns false if the alert has
    /// changed meanwhile.
    pub async fn end_if_untouched(&self, item: &Item) -> Result<bool, ServiceError> {
        let stored = decode::<AlertRecord>(item)?;
        let (now, rules) = (self.core.clock().now(), &self.core.rules().alerts);
        let mut record = stored.value;
        let mut writes = Vec::new();
        match record.ends_at(rules) {
            later if later > now => record.look_at = Some(later),
            _ => {
                let audit = record.end_untouched(now, rules);
                writes
                    .push(Write::Put { item: encode(&audit, None), expect: Precondition::Absent });
            }
        }
        let item = encode(&record, stored.unknown.as_deref());
        writes.push(Write::Put { item, expect: Precondition::Version(stored.version) });
        self.commit(writes).await
    }

    async fn change(
        &self,
        tenant: &TenantId,
        alert_id: &str,
        change: impl Fn(&mut Alert) -> bool + Send + Sync,
    ) -> Result<Option<Alert>, ServiceError> {
        for _ in 0..MAX_ATTEMPTS {
            let Some(stored) = self.record(tenant, alert_id).await? else { return Ok(None) };
            let mut record = stored.value;
            if !change(&mut record.alert) {
                return Ok(Some(record.alert));
            }
            record.keep(&self.core.rules().alerts);
            let item = encode(&record, stored.unknown.as_deref());
            let write = Write::Put { item, expect: Precondition::Version(stored.version) };
            if self.commit(vec![write]).await? {
                return Ok(Some(record.alert));
            }
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }
}

#[async_trait]
impl AlertStore for StoredAlerts {
    async fn raise(&self, tenant: &TenantId, raise: RaiseAlert) -> Result<Alert, PortError> {
        for _ in 0..MAX_ATTEMPTS {
            let tried = self.try_raise(tenant, &raise).await;
            match tried.map_err(|error| port_error(ALERT_STORE, error))? {
                Tried::Done(alert) => return Ok(alert),
                Tried::Again => {}
                Tried::Full => {
                    let reason = format!(
                        "{MAX_OPEN} alerts are open, the maximum of a tenant: resolve some to open \
                         '{}' on '{}'",
                        raise.alert_type, raise.target
                    );
                    return Err(PortError::Refused { what: ALERT_STORE, reason });
                }
            }
        }
        let reason = "other writers keep changing the same alert".to_owned();
        Err(PortError::Unavailable { what: ALERT_STORE, reason })
    }

    async fn find(&self, tenant: &TenantId, alert_id: &str) -> Result<Option<Alert>, PortError> {
        let found = self.record(tenant, alert_id).await;
        let found = found.map_err(|error| port_error(ALERT_STORE, error))?;
        Ok(found.map(|record| record.value.alert))
    }

    async fn find_open(
        &self,
        tenant: &TenantId,
        alert_type: &str,
        target: Option<&str>,
    ) -> Result<Option<Alert>, PortError> {
        let found = self.open_of_type(tenant, alert_type, target).await;
        found.map_err(|error| port_error(ALERT_STORE, error))
    }

    async fn list_open(&self, tenant: &TenantId, limit: usize) -> Result<OpenAlerts, PortError> {
        let listed = async {
            let page = self.open_keys(tenant, limit.max(MAX_COUNTED), None).await?;
            let newest = self.open_of(&page.entries[..page.entries.len().min(limit)]).await?;
            Ok(OpenAlerts { newest, count: page.entries.len(), more: page.next.is_some() })
        };
        listed.await.map_err(|error: ServiceError| port_error(ALERT_STORE, error))
    }

    async fn acknowledge(
        &self,
        tenant: &TenantId,
        alert_id: &str,
        mark: AlertMark,
    ) -> Result<Option<Alert>, PortError> {
        let change = |alert: &mut Alert| {
            let active = alert.status == AlertStatus::Active;
            if active {
                alert.status = AlertStatus::Acknowledged;
                alert.acknowledged = Some(mark.clone());
            }
            active
        };
        let done = self.change(tenant, alert_id, change).await;
        done.map_err(|error| port_error(ALERT_STORE, error))
    }

    async fn resolve(
        &self,
        tenant: &TenantId,
        alert_id: &str,
        mark: AlertMark,
    ) -> Result<Option<Alert>, PortError> {
        let change = |alert: &mut Alert| {
            let open = alert.status != AlertStatus::Resolved;
            if open {
                alert.status = AlertStatus::Resolved;
                alert.resolved = Some(mark.clone());
            }
            open
        };
        let done = self.change(tenant, alert_id, change).await;
        done.map_err(|error| port_error(ALERT_STORE, error))
    }
}
