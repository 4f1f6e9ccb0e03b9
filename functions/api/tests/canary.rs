//! A secret in every field of every call appears nowhere: in no response, header, event,
//! approval, ledger, notice or log. The table of routes generates the calls, so it covers new
//! fields and routes too.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};

use watchbill_api::{Access, ROUTES, Route, Success};
use watchbill_core::decide::EngineConfig;
use watchbill_core::ledger::{Entry, LedgerReader, entries_of};
use watchbill_core::repo::{LedgerPeek, decode};
use watchbill_domain::{PublishedEvent, Role, TenantId, Timestamp};
use watchbill_governance::{AuditRecord, Freeze, FreezeWhen, Policy};
use watchbill_redact::RedactingWriter;
use watchbill_testkit::{Planted, PlantedParts, planted};
use watchbill_wire::{ApprovalView, Field, FieldType, NoticeForm, tell_approval, webhook_body};

use crate::common::{
    ADMIN, AGENT, APPROVER, Api, Got, OPERATOR, TestRequest, api_under, ask, config,
};
use serde_json::{Map, Value, json};

/// Contained in every canary; matched case-insensitively.
const MARKS: &[&str] = &["canary", "c0ffee5ec2e7"];

/// Values that look like secrets.
fn shapes() -> Vec<String> {
    let own_key = format!("wb_{}", "c0ffee5ec2e7".repeat(6).get(..64).unwrap());
    [
        "ghp_CANARY0123456789abcdefghij",
        "github_pat_CANARY0123456789abcdefghij",
        "glpat-CANARY0123456789abcd",
        "xoxb-1234-CANARY0123456789",
        "sk-CANARY0123456789abcdefgh",
        "sk_live_CANARY0123456789abcd",
        "AKIACANARYCANARYCAN0",
        "npm_CANARY0123456789abcdefghij0123456789",
        "eyJCANARY0123.CANARY0123.CANARY0123",
        "-----BEGIN PRIVATE KEY-----\nCANARY\n-----END PRIVATE KEY-----",
        "said password=CANARY1 twice",
        "first\nghp_CANARY0123456789abcdefghij",
        "{\"password\":\"CANARY with blanks\"}",
        "postgres://app:CANARY@db:5432/x",
        "Authorization: Bearer CANARY.1",
        "https://b.example.com/o?X-Amz-Signature=CANARY1&x=1",
        &own_key,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Secrets under revealing names, and everything that looks like one.
fn object() -> Map<String, Value> {
    let object = json!({
        "password": "CANARY in plain words",
        "API_KEY": ["CANARY", {"x": "CANARY"}],
        "nested": {"client_secret": {"value": "CANARY"}, "list": [{"token": "CANARY"}]},
        "ghp_CANARY0123456789abcdefghij": 1,
        "looks": shapes(),
        "description": shapes().join(" "),
    });
    let Value::Object(object) = object else { unreachable!("it is an object") };
    object
}

/// Fields that the agents' plans read, each with a canary.
fn planned() -> Map<String, Value> {
    let mut all = object();
    let shapes = shapes();
    let names = [
        "project",
        "environment",
        "service",
        "version",
        "url",
        "alert_type",
        "severity",
        "issue",
        "target",
        "host",
        "message",
        "command",
        "branch",
        "repo",
        "question",
        "title",
        "logs",
    ];
    for (place, name) in names.iter().enumerate() {
        all.insert((*name).to_owned(), json!(shapes[place % shapes.len()]));
    }
    all
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Formats of other scanners' lists, which ours may not know.
static FOREIGN: LazyLock<Vec<Planted>> =
    LazyLock::new(|| planted().into_iter().filter(Planted::is_told).collect());
static PARTS: LazyLock<PlantedParts> = LazyLock::new(|| PlantedParts::of(&*FOREIGN));

#[track_caller]
fn clean(what: &str, text: &str) {
    if let Some(part) = PARTS.find(text) {
        let at = text.find(&part).unwrap_or_default();
        let near: String =
            text.chars().skip(text[..at].chars().count().saturating_sub(120)).take(240).collect();
        panic!("{what} shows {part:?} of a planted secret: …{near}…");
    }
    let low = text.to_lowercase();
    for mark in MARKS {
        if let Some(at) = low.find(mark) {
            let from = (0..=at.saturating_sub(120)).rev().find(|n| low.is_char_boundary(*n));
            let near: String = low[from.unwrap_or_default()..].chars().take(240).collect();
            panic!("{what} shows a canary: …{near}…");
        }
    }
}

/// A policy with the freeze that a form's example names, long over.
fn policy() -> Policy {
    let at = Timestamp::from_millis;
    let freeze = Freeze {
        name: "year-end".into(),
        reason: "the books are closed".into(),
        environments: Default::default(),
        when: FreezeWhen::Once { from: at(0), until: at(1) },
        override_roles: [Role::Approver].into(),
        override_names: Default::default(),
    };
    Policy { freezes: vec![freeze], ..Policy::default() }
}

struct Canary {
    api: Api,
    calls: BTreeMap<String, (usize, usize)>,
}

impl Canary {
    async fn call(&mut self, route: &Route, ask: TestRequest) -> Got {
        let got = ask.of(&self.api).await;
        let what = format!("{}: {}", route.name(), got.status);
        for (name, value) in &got.headers {
            clean(&what, &format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        }
        clean(&what, &String::from_utf8_lossy(&got.body));
        assert!(got.status.as_u16() < 500, "{what} {:?}", got.body);
        let counted = self.calls.entry(route.name()).or_default();
        counted.0 += 1;
        counted.1 += usize::from(got.status.is_success());
        got
    }

    /// The path with ids of existing things, in a state in which the call can succeed.
    async fn path(&self, route: &Route) -> String {
        if route.path.starts_with("/approvals/{id}") {
            let made = self.api.create(json!({"type": "deploy", "payload": object()})).await;
            let id = made["task_id"].as_str().unwrap();
            return route.path.replace("{id}", &format!("approval_{id}"));
        }
        if route.path.starts_with("/tasks/{id}") {
            let made = self.api.create(json!({"type": "monitor", "payload": object()})).await;
            let id = made["task_id"].as_str().unwrap();
            let status = match route.path {
                "/tasks/{id}/answer" => Some("blocked"),
                "/tasks/{id}/retry" => Some("failed"),
                _ => None,
            };
            if let Some(status) = status {
                let body = json!({"status": status, "error": shapes().join("\n")});
                let path = format!("/tasks/{id}/status");
                let patched = ask("PATCH", &path).key(AGENT).json(&body).of(&self.api).await;
                assert_eq!(patched.status, 200, "{:?}", patched.body);
            }
            return route.path.replace("{id}", id);
        }
        if route.path.starts_with("/keys/{name}") {
            let name =
                format!("key-{}", self.calls.values().map(|(calls, _)| calls).sum::<usize>());
            let body = json!({"name": name, "role": "user"});
            ask("POST", "/keys").key(ADMIN).json(&body).of(&self.api).await;
            return route.path.replace("{name}", &name);
        }
        route.path.replace("{type}", "ops").replace("{name}", "worker")
    }
}

/// Values with a canary for a field, the intended kind first.
fn with_canary(field: &Field) -> Vec<Value> {
    let texts = shapes().into_iter().map(Value::from);
    match field.kind {
        FieldType::Object { .. } => vec![object().into(), planned().into(), json!(shapes())],
        _ => texts.chain([json!(object())]).collect(),
    }
}

fn key_for(route: &Route) -> &'static str {
    match route.access {
        Access::Needs(Role::Operator) => OPERATOR,
        Access::Needs(Role::Approver) => APPROVER,
        _ => ADMIN,
    }
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

fn is_stream(route: &Route) -> bool {
    matches!(route.doc.ok, Success::Text(_)) && route.path == "/docs"
}

async fn every_field(canary: &mut Canary, route: &'static Route) {
    let (verb, key) = (route.method.as_str(), key_for(route));
    let example: Value =
        route.doc.body.map_or(Value::Null, |body| serde_json::from_str(body.example).unwrap());
    if !example.is_null() {
        let path = canary.path(route).await;
        canary.call(route, ask(verb, &path).key(key).json(&example)).await;
    }
    for field in route.doc.body.map_or(&[][..], |body| body.fields) {
        for value in with_canary(field) {
            let mut body = example.clone();
            if route.doc.body.is_some_and(|body| body.one_of) {
                body = json!({});
            }
            body[field.name] = value;
            let path = canary.path(route).await;
            canary.call(route, ask(verb, &path).key(key).json(&body)).await;
        }
    }
    for field in route.doc.query {
        for value in shapes() {
            let path = format!("{}?{}={}", canary.path(route).await, field.name, encoded(&value));
            canary.call(route, ask(verb, &path).key(key)).await;
        }
    }
    for value in shapes() {
        let header = value.replace('\n', " ");
        let path = canary.path(route).await;
        for field in route.doc.headers {
            let asked = ask(verb, &path).key(key).header(field.name, &header);
            let asked = if example.is_null() { asked } else { asked.json(&example) };
            canary.call(route, asked).await;
        }
        for name in ["x-api-key", "authorization", "traceparent", "origin", "accept"] {
            canary.call(route, ask(verb, &path).header(name, &header)).await;
        }
        let kind = ask(verb, &path).key(key).header("content-type", &header).raw(value.clone());
        canary.call(route, kind).await;
        let mut odd = Map::new();
        odd.insert(value.clone(), json!(value));
        canary.call(route, ask(verb, &path).key(key).json(&odd.into())).await;
        let broken = ask(verb, &path).key(key).header("content-type", "application/json");
        canary.call(route, broken.raw(format!("{{\"a\": {value}"))).await;
        // At different positions, so that no truncation splits every one beyond recognition.
        for before in ["", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa "] {
            let id = encoded(&format!("{before}{value}"));
            let path = ["{id}", "{name}", "{type}", "{token}"]
                .iter()
                .fold(route.path.to_owned(), |path, place| path.replace(place, &id));
            canary.call(route, ask(verb, &path).key(key)).await;
            canary.call(route, ask(verb, &format!("{path}/{id}")).key(key)).await;
        }
    }
}

/// Captures everything logged on this thread from now on, as a server would log it.
fn logged() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let writer = log.clone();
    let logging = tracing::subscriber::set_default(
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            // The target is this file's name, which is the mark.
            .with_target(false)
            .with_writer(move || RedactingWriter::new(writer.clone()))
            .finish(),
    );
    (log, logging)
}

#[tokio::test]
async fn a_secret_in_any_field_is_shown_nowhere() {
    let (log, _logging) = logged();
    let mut canary = Canary {
        api: api_under(config(), EngineConfig::default(), policy()),
        calls: BTreeMap::new(),
    };
    for task_type in ["deploy", "monitor", "alert", "investigate", "faq", "dev"] {
        let body = json!({"type": task_type, "payload": planned(), "metadata": object()});
        ask("POST", "/tasks").key(AGENT).json(&body).of(&canary.api).await;
    }
    for route in ROUTES.iter().flat_map(|group| group.iter()).filter(|route| !is_stream(route)) {
        every_field(&mut canary, route).await;
    }
    recorded(&canary.api).await;
    for route in ROUTES.iter().flat_map(|group| group.iter()) {
        if route.method.as_str() == "GET" {
            let path = canary.path(route).await;
            canary.call(route, ask("GET", &path).key(ADMIN)).await;
        }
    }
    each_task_and_approval(&mut canary).await;
    tracing::info!(given = shapes().join(" "), "the last line, with {:?}", shapes());
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.contains("the last line"));
    clean("the log", &logged);
    for (route, (calls, succeeded)) in &canary.calls {
        // A link's token can't be set through a field.
        let may = *succeeded > 0 || route == "POST /links";
        assert!(may, "{route}: none of {calls} calls was taken, so nothing was put to it");
    }
    stored_as_given(&canary.api);
}

/// This many formats go into one text: each becomes a task, and all fit its bounds.
const FORMS_A_TASK: usize = 8;

/// Secrets in formats from other lists, in everything that people and workers write.
#[tokio::test]
async fn foreign_forms_are_shown_nowhere() {
    let (log, _logging) = logged();
    let mut canary = Canary {
        api: api_under(config(), EngineConfig::default(), policy()),
        calls: BTreeMap::new(),
    };
    for forms in FOREIGN.chunks(FORMS_A_TASK) {
        plant(&canary.api, forms).await;
        for form in forms {
            tracing::info!(given = form.text, "a worker said {}", form.text);
        }
    }
    recorded(&canary.api).await;
    each_task_and_approval(&mut canary).await;
    for route in ROUTES.iter().flat_map(|group| group.iter()) {
        if route.method.as_str() == "GET" && !route.path.contains('{') {
            canary.call(route, ask("GET", route.path).key(ADMIN)).await;
        }
    }
    clean("the log", &String::from_utf8_lossy(&log.0.lock().unwrap()));
}

/// Puts the formats into a task that waits for approval, one that fails, one that is cancelled,
/// one that is done, and an event.
async fn plant(api: &Api, forms: &[Planted]) {
    let texts: Vec<&str> = forms.iter().map(|form| &*form.text).collect();
    let objects: Vec<Value> =
        texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
    let lines: Vec<&str> =
        texts.iter().filter(|text| !text.starts_with(['{', '['])).copied().collect();
    let said = format!("it said\n{}", lines.join("\n"));
    let payload = json!({
        "project": "shop", "environment": "production", "service": "shop", "question": said,
        "description": said, "notes": texts, "objects": objects,
    });
    let asked = json!({"type": "deploy", "payload": payload, "metadata": payload});
    let answered = ask("POST", "/tasks").key(AGENT).json(&asked).of(api).await;
    assert!(answered.status.is_success(), "{:?}", answered.body);
    clean("a task's answer", &String::from_utf8_lossy(&answered.body));
    for (verb, path, body) in [
        ("PATCH", "status", json!({"status": "failed", "error": said})),
        ("PATCH", "status", json!({"status": "completed", "result": payload})),
        ("POST", "cancel", json!({"reason": said})),
    ] {
        let made = api.create(json!({"type": "bugfix", "payload": payload})).await;
        let path = format!("/tasks/{}/{path}", made["task_id"].as_str().unwrap());
        let key = if verb == "PATCH" { AGENT } else { ADMIN };
        let answered = ask(verb, &path).key(key).json(&body).of(api).await;
        assert!(answered.status.is_success(), "{path}: {:?}", answered.body);
        clean(&path, &String::from_utf8_lossy(&answered.body));
    }
    let event = json!({
        "event_type": "deploy.failed", "source_agent": "ci", "payload": {"said": said, "all": payload},
    });
    let answered = ask("POST", "/events/publish").key(AGENT).json(&event).of(api).await;
    assert!(answered.status.is_success(), "{:?}", answered.body);
    clean("an event's answer", &String::from_utf8_lossy(&answered.body));
}

/// Checks what the recorder would write and publish.
async fn recorded(api: &Api) {
    let tenant = TenantId::default();
    for item in api.store.items() {
        let entries = match &*item.kind {
            "task" => entries_of(LedgerPeek::of(&item).unwrap(), Vec::new(), 0),
            "event" => {
                vec![Entry::Published(decode::<PublishedEvent>(&item).unwrap().value.event)]
            }
            "record" => {
                vec![Entry::AuditRecord(Box::new(
                    decode::<AuditRecord>(&item).unwrap().value.clean(),
                ))]
            }
            _ => continue,
        };
        api.append(&tenant, entries).await;
    }
    let ledger = LedgerReader::new(api.store.clone(), tenant.clone());
    let mut events = 0;
    for seq in 1.. {
        let Some(batch) = ledger.batch(seq).await.unwrap() else { break };
        clean("the ledger", &serde_json::to_string(&batch.entries).unwrap());
        for event in batch.entries.iter().flat_map(Entry::events) {
            events += 1;
            clean("a notice in its lane", &NoticeForm::write(&tenant, &event));
            clean("a webhook's body", &webhook_body(&tenant, &event).to_string());
        }
    }
    assert!(events > 100, "only {events} events were recorded");
}

async fn each_task_and_approval(canary: &mut Canary) {
    let find = |path: &str| {
        let routes = ROUTES.iter().flat_map(|group| group.iter());
        routes.filter(|r| r.method.as_str() == "GET").find(|r| r.path == path).unwrap()
    };
    let mut path = "/tasks?limit=100".to_owned();
    loop {
        let page = canary.call(find("/tasks"), ask("GET", &path).key(ADMIN)).await.json();
        for task in page["tasks"].as_array().unwrap() {
            let id = task["task_id"].as_str().unwrap();
            for route in ["/tasks/{id}", "/tasks/{id}/timeline"] {
                let asked = ask("GET", &route.replace("{id}", id)).key(ADMIN);
                canary.call(find(route), asked).await;
            }
        }
        let Some(next) = page["next_cursor"].as_str() else { break };
        path = format!("/tasks?limit=100&cursor={}", encoded(next));
    }
    let asked = ask("GET", "/approvals/pending?limit=100").key(ADMIN);
    let pending = canary.call(find("/approvals/pending"), asked).await.json();
    for approval in pending["approvals"].as_array().unwrap() {
        let view: ApprovalView = serde_json::from_value(approval.clone()).unwrap();
        let mut body = json!({});
        tell_approval(&mut body, view, Some("https://example.com/links/x"));
        clean("an approval's notice", &body.to_string());
    }
}

/// Agents need their input unchanged: the store has it as it arrived.
fn stored_as_given(api: &Api) {
    let kept = api.store.items().into_iter().filter(|item| {
        let there = matches!(&*item.kind, "task" | "payload" | "body");
        there && String::from_utf8_lossy(&item.body).contains("CANARY in plain words")
    });
    assert!(kept.count() > 10);
}
