//! Budgets: a tenant's limits, its spending, and the records of the thresholds it reaches.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use watchbill_domain::{Amount, Caller, LoggedEvent, Task, TenantId, Timestamp, Usage};
use watchbill_governance::{
    AuditRecord, BudgetLimits, BudgetMove, BudgetState, BudgetThreshold, CallCost, Period,
    PeriodState, PolicyUnavailable, RecordKind,
};

use super::records::{NewAuditRecord, record_write};
use super::{Context, Governance, OnFailure, ServiceError};
use crate::ports::{Item, Precondition, Write};
use crate::repo::{self, COUNTED, MAX_AMOUNT, TenantLimits, Versioned, encode, period_state};

/// Cache TTL of limits set by another process.
const LIMITS_FOR: Duration = Duration::from_secs(30);
/// How many tenants' limits, and recorded thresholds, are cached; beyond that the cache is cleared.
const CACHE_SIZE: usize = 4_096;
/// How often setting limits is retried after a conflict.
const MAX_ATTEMPTS: u32 = 8;

/// Limits, their usage, and the threshold records. Cheap to clone.
#[derive(Clone)]
pub struct Budgets {
    context: Context,
    governance: Governance,
    remembered: Arc<Mutex<BudgetCache>>,
}

/// This process's cache.
#[derive(Default)]
struct BudgetCache {
    /// With the time they were read, on the monotonic clock.
    limits: HashMap<TenantId, (Duration, Option<BudgetLimits>)>,
    /// Ids of the threshold records that are known to exist.
    marked: HashSet<String>,
}

impl Budgets {
    pub(super) fn new(context: Context, governance: Governance) -> Self {
        Self { context, governance, remembered: Arc::default() }
    }

    fn remembered(&self) -> MutexGuard<'_, BudgetCache> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.limits.len() > CACHE_SIZE {
            remembered.limits.clear();
        }
        if remembered.marked.len() > CACHE_SIZE {
            remembered.marked.clear();
        }
        remembered
    }

    /// What the tenant has used and reserved today and in this hour, UTC.
    pub async fn state(&self, tenant: &TenantId) -> Result<BudgetState, ServiceError> {
        let limits = self.limits(tenant).await?;
        let now = self.context.clock().now();
        let row = self.context.store().get(&repo::budget_key(tenant, now)).await?;
        let state = |period| period_state(row.as_ref(), period, now, &limits);
        Ok(BudgetState { day: state(Period::Day), hour: state(Period::Hour) })
    }

    /// The tenant's own limits, else the policy's; at most half a minute old.
    pub async fn limits(&self, tenant: &TenantId) -> Result<BudgetLimits, ServiceError> {
        let at = self.context.clock().monotonic();
        let known = self.remembered().limits.get(tenant).copied();
        let own = match known {
            Some((read, own)) if at.saturating_sub(read) < LIMITS_FOR => own,
            _ => {
                let own = self.own_limits(tenant).await?.map(|stored| stored.value.limits);
                self.remembered().limits.insert(tenant.clone(), (at, own));
                own
            }
        };
        match own {
            Some(limits) => Ok(limits),
            None => self.policy_limits().await,
        }
    }

    async fn policy_limits(&self) -> Result<BudgetLimits, ServiceError> {
        match self.governance.policies().current().await {
            Ok(policy) => Ok(policy.limits),
            Err(error) if self.governance.on_failure() == OnFailure::Allow => {
                self.governance.set_degraded(true);
                tracing::warn!("the built-in budget limits apply: {error}");
                Ok(BudgetLimits::default())
            }
            Err(error) => {
                self.governance.set_degraded(true);
                Err(unreached(&error))
            }
        }
    }

    async fn own_limits(
        &self,
        tenant: &TenantId,
    ) -> Result<Option<Versioned<TenantLimits>>, ServiceError> {
        self.context.load(&repo::limits_key(tenant)).await
    }

    /// Sets the tenant's own limits, which override the policy's: here at once, in other
    /// processes within half a minute.
    pub async fn set_limits(
        &self,
        caller: &Caller,
        limits: BudgetLimits,
    ) -> Result<BudgetLimits, ServiceError> {
        check_limits(&limits)?;
        let tenant = &caller.tenant;
        for _ in 0..MAX_ATTEMPTS {
            let before = self.own_limits(tenant).await?;
            if before.as_ref().is_none_or(|stored| stored.value.limits != limits) {
                let writes = self.limits_writes(caller, &limits, before.as_ref());
                if self.context.transact(writes).await?.is_err() {
                    continue;
                }
            }
            let at = self.context.clock().monotonic();
            self.remembered().limits.insert(tenant.clone(), (at, Some(limits)));
            return Ok(limits);
        }
        Err(ServiceError::Busy { after: Duration::from_millis(50) })
    }

    fn limits_writes(
        &self,
        caller: &Caller,
        limits: &BudgetLimits,
        before: Option<&Versioned<TenantLimits>>,
    ) -> Vec<Write> {
        let (tenant, by, at) =
            (caller.tenant.clone(), caller.name.clone(), self.context.clock().now());
        let own = TenantLimits { tenant, limits: *limits, by, at };
        let item = encode(&own, before.and_then(|stored| stored.unknown.as_deref()));
        let expect =
            before.map_or(Precondition::Absent, |stored| Precondition::Version(stored.version));
        let version = before.map_or(1, |stored| stored.version + 1).to_string();
        let change = limits_change(&own.limits, before.map(|stored| &stored.value.limits));
        let change = NewAuditRecord { of: &[&version], ..change };
        let record = change.record(&self.context, &own.tenant, &own.by);
        vec![Write::Put { item, expect }, record_write(&record)]
    }

    /// The maximum that a model call can cost, by the policy's prices, which the quote fixes.
    pub async fn quote(&self, model: &str, most: Usage) -> Result<CallCost, ServiceError> {
        let policy = self.governance.policies().current().await.map_err(|error| {
            self.governance.set_degraded(true);
            unreached(&error)
        })?;
        policy.prices.quote(model, most).map_err(|none| ServiceError::Invalid {
            field: "prices",
            message: format!("a call of '{model}' can't be priced: {none}"),
        })
    }

    /// Records each threshold that a period has reached, once. Nothing depends on it, so a
    /// failure is only logged: the next budget move retries it.
    pub(super) async fn tell_marks(&self, task: &Task, moved: &BudgetMove) {
        if let Err(error) = self.try_tell_marks(task, moved).await {
            let tenant = &task.tenant;
            tracing::warn!(%tenant, "budget thresholds are not recorded yet: {error}");
        }
    }

    async fn try_tell_marks(&self, task: &Task, moved: &BudgetMove) -> Result<(), ServiceError> {
        let tenant = &task.tenant;
        let limits = self.limits(tenant).await?;
        // Read after the commit, so that of several concurrent ones the last sees them all.
        let row: Option<Item> =
            self.context.store().get(&repo::budget_key(tenant, moved.at)).await?;
        for period in COUNTED {
            let state = period_state(row.as_ref(), period, moved.at, &limits);
            for mark in [BudgetThreshold::Warning, BudgetThreshold::Critical] {
                if state.mark() >= mark {
                    self.tell_mark(task, period, moved.at, mark, &state).await?;
                }
            }
        }
        Ok(())
    }

    async fn tell_mark(
        &self,
        task: &Task,
        period: Period,
        at: Timestamp,
        mark: BudgetThreshold,
        state: &PeriodState,
    ) -> Result<(), ServiceError> {
        let name = period_name(period, at);
        let period = period.as_str();
        let of = [period, name.as_str(), mark.as_str()];
        let id = AuditRecord::id_of(&task.tenant, RecordKind::BudgetThreshold, &of);
        if self.remembered().marked.contains(&id) {
            return Ok(());
        }
        let PeriodState { used, reserved, limit } = *state;
        let percent = state.percent();
        let text = format!(
            "{percent} % of the budget of the {period} {name} is used or reserved: {used} used, \
             {reserved} reserved, of {limit}"
        );
        let details = json!({
            "period": period, "of": name, "mark": mark.as_str(), "percent": percent,
            "used": amount_json(used), "reserved": amount_json(reserved),
            "limit": amount_json(limit),
        });
        let severity = if mark == BudgetThreshold::Critical { "high" } else { "medium" };
        let alert = json!({
            "alert_type": format!("budget_{}", mark.as_str()), "severity": severity,
            "target": format!("budget of {name}"), "message": text,
        });
        let events = vec![
            LoggedEvent::own(&format!("budget.{}", mark.as_str()), details.clone()),
            LoggedEvent::own("alert.triggered", alert),
        ];
        let kind = RecordKind::BudgetThreshold;
        let threshold = NewAuditRecord { kind, of: &of, subject: &name, text, details };
        let record = AuditRecord {
            task: Some(task.id.clone()),
            trace_id: Some(task.trace_id.clone()),
            events,
            ..threshold.record(&self.context, &task.tenant, "governance")
        };
        let item = encode(&record, None);
        // A conflict means that it has been recorded.
        self.context.transact(vec![Write::Put { item, expect: Precondition::Absent }]).await?.ok();
        self.remembered().marked.insert(id);
        Ok(())
    }
}

