//! A tenant's spending of one day, in guarded counters of one item. A hard ceiling cannot be
//! sharded: every reservation adds to this item, under the limits of the day and the hour.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use watchbill_domain::{Amount, Resource, TenantId, Timestamp};
use watchbill_governance::{
    BudgetExceeded, BudgetLimits, BudgetMove, BudgetMoveKind, Period, PeriodState,
};

use super::codec::Entity;
use super::keys;
use crate::ports::{CounterAdd, Item, Key, Write};

const KIND: &str = "budget";
/// How long a day's row is kept.
const KEEP: Duration = Duration::from_secs(40 * 86_400);
/// The largest amount counted at once, so that no sum approaches the end of an i64.
pub const MAX_AMOUNT: u64 = 1 << 53;

/// The counters of one period: everything used or reserved, which the ceiling limits, and the
/// reserved part of it.
struct Names {
    money: &'static str,
    money_reserved: &'static str,
    tokens: &'static str,
    tokens_reserved: &'static str,
}

macro_rules! names {
    ($period:literal) => {
        Names {
            money: concat!($period, "us"),
            money_reserved: concat!($period, "us_r"),
            tokens: concat!($period, "tk"),
            tokens_reserved: concat!($period, "tk_r"),
        }
    };
}

const DAY: Names = names!("d_");

const HOURS: [Names; 24] = [
    names!("h00_"),
    names!("h01_"),
    names!("h02_"),
    names!("h03_"),
    names!("h04_"),
    names!("h05_"),
    names!("h06_"),
    names!("h07_"),
    names!("h08_"),
    names!("h09_"),
    names!("h10_"),
    names!("h11_"),
    names!("h12_"),
    names!("h13_"),
    names!("h14_"),
    names!("h15_"),
    names!("h16_"),
    names!("h17_"),
    names!("h18_"),
    names!("h19_"),
    names!("h20_"),
    names!("h21_"),
    names!("h22_"),
    names!("h23_"),
];

impl Names {
    fn of(period: Period, at: Timestamp) -> &'static Names {
        const HOUR: i64 = 3_600_000;
        let hour = at.millis().rem_euclid(24 * HOUR) / HOUR;
        match period {
            Period::Hour => &HOURS[usize::try_from(hour).expect("an hour is 0 to 23")],
            Period::Day | Period::Task => &DAY,
        }
    }

    fn total(&self, resource: Resource) -> &'static str {
        match resource {
            Resource::Money => self.money,
            Resource::Tokens => self.tokens,
        }
    }

    fn reserved(&self, resource: Resource) -> &'static str {
        match resource {
            Resource::Money => self.money_reserved,
            Resource::Tokens => self.tokens_reserved,
        }
    }
}

/// The periods that are counted in the day's row.
pub const COUNTED: [Period; 2] = [Period::Day, Period::Hour];

fn limit_of(limits: &BudgetLimits, period: Period) -> Amount {
    match period {
        Period::Day => limits.day,
        Period::Hour => limits.hour,
        Period::Task => limits.task,
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n.min(MAX_AMOUNT)).expect("2^53 fits into an i64")
}

/// The write for a budget move, if it moves anything. It belongs in the commit of the task's
/// header.
pub fn budget_write(tenant: &TenantId, moved: &BudgetMove) -> Option<Write> {
    let mut adds = Vec::with_capacity(8);
    let mut add = |name, delta, ceiling| {
        if delta != 0 {
            adds.push(CounterAdd { name, delta, ceiling });
        }
    };
    for period in COUNTED {
        let names = Names::of(period, moved.at);
        for resource in Resource::ALL {
            let (total, reserved) = (names.total(resource), names.reserved(resource));
            match &moved.kind {
                BudgetMoveKind::Reserve { amount, limits } => {
                    let amount = signed(amount.of(resource));
                    let limit = signed(limit_of(limits, period).of(resource));
                    add(total, amount, Some(limit));
                    add(reserved, amount, None);
                }
                BudgetMoveKind::Settle { reserved: held, used } => {
                    let held = signed(held.of(resource));
                    add(total, signed(used.of(resource)) - held, None);
                    add(reserved, -held, None);
                }
            }
        }
    }
    let key = keys::budget_key(tenant, moved.at);
    (!adds.is_empty()).then(|| Write::Add {
        key,
        kind: KIND,
        adds,
        expires: Some(moved.at.plus(KEEP)),
    })
}

/// One period of a day's row. Without a row nothing is used.
pub fn period_state(
    row: Option<&Item>,
    period: Period,
    at: Timestamp,
    limits: &BudgetLimits,
) -> PeriodState {
    let names = Names::of(period, at);
    let count = |name: &str| {
        let sum = row.and_then(|item| item.counters.get(name)).copied().unwrap_or(0);
        u64::try_from(sum).unwrap_or(0)
    };
    let of = |resource| {
        let (total, reserved) = (count(names.total(resource)), count(names.reserved(resource)));
        (total.saturating_sub(reserved), reserved)
    };
    let (money, tokens) = (of(Resource::Money), of(Resource::Tokens));
    PeriodState {
        used: Amount { micro_usd: money.0, tokens: tokens.0 },
        reserved: Amount { micro_usd: money.1, tokens: tokens.1 },
        limit: limit_of(limits, period),
    }
}

/// Which limit refused a move. `None`: no limit of the row as it is now.
pub fn refused_by(row: Option<&Item>, moved: &BudgetMove) -> Option<BudgetExceeded> {
    let BudgetMoveKind::Reserve { amount, limits } = &moved.kind else { return None };
    COUNTED.into_iter().find_map(|period| {
        let state = period_state(row, period, moved.at, limits);
        BudgetExceeded::found(period, state.limit, state.used.plus(state.reserved), *amount)
    })
}

/// A tenant's own limits, which override the policy's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantLimits {
    pub tenant: TenantId,
    pub limits: BudgetLimits,
    pub by: String,
    pub at: Timestamp,
}

impl Entity for TenantLimits {
    const KIND: &'static str = "limits";

    fn key(&self) -> Key {
        keys::limits_key(&self.tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hour_has_counters_of_its_own() {
        let at = |hour: i64| Timestamp::from_millis((20_000 * 24 + hour) * 3_600_000 + 1);
        let mut seen = std::collections::BTreeSet::new();
        for hour in 0..24 {
            let names = Names::of(Period::Hour, at(hour));
            assert_eq!(names.money, format!("h{hour:02}_us"));
            seen.extend([names.money, names.money_reserved, names.tokens, names.tokens_reserved]);
        }
        assert_eq!(seen.len(), 96);
        assert_eq!(Names::of(Period::Hour, at(24)).money, "h00_us");
    }
}
