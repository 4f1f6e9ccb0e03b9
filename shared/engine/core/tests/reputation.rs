//! Scores and levels as tables: the result of each event of a stream.

use std::time::Duration;

use proptest::prelude::*;
use watchbill_domain::{
    Agent, Outcome, ReputationEvent, ScoreDelta, TaskEntry, TenantId, Timestamp,
};
use watchbill_governance::{Level, ReputationChange, ReputationProjection, ReputationRules};
use watchbill_testkit::a_completion;

use Level::{ProdFullAccess, ProdLowRisk, SandboxOnly, StagingAccess};
use ReputationEvent::*;

const DAY: Duration = Duration::from_secs(86_400);

fn start() -> Timestamp {
    Timestamp::parse("2026-01-05T10:00:00Z").unwrap()
}

fn entry(n: u64, at: Timestamp, reputation: Vec<ScoreDelta>) -> TaskEntry {
    a_completion(n, at, Outcome { reputation, ..Outcome::default() })
}

/// Applies a stream of (days since the start, event) and checks score, level and the number of
/// reported changes after each event.
fn check(rules: &ReputationRules, rows: &[(u64, ReputationEvent, f64, Level, usize)]) {
    let mut fold = ReputationProjection::default();
    for (n, (days, event, score, level, told)) in rows.iter().enumerate() {
        let at = start().plus(DAY * u32::try_from(*days).unwrap());
        let changes =
            fold.apply_entry(&entry(n as u64, at, vec![rules.score_delta(*event)]), rules);
        let standing = fold.standing(Agent::Ops, at, rules);
        let row = format!("row {n}: {event} on day {days}");
        assert_eq!((standing.score(), standing.level), (*score, *level), "{row}");
        assert_eq!(changes.len(), *told, "{row}: {changes:?}");
    }
}

#[test]
fn a_new_agent_stands_at_100_with_the_lowest_level_until_its_first_success() {
    let rules = ReputationRules::default();
    let new = ReputationProjection::default().standing(Agent::Ops, start(), &rules);
    assert_eq!((new.score(), new.level, new.last), (100.0, SandboxOnly, None));
    let years = start().plus(DAY * 3_650);
    assert_eq!(ReputationProjection::default().standing(Agent::Ops, years, &rules).score(), 100.0);
    check(&rules, &[(0, TaskSuccess, 102.0, StagingAccess, 1)]);
    // Denied first: the level does not rise, though 92 points would be enough.
    check(
        &rules,
        &[
            (0, PermissionDenied, 92.0, SandboxOnly, 0),
            (0, TaskFailure, 89.0, SandboxOnly, 0),
            (0, TaskSuccess, 91.0, StagingAccess, 1),
        ],
    );
}

#[test]
fn every_event_moves_the_score_by_its_own_figure() {
    let rules = ReputationRules::default();
    for (event, score) in [
        (TaskSuccess, 102.0),
        (TaskFailure, 97.0),
        (PermissionDenied, 92.0),
        (BudgetExceeded, 90.0),
        (ViolationDetected, 80.0),
        (HumanEscalation, 92.0),
        (PrMerged, 105.0),
        (PrReverted, 85.0),
        (TestPassed, 102.0),
        (TestFailed, 97.0),
        (CiSuccess, 101.0),
        (CiFailure, 98.0),
    ] {
        let mut fold = ReputationProjection::default();
        fold.apply_entry(&entry(1, start(), vec![rules.score_delta(event)]), &rules);
        assert_eq!(fold.standing(Agent::Ops, start(), &rules).score(), score, "{event}");
    }
}

