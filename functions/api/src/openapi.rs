//! Generates the OpenAPI 3.1 document from the table of routes and the wire types' schemas.

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use watchbill_domain::Role;
use watchbill_wire::form::{JSON_VALUE, Plain, field_schema, json_value_schema, object_schema};
use watchbill_wire::{Field, Problem};

use crate::route::{Access, Route, Success};
use crate::routes;

const DESCRIPTION: &str = "Tasks for agents, with approvals, events and an audit log. \
Errors are application/problem+json (RFC 9457); `detail` says what was wrong and what to do. \
Calls are limited per caller and route; unless limits are off, every response has the headers \
X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset (seconds since 1970).";

/// The whole document.
pub fn document(version: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>();
    let mut paths = Map::new();
    for route in routes::all() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route, &mut generator);
    }
    let mut schemas = generator.take_definitions(true);
    schemas.insert(JSON_VALUE.into(), json_value_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Watchbill",
            "version": version,
            "description": DESCRIPTION,
            "license": { "name": "MIT", "identifier": "MIT" }
        },
        "tags": tags(),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": responses(&problem),
            "headers": headers(),
            "securitySchemes": {
                "ApiKey": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
                "Bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" }
            }
        }
    })
}

fn tags() -> Vec<Value> {
    let mut groups: Vec<&str> = Vec::new();
    for route in routes::all() {
        if !groups.contains(&route.doc.group) {
            groups.push(route.doc.group);
        }
    }
    groups.into_iter().map(|name| json!({ "name": name })).collect()
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let doc = &route.doc;
    let mut parameters = Vec::new();
    for (place, fields) in [("path", doc.path), ("query", doc.query), ("header", doc.headers)] {
        parameters.extend(fields.iter().map(|field| parameter(field, place)));
    }
    let mut operation = json!({
        "tags": [doc.group],
        "operationId": doc.id,
        "summary": doc.summary,
        "description": description(route),
        "parameters": parameters,
        "responses": answers(route, generator),
        "security": security(route.access),
    });
    if let Some(body) = doc.body {
        let mut schema = object_schema(body.fields);
        if body.one_of {
            schema["oneOf"] = one_of(body.fields);
        }
        let mut media = json!({ "schema": schema });
        if let Ok(example) = serde_json::from_str::<Value>(body.example) {
            media["example"] = example;
        }
        operation["requestBody"] =
            json!({ "required": body.required, "content": { "application/json": media } });
    }
    operation
}

/// One alternative per field: that field is given and the others are not.
fn one_of(fields: &[Field]) -> Value {
    let alternative = |given: &Field| {
        let kind = |field: &Field| if field.name == given.name { "string" } else { "null" };
        let properties: Map<_, _> = fields
            .iter()
            .map(|field| (field.name.to_owned(), json!({ "type": kind(field) })))
            .collect();
        json!({ "required": [given.name], "properties": properties })
    };
    fields.iter().map(alternative).collect()
}

fn description(route: &Route) -> String {
    let who = match route.access {
        Access::Public | Access::Optional | Access::Link => String::new(),
        Access::Needs(Role::Operator) => "Needs the operator's key.".into(),
        Access::Needs(role) => format!("Needs the role `{}` or admin.", role.as_str()),
    };
    // Every role includes the rights of `user`.
    let who = who.replace("`user` or admin", "`user`");
    [route.doc.text, &who].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
}

fn parameter(field: &Field, place: &str) -> Value {
    let mut schema = field_schema(field, Plain::Parameter);
    let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    json!({
        "name": field.name,
        "in": place,
        "required": field.required,
        "description": description,
        "schema": schema,
    })
}

fn security(access: Access) -> Value {
    match access {
        Access::Public | Access::Link => json!([]),
        Access::Optional => json!([{}, { "ApiKey": [] }, { "Bearer": [] }]),
        Access::Needs(Role::Operator) => json!([{ "ApiKey": [] }]),
        Access::Needs(_) => json!([{ "ApiKey": [] }, { "Bearer": [] }]),
    }
}

/// The errors that a route can return.
pub(crate) fn errors(route: &Route) -> Vec<u16> {
    let mut errors = route.doc.errors.to_vec();
    // 503: a bound on concurrent calls is reached.
    errors.extend([405, 429, 500, 503]);
    if route.doc.body.is_some() {
        errors.push(408);
    }
    match route.access {
        Access::Public | Access::Link => {}
        Access::Optional => errors.push(401),
        Access::Needs(_) => errors.extend([401, 403]),
    }
    if route.doc.path.is_empty() {
        errors.retain(|status| *status != 404 || route.doc.errors.contains(&404));
    }
    errors.sort_unstable();
    errors.dedup();
    errors
}

fn answers(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let json_schema = |schema: Schema| json!({ "application/json": { "schema": schema } });
    let text = json!({ "schema": { "type": "string" } });
    let content = match route.doc.ok {
        Success::Json(schema) => json_schema(schema(generator)),
        Success::Text(kind) => json!({ kind: text }),
        Success::JsonOrStream(schema) => {
            let mut content = json_schema(schema(generator));
            content["text/event-stream"] = text;
            content
        }
    };
    let mut headers = Map::new();
    for name in RATE_HEADERS {
        headers.insert((*name).into(), json!({ "$ref": format!("#/components/headers/{name}") }));
    }
    let mut all = Map::new();
    all.insert(
        "200".into(),
        json!({ "description": "Done.", "headers": headers, "content": content }),
    );
    for status in errors(route) {
        all.insert(
            status.to_string(),
            json!({ "$ref": format!("#/components/responses/{}", status) }),
        );
    }
    Value::Object(all)
}

const RATE_HEADERS: &[&str] = &["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"];

fn headers() -> Value {
    let number = |text: &str| json!({ "description": text, "schema": { "type": "integer" } });
    json!({
        "X-RateLimit-Limit": number("Calls per minute to this route."),
        "X-RateLimit-Remaining": number("Calls left in this minute."),
        "X-RateLimit-Reset": number("When the minute ends, in seconds since 1970."),
        "Retry-After": number("Seconds to wait."),
    })
}

fn responses(problem: &Schema) -> Value {
    let all: Map<String, Value> = [
        (400, "Malformed, or an unknown value; `detail` names it."),
        (401, "No key or token, or an invalid one."),
        (403, "The caller lacks a permission; `detail` names it."),
        (404, "Not found in the caller's tenant."),
        (405, "The path has other methods; see Allow."),
        (408, "The body did not arrive in time."),
        (409, "Not possible in the current state; `detail` describes it."),
        (413, "Too large; `detail` gives the limit."),
        (415, "Not JSON, or compressed."),
        (429, "Too many calls in a minute, or too many waiting calls or streams at once."),
        (500, "A server error."),
        (503, "Busy or unavailable for now; retry the request."),
    ]
    .into_iter()
    .map(|(status, text)| {
        let mut response = json!({
            "description": text,
            "content": { "application/problem+json": { "schema": problem } }
        });
        if status == 429 || status == 503 {
            response["headers"] =
                json!({ "Retry-After": { "$ref": "#/components/headers/Retry-After" } });
        }
        (status.to_string(), response)
    })
    .collect();
    Value::Object(all)
}
