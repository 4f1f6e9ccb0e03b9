//! Malformed queue entries, repeated ids, a server that refuses the login, and wrong settings.

use serde_json::{Value, json};
use watchbill_testkit::RedisSetup;

use super::queue::{self, QUEUE};
use super::{TIMEOUT, World};
use crate::support::{Launch, watchbill};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_task_is_rejected_with_its_reason_and_blocks_nothing() {
    let world = World::start(&[("REDIS_DRAIN", "ops"), ("WATCHBILL_GATES", "off")]).await;
    let mut redis = queue::connect(&world.url()).await;
    let mut pipe = redis::pipe();
    queue::put(&mut pipe, "no-json", "{not json");
    queue::put(&mut pipe, "no-type", &queue::data("no-type", json!({"type": "dance"})));
    queue::put(&mut pipe, "other-id", &queue::data("someone", json!({})));
    queue::put(
        &mut pipe,
        "large",
        &queue::data("large", json!({"payload": {"x": "y".repeat(210_000)}})),
    );
    queue::put(&mut pipe, "done", &queue::data("done", json!({"status": "completed"})));
    queue::put(&mut pipe, "good", &queue::data("good", json!({})));
    queue::put(
        &mut pipe,
        "for-dev",
        &queue::data("for-dev", json!({"type": "bugfix", "assigned_to": "dev"})),
    );
    // An id without stored data, and a key of another type under a task's name.
    pipe.cmd("ZADD").arg(QUEUE).arg(2).arg("missing").ignore();
    pipe.cmd("ZADD").arg(QUEUE).arg(1).arg("a-list").ignore();
    pipe.cmd("RPUSH").arg("orchestrator:task:a-list").arg("of someone else").ignore();
    pipe.cmd("ZADD").arg(QUEUE).arg(1).arg(&b"\xff\xfe"[..]).ignore();
    pipe.exec_async(&mut redis).await.expect("redis takes them");
    world.arrives("good", "completed").await;
    let report =
        world.health_until("all rejected", |health| rejected(health) >= 7).await["redis_bridge"]
            .clone();
    let entries: Vec<String> = redis::cmd("LRANGE")
        .arg("watchbill:rejected")
        .arg(0)
        .arg(-1)
        .query_async(&mut redis)
        .await
        .expect("redis answers");
    let mut found: Vec<(String, String)> = entries
        .iter()
        .map(|entry| {
            let entry: Value = serde_json::from_str(entry).expect("JSON");
            assert_eq!(entry["queue"], QUEUE);
            assert!(entry["at"].is_string());
            let text = |name: &str| entry[name].as_str().map(str::to_owned);
            let member = text("member").or(text("member_base64")).expect("what it was");
            (member, text("reason").expect("a reason"))
        })
        .collect();
    found.sort();
    let reason = |id: &str| {
        let one = found.iter().find(|(member, _)| member == id);
        &one.unwrap_or_else(|| panic!("{id} is not rejected: {found:?}")).1
    };
    assert!(reason("no-json").contains("not a JSON object"));
    assert!(reason("no-type").contains("'dance'"));
    assert!(reason("other-id").contains("'someone'"));
    assert!(reason("large").contains("204800"));
    assert!(reason("missing").contains("there is no task under it"));
    assert!(reason("a-list").contains("list"), "{}", reason("a-list"));
    assert_eq!(found.len(), 7, "{found:?}; {report}");
    // A client that waits for such a task sees it fail. Tasks for others stay in the queue.
    let status = |id: &str| {
        let mut ask = redis::cmd("HMGET");
        ask.arg(format!("orchestrator:task:{id}")).arg("status").arg("data");
        ask
    };
    for id in ["no-json", "no-type", "other-id", "large"] {
        let failed: Vec<String> = status(id).query_async(&mut redis).await.expect("redis answers");
        let data: Value = serde_json::from_str(&failed[1]).expect("a task");
        assert_eq!((&*failed[0], &data["status"]), ("failed", &json!("failed")), "{id}");
        assert_eq!(data["error"].as_str(), Some(&**reason(id)), "{id}: {data}");
    }
    let left: Vec<String> = redis::cmd("ZRANGE")
        .arg(QUEUE)
        .arg(0)
        .arg(-1)
        .query_async(&mut redis)
        .await
        .expect("it answers");
    assert_eq!(left, ["for-dev"]);
    let done = world.agent.get("/tasks/done").await;
    assert_eq!(done.status, 404, "an ended task is not run again");
    world.end().await;
}

