//! Events over HTTP: published, listed and followed.

use watchbill_api::ApiConfig;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ledger::Entry;
use watchbill_core::ports::Clock as _;
use watchbill_domain::{Event, TenantId};
use watchbill_wire::EventView;

use crate::common::{AGENT, Api, OTHER, USER, api, api_with, ask, config};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

/// Publishes an event, and records it as the recorder would.
async fn publish(api: &Api, event_type: &str) -> String {
    let body = json!({ "event_type": event_type, "source_agent": "ci", "payload": { "n": 1 } });
    let got = ask("POST", "/events/publish").key(AGENT).json(&body).of(api).await;
    assert_eq!(got.status, 200, "{:?}", got.body);
    let answer = got.json();
    assert_eq!(
        (answer["success"].as_bool(), &answer["event_type"]),
        (Some(true), &json!(event_type))
    );
    let id = answer["event_id"].as_str().unwrap().to_owned();
    let view = EventView {
        event_id: watchbill_domain::EventId::parse(&id).unwrap(),
        event_type: watchbill_domain::EventType::parse(event_type).unwrap(),
        priority: watchbill_domain::EventPriority::Medium,
        source_agent: "ci".into(),
        trace_id: "trace".into(),
        task_id: None,
        payload: serde_json::Map::new(),
        timestamp: api.clock.now(),
        metadata: serde_json::Map::new(),
    };
    let event = Event::try_from(view).unwrap();
    api.append(&TenantId::default(), vec![Entry::Published(event)]).await;
    id
}

