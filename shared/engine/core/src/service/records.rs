//! Records: what the audit holds besides changes of tasks.

use std::time::Duration;

use serde_json::{Map, Value, json};
use watchbill_domain::{ApiKey, Caller, LoggedEvent, Role, TenantId, Timestamp};
use watchbill_governance::{Record, RecordKind};

use super::{Audit, Context, ServiceError};
use crate::ledger::{Entry, LedgerReader};
use crate::ports::{Expect, Write};
use crate::repo::{self, PolicyMark, PolicyTelling, encode};

/// Tenants that one look deals with: it is one of several things of a sweep, which must end within
/// its time. The next goes on.
pub const TENANTS_A_CALL: usize = 100;

/// What came of a look whether another policy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyNoted {
    Unchanged,
    /// It is recorded for every tenant now.
    Changed,
    /// Not yet for all of them: look again.
    GoesOn,
}

/// Who did what nobody asked for.
pub(super) const SYSTEM: &str = "watchbill";

/// What a record says; who, where and when come besides.
pub(crate) struct Said<'a> {
    pub kind: RecordKind,
    /// What makes it this record and no other: see [`Record::id_of`].
    pub of: &'a [&'a str],
    pub subject: &'a str,
    pub text: String,
    /// A JSON object.
    pub details: Value,
}

impl Said<'_> {
    /// A record, to be written in the commit of what it is about.
    pub fn record(self, context: &Context, tenant: &TenantId, by: &str) -> Record {
        let now = context.clock().now();
        let details = match self.details {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        Record {
            id: Record::id_of(tenant, self.kind, self.of),
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
            expires: now.plus(Record::KEEP),
        }
    }
}

