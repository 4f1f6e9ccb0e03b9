//! Money and tokens: amounts, prices, usage of a call and reservations.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// Money and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Millionths of a US dollar.
    #[serde(rename = "us")]
    pub micro_usd: u64,
    #[serde(rename = "tk")]
    pub tokens: u64,
}

/// Price of a model, in millionths of a US dollar per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    #[serde(rename = "i")]
    pub input: u64,
    #[serde(rename = "o")]
    pub output: u64,
}

impl Price {
    /// Cost of this usage: money, rounded up, and tokens.
    pub fn cost(self, usage: Usage) -> Amount {
        let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
        Amount { micro_usd: self.of(usage), tokens }
    }

    /// Cost of this usage in millionths of a US dollar, rounded up.
    pub fn of(self, usage: Usage) -> u64 {
        let part = |price: u64, tokens: u64| u128::from(price) * u128::from(tokens);
        let sum = part(self.input, usage.input_tokens) + part(self.output, usage.output_tokens);
        u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}

/// Tokens that a model call used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub input_tokens: u64,
    pub output_tokens: u64,
}

/// Budget that a task has reserved for a model call in progress. Stored in the task's header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reservation {
    /// The task version that created it. It tells reservations of one task apart.
    #[serde(rename = "n")]
    pub n: u64,
    /// The most that the call can cost.
    #[serde(rename = "a")]
    pub amount: Amount,
    /// When it was made. Decides the day and the hour that it counts in.
    #[serde(rename = "at")]
    pub at: Timestamp,
    /// The fence of the run that made it.
    #[serde(rename = "f")]
    pub fence: u64,
    /// The call may have been sent. If its usage is never reported, the reservation counts as
    /// spent.
    #[serde(rename = "s", default)]
    pub sent: bool,
    /// The price at which the call is settled, even if the policy changes meanwhile. `None` in
    /// reservations of earlier versions, which are charged as estimated.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (money, tokens) = (Resource::Money, Resource::Tokens);
        write!(f, "{}, {}", money.show(self.micro_usd), tokens.show(self.tokens))
    }
}

impl Amount {
    pub const NONE: Amount = Amount { micro_usd: 0, tokens: 0 };

    #[must_use]
    pub fn plus(self, other: Amount) -> Self {
        Self {
            micro_usd: self.micro_usd.saturating_add(other.micro_usd),
            tokens: self.tokens.saturating_add(other.tokens),
        }
    }

    pub fn of(self, resource: Resource) -> u64 {
        match resource {
            Resource::Money => self.micro_usd,
            Resource::Tokens => self.tokens,
        }
    }
}

/// The resource that a budget limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Money,
    Tokens,
}

impl Resource {
    pub const ALL: [Resource; 2] = [Resource::Money, Resource::Tokens];

    /// Text for people: `$1.50`, `1200 tokens`.
    pub fn show(self, n: u64) -> String {
        match self {
            // Two decimals if the amount is a whole number of cents.
            Resource::Money if n.is_multiple_of(10_000) => format!("${:.2}", n as f64 / 1e6),
            Resource::Money => format!("${:.6}", n as f64 / 1e6),
            Resource::Tokens => format!("{n} tokens"),
        }
    }
}
