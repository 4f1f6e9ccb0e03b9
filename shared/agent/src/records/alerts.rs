use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use watchbill_core::domain::{TaskId, TenantId, derived_uuid};
use watchbill_core::ports::{
    Commit, CommitError, Expect, Key, ListEntry, ListRange, Query, WhichList, Write,
};
use watchbill_core::repo::{self, Entity, Versioned, decode, encode};
use watchbill_core::service::{Core, ServiceError};

use super::port_error;
use crate::ports::{Alert, AlertBook, AlertMark, AlertStatus, PortError, RaiseAlert};

/// Alerts listed at once.
const MOST: usize = 500;
/// Tasks remembered as having raised an alert.
const RAISED_BY: usize = 32;
const TRIES: u32 = 16;

/// Alerts on the store.
pub struct StoredAlerts {
    core: Core,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct AlertRecord {
    tenant: TenantId,
    alert: Alert,
    /// The last tasks that raised it, so that one that runs again counts once.
    raised_by: Vec<TaskId>,
}

impl Entity for AlertRecord {
    const KIND: &'static str = "alert";

    fn key(&self) -> Key {
        repo::alert_key(&self.tenant, &self.alert.alert_id)
    }

    fn list(&self) -> Option<ListEntry> {
        let sort = self.alert.first_seen.sortable().into();
        Some(ListEntry { partition: repo::alerts_list(&self.tenant), sort })
    }

    fn list2(&self) -> Option<ListEntry> {
        let sort = self.alert.first_seen.sortable().into();
        (self.alert.status != AlertStatus::Resolved)
            .then(|| ListEntry { partition: repo::open_alerts_list(&self.tenant), sort })
    }
}

/// Which alert of a type and target is, or was, the open one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OpenAlert {
    tenant: TenantId,
    alert_type: String,
    target: String,
    alert_id: String,
}

impl Entity for OpenAlert {
    const KIND: &'static str = "open_alert";

    fn key(&self) -> Key {
        open_key(&self.tenant, &self.alert_type, &self.target)
    }
}

fn open_key(tenant: &TenantId, alert_type: &str, target: &str) -> Key {
    repo::alert_key(tenant, &format!("open-{}", derived_uuid(&[alert_type, target])))
}

impl StoredAlerts {
    pub fn new(core: Core) -> Self {
        Self { core }
    }