fn rejected(health: &Value) -> u64 {
    health["redis_bridge"]["rejected"].as_u64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_enqueued_twice_is_one_task() {
    let world = World::start(&[("REDIS_DRAIN", "on"), ("WATCHBILL_GATES", "off")]).await;
    let mut redis = queue::connect(&world.url()).await;
    queue::enqueue(&mut redis, 0..1).await;
    let id = queue::id(0);
    world.arrives(&id, "completed").await;
    queue::drained(&world.url()).await;
    // Its owner enqueues it again unchanged, and again with another payload.
    queue::enqueue(&mut redis, 0..1).await;
    queue::drained(&world.url()).await;
    let mut pipe = redis::pipe();
    queue::put(&mut pipe, &id, &queue::data(&id, json!({"payload": {"service": "other"}})));
    pipe.exec_async(&mut redis).await.expect("redis takes it");
    queue::drained(&world.url()).await;
    let statuses = queue::statuses(&mut redis, 0..1).await;
    assert_eq!(statuses.get(&Some("completed".to_owned())), Some(&1), "{statuses:?}");
    queue::ran_once(&world.events().await, &[id].into());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_login_is_reported_by_health_and_stops_nothing() {
    let redis = RedisSetup::new().password("a-password-of-the-test").start();
    let wrong = format!("redis://:wrong-one@127.0.0.1:{}", redis.port());
    let settings = [("REDIS_DRAIN", "ops"), ("WATCHBILL_GATES", "off")];
    let world = World::beside(redis, &wrong, &settings).await;
    let health =
        world.health_until("refused", |health| health["redis_bridge"]["trouble"].is_object());
    let health = health.await;
    assert_eq!(health["redis"], "unreachable", "{health}");
    let said = health["redis_bridge"].to_string() + &world.launch.said("stderr");
    assert!(said.contains("password"), "{said}");
    assert!(!said.contains("wrong-one"), "{said}");
    // The bundle itself works.
    let task = world.agent.submit(json!({"type": "monitor", "payload": {}})).await;
    world.agent.until(task["task_id"].as_str().expect("an id"), "completed").await;
    world.end().await;
}

/// The exit code for wrong settings.
const USAGE: Option<i32> = Some(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_setting_is_refused_at_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let damaged = folder.path().join("damaged.pem");
    let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(&damaged, text).expect("its folder is ours");
    let damaged = damaged.to_str().expect("a plain name");
    let here = ("REDIS_URL", "rediss://127.0.0.1:1");
    for (settings, shown, help) in [
        ([("REDIS_URL", "garbage"), ("", "")], "REDIS_URL 'garbage'", "write redis://"),
        (
            [("REDIS_URL", "unix:///run/redis.sock"), ("", "")],
            "REDIS_URL 'unix:///run/redis.sock'",
            "write redis://",
        ),
        (
            [("REDIS_URL", "redis://u:s3cr3t@host/one"), ("", "")],
            "REDIS_URL 'redis://…@host/one'",
            "write redis://",
        ),
        (
            [("REDIS_URL", "redis://u:s3cr3t"), ("", "")],
            "REDIS_URL 'redis://u:…'",
            "write redis://",
        ),
        (
            [here, ("REDIS_CA_FILE", "none.pem")],
            "REDIS_CA_FILE 'none.pem'",
            "set it to a readable PEM file",
        ),
        ([here, ("REDIS_CA_FILE", ".")], "REDIS_CA_FILE '.'", "set it to a readable PEM file"),
        ([here, ("REDIS_CA_FILE", damaged)], "damaged.pem'", "set it to a readable PEM file"),
        ([here, ("REDIS_BULLMQ", "ops-agent")], "REDIS_BULLMQ 'ops-agent'", "remove the setting"),
        ([here, ("REDIS_DRAIN", "OPS")], "REDIS_DRAIN 'OPS'", "use ops, dev"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings.into_iter().filter(|(name, _)| !name.is_empty());
        let mut launch = Launch::quiet(folder.path());
        for (name, value) in settings.clone() {
            launch = launch.env(name, value);
        }
        let (code, said) = launch.fails().await;
        assert_eq!(code, USAGE, "{said}");
        assert_eq!(said.trim().lines().count(), 1, "{said}");
        assert!(said.contains(shown) && said.contains(help), "{said}");
        assert!(!said.contains("s3cr3t"), "{said}");
        // A separate bridge process reports the same.
        let (code, said) = bridge_fails(folder.path(), settings).await;
        assert_eq!(code, USAGE, "{said}");
        assert!(said.contains(shown) && !said.contains("s3cr3t"), "{said}");
        // Nothing was created, so the next start finds the folder free.
        assert!(!launch.data().exists(), "{shown}");
    }
}

async fn bridge_fails(
    folder: &std::path::Path,
    settings: impl Iterator<Item = (&str, &str)>,
) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(watchbill());
    command.env_clear().envs(settings).current_dir(folder).kill_on_drop(true);
    command.args(["bridge", "--url", "http://127.0.0.1:1"]).env("WATCHBILL_KEY", "k");
    let ended = tokio::time::timeout(TIMEOUT, command.output()).await;
    let ended = ended.expect("it ends").expect("watchbill starts");
    (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
}