#[test]
fn levels_follow_the_score_up_on_success_and_down_on_anything() {
    let rules = ReputationRules::default();
    let mut rows = Vec::new();
    let mut score = 100.0;
    let mut level = SandboxOnly;
    // Up to the top in steps of five, then down in steps of fifteen.
    for _ in 0..22 {
        score = f64::min(score + 5.0, 200.0);
        let next = match score {
            s if s >= 160.0 => ProdFullAccess,
            s if s >= 130.0 => ProdLowRisk,
            _ => StagingAccess,
        };
        rows.push((0, PrMerged, score, next, usize::from(next != level)));
        level = next;
    }
    for _ in 0..14 {
        let before = score;
        score = f64::max(score - 15.0, 0.0);
        let next = match score {
            s if s >= 160.0 => ProdFullAccess,
            s if s >= 130.0 => ProdLowRisk,
            s if s >= 90.0 => StagingAccess,
            _ => SandboxOnly,
        };
        let alert = before >= 70.0 && score < 70.0;
        rows.push((0, PrReverted, score, next, usize::from(next != level || alert)));
        level = next;
    }
    assert_eq!(rows.last().map(|row| row.2), Some(0.0), "never below nothing");
    check(&rules, &rows);
}

#[test]
fn each_fall_below_the_alert_line_is_reported() {
    let rules = ReputationRules::default();
    check(
        &rules,
        &[
            (0, ViolationDetected, 80.0, SandboxOnly, 0),
            (0, PermissionDenied, 72.0, SandboxOnly, 0),
            (0, TaskFailure, 69.0, SandboxOnly, 1),
            (0, TaskFailure, 66.0, SandboxOnly, 0),
            (0, PrMerged, 71.0, SandboxOnly, 0),
            (0, CiFailure, 69.0, SandboxOnly, 1),
        ],
    );
}

#[test]
fn each_whole_week_without_an_event_takes_a_hundredth() {
    let rules = ReputationRules::default();
    check(
        &rules,
        &[
            (0, TaskSuccess, 102.0, StagingAccess, 1),
            // Less than a week; then one week, to the thousandth.
            (6, TaskSuccess, 104.0, StagingAccess, 0),
            (13, TaskSuccess, 104.96, StagingAccess, 0),
            // Two weeks and some days: 104.96, 103.910, 102.870.
            (29, CiSuccess, 103.87, StagingAccess, 0),
            // A level lost to idle weeks is reported with the next event.
            (29 + 7 * 20, CiFailure, 82.947, SandboxOnly, 1),
        ],
    );
    let mut fold = ReputationProjection::default();
    let score_delta = vec![rules.score_delta(TaskSuccess)];
    fold.apply_entry(&entry(1, start(), score_delta), &rules);
    let after = |weeks: u32| fold.standing(Agent::Ops, start().plus(DAY * 7 * weeks), &rules);
    assert_eq!((after(12).score(), after(12).level), (90.407, StagingAccess));
    assert_eq!((after(13).score(), after(13).level), (89.502, SandboxOnly), "when it is read");
    assert_eq!(after(70).score(), 50.449);
    assert_eq!((after(71).score(), after(2_000).score()), (50.0, 50.0), "never below 50");
}

#[test]
fn a_score_that_is_below_the_floor_already_stays() {
    let rules = ReputationRules::default();
    let mut fold = ReputationProjection::default();
    let score_delta = vec![rules.score_delta(ViolationDetected); 4];
    fold.apply_entry(&entry(1, start(), score_delta), &rules);
    let later = start().plus(DAY * 700);
    assert_eq!(fold.standing(Agent::Ops, later, &rules).score(), 20.0);
}

#[test]
fn lines_that_are_moved_count_at_the_next_reading_or_the_next_success() {
    let mut rules = ReputationRules::default();
    let mut fold = ReputationProjection::default();
    let score_delta = rules.score_delta(TaskSuccess);
    fold.apply_entry(&entry(1, start(), vec![score_delta]), &rules);
    rules.levels.insert(StagingAccess, 110);
    assert_eq!(fold.standing(Agent::Ops, start(), &rules).level, SandboxOnly);
    rules.levels.insert(StagingAccess, 50);
    rules.levels.insert(ProdLowRisk, 100);
    assert_eq!(fold.standing(Agent::Ops, start(), &rules).level, StagingAccess);
    let next = rules.next(&fold.standing(Agent::Ops, start(), &rules));
    assert_eq!(next, Some((ProdLowRisk, 0.0)), "its next success brings it");
    fold.apply_entry(&entry(2, start(), vec![score_delta]), &rules);
    assert_eq!(fold.standing(Agent::Ops, start(), &rules).level, ProdLowRisk);
}