fn unreached(error: &PolicyUnavailable) -> ServiceError {
    ServiceError::Down { reason: format!("governance can't be reached: {error}") }
}

/// `2026-11-20`, and for an hour `2026-11-20T17`.
fn period_name(period: Period, at: Timestamp) -> String {
    match period {
        Period::Hour => at.to_string().chars().take(13).collect(),
        Period::Day | Period::Task => at.day(),
    }
}

fn check_limits(limits: &BudgetLimits) -> Result<(), ServiceError> {
    let periods = [("day", limits.day), ("hour", limits.hour), ("task", limits.task)];
    for (name, Amount { micro_usd, tokens }) in periods {
        let most = micro_usd.max(tokens);
        if most > MAX_AMOUNT {
            let message = format!(
                "the limit of a {name} is {most} millionths of a dollar or tokens; the maximum is \
                 {MAX_AMOUNT}"
            );
            return Err(ServiceError::Invalid { field: "limits", message });
        }
    }
    Ok(())
}

fn limits_change<'a>(now: &BudgetLimits, before: Option<&BudgetLimits>) -> NewAuditRecord<'a> {
    let describe = |limits: &BudgetLimits| {
        format!("per day {}; per hour {}; per task {}", limits.day, limits.hour, limits.task)
    };
    let was = before.map_or("from the policy".to_owned(), describe);
    NewAuditRecord {
        kind: RecordKind::LimitsChanged,
        of: &[],
        subject: "budget",
        text: format!("budget limits set to {} (before: {was})", describe(now)),
        details: json!({
            "limits": limits_json(now),
            "before": before.map_or(Value::Null, limits_json),
        }),
    }
}

fn limits_json(limits: &BudgetLimits) -> Value {
    json!({
        "day": amount_json(limits.day), "hour": amount_json(limits.hour),
        "task": amount_json(limits.task),
    })
}

fn amount_json(amount: Amount) -> Value {
    json!({ "micro_usd": amount.micro_usd, "tokens": amount.tokens })
}