impl Audit {
    /// Records that a token was made. It stands before the token is handed out.
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
        let said = Said {
            kind: RecordKind::TokenIssued,
            of: &[&unique],
            subject: sub,
            text: format!("token for {sub} with role {}, good for {seconds} s", role.as_str()),
            details: json!({ "sub": sub, "role": role.as_str(), "expires_in": seconds }),
        };
        self.put_record(&said.record(&self.context, &caller.tenant, &caller.name)).await.map(|_| ())
    }

    /// Writes a record that is one however often it is made. Says whether it is new.
    async fn put_record(&self, record: &Record) -> Result<bool, ServiceError> {
        Ok(self.context.transact(vec![record_write(record)]).await?.is_ok())
    }

    /// Records for each tenant that another policy holds than when someone last looked: for so many
    /// tenants a call, going on where the call before, of whatever process, left off. Two who look
    /// at once make one record of it.
    pub async fn note_policy(&self) -> Result<PolicyNoted, ServiceError> {
        let Ok(policy) = self.governance.policies().current().await else {
            // Said where it is needed; what could not be read has not changed.
            return Ok(PolicyNoted::Unchanged);
        };
        let mark = self.context.load::<PolicyMark>(&repo::policy_key()).await?;
        let before = mark.as_ref().map(|mark| &mark.value).filter(|mark| !mark.at_first());
        let before = before.map(|mark| mark.fingerprint.clone());
        if before.as_deref() == Some(&policy.fingerprint) {
            return Ok(PolicyNoted::Unchanged);
        }
        let telling = mark.as_ref().and_then(|mark| mark.value.telling.clone());
        // Of a policy that was replaced before all were told of it nobody else is told.
        let telling = telling.filter(|telling| telling.fingerprint == policy.fingerprint);
        let next = mark.as_ref().map_or(1, |mark| mark.version + 1).to_string();
        let (of, after) = match telling {
            Some(telling) => (telling.of, Some(telling.after)),
            None => (next, None),
        };
        let tenants = self.tenants.after(after.as_ref(), TENANTS_A_CALL).await?;
        for tenant in &tenants {
            let told = policy_said(&policy.fingerprint, before.as_deref());
            let told = Said { of: &[&of, &policy.fingerprint], ..told };
            let put = self.put_record(&told.record(&self.context, tenant, SYSTEM)).await;
            // Over one whose record can't be read or written no other waits.
            self.context.past_unreadable_part(put)?;
        }
        let (now, fingerprint) = (self.context.clock().now(), policy.fingerprint.clone());
        let all = tenants.len() < TENANTS_A_CALL;
        let marked = match tenants.into_iter().next_back().filter(|_| !all) {
            None => PolicyMark { fingerprint, at: now, telling: None },
            Some(after) => PolicyMark {
                fingerprint: before.unwrap_or_else(|| PolicyMark::NONE.to_owned()),
                at: mark.as_ref().map_or(now, |mark| mark.value.at),
                telling: Some(PolicyTelling { fingerprint, of, after }),
            },
        };
        let expect = mark.as_ref().map_or(Expect::Absent, |mark| Expect::Version(mark.version));
        let unknown = mark.as_ref().and_then(|mark| mark.unknown.as_deref());
        let item = encode(&marked, unknown);
        // Who was first has recorded the same.
        let first = self.context.transact(vec![Write::Put { item, expect }]).await?.is_ok();
        Ok(match (first, all) {
            (true, true) => PolicyNoted::Changed,
            (true, false) => PolicyNoted::GoesOn,
            (false, true) => PolicyNoted::Unchanged,
            (false, false) => PolicyNoted::GoesOn,
        })
    }

    /// Seals the ledgers of so many tenants that come after one, each that grew since its last
    /// seal, once in a day (UTC). Answers how many, and where to go on, if there are more. A ledger
    /// that can't be read is passed by, which is noted: the others are sealed.
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

    /// Puts the ledger's head into a record and an event: whoever keeps that event elsewhere
    /// can show later that the chain was not written anew.
    async fn seal(&self, tenant: &TenantId, now: Timestamp) -> Result<bool, ServiceError> {
        let day = now.day();
        let id = Record::id_of(tenant, RecordKind::Sealed, &[&day]);
        if self.context.store().get(&repo::record_key(tenant, &id)).await?.is_some() {
            return Ok(false);
        }
        let ledger = LedgerReader::new(self.context.store().clone(), tenant.clone());
        let head = ledger.head().await?;
        let Some(newest) = ledger.batch(head.seq).await? else { return Ok(false) };
        // A seal is recorded too: that alone is no growth.
        if newest.entries.iter().all(is_seal) {
            return Ok(false);
        }
        let details = json!({ "seq": head.seq, "hash": head.hash });
        let said = Said {
            kind: RecordKind::Sealed,
            of: &[&day],
            subject: "ledger",
            text: format!("the ledger's head is batch {} with hash {}", head.seq, head.hash),
            details,
        };
        let mut record = said.record(&self.context, tenant, SYSTEM);
        let told = Value::Object(record.details.clone());
        record.events = vec![LoggedEvent::own("audit.sealed", told)];
        self.put_record(&record).await
    }
}

fn policy_said<'a>(policy: &'a str, before: Option<&str>) -> Said<'a> {
    Said {
        kind: RecordKind::PolicyChanged,
        of: &[],
        subject: shown(policy),
        text: match before {
            Some(before) => {
                format!("policy {} holds, before it was {}", shown(policy), shown(before))
            }
            None => format!("policy {} holds", shown(policy)),
        },
        details: json!({ "policy": policy, "before": before }),
    }
}

pub(crate) fn record_write(record: &Record) -> Write {
    Write::Put { item: encode(record, None), expect: Expect::Absent }
}

/// What the audit says of a key: never the key.
pub(crate) fn about_key(key: &ApiKey) -> Value {
    json!({ "name": key.name, "role": key.role.as_str(), "prefix": key.prefix })
}

fn is_seal(entry: &Entry) -> bool {
    matches!(entry, Entry::Record(record) if record.kind == RecordKind::Sealed)
}

/// The first characters of a policy's fingerprint; the one that is built in has none.
fn shown(fingerprint: &str) -> &str {
    match fingerprint.get(..12) {
        Some(short) => short,
        None if fingerprint.is_empty() => "built-in",
        None => fingerprint,
    }
}
