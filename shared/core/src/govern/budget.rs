use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;

/// Money and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Millionths of a US dollar.
    #[serde(rename = "us")]
    pub micro_usd: u64,
    #[serde(rename = "tk")]
    pub tokens: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    Day,
    Hour,
    Task,
}

/// The most that may be spent in each period, UTC.
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

/// What a model costs: millionths of a US dollar for a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    pub input: u64,
    pub output: u64,
}

/// Prices by model; one that is not known is priced as the dearest known.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Prices(pub BTreeMap<String, Price>);

/// What a model's call used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub input_tokens: u64,
    pub output_tokens: u64,
}

/// What a task has set aside for a model's call that is under way; stands in its header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reservation {
    /// Counts up within the task.
    #[serde(rename = "n")]
    pub n: u32,
    /// The most that the call can cost.
    #[serde(rename = "a")]
    pub amount: Amount,
    /// When it was made: says of which day and hour it is.
    #[serde(rename = "at")]
    pub at: Timestamp,
    /// The run that made it.
    #[serde(rename = "f")]
    pub fence: u64,
    /// The call may have been sent: if nothing more is heard it counts as spent.
    #[serde(rename = "s", default)]
    pub sent: bool,
}

/// One period as it stands.
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
