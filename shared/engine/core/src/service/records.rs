//! Audit records that are not task changes.

use std::time::Duration;

use serde_json::{Map, Value, json};
use watchbill_domain::{ApiKey, Caller, LoggedEvent, Role, TenantId, Timestamp};
use watchbill_governance::{AuditRecord, RecordKind};

use super::{Audit, Context, ServiceError};
use crate::ledger::{Entry, LedgerReader};
use crate::ports::{Precondition, Write};
use crate::repo::{self, CurrentPolicy, PolicyRollout, encode};

/// Tenants that one call processes: it is one of several parts of a sweep, which must end in
/// time. The next call continues.
pub const TENANTS_A_CALL: usize = 100;

/// The result of checking whether the policy has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyCheck {
    Unchanged,
    /// The change is now recorded for every tenant.
    Changed,
    /// Not yet recorded for all of them: call again.
    GoesOn,
}

/// The actor of what no caller requested.
pub(super) const SYSTEM: &str = "watchbill";

/// The content of a record; actor, tenant and time are added.
pub(crate) struct NewAuditRecord<'a> {
    pub kind: RecordKind,
    /// What makes the record unique: see [`AuditRecord::id_of`].
    pub of: &'a [&'a str],
    pub subject: &'a str,
    pub text: String,
    /// A JSON object.
    pub details: Value,
}

impl NewAuditRecord<'_> {
    /// A record, to be written in the commit of its subject.
    pub fn record(self, context: &Context, tenant: &TenantId, by: &str) -> AuditRecord {
        let now = context.clock().now();
        let details = match self.details {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        AuditRecord {
            id: AuditRecord::id_of(tenant, self.kind, self.of),
            tenant: tenant.clone(),
            at: now,
            kind: self.kind,
            by: by.to_owned(),
            subject: self.subject.to_owned(),
            text: self.text,
            task: None,
            details,
            events: Vec::new(),
            trace_id: None,
            expires: now.plus(AuditRecord::KEEP),
        }
    }
}

impl Audit {
    /// Records that a token was created. The record is written before the token is returned.
    pub async fn record_token(
        &self,
        caller: &Caller,
        sub: &str,
        role: Role,
        lifetime: Duration,
    ) -> Result<(), ServiceError> {
        let now = self.context.clock().now();
        let unique = self.context.entropy().uuid7(now).to_string();
        let seconds = lifetime.as_secs();
        let issued = NewAuditRecord {
            kind: RecordKind::TokenIssued,
            of: &[&unique],
            subject: sub,
            text: format!("token for {sub} with role {}, valid for {seconds} s", role.as_str()),
            details: json!({ "sub": sub, "role": role.as_str(), "expires_in": seconds }),
        };
        self.put_record(&issued.record(&self.context, &caller.tenant, &caller.name))
            .await
            .map(|_| ())
    }

    /// Writes a record that is idempotent by its id. Returns whether it is new.
    async fn put_record(&self, record: &AuditRecord) -> Result<bool, ServiceError> {
        Ok(self.context.transact(vec![record_write(record)]).await?.is_ok())
    }

    /// Records for each tenant that the policy has changed since the last check: a limited
    /// number of tenants per call, continuing where the previous call of any process stopped.
    /// Two concurrent calls create one record.
    pub async fn note_policy(&self) -> Result<PolicyCheck, ServiceError> {
        let Ok(policy) = self.governance.policies().current().await else {
            // The place that needs the policy reports this; an unreadable policy counts as
            // unchanged.
            return Ok(PolicyCheck::Unchanged);
        };
        let mark = self.context.load::<CurrentPolicy>(&repo::policy_key()).await?;
        let before = mark.as_ref().map(|mark| &mark.value).filter(|mark| !mark.at_first());
        let before = before.map(|mark| mark.fingerprint.clone());
        if before.as_deref() == Some(&policy.fingerprint) {
            return Ok(PolicyCheck::Unchanged);
        }
        let telling = mark.as_ref().and_then(|mark| mark.value.telling.clone());
        // If a policy was replaced before it was recorded for all, the remaining tenants get no
        // record.
        let telling = telling.filter(|telling| telling.fingerprint == policy.fingerprint);
        let next = mark.as_ref().map_or(1, |mark| mark.version + 1).to_string();
        let (of, after) = match telling {
            Some(telling) => (telling.of, Some(telling.after)),
            None => (next, None),
        };
        let tenants = self.tenants.after(after.as_ref(), TENANTS_A_CALL).await?;
        for tenant in &tenants {
            let change = policy_change(&policy.fingerprint, before.as_deref());
            let change = NewAuditRecord { of: &[&of, &policy.fingerprint], ..change };
            let put = self.put_record(&change.record(&self.context, tenant, SYSTEM)).await;
            // A tenant whose record cannot be read or written does not block the others.
            self.context.past_unreadable_part(put)?;
        }
        let (now, fingerprint) = (self.context.clock().now(), policy.fingerprint.clone());
        let all = tenants.len() < TENANTS_A_CALL;
        let marked = match tenants.into_iter().next_back().filter(|_| !all) {
            None => CurrentPolicy { fingerprint, at: now, telling: None },
            Some(after) => CurrentPolicy {
                fingerprint: before.unwrap_or_else(|| CurrentPolicy::NONE.to_owned()),
                at: mark.as_ref().map_or(now, |mark| mark.value.at),
                telling: Some(PolicyRollout { fingerprint, of, after }),
            },
        };
        let expect =
            mark.as_ref().map_or(Precondition::Absent, |mark| Precondition::Version(mark.version));
        let unknown = mark.as_ref().and_then(|mark| mark.unknown.as_deref());
        let item = encode(&marked, unknown);
        // A concurrent call has recorded the same.
        let first = self.context.transact(vec![Write::Put { item, expect }]).await?.is_ok();
        Ok(match (first, all) {
            (true, true) => PolicyCheck::Changed,
            (true, false) => PolicyCheck::GoesOn,
            (false, true) => PolicyCheck::Unchanged,
            (false, false) => PolicyCheck::GoesOn,
        })
    }

