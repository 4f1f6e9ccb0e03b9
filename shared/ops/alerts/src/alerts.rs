//! The alert book on the store. The open alert of a type and target is found by key, others by
//! pages, whatever their number.

use std::time::Duration;

use async_trait::async_trait;
use watchbill_core::ports::{Expect, Item, Key, ListRange, Query, WhichList, Write};
use watchbill_core::repo::{self, Entity, Versioned, decode, encode};
use watchbill_core::service::{Core, ServiceError};
use watchbill_domain::TenantId;
use watchbill_runtime::port_error::{PortError, port_error};

use super::alert_items::{AlertRecord, OpenAlert, open_key};
use super::model::{Alert, AlertBook, AlertMark, AlertStatus, OpenAlerts, RaiseAlert};

/// Open alerts of one tenant: beyond, nobody could tell one from another, and each costs a row in
/// two lists.
pub const MAX_OPEN: usize = 1_000;
/// Alerts of a page that is looked through for one of a type.
const PAGE: usize = 100;
/// Keys that are read to say how many are open.
const MAX_COUNTED: usize = 100;
const TRIES: u32 = 16;
const BOOK: &str = "the alert book";

/// Alerts on the store.
pub struct StoredAlerts {
    core: Core,
}

/// What became of an attempt to write.
enum Tried {
    Done(Alert),
    /// Someone else was first.
    Again,
    /// No further alert may be opened.
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

    /// True when it was written; false when someone else was first.
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
            && let Some(there) = self.record(tenant, &open.value.alert_id).await?
            && (there.value.is_open() || there.value.raised_by.contains(&raise.task_id))
        {
            return self.count_up(there, open, raise).await;
        }
        if self.open_keys(tenant, MAX_OPEN, None).await?.entries.len() >= MAX_OPEN {
            return Ok(Tried::Full);
        }
        let record = AlertRecord::new(tenant, raise, rules);
        let pointer = OpenAlert::new(&record, raise.at, rules);
        let expect = open.map_or(Expect::Absent, |open| Expect::Version(open.version));
        let writes = vec![
            Write::Put { item: encode(&record, None), expect: Expect::Absent },
            Write::Put { item: encode(&pointer, None), expect },
        ];
        self.tried(writes, record).await
    }

    async fn count_up(
        &self,
        there: Versioned<AlertRecord>,
        open: &Versioned<OpenAlert>,
        raise: &RaiseAlert,
    ) -> Result<Tried, ServiceError> {
        if there.value.raised_by.contains(&raise.task_id) {
            return Ok(Tried::Done(there.value.alert));
        }
        let rules = &self.core.rules().alerts;
        let mut record = there.value;
        record.count_up(raise, rules);
        let item = encode(&record, there.unknown.as_deref());
        let mut writes = vec![Write::Put { item, expect: Expect::Version(there.version) }];
        if open.value.goes_too_early(raise.at, rules) {
            let item = encode(&OpenAlert::new(&record, raise.at, rules), open.unknown.as_deref());
            writes.push(Write::Put { item, expect: Expect::Version(open.version) });
        }
        self.tried(writes, record).await
    }

    async fn tried(&self, writes: Vec<Write>, record: AlertRecord) -> Result<Tried, ServiceError> {
        Ok(match self.commit(writes).await? {
            true => Tried::Done(record.alert),
            false => Tried::Again,
        })
    }

    /// A page of the open ones, newest first. Keys alone.
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

    /// Those of the keys that are open: the list may be behind.
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
            return Ok(record.filter(|there| there.value.is_open()).map(|there| there.value.alert));
        }
        let mut cursor = None;
        loop {
            let page = self.open_keys(tenant, PAGE, cursor).await?;
            let open = self.open_of(&page.entries).await?;
            let found = open.into_iter().find(|alert| alert.alert_type == alert_type);
            if found.is_some() || page.next.is_none() {
                return Ok(found);
            }
            cursor = page.next;
        }
    }

    /// Looks at an alert that is due: one that nobody has touched for long ends, and that is told;
    /// another is looked at again later. False: it is no longer what it was.
    pub async fn end_if_untouched(&self, item: &Item) -> Result<bool, ServiceError> {
        let there = decode::<AlertRecord>(item)?;
        let (now, rules) = (self.core.clock().now(), &self.core.rules().alerts);
        let mut record = there.value;
        let mut writes = Vec::new();
        match record.ends_at(rules) {
            later if later > now => record.look_at = Some(later),
            _ => {
                let told = record.end_untouched(now, rules);
                writes.push(Write::Put { item: encode(&told, None), expect: Expect::Absent });
            }
        }
        let item = encode(&record, there.unknown.as_deref());
        writes.push(Write::Put { item, expect: Expect::Version(there.version) });
        self.commit(writes).await
    }

    async fn change(
        &self,
        tenant: &TenantId,
        alert_id: &str,
        change: impl Fn(&mut Alert) -> bool + Send + Sync,
    ) -> Result<Option<Alert>, ServiceError> {
        for _ in 0..TRIES {
            let Some(there) = self.record(tenant, alert_id).await? else { return Ok(None) };
            let mut record = there.value;
            if !change(&mut record.alert) {
                return Ok(Some(record.alert));
            }
            record.keep(&self.core.rules().alerts);
            let item = encode(&record, there.unknown.as_deref());
            let write = Write::Put { item, expect: Expect::Version(there.version) };
            if self.commit(vec![write]).await? {
                return Ok(Some(record.alert));
            }
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }
}

#[async_trait]
impl AlertBook for StoredAlerts {
    async fn raise(&self, tenant: &TenantId, raise: RaiseAlert) -> Result<Alert, PortError> {
        for _ in 0..TRIES {
            let tried = self.try_raise(tenant, &raise).await;
            match tried.map_err(|error| port_error(BOOK, error))? {
                Tried::Done(alert) => return Ok(alert),
                Tried::Again => {}
                Tried::Full => {
                    let reason = format!(
                        "{MAX_OPEN} alerts are open, the most that a tenant may have: resolve some \
                         before '{}' on '{}' is opened",
                        raise.alert_type, raise.target
                    );
                    return Err(PortError::Refused { what: BOOK, reason });
                }
            }
        }
        let reason = "others keep changing the same alert".to_owned();
        Err(PortError::Unavailable { what: BOOK, reason })
    }

    async fn find(&self, tenant: &TenantId, alert_id: &str) -> Result<Option<Alert>, PortError> {
        let found = self.record(tenant, alert_id).await;
        let found = found.map_err(|error| port_error(BOOK, error))?;
        Ok(found.map(|record| record.value.alert))
    }

    async fn find_open(
        &self,
        tenant: &TenantId,
        alert_type: &str,
        target: Option<&str>,
    ) -> Result<Option<Alert>, PortError> {
        let found = self.open_of_type(tenant, alert_type, target).await;
        found.map_err(|error| port_error(BOOK, error))
    }

    async fn list_open(&self, tenant: &TenantId, limit: usize) -> Result<OpenAlerts, PortError> {
        let listed = async {
            let page = self.open_keys(tenant, limit.max(MAX_COUNTED), None).await?;
            let newest = self.open_of(&page.entries[..page.entries.len().min(limit)]).await?;
            Ok(OpenAlerts { newest, count: page.entries.len(), more: page.next.is_some() })
        };
        listed.await.map_err(|error: ServiceError| port_error(BOOK, error))
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
        done.map_err(|error| port_error(BOOK, error))
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
        done.map_err(|error| port_error(BOOK, error))
    }
}