fn ids(page: &Value) -> Vec<&str> {
    let events = page["events"].as_array().unwrap();
    events.iter().map(|event| event["event_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_event_that_has_an_id_keeps_it() {
    let api = api();
    let send = |more: Value| {
        let mut body = json!({ "event_type": "ci.passed", "source_agent": "ci", "payload": {} });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ask("POST", "/events/publish").key(AGENT).json(&body)
    };
    let first = send(json!({ "event_id": "evt-1", "hops": 8 })).of(&api).await;
    assert_eq!(first.json()["event_id"], "evt-1");
    let again = send(json!({ "event_id": "evt-1", "event_type": "ci.failed" })).of(&api).await;
    assert_eq!(again.json()["event_type"], "ci.passed", "a repeat is the event that is there");
    assert_ne!(send(json!({})).of(&api).await.json()["event_id"], "evt-1");
    send(json!({ "hops": 9 })).of(&api).await.problem(409);
    for (bad, field) in [
        (json!({ "hops": 256 }), "hops"),
        (json!({ "hops": -1 }), "hops"),
        (json!({ "event_id": "" }), "event_id"),
        (json!({ "event_id": "ghp_CANARY0123456789abcdefghij" }), "event_id"),
    ] {
        let problem = send(bad).of(&api).await.problem(400);
        assert_eq!(problem["errors"][0]["field"], field);
    }
}

#[tokio::test]
async fn an_event_is_found_whatever_time_its_id_seems_to_bear() {
    let api = api();
    let old = publish(&api, "ci.passed").await;
    // Version 8 like ours, with times in the years 1970 and 10889.
    for id in ["00000000-0001-8000-8000-000000000001", "ffffffff-ffff-8fff-bfff-ffffffffffff"] {
        let view = EventView {
            event_id: watchbill_domain::EventId::parse(id).unwrap(),
            event_type: watchbill_domain::EventType::parse("ci.passed").unwrap(),
            priority: watchbill_domain::EventPriority::Medium,
            source_agent: "peer".into(),
            trace_id: "trace".into(),
            task_id: None,
            payload: serde_json::Map::new(),
            timestamp: api.clock.now(),
            metadata: serde_json::Map::new(),
        };
        let entry = Entry::Published(Event::try_from(view).unwrap());
        api.append(&TenantId::default(), vec![entry]).await;
        let next = publish(&api, "ci.passed").await;
        let page = ask("GET", &format!("/events?after={id}")).key(USER).of(&api).await;
        assert_eq!(ids(&page.json()), [&next]);
    }
    let page = ask("GET", &format!("/events?after={old}")).key(USER).of(&api).await;
    assert_eq!(ids(&page.json()).len(), 4);
}

#[tokio::test]
async fn events_are_listed_and_followed() {
    let api = api();
    let (a, b, c) = (
        publish(&api, "deploy.started").await,
        publish(&api, "ci.passed").await,
        publish(&api, "deploy.succeeded").await,
    );
    let page = ask("GET", "/events").key(USER).of(&api).await.json();
    assert_eq!(ids(&page), [&c, &b, &a]);
    assert_eq!(page["events"][0]["timestamp"], "2025-10-20T10:00:00.000Z");
    let page = ask("GET", "/events?type=deploy.").key(USER).of(&api).await.json();
    assert_eq!(ids(&page), [&c, &a]);
    let page = ask("GET", &format!("/events?after={a}&limit=1")).key(USER).of(&api).await.json();
    assert_eq!(ids(&page), [&b]);
    let before = api.clock.monotonic();
    let page = ask("GET", &format!("/events?after={c}&wait=7")).key(USER).of(&api).await.json();
    assert!(ids(&page).is_empty());
    assert_eq!((api.clock.monotonic() - before).as_secs(), 7);
    let page = ask("GET", "/events?limit=2").key(USER).of(&api).await.json();
    let next = page["next_cursor"].as_str().unwrap();
    let rest = ask("GET", &format!("/events?cursor={next}")).key(USER).of(&api).await.json();
    assert_eq!(ids(&rest), [&a]);
    assert!(ids(&ask("GET", "/events").key(OTHER).of(&api).await.json()).is_empty());
    ask("GET", &format!("/events?after={a}")).key(OTHER).of(&api).await.problem(404);
}

#[tokio::test]
async fn events_reserved_for_watchbill_are_refused() {
    let api = api();
    for group in watchbill_domain::RESERVED_EVENT_GROUPS {
        let body = json!({
            "event_type": format!("{group}.x"), "source_agent": "me", "payload": {}
        });
        ask("POST", "/events/publish").key(AGENT).json(&body).of(&api).await.problem(403);
    }
    for bad in ["deploy", "Deploy.started", "a.b.c", "", "a b.c"] {
        let body = json!({ "event_type": bad, "source_agent": "me", "payload": {} });
        ask("POST", "/events/publish").key(AGENT).json(&body).of(&api).await.problem(400);
    }
    let body = json!({ "event_type": "a.b", "source_agent": "me", "payload": {} });
    ask("POST", "/events/publish").key(USER).json(&body).of(&api).await.problem(403);
}

/// Reads a stream until `enough` is true, including the keep-alive comments.
async fn read(stream: &mut axum::body::BodyDataStream, enough: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    while !enough(&text) {
        let chunk = stream.next().await.expect("the stream goes on").unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    text
}

#[tokio::test]
async fn a_stream_brings_new_events_and_goes_on_after_the_last() {
    let api = api();
    let a = publish(&api, "deploy.started").await;
    let stream = |last: Option<&str>| {
        let call =
            ask("GET", "/events?type=deploy.").key(USER).header("accept", "text/event-stream");
        match last {
            Some(last) => call.header("last-event-id", last),
            None => call,
        }
    };
    let answer = stream(None).send(&api).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["x-accel-buffering"], "no", "nginx passes it on at once");
    let mut live = answer.into_body().into_data_stream();
    assert_eq!(read(&mut live, |text| !text.is_empty()).await, ": following\n\n");
    publish(&api, "ci.passed").await;
    let c = publish(&api, "deploy.succeeded").await;
    let text = read(&mut live, |text| text.contains("data:")).await;
    assert!(text.contains(&format!("id: {c}\nevent: deploy.succeeded\ndata: {{")), "{text}");
    assert!(!text.contains("ci.passed") && !text.contains(&a), "{text}");
    let text = read(&mut live, |text| !text.is_empty()).await;
    assert_eq!(text, ": keep-alive\n\n", "nothing new for a while");

    let mut again = stream(Some(&a)).send(&api).await.into_body().into_data_stream();
    assert!(read(&mut again, |text| text.contains("data:")).await.contains(&c));
    stream(Some("nothing")).of(&api).await.problem(404);

    let rest: Vec<_> = live.collect().await;
    assert!(rest.len() < 100, "a stream ends, so that the key is proved again");
}

#[tokio::test]
async fn a_stream_on_an_empty_ledger_misses_nothing() {
    let api = api();
    let call = ask("GET", "/events").key(USER).header("accept", "text/event-stream");
    let mut live = call.send(&api).await.into_body().into_data_stream();
    read(&mut live, |text| !text.is_empty()).await;
    let first = publish(&api, "deploy.started").await;
    let second = publish(&api, "deploy.succeeded").await;
    let text = read(&mut live, |text| text.matches("data:").count() == 2).await;
    assert!(text.find(&first).unwrap() < text.find(&second).unwrap());
}

#[tokio::test]
async fn a_key_takes_its_share_of_streams_and_no_more() {
    let api = api();
    let open = async |key| {
        ask("GET", "/events").key(key).header("accept", "text/event-stream").send(&api).await
    };
    let mut held = Vec::new();
    for _ in 0..256 {
        let answer = open(USER).await;
        match answer.status().as_u16() {
            200 => held.push(answer),
            503 => assert!(answer.headers().contains_key("retry-after")),
            other => panic!("{other}"),
        }
    }
    assert_eq!(held.len(), 64);
    for key in [AGENT, OTHER] {
        assert_eq!(open(key).await.status(), 200, "others of the tenant, and other tenants");
    }
    held.pop();
    assert_eq!(open(USER).await.status(), 200, "a place that was given back");
}

#[tokio::test]
async fn a_host_without_streams_answers_with_a_page() {
    let api = api_with(ApiConfig { streams: false, ..config() }, EngineConfig::default());
    let call = ask("GET", "/events").key(USER).header("accept", "text/event-stream");
    assert_eq!(call.of(&api).await.json()["events"], json!([]));
}
