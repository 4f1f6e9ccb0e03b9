//! The OpenAPI document matches the routes.

use std::collections::BTreeSet;

use watchbill_api::{Access, ROUTES, Success};

use crate::common::{ADMIN, api, ask};
use serde_json::{Value, json};

async fn document() -> Value {
    ask("GET", "/openapi.json").of(&api()).await.json()
}

fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (verb, operation) in item.as_object().unwrap() {
            all.push((verb.to_uppercase(), path.clone(), operation));
        }
    }
    all
}

#[tokio::test]
async fn every_route_is_documented_and_nothing_else() {
    let document = document().await;
    assert_eq!(document["openapi"], "3.1.0");
    let documented: BTreeSet<_> =
        operations(&document).into_iter().map(|(verb, path, _)| format!("{verb} {path}")).collect();
    let routes: BTreeSet<_> =
        ROUTES.iter().flat_map(|group| group.iter()).map(|route| route.name()).collect();
    assert_eq!(documented, routes);
    let ids: BTreeSet<_> =
        operations(&document).iter().map(|(.., op)| op["operationId"].to_string()).collect();
    assert_eq!(ids.len(), routes.len(), "operation ids are unique");
}

#[tokio::test]
async fn operations_name_their_parameters_bodies_answers_and_rights() {
    let document = document().await;
    for (verb, path, operation) in operations(&document) {
        let name = format!("{verb} {path}");
        for field in ["summary", "operationId"] {
            assert!(!operation[field].as_str().unwrap().is_empty(), "{name}: {field}");
        }
        for part in path.split('/').filter_map(|part| part.strip_prefix('{')) {
            let part = part.trim_end_matches('}');
            let parameters = operation["parameters"].as_array().unwrap();
            let found = parameters.iter().find(|p| p["name"] == part && p["in"] == "path");
            assert_eq!(found.unwrap()["required"], true, "{name}: {part}");
        }
        let route = ROUTES.iter().flat_map(|g| g.iter()).find(|r| r.name() == name).unwrap();
        let statuses: BTreeSet<_> = operation["responses"].as_object().unwrap().keys().collect();
        let has = |status: &str| statuses.contains(&status.to_owned());
        assert!(has("200") && has("405") && has("429") && has("500"), "{name}");
        // A link may not approve if the approver must be known.
        let may_refuse = matches!(route.access, Access::Needs(_)) || name == "POST /links";
        assert_eq!(has("403"), may_refuse, "{name}");
        let asks_for_no_key = matches!(route.access, Access::Public | Access::Link);
        assert_eq!(has("401"), !asks_for_no_key, "{name}");
        assert_eq!(has("408"), operation.get("requestBody").is_some(), "{name}");
        assert_eq!(has("415"), operation.get("requestBody").is_some(), "{name}");
        assert_eq!(operation["security"] == json!([]), asks_for_no_key, "{name}");
        if matches!(route.doc.ok, Success::Json(_)) {
            let content = &operation["responses"]["200"]["content"];
            assert!(content["application/json"]["schema"].is_object(), "{name}");
        }
    }
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_reference_leads_somewhere() {
    let document = document().await;
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

/// Asserts that the members of a response are exactly those that its schema requires and knows.
fn conforms(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        return conforms(document, document.pointer(&reference[1..]).unwrap(), value, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = any.iter().find(|one| (one["type"] == "null") == value.is_null());
        return conforms(document, fits.unwrap(), value, at);
    }
    if let Some(names) = schema["enum"].as_array() {
        assert!(names.contains(value), "{at}: {value}");
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    match &schema["type"] {
        Value::String(wanted) => assert_eq!(wanted, kind, "{at}"),
        Value::Array(wanted) => assert!(wanted.contains(&kind.into()), "{at}: {value}"),
        _ => {}
    }
    if let (Some(properties), Some(members)) = (schema["properties"].as_object(), value.as_object())
    {
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(members.contains_key(name.as_str().unwrap()), "{at}: {name} is missing");
        }
        for (name, member) in members {
            let known = properties.get(name).unwrap_or_else(|| panic!("{at}: {name} is not known"));
            conforms(document, known, member, &format!("{at}.{name}"));
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        values.iter().for_each(|value| conforms(document, items, value, at));
    }
}

#[tokio::test]
async fn answers_are_as_documented() {
    let api = api();
    let document = document().await;
    let made = api.create(json!({ "type": "deploy", "payload": {}, "priority": "P0" })).await;
    let id = made["task_id"].as_str().unwrap().to_owned();
    api.record(&id).await;
    let approval = format!("approval_{id}");
    let bodies = json!({
        "create_task": { "type": "faq", "payload": {} },
        "publish_event": { "event_type": "a.b", "source_agent": "x", "payload": {} },
        "mint_token": { "sub": "x", "role": "user" },
        "create_key": { "name": "x", "role": "user" },
    });
    let mut seen = 0;
    for (verb, path, operation) in operations(&document) {
        let id = if path.starts_with("/approvals") { &approval } else { &id };
        let mut call =
            ask(&verb, &path.replace("{id}", id).replace("{name}", "x").replace("{type}", "ops"))
                .key(ADMIN);
        let body = &bodies[operation["operationId"].as_str().unwrap()];
        if body.is_object() {
            call = call.json(body);
        }
        let got = call.of(&api).await;
        let status = got.status.as_u16().to_string();
        let mut response = &operation["responses"][&status];
        if let Some(reference) = response["$ref"].as_str() {
            response = document.pointer(&reference[1..]).unwrap();
        }
        let kind = got.header("content-type").split(';').next().unwrap();
        let schema = &response["content"][kind]["schema"];
        assert!(schema.is_object(), "{verb} {path}: {status} as {kind} is not documented");
        if kind.ends_with("json") {
            conforms(&document, schema, &got.json(), &format!("{verb} {path}"));
        }
        seen += usize::from(status == "200");
    }
    assert!(seen >= 18, "only {seen} routes answered with 200");
}
