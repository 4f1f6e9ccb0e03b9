use std::collections::BTreeMap;
use std::fmt::Display;

use serde::Deserialize;
use watchbill_domain::ReputationEvent;
use watchbill_governance::{Level, ReputationRules};

use super::{SettingError, span};

/// What agents earn, and what their scores are good for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReputationForm {
    pub start: Option<u16>,
    pub most: Option<u16>,
    /// Event → points; those that are not named keep theirs.
    pub deltas: BTreeMap<String, i16>,
    /// Level → its lowest score; those that are not named keep theirs.
    pub levels: BTreeMap<String, u16>,
    pub decay: DecayForm,
    pub alert_below: Option<u16>,
    /// Points that runs which change nothing may earn an agent in a UTC day.
    pub read_only_per_day: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecayForm {
    pub percent: Option<u8>,
    pub every: Option<String>,
    pub floor: Option<u16>,
}

impl ReputationForm {
    pub(super) fn set(&self, rules: &mut ReputationRules) -> Result<(), SettingError> {
        rules.most = self.most.unwrap_or(rules.most);
        rules.start = self.start.unwrap_or(rules.start);
        rules.alert_below = self.alert_below.unwrap_or(rules.alert_below);
        rules.read_only_per_day = self.read_only_per_day.unwrap_or(rules.read_only_per_day);
        for (event, delta) in &self.deltas {
            let event = ReputationEvent::parse(event).map_err(|e| fault("deltas", e))?;
            rules.deltas.insert(event, *delta);
        }
        for (level, from) in &self.levels {
            let level = Level::parse(level).map_err(|e| fault("levels", e))?;
            rules.levels.insert(level, *from);
        }
        rules.decay_percent = self.decay.percent.unwrap_or(rules.decay_percent);
        if rules.decay_percent > 100 {
            let percent = rules.decay_percent;
            return Err(fault("decay.percent", format!("{percent} is not 0 to 100 percent")));
        }
        span(&mut rules.decay_every, "reputation.decay.every", &self.decay.every)?;
        rules.decay_floor = self.decay.floor.unwrap_or(rules.decay_floor);
        within_most(rules)?;
        levels_rise(rules)
    }
}

fn fault(setting: &str, fault: impl Display) -> SettingError {
    SettingError::new(&format!("reputation.{setting}"), fault)
}

/// Scores that no agent can come to are mistakes.
fn within_most(rules: &ReputationRules) -> Result<(), SettingError> {
    let most = rules.most;
    let levels = rules.levels.iter().map(|(level, from)| (format!("levels.{level}"), *from));
    let scores = [
        ("start".to_owned(), rules.start),
        ("decay.floor".to_owned(), rules.decay_floor),
        ("alert_below".to_owned(), rules.alert_below),
    ];
    for (name, score) in scores.into_iter().chain(levels) {
        if score > most {
            let why = format!("{score} is above the highest score, {most} (reputation.most)");
            return Err(fault(&name, why));
        }
    }
    Ok(())
}

/// Levels add up, so each begins no lower than the one before.
fn levels_rise(rules: &ReputationRules) -> Result<(), SettingError> {
    let mut before = (Level::SandboxOnly, 0);
    for (level, from) in &rules.levels {
        if *level == Level::SandboxOnly && *from > 0 {
            let why = format!("{from}: everyone has the lowest level, so it begins at 0");
            return Err(fault("levels.sandbox_only", why));
        }
        if *from < before.1 {
            let (lower, its) = before;
            let why = format!("{from} is below {its}, where {lower} begins");
            return Err(fault(&format!("levels.{level}"), why));
        }
        before = (*level, *from);
    }
    Ok(())
}
