//! Requests for budget limits and for overriding a freeze.

use watchbill_domain::Amount;
use watchbill_governance::BudgetLimits;

use super::{line, shown, words};
use crate::form::{BadForm, Field, FieldType, Form};

/// Upper bounds of limits, for any period: far above real spending, far below an overflow.
const MAX_USD: u32 = 1_000_000;
const MAX_TOKENS: u64 = 1_000_000_000_000;

const fn usd(name: &'static str, doc: &'static str) -> Field {
    Field::optional(name, FieldType::Dollars { most: MAX_USD }, doc)
}

const fn tokens(name: &'static str, doc: &'static str) -> Field {
    Field::optional(name, FieldType::Int { least: 0, most: MAX_TOKENS }, doc)
}

/// Money and tokens as in [`AmountView`](crate::AmountView).
const AMOUNT: &[Field] =
    &[usd("usd", "US dollars that may be spent."), tokens("tokens", "Tokens that models may use.")];

/// A period as in the response of `GET /budget`.
const PERIOD: &[Field] = &[
    usd("usd", "The same as `usd` in `limit`; takes precedence over it."),
    tokens("tokens", "The same as `tokens` in `limit`; takes precedence over it."),
    Field::optional("limit", FieldType::Form(AMOUNT), "The limit."),
    shown("used"),
    shown("reserved"),
    shown("percent"),
    shown("status"),
    shown("resets_at"),
];

const fn period(name: &'static str, doc: &'static str) -> Field {
    Field::optional(name, FieldType::Form(PERIOD), doc)
}

/// The body of `PUT /budget/limits`: the limits by their names, or in the form that `GET
/// /budget` returns. Omitted limits stay unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetLimits {
    day: Change,
    hour: Change,
    task: Change,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Change {
    micro_usd: Option<u64>,
    tokens: Option<u64>,
}

impl Change {
    fn read(form: &mut Form, usd: &'static str, tokens: &'static str) -> Self {
        Self { micro_usd: form.micro_dollars(usd), tokens: form.int(tokens) }
    }

    fn or(self, other: Option<Self>) -> Self {
        let other = other.unwrap_or_default();
        Self { micro_usd: self.micro_usd.or(other.micro_usd), tokens: self.tokens.or(other.tokens) }
    }
}

impl SetLimits {
    pub const FIELDS: &[Field] = &[
        usd("day_usd", "US dollars that may be spent in a day, UTC."),
        tokens("day_tokens", "Tokens that models may use in a day, UTC."),
        usd("hour_usd", "US dollars that may be spent in an hour."),
        tokens("hour_tokens", "Tokens that models may use in an hour."),
        usd("task_usd", "US dollars that one task may spend."),
        tokens("task_tokens", "Tokens that one task may use."),
        period("day", "The day as in the response; `day_usd` and `day_tokens` take precedence."),
        period(
            "hour",
            "The hour as in the response; `hour_usd` and `hour_tokens` take precedence.",
        ),
        period(
            "task",
            "One task as in the response; `task_usd` and `task_tokens` take precedence.",
        ),
        shown("success"),
    ];

    pub fn read(body: &[u8]) -> Result<Self, BadForm> {
        let mut form = Form::from_json(Self::FIELDS, body)?;
        let mut change = |usd, tokens, period| {
            let named = Change::read(&mut form, usd, tokens);
            named.or(form.nested(period, |form| {
                let direct = Change::read(form, "usd", "tokens");
                direct.or(form.nested("limit", |form| Change::read(form, "usd", "tokens")))
            }))
        };
        let set = Self {
            day: change("day_usd", "day_tokens", "day"),
            hour: change("hour_usd", "hour_tokens", "hour"),
            task: change("task_usd", "task_tokens", "task"),
        };
        form.done().map(|()| set)
    }

    /// Whether the request changes no limit.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn applied_to(self, limits: BudgetLimits) -> BudgetLimits {
        let apply = |change: Change, old: Amount| Amount {
            micro_usd: change.micro_usd.unwrap_or(old.micro_usd),
            tokens: change.tokens.unwrap_or(old.tokens),
        };
        BudgetLimits {
            day: apply(self.day, limits.day),
            hour: apply(self.hour, limits.hour),
            task: apply(self.task, limits.task),
        }
    }
}

/// The body of `POST /tasks/{id}/override`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverrideFreeze {
    pub freeze: String,
    pub reason: String,
}

impl OverrideFreeze {
    pub const FIELDS: &[Field] = &[
        Field::required("freeze", line(128), "The freeze's name in the policy."),
        Field::required(
            "reason",
            words(500, "a string of at most 500 characters that is not blank"),
            "Why the task can't wait; it is recorded and displayed.",
        ),
    ];

    pub fn read(body: &[u8]) -> Result<Self, BadForm> {
        let mut form = Form::from_json(Self::FIELDS, body)?;
        let (freeze, reason) = (form.text("freeze"), form.text("reason"));
        form.done()?;
        let (Some(freeze), Some(reason)) = (freeze, reason) else {
            unreachable!("the form refuses a missing required field");
        };
        Ok(Self { freeze, reason })
    }
}