fn told(changes: &[ReputationChange]) -> Vec<String> {
    let rules = ReputationRules::default();
    changes.iter().map(|change| change.record(&TenantId::default(), &rules).id).collect()
}

#[test]
fn a_record_names_who_what_and_why_and_is_the_same_when_recomputed() {
    let rules = ReputationRules::default();
    let change = || {
        let mut fold = ReputationProjection::default();
        let score_delta =
            vec![rules.score_delta(ViolationDetected), rules.score_delta(ViolationDetected)];
        fold.apply_entry(&entry(1, start(), vec![rules.score_delta(TaskSuccess)]), &rules);
        fold.apply_entry(&entry(2, start(), score_delta), &rules)
    };
    assert_eq!(told(&change()), told(&change()));
    let [fell, below] = &change()[..] else { panic!("{:?}", change()) };
    assert_ne!(told(std::slice::from_ref(fell)), told(std::slice::from_ref(below)));
    let record = fell.record(&TenantId::default(), &rules);
    assert_eq!(
        record.text,
        "ops_agent fell from staging_access to sandbox_only: violation_detected (-20) brought its score to 82"
    );
    assert_eq!(
        (record.subject.as_str(), record.details["delta"].as_i64()),
        ("ops_agent", Some(-20))
    );
    let types = |change: &ReputationChange| -> Vec<String> {
        let record = change.record(&TenantId::default(), &rules);
        record.events.iter().map(|event| event.event_type.to_string()).collect()
    };
    assert_eq!(types(fell), ["reputation.changed"]);
    assert_eq!(types(below), ["reputation.changed", "alert.triggered"]);
}

proptest! {
    /// For any events at any times: scores stay in bounds, only good events raise a level, and
    /// the level never exceeds what the score allows.
    #[test]
    fn scores_stay_in_bounds_and_levels_within_scores(
        stream in prop::collection::vec((0..ReputationEvent::ALL.len(), 0..60u32), 1..80)
    ) {
        let rules = ReputationRules::default();
        let mut fold = ReputationProjection::default();
        let mut level = SandboxOnly;
        for (n, (event, days)) in stream.into_iter().enumerate() {
            let event = ReputationEvent::ALL[event];
            let score_delta = rules.score_delta(event);
            let at = start().plus(DAY * days);
            fold.apply_entry(&entry(n as u64, at, vec![score_delta]), &rules);
            let after = &fold.agents[&Agent::Ops];
            prop_assert!(after.milli <= 200_000);
            prop_assert!(after.level <= rules.level_of(after.milli));
            prop_assert!(after.level <= level || score_delta.1 > 0, "{event} raised a level");
            prop_assert!(after.last.is_some_and(|last| last >= at), "time went back");
            level = after.level;
            let idle = fold.standing(Agent::Ops, at.plus(DAY * 400), &rules);
            prop_assert!(idle.milli <= after.milli && idle.level <= after.level);
            prop_assert!(idle.milli >= after.milli.min(50_000));
        }
    }
}

/// As the recorder does: limited to the day's remaining points, then applied, then kept.
fn record(
    fold: &mut ReputationProjection,
    mut entry: TaskEntry,
    rules: &ReputationRules,
) -> TaskEntry {
    fold.limit(&mut entry, rules);
    fold.apply_entry(&entry, rules);
    entry
}

fn trivial(n: u64, at: Timestamp, reputation: Vec<ScoreDelta>) -> TaskEntry {
    let mut entry = entry(n, at, reputation);
    entry.change.outcome.as_mut().unwrap().read_only = true;
    entry
}

fn points(entry: &TaskEntry) -> Vec<i16> {
    entry.change.outcome.iter().flat_map(|outcome| &outcome.reputation).map(|e| e.1).collect()
}