    async fn load<E: Entity>(&self, key: &Key) -> Result<Option<Versioned<E>>, ServiceError> {
        let item = self.core.store().get(key).await?;
        Ok(item.as_ref().map(decode).transpose()?)
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
        let id = self.core.entropy().write_id();
        match self.core.store().commit(Commit { id, writes }).await {
            Ok(()) => Ok(true),
            Err(CommitError::Conflict { .. } | CommitError::Unknown { .. }) => Ok(false),
            Err(CommitError::Busy { after }) => {
                self.core.clock().sleep(after).await;
                Ok(false)
            }
            Err(CommitError::Illegal { reason }) => Err(ServiceError::Down { reason }),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    async fn try_raise(
        &self,
        tenant: &TenantId,
        raise: &RaiseAlert,
    ) -> Result<Option<Alert>, ServiceError> {
        let open: Option<Versioned<OpenAlert>> =
            self.load(&open_key(tenant, &raise.alert_type, &raise.target)).await?;
        if let Some(open) = &open
            && let Some(there) = self.record(tenant, &open.value.alert_id).await?
            && (there.value.alert.status != AlertStatus::Resolved
                || there.value.raised_by.contains(&raise.task_id))
        {
            return self.count_up(there, raise).await;
        }
        let record = new_record(tenant, raise);
        let pointer = OpenAlert {
            tenant: tenant.clone(),
            alert_type: raise.alert_type.clone(),
            target: raise.target.clone(),
            alert_id: record.alert.alert_id.clone(),
        };
        let expect = open.map_or(Expect::Absent, |open| Expect::Version(open.version));
        let writes = vec![
            Write::Put { item: encode(&record, None), expect: Expect::Absent },
            Write::Put { item: encode(&pointer, None), expect },
        ];
        Ok(self.commit(writes).await?.then_some(record.alert))
    }

    async fn count_up(
        &self,
        there: Versioned<AlertRecord>,
        raise: &RaiseAlert,
    ) -> Result<Option<Alert>, ServiceError> {
        if there.value.raised_by.contains(&raise.task_id) {
            return Ok(Some(there.value.alert));
        }
        let mut record = there.value;
        record.alert.count += 1;
        record.alert.last_seen = record.alert.last_seen.max(raise.at);
        record.alert.severity = record.alert.severity.max(raise.severity);
        record.alert.message.clone_from(&raise.message);
        record.alert.labels.extend(raise.labels.clone());
        record.raised_by.push(raise.task_id.clone());
        if record.raised_by.len() > RAISED_BY {
            record.raised_by.remove(0);
        }
        let item = encode(&record, there.unknown.as_deref());
        let write = Write::Put { item, expect: Expect::Version(there.version) };
        Ok(self.commit(vec![write]).await?.then_some(record.alert))
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
            let item = encode(&record, there.unknown.as_deref());
            let write = Write::Put { item, expect: Expect::Version(there.version) };
            if self.commit(vec![write]).await? {
                return Ok(Some(record.alert));
            }
        }
        Err(ServiceError::Busy { after: Duration::from_millis(100) })
    }
}

/// The id depends on the task, so that a run that is repeated opens the same alert.
fn new_record(tenant: &TenantId, raise: &RaiseAlert) -> AlertRecord {
    let parts = ["alert", tenant.as_str(), &raise.alert_type, &raise.target];
    let id = derived_uuid(&[&parts[..], &[raise.task_id.as_str()]].concat());
    AlertRecord {
        tenant: tenant.clone(),
        alert: Alert {
            alert_id: id.to_string(),
            alert_type: raise.alert_type.clone(),
            target: raise.target.clone(),
            severity: raise.severity,
            status: AlertStatus::Active,
            message: raise.message.clone(),
            labels: raise.labels.clone(),
            count: 1,
            first_seen: raise.at,
            last_seen: raise.at,
            acknowledged: None,
            resolved: None,
        },
        raised_by: vec![raise.task_id.clone()],
    }
}

#[async_trait]
impl AlertBook for StoredAlerts {
    async fn raise(&self, tenant: &TenantId, raise: RaiseAlert) -> Result<Alert, PortError> {
        for _ in 0..TRIES {
            let tried = self.try_raise(tenant, &raise).await;
            if let Some(alert) = tried.map_err(|error| port_error("the alert book", error))? {
                return Ok(alert);
            }
        }
        let reason = "others keep changing the same alert".to_owned();
        Err(PortError::Unavailable { what: "the alert book", reason })
    }

    async fn find(&self, tenant: &TenantId, alert_id: &str) -> Result<Option<Alert>, PortError> {
        let found = self.record(tenant, alert_id).await;
        let found = found.map_err(|error| port_error("the alert book", error))?;
        Ok(found.map(|record| record.value.alert))
    }

    async fn list_open(&self, tenant: &TenantId) -> Result<Vec<Alert>, PortError> {
        let listed = async {
            let query = Query {
                list: WhichList::Second,
                partition: repo::open_alerts_list(tenant),
                range: ListRange::default(),
                descending: true,
                limit: MOST,
                cursor: None,
            };
            let page = self.core.store().query(query).await?;
            let items = self.core.get_readable(&page.entries).await?;
            let records = items
                .iter()
                .flatten()
                .map(|item| self.core.past_unreadable(decode::<AlertRecord>(item)));
            let records = records.filter_map(Result::transpose);
            records.map(|record| record.map(|r| r.value.alert)).collect::<Result<Vec<_>, _>>()
        };
        let alerts = listed.await.map_err(|e| port_error("the alert book", e.into()))?;
        Ok(alerts.into_iter().filter(|alert| alert.status != AlertStatus::Resolved).collect())
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
        done.map_err(|error| port_error("the alert book", error))
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
        done.map_err(|error| port_error("the alert book", error))
    }
}
