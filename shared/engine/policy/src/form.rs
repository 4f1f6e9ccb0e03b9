//! The form of `policy.yaml`. Values carry their position, so that a fault that is found later
//! still names its line.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;
use watchbill_domain::Switch;

/// A text and its position.
pub type Text = Spanned<String>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    pub gates: Gates,
    /// How many must approve if no rule says otherwise.
    pub quorum: Option<Spanned<u8>>,
    pub environments: Environments,
    /// If missing, the built-in rules apply.
    pub tools: Option<Vec<Spanned<Tool>>>,
    pub inventory: Inventory,
    pub freezes: Vec<Spanned<Freeze>>,
    pub limits: Limits,
    pub prices: BTreeMap<String, Price>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gates {
    /// `off` switches off the standing gates, not the rules below.
    pub all: Option<Switch>,
    pub priorities: Option<Vec<Text>>,
    /// `all` or `mutating`: which work of these priorities requires approval.
    pub priorities_for: Option<Text>,
    pub production: Option<Vec<Text>>,
    pub feature_flags: Option<bool>,
    pub rules: Vec<Spanned<GateRule>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateRule {
    pub name: Text,
    #[serde(default)]
    pub types: Vec<Text>,
    pub when: Option<Text>,
    pub reason: Option<String>,
    pub quorum: Option<Spanned<u8>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Environments {
    pub production: Vec<Text>,
    pub staging: Vec<Text>,
    pub sandbox: Vec<Text>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    pub name: Text,
    #[serde(default)]
    pub agents: Vec<Text>,
    #[serde(default)]
    pub tools: Vec<Text>,
    #[serde(default)]
    pub environments: Vec<Text>,
    pub when: Option<Text>,
    pub say: RuleEffectForm,
    pub reason: Option<String>,
    pub quorum: Option<Spanned<u8>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleEffectForm {
    Allow,
    Ask,
    Deny,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inventory {
    pub projects: Vec<Text>,
    pub services: Vec<Text>,
    pub repositories: Vec<Text>,
    pub hosts: Vec<Text>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    pub name: Text,
    pub reason: Option<String>,
    #[serde(default)]
    pub environments: Vec<Text>,
    pub from: Option<Text>,
    pub until: Option<Text>,
    pub weekly: Option<Weekly>,
    #[serde(default, rename = "override")]
    pub passed_by: Override,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weekly {
    /// A name of the IANA table, such as `Europe/Berlin`.
    pub zone: Text,
    /// A weekday and a time, such as `fri 18:00`.
    pub from: Text,
    pub until: Text,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Override {
    pub roles: Vec<Text>,
    pub names: Vec<Text>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub day: Limit,
    pub hour: Limit,
    pub task: Limit,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    pub usd: Option<Spanned<f64>>,
    pub tokens: Option<u64>,
}

/// US dollars per million tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub input_usd: Spanned<f64>,
    pub output_usd: Spanned<f64>,
}
