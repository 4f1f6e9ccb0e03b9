//! Scenarios of SLA warnings and violations.

use serde_json::{Value, json};

use super::tasks::id;
use crate::e2e::{Backend, Settings, World};

/// Milliseconds since 1970 of an API timestamp, which is in UTC with milliseconds.
fn millis(text: &Value) -> i64 {
    let text = text.as_str().expect("a timestamp");
    let number = |from: usize, to: usize| -> i64 {
        text.get(from..to).and_then(|digits| digits.parse().ok()).expect("RFC 3339 in UTC")
    };
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    // Howard Hinnant's days_from_civil, with March as the first month of a year.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * m + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + number(11, 13) * 3_600 + number(14, 16) * 60 + number(17, 19);
    seconds * 1_000 + number(20, 23)
}

/// Seconds until the deadline. The two marks must be further apart than the time it may take to
/// notice one, because of two marks that have passed only the later one is reported.
fn target<B: Backend>(world: &World<B>) -> u64 {
    2 * world.backend.late().as_secs()
}

/// Checks that both marks of a task that no one works on are reported in time.
async fn marks<B: Backend>(world: &World<B>, body: Value, status: &str) {
    let task = world.agent.submit(body).await;
    let (created, deadline) = (millis(&task["created_at"]), millis(&task["sla"]["deadline"]));
    let span = 1_000 * i64::try_from(target(world)).expect("a short span");
    let warning = span * 3 / 10;
    assert_eq!(deadline - created, span);
    let events = world.user.events_until(&id(&task), "sla.violation").await;
    let at = |event_type: &str| -> i64 {
        let found: Vec<_> = events.iter().filter(|e| e["event_type"] == event_type).collect();
        assert_eq!(found.len(), 1, "{event_type} once: {events:?}");
        millis(&found[0]["timestamp"])
    };
    let late = i64::try_from(world.backend.late().as_millis()).expect("a short span");
    let (warned, violated) = (at("sla.warning") - created, at("sla.violation") - created);
    assert!((warning..=warning + late).contains(&warned), "warned after {warned} ms of {span}");
    assert!((span..=span + late).contains(&violated), "violated after {violated} ms of {span}");
    assert_eq!(world.user.task(&id(&task)).await["status"], status, "a report changes no status");

    // A violation raises an alert: one task for all of a priority, until that task has ended.
    let raised = world.user.tasks_once_there("type=alert").await;
    let raised = world.user.until(&id(&raised[0]), "completed").await;
    let folded = format!("{} tasks", task["priority"].as_str().expect("a priority"));
    assert_eq!(raised["payload"]["target"], folded);
    let message = raised["payload"]["message"].as_str().expect("it says what happened");
    assert!(message.ends_with("is past its deadline"), "{message}");
    assert_eq!(raised["payload"]["alert_type"], "sla_violation");
    world.agent.post(&format!("/tasks/{}/cancel", id(&task)), json!({})).await.ok();
}

pub async fn sla_marks_are_reported_while_a_task_waits_for_approval<B: Backend>() {
    let world = World::<B>::start(Settings { warn_at: Some(30), ..Settings::default() }).await;
    let payload = json!({"service": "system"});
    let target = format!("{}s", target(&world));
    let body =
        json!({"type": "monitor", "payload": payload, "priority": "P1", "sla_target": target});
    marks(&world, body, "pending").await;
    world.end().await;
}

pub async fn sla_marks_are_reported_while_a_task_waits_for_a_worker<B: Backend>() {
    assert_eq!(millis(&json!("2026-11-20T11:48:21.561Z")), 1_795_175_301_561);
    let world = World::<B>::start(Settings {
        warn_at: Some(30),
        external: &["dev"],
        ..Settings::default()
    })
    .await;
    let payload = json!({"description": "x"});
    let body = json!({"type": "bugfix", "payload": payload, "sla_target": target(&world)});
    marks(&world, body, "assigned").await;
    world.end().await;
}
