//! Budgets: limits, periods, prices, and how a call reserves and settles its cost.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use watchbill_domain::{Amount, Price, Resource, Timestamp, Usage};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    Day,
    Hour,
    Task,
}

/// Spending limits of each period, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetLimits {
    pub day: Amount,
    pub hour: Amount,
    pub task: Amount,
}

impl Default for BudgetLimits {
    fn default() -> Self {
        let of = |micro_usd, tokens| Amount { micro_usd, tokens };
        Self { day: of(5_000_000, 100_000), hour: of(1_000_000, 20_000), task: of(500_000, 10_000) }
    }
}

/// The most that a call can cost, and the price that it will be settled at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallCost {
    pub amount: Amount,
    pub price: Option<Price>,
}

impl From<Amount> for CallCost {
    /// An amount without a price: it is settled at the reported cost, or as it is.
    fn from(amount: Amount) -> Self {
        Self { amount, price: None }
    }
}

/// Prices by model. An unknown model has the price of the most expensive known one.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Prices(pub BTreeMap<String, Price>);

/// No model may be called before prices are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no model has a price; set 'prices' in the policy: for each model, its price for a million \
     input and output tokens"
)]
pub struct NoPrices;

impl Prices {
    /// Cost of a call with this usage.
    pub fn cost(&self, model: &str, usage: Usage) -> Result<Amount, NoPrices> {
        Ok(self.price(model, usage)?.cost(usage))
    }

    /// The most that a call can cost, with the price that is fixed for it. An unknown model has
    /// the price of the known one that would cost most for this usage.
    pub fn quote(&self, model: &str, most: Usage) -> Result<CallCost, NoPrices> {
        let price = self.price(model, most)?;
        Ok(CallCost { amount: price.cost(most), price: Some(price) })
    }

    fn price(&self, model: &str, usage: Usage) -> Result<Price, NoPrices> {
        let known = self.0.get(model);
        let dearest = || self.0.values().max_by_key(|price| price.of(usage));
        known.or_else(dearest).copied().ok_or(NoPrices)
    }
}

/// Usage and limit of one period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeriodState {
    pub used: Amount,
    pub reserved: Amount,
    pub limit: Amount,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetState {
    pub day: PeriodState,
    pub hour: PeriodState,
}

/// How close a period is to its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BudgetThreshold {
    Ok,
    /// 80 % and more.
    Warning,
    /// 95 % and more.
    Critical,
}

impl BudgetThreshold {
    pub fn as_str(self) -> &'static str {
        match self {
            BudgetThreshold::Ok => "ok",
            BudgetThreshold::Warning => "warning",
            BudgetThreshold::Critical => "critical",
        }
    }
}

impl PeriodState {
    /// Used and reserved as percent of the limit: the larger of money and tokens. With a limit
    /// of zero, any use is 100 %.
    pub fn percent(&self) -> u64 {
        let of = |used: u64, reserved: u64, limit: u64| {
            let sum = u128::from(used) + u128::from(reserved);
            match (sum, limit) {
                (0, _) => 0,
                (_, 0) => 100,
                _ => u64::try_from(sum * 100 / u128::from(limit)).unwrap_or(u64::MAX),
            }
        };
        let money = of(self.used.micro_usd, self.reserved.micro_usd, self.limit.micro_usd);
        money.max(of(self.used.tokens, self.reserved.tokens, self.limit.tokens))
    }

    pub fn mark(&self) -> BudgetThreshold {
        match self.percent() {
            0..80 => BudgetThreshold::Ok,
            80..95 => BudgetThreshold::Warning,
            _ => BudgetThreshold::Critical,
        }
    }
}

impl Period {
    pub fn as_str(self) -> &'static str {
        match self {
            Period::Day => "day",
            Period::Hour => "hour",
            Period::Task => "task",
        }
    }
}

/// A call that exceeds a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetExceeded {
    pub period: Period,
    pub resource: Resource,
    pub limit: u64,
    /// Used or reserved.
    pub used: u64,
    /// The most that the call could have cost.
    pub asked: u64,
}

impl BudgetExceeded {
    /// The first of money and tokens that the call would exceed.
    pub fn found(period: Period, limit: Amount, used: Amount, asked: Amount) -> Option<Self> {
        let exceeds = |resource: Resource| {
            let (limit, used, asked) = (limit.of(resource), used.of(resource), asked.of(resource));
            let over = asked > 0 && used.saturating_add(asked) > limit;
            over.then_some(Self { period, resource, limit, used, asked })
        };
        Resource::ALL.into_iter().find_map(exceeds)
    }
}

impl fmt::Display for BudgetExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |n| self.resource.show(n);
        let (limit, used, asked) = (show(self.limit), show(self.used), show(self.asked));
        write!(f, "Budget exceeded: of the limit of {limit} ")?;
        match self.period {
            Period::Day => write!(f, "a day (UTC), {used} is used or reserved")?,
            Period::Hour => write!(f, "an hour, {used} is used or reserved")?,
            Period::Task => write!(f, "a task, {used} is used")?,
        }
        write!(f, ", and the call could cost {asked}; ")?;
        match self.period {
            Period::Day => f.write_str("wait for tomorrow, or have an admin raise the limit"),
            Period::Hour => f.write_str("wait for the next hour, or have an admin raise the limit"),
            Period::Task => f.write_str("make the task smaller, or have an admin raise the limit"),
        }
    }
}

/// A change of what a tenant has used and reserved, written in the same commit as the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetMove {
    /// When the reservation was made. Decides the day and the hour that it counts in.
    pub at: Timestamp,
    pub kind: BudgetMoveKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetMoveKind {
    /// Reserves the amount if it is within the limits.
    Reserve { amount: Amount, limits: BudgetLimits },
    /// Replaces the reserved amount by the used one, which may be larger.
    Settle { reserved: Amount, used: Amount },
}
