//! Agents, budgets and freezes over HTTP.

use watchbill_core::decide::{Command, EngineConfig, RunResult, VersionedAuthorization};
use watchbill_domain::ReputationEvent::{TaskFailure, TaskSuccess};
use watchbill_domain::{Body, Outcome, Role, TaskId, TenantId, Timestamp};
use watchbill_governance::{Freeze, FreezeWhen, Policy};
use watchbill_wire::{ApprovalView, render_approval};

use crate::common::{ADMIN, AGENT, APPROVER, Api, OTHER, USER, api, api_under, ask, config};
use serde_json::{Value, json};

/// Creates a task of the agent, ends a run of it with `status`, and records it.
async fn ended(api: &Api, status: &str) -> String {
    let made = api.create(json!({"type": "monitor", "payload": {"service": "system"}})).await;
    let id = made["task_id"].as_str().unwrap().to_owned();
    let (tenant, task) = (TenantId::default(), TaskId::parse(&id).unwrap());
    let stored = api.core.tasks().stored(&tenant, &task).await.unwrap().unwrap();
    let (agent, assignment) = (stored.value.agent, stored.value.assignment);
    let authorization = VersionedAuthorization::granted(stored.version);
    let claim = Command::Claim { agent, owner: "lambda:1".into(), assignment, authorization };
    let fence = api.core.tasks().command(&tenant, &task, &claim).await.unwrap().value.fence;
    let (ending, score_delta) = match status {
        "completed" => (RunResult::Succeeded { result: Body::default() }, TaskSuccess),
        _ => {
            let error = "it broke, password=hunter2".to_owned();
            (RunResult::FailedForGood { error }, TaskFailure)
        }
    };
    let reputation = vec![api.core.rules().reputation.score_delta(score_delta)];
    let outcome = Outcome { reputation, ..Outcome::default() };
    let end = Command::End { fence, ending, events: Vec::new(), notes: Vec::new(), outcome };
    api.core.tasks().command(&tenant, &task, &end).await.unwrap();
    api.record(&id).await;
    id
}

/// A task that an external worker ends counts for that worker, and for no agent.
#[tokio::test]
async fn an_external_worker_has_its_own_reputation() {
    let api = api();
    let made = api.create(json!({"type": "monitor", "payload": {"service": "system"}})).await;
    let id = made["task_id"].as_str().unwrap();
    let status = format!("/tasks/{id}/status?status=completed");
    assert_eq!(ask("PATCH", &status).key(AGENT).of(&api).await.status, 200);
    api.record(id).await;
    api.clock.advance(std::time::Duration::from_secs(2));
    let listed = get(&api, "/agents").await;
    assert_eq!(listed["agents"][0]["score"], 100.0, "{listed}");
    assert_eq!(listed["workers"][0]["score"], 102.0, "{listed}");
}

async fn get(api: &Api, path: &str) -> Value {
    let got = ask("GET", path).key(USER).of(api).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    got.json()
}

#[tokio::test]
async fn an_agent_shows_its_reputation() {
    let api = api();
    let fresh = get(&api, "/agents/ops").await["agent"].clone();
    assert_eq!(
        (&fresh["name"], &fresh["score"], &fresh["level"], &fresh["last_heartbeat"]),
        (&json!("ops_agent"), &json!(100.0), &json!("sandbox_only"), &Value::Null)
    );
    assert_eq!(
        (&fresh["next_level"], &fresh["points_to_next"]),
        (&json!("staging_access"), &json!(0.0)),
        "its first success lifts it"
    );
    let may = fresh["allowed_operations"].as_array().unwrap();
    assert!(may.contains(&json!("deploy_sandbox")) && !may.contains(&json!("deploy_staging")));

    ended(&api, "completed").await;
    api.clock.advance(std::time::Duration::from_secs(2));
    let lifted = get(&api, "/agents/ops_agent").await["agent"].clone();
    assert_eq!((&lifted["score"], &lifted["level"]), (&json!(102.0), &json!("staging_access")));
    assert_eq!(
        (&lifted["next_level"], &lifted["points_to_next"]),
        (&json!("prod_low_risk"), &json!(28.0))
    );
    assert!(lifted["last_heartbeat"].is_string());
    assert!(lifted["allowed_operations"].as_array().unwrap().contains(&json!("deploy_staging")));
    assert_eq!(lifted["tasks"]["completed"], 1);
    let listed = get(&api, "/agents").await;
    assert_eq!((&listed["count"], &listed["agents"][0]["score"]), (&json!(2), &json!(102.0)));
    assert_eq!(listed["agents"][1]["score"], 100.0);
    let elsewhere = ask("GET", "/agents/ops").key(OTHER).of(&api).await.json();
    assert_eq!(elsewhere["agent"]["score"], 100.0, "each tenant has its own trust");
}