    /// Seals the ledgers of the next tenants after `after`: each ledger that grew since its
    /// last seal, once a day (UTC). Returns the number of seals and where to continue, if there
    /// are more. An unreadable ledger is noted and skipped: the others are sealed.
    pub async fn seal_ledgers(
        &self,
        after: Option<&TenantId>,
    ) -> Result<(usize, Option<TenantId>), ServiceError> {
        let now = self.context.clock().now();
        let mut sealed = 0;
        let tenants = self.tenants.after(after, TENANTS_A_CALL).await?;
        for tenant in &tenants {
            let new = self.context.past_unreadable_part(self.seal(tenant, now).await)?;
            sealed += usize::from(new == Some(true));
        }
        let more = tenants.len() == TENANTS_A_CALL;
        Ok((sealed, tenants.into_iter().next_back().filter(|_| more)))
    }

    /// Records the ledger's head and emits it as an event: whoever stores that event elsewhere
    /// can show later that the chain was not rewritten.
    async fn seal(&self, tenant: &TenantId, now: Timestamp) -> Result<bool, ServiceError> {
        let day = now.day();
        let id = AuditRecord::id_of(tenant, RecordKind::Sealed, &[&day]);
        if self.context.store().get(&repo::record_key(tenant, &id)).await?.is_some() {
            return Ok(false);
        }
        let ledger = LedgerReader::new(self.context.store().clone(), tenant.clone());
        let head = ledger.head().await?;
        let Some(newest) = ledger.batch(head.seq).await? else { return Ok(false) };
        // A seal is recorded too: a seal alone is no growth.
        if newest.entries.iter().all(is_seal) {
            return Ok(false);
        }
        let details = json!({ "seq": head.seq, "hash": head.hash });
        let sealed = NewAuditRecord {
            kind: RecordKind::Sealed,
            of: &[&day],
            subject: "ledger",
            text: format!("the ledger's head is batch {} with hash {}", head.seq, head.hash),
            details,
        };
        let mut record = sealed.record(&self.context, tenant, SYSTEM);
        let payload = Value::Object(record.details.clone());
        record.events = vec![LoggedEvent::own("audit.sealed", payload)];
        self.put_record(&record).await
    }
}

fn policy_change<'a>(policy: &'a str, before: Option<&str>) -> NewAuditRecord<'a> {
    NewAuditRecord {
        kind: RecordKind::PolicyChanged,
        of: &[],
        subject: shown(policy),
        text: match before {
            Some(before) => {
                format!("policy {} is in force, replacing {}", shown(policy), shown(before))
            }
            None => format!("policy {} is in force", shown(policy)),
        },
        details: json!({ "policy": policy, "before": before }),
    }
}

pub(crate) fn record_write(record: &AuditRecord) -> Write {
    Write::Put { item: encode(record, None), expect: Precondition::Absent }
}

/// A key's details in an audit record, without the key itself.
pub(crate) fn about_key(key: &ApiKey) -> Value {
    json!({ "name": key.name, "role": key.role.as_str(), "prefix": key.prefix })
}

fn is_seal(entry: &Entry) -> bool {
    matches!(entry, Entry::AuditRecord(record) if record.kind == RecordKind::Sealed)
}

/// The first characters of a policy's fingerprint; the built-in policy has none.
fn shown(fingerprint: &str) -> &str {
    match fingerprint.get(..12) {
        Some(short) => short,
        None if fingerprint.is_empty() => "built-in",
        None => fingerprint,
    }
}
