//! The reputation settings.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::Deserialize;
use watchbill_domain::ReputationEvent;
use watchbill_governance::{Level, ReputationRules};

use super::{SettingError, span};

/// Score changes of agents, and the trust levels that reputation gives.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReputationForm {
    pub start: Option<u16>,
    pub most: Option<u16>,
    /// Points by event. Events that are not named keep their points.
    pub deltas: BTreeMap<String, i16>,
    /// Lowest reputation by trust level. Levels that are not named keep theirs.
    pub levels: BTreeMap<String, u16>,
    pub decay: DecayForm,
    pub alert_below: Option<u16>,
    /// Points that an agent may get in a UTC day from runs that change nothing.
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
            return Err(fault(
                "decay.percent",
                format!("{percent} is not between 0 and 100 percent"),
            ));
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

/// Refuses scores that no agent can reach.
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

/// Levels are cumulative, so each begins no lower than the previous one.
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