#[tokio::test]
async fn what_changed_a_score_is_listed_newest_first() {
    let api = api();
    let done = ended(&api, "completed").await;
    let failed = ended(&api, "failed").await;
    let first = get(&api, "/agents/ops/events?limit=1").await;
    let newest = &first["events"][0];
    assert_eq!(
        (&newest["event"], &newest["delta"], &newest["task_id"]),
        (&json!("task_failure"), &json!(-3), &json!(failed))
    );
    assert_eq!(newest["reason"], "it broke, password=***");
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = get(&api, &format!("/agents/ops/events?limit=5&cursor={cursor}")).await;
    assert_eq!(
        (&rest["events"][0]["event"], &rest["events"][0]["task_id"], &rest["count"]),
        (&json!("task_success"), &json!(done), &json!(1))
    );
    assert_eq!(get(&api, "/agents/dev/events").await["count"], 0);
}

#[tokio::test]
async fn an_unknown_agent_is_refused_by_name() {
    let api = api();
    for path in ["/agents/cook", "/agents/cook/events"] {
        let problem = ask("GET", path).key(USER).of(&api).await.problem(400);
        assert!(problem["detail"].as_str().unwrap().contains("cook"), "{problem}");
    }
    let none = ask("GET", "/agents/faq").key(USER).of(&api).await;
    assert!(none.problem(404)["detail"].as_str().unwrap().contains("faq"));
}

#[tokio::test]
async fn a_budget_shows_its_periods_and_takes_limits() {
    let api = api();
    let budget = get(&api, "/budget").await;
    let expected = json!({
        "used": {"usd": 0.0, "tokens": 0}, "reserved": {"usd": 0.0, "tokens": 0},
        "limit": {"usd": 5.0, "tokens": 100_000}, "percent": 0, "status": "ok",
        "resets_at": "2025-10-21T00:00:00.000Z",
    });
    assert_eq!(budget["day"], expected);
    assert_eq!(budget["hour"]["resets_at"], "2025-10-20T11:00:00.000Z");
    assert_eq!(budget["task"], json!({"limit": {"usd": 0.5, "tokens": 10_000}}));

    let body = json!({"day_usd": 12.345678, "hour_tokens": 7});
    let set = ask("PUT", "/budget/limits").key(ADMIN).json(&body).of(&api).await;
    assert_eq!(set.status, 200, "{:?}", set.body);
    for budget in [set.json(), get(&api, "/budget").await] {
        assert_eq!(budget["day"]["limit"], json!({"usd": 12.345678, "tokens": 100_000}));
        assert_eq!(budget["hour"]["limit"], json!({"usd": 1.0, "tokens": 7}));
    }
    let same = ask("PUT", "/budget/limits").key(ADMIN).json(&json!({})).of(&api).await.json();
    assert_eq!(same["day"]["limit"]["usd"], 12.345678, "what is left out stays");
    let other = ask("GET", "/budget").key(OTHER).of(&api).await.json();
    assert_eq!(other["day"]["limit"]["usd"], 5.0);
}