/// Forty monitor tasks a day, which change nothing: they reach production access in no less
/// than six days.
#[test]
fn read_only_points_are_limited_per_day_and_recorded_with_0_beyond() {
    let rules = ReputationRules::default();
    let (mut fold, mut recorded) = (ReputationProjection::default(), Vec::new());
    let success = || vec![rules.score_delta(TaskSuccess)];
    for day in 0..6 {
        let level = fold.standing(Agent::Ops, start(), &rules).level;
        assert!(level < ProdFullAccess, "day {day}: {level}");
        for n in 0..40 {
            let at = start().plus(DAY * day + Duration::from_secs(n));
            let kept = record(&mut fold, trivial(u64::from(day) * 100 + n, at, success()), &rules);
            assert_eq!(points(&kept), [if n < 5 { 2 } else { 0 }], "run {n} of day {day}");
            recorded.push(kept);
        }
        let standing = fold.standing(Agent::Ops, start().plus(DAY * day), &rules);
        assert_eq!(standing.score(), 100.0 + 10.0 * f64::from(day + 1));
    }
    let at = start().plus(DAY * 5);
    assert_eq!(fold.standing(Agent::Ops, at, &rules).level, ProdFullAccess);
    // Neither mutating work, nor score losses, nor another agent's events are limited.
    let full = record(&mut fold, entry(9_001, at, success()), &rules);
    let bad = record(&mut fold, trivial(9_002, at, vec![rules.score_delta(TaskFailure)]), &rules);
    let mut other = trivial(9_003, at, success());
    other.agent = Agent::Dev;
    let other = record(&mut fold, other, &rules);
    assert_eq!((points(&full), points(&bad), points(&other)), (vec![2], vec![-3], vec![2]));
    recorded.extend([full, bad, other]);
    // A rebuild uses the recorded deltas, even where the limit has changed since.
    for limit in [0, 10, 1_000] {
        let rules = ReputationRules { read_only_per_day: limit, ..rules.clone() };
        let mut rebuilt = ReputationProjection::default();
        recorded.iter().for_each(|entry| _ = rebuilt.apply_entry(entry, &rules));
        assert_eq!(rebuilt, fold);
    }
}

#[test]
fn late_events_do_not_reset_the_daily_limit() {
    let rules = ReputationRules { read_only_per_day: 3, ..ReputationRules::default() };
    let mut fold = ReputationProjection::default();
    let mut earn = |n, days, events: &[ReputationEvent]| {
        let score_delta = events.iter().map(|event| rules.score_delta(*event)).collect();
        points(&record(&mut fold, trivial(n, start().plus(DAY * days), score_delta), &rules))
    };
    assert_eq!(earn(1, 1, &[TaskSuccess, TestPassed, CiFailure]), [2, 1, -2]);
    assert_eq!(earn(2, 1, &[TaskSuccess]), [0]);
    // Recorded late, with a time of an earlier day: counts in the latest day.
    assert_eq!(earn(3, 0, &[TaskSuccess]), [0]);
    assert_eq!(earn(4, 2, &[TaskSuccess]), [2]);
    assert_eq!(earn(5, 1, &[TaskSuccess]), [1]);
    assert_eq!(earn(6, 2, &[TaskSuccess]), [0]);
}

#[test]
fn what_a_worker_ends_counts_for_the_worker_alone() {
    let rules = ReputationRules::default();
    let mut fold = ReputationProjection::default();
    for n in 0..8 {
        let mut ended = entry(n, start(), vec![rules.score_delta(TaskSuccess)]);
        ended.change.outcome.as_mut().unwrap().worker = Some("worker:ci".into());
        record(&mut fold, ended, &rules);
    }
    let agent = fold.standing(Agent::Ops, start(), &rules);
    assert_eq!((agent.score(), agent.level, agent.events), (100.0, SandboxOnly, 0));
    assert_eq!(fold.workers["worker:ci"].score(), 116.0);
    // The projection stays small whatever the number of names: workers without recent events
    // are dropped.
    for n in 0..1_000 {
        let at = start().plus(Duration::from_secs(n));
        let mut ended = entry(n, at, vec![rules.score_delta(TaskSuccess)]);
        ended.change.outcome.as_mut().unwrap().worker = Some(format!("worker:{n}"));
        record(&mut fold, ended, &rules);
    }
    assert_eq!(fold.workers.len(), 256);
    assert!(fold.workers.contains_key("worker:999") && !fold.workers.contains_key("worker:ci"));
}