#[tokio::test]
async fn limits_are_the_admins_and_have_bounds() {
    let api = api();
    let body = json!({"day_usd": 1});
    for key in [USER, AGENT, APPROVER] {
        ask("PUT", "/budget/limits").key(key).json(&body).of(&api).await.problem(403);
    }
    for (field, value) in [
        ("day_usd", json!(-0.01)),
        ("day_usd", json!("5")),
        ("hour_usd", json!(1_000_000.5)),
        ("task_tokens", json!(1.5)),
        ("task_tokens", json!(-1)),
    ] {
        let body = json!({ field: value });
        let problem =
            ask("PUT", "/budget/limits").key(ADMIN).json(&body).of(&api).await.problem(400);
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
}

fn frozen() -> Policy {
    let freeze = |name: &str, until: i64, role: Option<Role>, caller: &str| Freeze {
        name: name.into(),
        reason: "the books are closed".into(),
        environments: Default::default(),
        when: FreezeWhen::Once {
            from: Timestamp::from_millis(0),
            until: Timestamp::from_millis(until),
        },
        override_roles: role.into_iter().collect(),
        override_names: [caller.to_owned()].into(),
    };
    let freezes = vec![
        freeze("year-end", i64::MAX / 2, Some(Role::Admin), "alice"),
        freeze("moon", 1, None, "zoe"),
    ];
    Policy { freezes, ..Policy::default() }
}

#[tokio::test]
async fn only_whom_the_freeze_names_lets_a_task_pass_it() {
    let mut config = config();
    config.static_keys.push(crate::common::static_key(
        "carol",
        "carols-key-0123",
        Role::Approver,
        "default",
    ));
    let api = api_under(config, EngineConfig::default(), frozen());
    let made = api.create(json!({"type": "monitor", "payload": {"service": "system"}})).await;
    let id = made["task_id"].as_str().unwrap();
    let path = format!("/tasks/{id}/override");
    let body = |freeze: &str| json!({"freeze": freeze, "reason": "the fix of the outage"});
    let by = |key: &'static str, freeze: &str| ask("POST", &path).key(key).json(&body(freeze));

    by(AGENT, "year-end").of(&api).await.problem(403);
    let refused = by("carols-key-0123", "year-end").of(&api).await.problem(403);
    let said = refused["detail"].as_str().unwrap();
    assert!(
        said.contains("carol") && said.contains("'alice'") && said.contains("'admin'"),
        "{said}"
    );
    by(ADMIN, "moon").of(&api).await.problem(403);
    let unknown = by(ADMIN, "easter").of(&api).await.problem(404);
    let said = unknown["detail"].as_str().unwrap();
    assert!(said.contains("easter") && said.contains("year-end, moon"), "{said}");
    let blank = json!({"freeze": "year-end", "reason": "  "});
    ask("POST", &path).key(ADMIN).json(&blank).of(&api).await.problem(400);
    ask("POST", "/tasks/none/override")
        .key(ADMIN)
        .json(&body("year-end"))
        .of(&api)
        .await
        .problem(404);

    for key in [APPROVER, ADMIN] {
        let got = by(key, "year-end").of(&api).await;
        assert_eq!(got.status, 200, "{:?}", got.body);
    }
    let timeline = get(&api, &format!("/tasks/{id}/timeline")).await;
    let entries = timeline["timeline"].as_array().unwrap();
    let passed: Vec<_> = entries.iter().filter(|entry| entry["what"] == "overridden").collect();
    assert_eq!(passed.len(), 2);
    assert_eq!(passed[0]["by"], "alice");
    assert!(passed[0]["text"].as_str().unwrap().contains("the fix of the outage"));

    let done = json!({"status": "completed"});
    ask("PATCH", &format!("/tasks/{id}/status")).key(AGENT).json(&done).of(&api).await;
    by(ADMIN, "year-end").of(&api).await.problem(409);
}

#[tokio::test]
async fn an_approval_is_read_as_the_approver_is_shown_it() {
    let api = api();
    let payload = json!({"project": "shop", "environment": "production", "token": "hunter2"});
    let made = api.create(json!({"type": "deploy", "payload": payload, "priority": "P1"})).await;
    let id = format!("approval_{}", made["task_id"].as_str().unwrap());
    let approval = get(&api, &format!("/approvals/{id}")).await["approval"].clone();
    assert_eq!(approval["shown"]["target"]["project"], "shop");
    assert_eq!(approval["shown"]["payload"]["token"], "***");
    assert_eq!((&approval["quorum"], &approval["votes"]), (&json!(1), &json!([])));
    let text = approval["text"].as_str().unwrap().to_owned();
    let view: ApprovalView = serde_json::from_value(approval).unwrap();
    assert_eq!(text, render_approval(&view), "one rendering for all");
    assert!(text.contains("project: shop") && text.contains(&view.plan_hash), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let pending = get(&api, "/approvals/pending").await;
    assert!(pending["approvals"][0].get("text").is_none(), "lists are shorter");
}
