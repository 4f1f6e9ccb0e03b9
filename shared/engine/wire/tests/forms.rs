//! Request parsing: which input is accepted, and the errors for all other input.

use serde_json::{Value, json};
use watchbill_domain::{Agent, Priority, Status, TaskType};
use watchbill_wire::form::{Plain, field_schema, json_value_schema, object_schema};
use watchbill_wire::{
    AnswerRequest, BadForm, CreateKey, CreateTask, CreateTenant, EventQuery, Field, FieldError,
    FieldType, Form, PatchStatus, PublishEvent, Reason, SetLimits, TaskQuery, TokenRequest,
};

fn create(body: Value) -> Result<CreateTask, BadForm> {
    CreateTask::read(body.to_string().as_bytes())
}

fn errors(result: Result<CreateTask, BadForm>) -> Vec<FieldError> {
    match result {
        Err(BadForm::Fields(errors)) => errors,
        other => panic!("not refused for its fields: {other:?}"),
    }
}

fn with(field: &str, value: Value) -> Value {
    let mut body = json!({ "type": "monitor", "payload": { "service": "system" } });
    body[field] = value;
    body
}

#[test]
fn a_task_has_the_defaults_of_the_contract() {
    let task = create(json!({ "type": "monitor", "payload": {} })).unwrap();
    assert_eq!((task.task_type, task.priority), (TaskType::Monitor, Priority::P2));
    assert_eq!((task.source.as_str(), task.max_retries), ("user", None));
    let nulls = json!({
        "type": "deployment", "payload": {}, "priority": null, "source": null, "metadata": null,
        "sla_target": null, "sla_deadline": null, "parent_task_id": null, "max_retries": null
    });
    assert_eq!(create(nulls).unwrap().task_type, TaskType::Deploy);
}

#[test]
fn aliases_are_taken() {
    for (field, text, check) in [
        ("type", "incident", "alert"),
        ("type", "knowledge_sync", "kb_update"),
        ("type", "devops", "devops"),
        ("priority", "critical", "P0"),
        ("priority", "low", "P3"),
    ] {
        let task = create(with(field, text.into())).unwrap();
        let found = if field == "type" { task.task_type.as_str() } else { task.priority.as_str() };
        assert_eq!(found, check, "{text}");
    }
}

#[test]
fn every_spelling_in_a_table_is_taken_by_its_type() {
    fn spellings(fields: &[Field], name: &str) -> &'static [&'static str] {
        match fields.iter().find(|field| field.name == name).map(|field| field.kind) {
            Some(FieldType::Choice(names)) => names,
            _ => panic!("{name} is no choice"),
        }
    }
    for text in spellings(CreateTask::FIELDS, "type") {
        assert!(create(with("type", (*text).into())).is_ok(), "{text}");
    }
    for text in TaskType::SPELLINGS {
        let offered = spellings(CreateTask::FIELDS, "type").contains(text);
        assert_eq!(offered, *text != "ops_cycle", "{text}");
    }
    for text in spellings(TaskQuery::FIELDS, "assigned_to") {
        assert!(Agent::parse(text).is_ok(), "{text}");
    }
    for text in spellings(PublishEvent::FIELDS, "priority") {
        let body =
            json!({ "event_type": "a.b", "source_agent": "x", "payload": {}, "priority": text });
        assert!(PublishEvent::read(body.to_string().as_bytes()).is_ok(), "{text}");
    }
    for text in spellings(CreateKey::FIELDS, "role") {
        let body = json!({ "name": "x", "role": text }).to_string();
        assert!(CreateKey::read(body.as_bytes()).is_ok(), "{text}");
        let body = json!({ "sub": "x", "role": text }).to_string();
        assert!(TokenRequest::read(body.as_bytes()).is_ok(), "{text}");
    }
}

#[test]
fn an_unknown_value_is_named_with_the_known_ones() {
    for (field, value, words) in [
        ("type", json!("cook"), vec!["unknown type 'cook'", "faq, bugfix, deploy", "kb_update"]),
        ("type", json!("ops_cycle"), vec!["unknown type 'ops_cycle'"]),
        ("priority", json!("P9"), vec!["'P9'", "P0, P1, P2, P3"]),
        ("priority", json!(1), vec!["'priority' is the number 1", "use one of P0"]),
        ("payload", json!("x"), vec!["'payload' is 'x'", "JSON object"]),
        ("payload", json!([1]), vec!["an array"]),
        ("payload", Value::Null, vec!["'payload' is missing"]),
        ("source", json!("a\u{0}b"), vec!["'source'", "control characters", "\\u{0}"]),
        ("source", json!("x".repeat(65)), vec!["64 characters"]),
        ("sla_target", json!("soon"), vec!["'soon'", "15m"]),
        ("sla_target", json!(0), vec!["the number 0"]),
        ("sla_deadline", json!("tomorrow"), vec!["'tomorrow'", "RFC 3339"]),
        ("parent_task_id", json!(""), vec!["'parent_task_id' is ''"]),
        ("max_retries", json!(-1), vec!["the number -1", "0 to 100"]),
        ("max_retries", json!(2.5), vec!["2.5"]),
        ("metadata", json!(true), vec!["'metadata' is true"]),
    ] {
        let errors = errors(create(with(field, value)));
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].field, field);
        for word in words {
            assert!(errors[0].message.contains(word), "{word}: {}", errors[0].message);
        }
    }
}

#[test]
fn all_faults_are_reported_at_once() {
    let body = json!({ "type": "cook", "payload": 5, "priority": "soon", "source": 7 });
    let fields: Vec<_> = errors(create(body)).into_iter().map(|error| error.field).collect();
    assert_eq!(fields, ["type", "payload", "priority", "source"]);
}

#[test]
fn a_body_that_is_no_object_is_refused_with_its_place() {
    for (body, word) in [
        ("", "empty"),
        ("  \n", "empty"),
        ("[]", "must be a JSON object"),
        ("\"x\"", "must be a JSON object"),
        ("{\"type\": monitor}", "line 1 column 10"),
        ("{\"type\": \"monitor\"", "line 1"),
        ("{\"type\": \"\\ud800\"}", "line 1"),
        ("hello", "not JSON"),
        ("{} {}", "trailing"),
    ] {
        let Err(BadForm::Syntax(message)) = CreateTask::read(body.as_bytes()) else {
            panic!("{body} is taken");
        };
        assert!(message.contains(word), "{body}: {message}");
    }
    assert!(matches!(CreateTask::read(b"{\"type\":\"\xff\"}"), Err(BadForm::Syntax(_))));
    let coded: [(&[u8], &str); 5] = [
        (b"\xef\xbb\xbf{\"type\":\"faq\",\"payload\":{}}", "byte order mark (BOM)"),
        (b"\xff\xfe{\0\"\0", "UTF-16"),
        (b"{\0\"\0", "UTF-16"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
        (b"\x28\xb5\x2f\xfd\0", "zstd"),
    ];
    for (body, word) in coded {
        let Err(BadForm::Syntax(message)) = CreateTask::read(body) else {
            panic!("{body:?} is taken");
        };
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn too_deep_nesting_is_refused() {
    let nested = |levels: usize| {
        let payload = format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        CreateTask::read(format!("{{\"type\":\"faq\",\"payload\":{payload}}}").as_bytes())
    };
    assert!(nested(64).is_ok());
    assert!(matches!(nested(65), Err(BadForm::Fields(_))));
    assert!(matches!(nested(200), Err(BadForm::Syntax(_))));
    assert!(matches!(nested(100_000), Err(BadForm::Syntax(_))));
}

#[test]
fn sizes_are_of_the_json_as_written() {
    let payload =
        |bytes: usize| with("payload", json!({ "d": "x".repeat(bytes - r#"{"d":""}"#.len()) }));
    assert!(create(payload(200 * 1024)).is_ok());
    assert_eq!(
        create(payload(200 * 1024 + 1)),
        Err(BadForm::TooLarge { what: "payload", bytes: 204_801, most: 204_800 })
    );
    // 4 bytes as sent, 18 as serialised again.
    let numbers = format!("{{\"n\":[{}1]}}", "1e15,".repeat(12_000));
    let body = format!("{{\"type\":\"faq\",\"payload\":{numbers}}}");
    assert!(matches!(CreateTask::read(body.as_bytes()), Err(BadForm::TooLarge { .. })));
    let metadata = with("metadata", json!({ "d": "x".repeat(17 * 1024) }));
    assert!(matches!(create(metadata), Err(BadForm::TooLarge { what: "metadata", .. })));
}

#[test]
fn spans_as_people_write_them_and_the_core_reads_them() {
    for good in ["90", "45s", "15m", "15 minutes", "8h", "2d", "1h 30m", "1h30m", "10 hours"] {
        let task = create(with("sla_target", good.into())).unwrap();
        assert!(watchbill_domain::parse_span(&task.sla_target.unwrap()).is_ok(), "{good}");
    }
    for number in [json!(1), json!(3600), json!(1.5), json!(1e6), json!(9_999_999)] {
        let task = create(with("sla_target", number.clone())).unwrap();
        assert!(watchbill_domain::parse_span(&task.sla_target.unwrap()).is_ok(), "{number}");
    }
    for bad in ["", "0", "-5s", "05", "1.5h", "5 parsecs", "1h 0m", "99999999", "15  m", "15m\n"] {
        assert!(create(with("sla_target", bad.into())).is_err(), "{bad:?}");
    }
}

/// The parser accepts everything that the schema accepts: the longest value of every unit.
#[test]
fn the_longest_spans_that_can_be_written_are_not_too_long() {
    let units = [
        "s", "sec", "secs", "second", "seconds", "m", "min", "mins", "minute", "minutes", "h",
        "hr", "hrs", "hour", "hours", "d", "day", "days",
    ];
    let counted = units.iter().flat_map(|unit| [format!("99999{unit}"), format!("99999 {unit}")]);
    let plain = ["9999999", "99999h99999m", "99999h 99999m"].map(str::to_owned);
    for text in counted.chain(plain) {
        let task = create(with("sla_target", text.as_str().into())).unwrap();
        let span = watchbill_domain::parse_span(&task.sla_target.unwrap());
        assert!(span.is_ok_and(|span| span <= watchbill_domain::MAX_SPAN), "{text}");
    }
}

#[test]
fn wrong_values_are_redacted_before_they_are_cut() {
    let key = format!("ghp_{}", "a1".repeat(18));
    for field in ["type", "priority", "payload", "max_retries", "sla_target"] {
        for before in 24..64 {
            let given = format!("{} {key}", "x".repeat(before));
            let told = format!("{:?}", errors(create(with(field, given.into()))));
            assert!(!told.contains("ghp"), "{field} {before}: {told}");
        }
    }
}

#[test]
fn errors_are_redacted_before_they_are_cut() {
    let key = format!("ghp_{}", "a1".repeat(18));
    for before in 4050..4100 {
        let said = json!({ "status": "failed", "error": format!("{} {key}", "x".repeat(before)) });
        let mut none = Form::from_query(PatchStatus::QUERY, std::iter::empty());
        let cut = PatchStatus::read(&mut none, said.to_string().as_bytes()).unwrap().error.unwrap();
        assert!(cut.len() <= 4096 && !cut.contains("ghp"), "{before}: {}", &cut[4040..]);
    }
}

#[test]
fn a_status_comes_by_query_or_body() {
    let query = |text: &str| {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Form::from_query(PatchStatus::QUERY, pairs)
    };
    let by_query = PatchStatus::read(&mut query("status=failed&error=no disk"), b"").unwrap();
    assert_eq!((by_query.status, by_query.error.as_deref()), (Status::Failed, Some("no disk")));
    let body = json!({ "status": "completed", "result": { "ok": true } }).to_string();
    let by_body = PatchStatus::read(&mut query(""), body.as_bytes()).unwrap();
    assert_eq!(by_body.status, Status::Completed);
    assert_eq!(by_body.result.unwrap()["ok"], true);
    let both = PatchStatus::read(&mut query("status=completed"), br#"{"result":{"n":1}}"#).unwrap();
    assert_eq!((both.status, both.result.unwrap()["n"].as_u64()), (Status::Completed, Some(1)));
    assert!(PatchStatus::read(&mut query(""), b"{}").is_err());
    assert!(PatchStatus::read(&mut query(""), b"").is_err());
    let long = json!({ "status": "failed", "error": "é\u{1b}[31m\n".repeat(2_000) }).to_string();
    let cut = PatchStatus::read(&mut query(""), long.as_bytes()).unwrap().error.unwrap();
    assert!(cut.len() <= 4096 && cut.len() > 4000 && !cut.contains('\u{1b}'), "{}", cut.len());
}

#[test]
fn a_reason_may_be_left_out_but_not_be_nonsense() {
    let query = |reason: Option<&str>| {
        let pair = reason.map(|text| ("reason".to_owned(), text.to_owned()));
        Form::from_query(Reason::FIELDS, pair.into_iter())
    };
    assert_eq!(Reason::read(&mut query(None), b""), Ok(Reason(None)));
    assert_eq!(Reason::read(&mut query(Some(" ")), b""), Ok(Reason(None)));
    let body = br#"{"reason":"late"}"#;
    assert_eq!(Reason::read(&mut query(None), body), Ok(Reason(Some("late".into()))));
    assert_eq!(Reason::read(&mut query(Some("early")), body), Ok(Reason(Some("early".into()))));
    assert!(Reason::read(&mut query(Some("early")), b"\xff\x00").is_err());
    assert!(Reason::read(&mut query(None), br#"{"reason":5}"#).is_err());
}

#[test]
fn queries_are_as_strict_as_bodies() {
    let read = |text: &str| {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        TaskQuery::read(Form::from_query(TaskQuery::FIELDS, pairs))
    };
    let query = read("assigned_to=dev_agent&status=assigned&wait=20&unknown=1").unwrap();
    assert_eq!(
        (query.filter.agent, query.filter.status),
        (Some(Agent::Dev), Some(Status::Assigned))
    );
    assert_eq!((query.wait.as_secs(), query.limit), (20, 50));
    for bad in [
        "limit=0",
        "limit=201",
        "limit=+5",
        "limit=05",
        "limit=ten",
        "limit=",
        "limit=1&limit=2",
        "wait=21",
        "status=done",
        "agent=cook",
        "priority=p1",
        "type=",
        "source=",
        "cursor=",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
    let events = |text: &str| {
        let pair = ("type".to_owned(), text.to_owned());
        EventQuery::read(Form::from_query(EventQuery::FIELDS, std::iter::once(pair)))
    };
    for good in ["task.", "task.created", "a1_b.c"] {
        assert!(events(good).is_ok(), "{good}");
    }
    for bad in ["task", ".", "Task.created", "a.b.c", "a..b", "1a.b"] {
        assert!(events(bad).is_err(), "{bad}");
    }
}

#[test]
fn names_answers_and_tenants() {
    let name = |text: &str| {
        CreateKey::read(json!({ "name": text, "role": "user" }).to_string().as_bytes())
    };
    assert!(name("ops-worker_1.a").is_ok());
    for bad in ["", "-a", "a b", "a/b", "é", &"x".repeat(65)] {
        assert!(name(bad).is_err(), "{bad}");
    }
    let tenant = |text: &str| CreateTenant::read(json!({ "tenant": text }).to_string().as_bytes());
    assert!(tenant("acme-1").is_ok() && tenant("Acme").is_err() && tenant("a#b").is_err());
    assert_eq!(AnswerRequest::read(br#"{"text":"yes"}"#), Ok(AnswerRequest("yes".into())));
    assert_eq!(AnswerRequest::read(br#"{"choice":"b"}"#), Ok(AnswerRequest("b".into())));
    for bad in [r#"{}"#, r#"{"text":"a","choice":"b"}"#, r#"{"text":"  "}"#] {
        assert!(AnswerRequest::read(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn a_table_is_its_own_schema() {
    let schema = object_schema(CreateTask::FIELDS);
    assert_eq!(schema["required"], json!(["type", "payload"]));
    assert_eq!(schema["properties"]["priority"]["type"], json!(["string", "null"]));
    assert!(schema["properties"]["priority"]["enum"].as_array().unwrap().contains(&Value::Null));
    assert!(!schema["properties"]["type"]["enum"].as_array().unwrap().contains(&Value::Null));
    let limit = TaskQuery::FIELDS.iter().find(|field| field.name == "limit").unwrap();
    let limit = field_schema(limit, Plain::Parameter);
    assert_eq!((&limit["minimum"], &limit["maximum"]), (&json!(1), &json!(200)));
    assert_eq!(schema["additionalProperties"], false);
    let limits = object_schema(SetLimits::FIELDS);
    let day = &limits["properties"]["day"];
    assert_eq!(
        (&day["type"], &day["additionalProperties"]),
        (&json!(["object", "null"]), &json!(false))
    );
    assert_eq!(day["properties"]["limit"]["additionalProperties"], false);
    // Numbers have bounds at any depth.
    let any = json!({ "$ref": "#/components/schemas/JsonValue" });
    assert_eq!(schema["properties"]["payload"]["additionalProperties"], any);
    let value = json_value_schema();
    assert_eq!((&value["items"], &value["additionalProperties"]), (&any, &any));
    assert_eq!((&value["minimum"], &value["maximum"]), (&json!(i64::MIN), &json!(u64::MAX)));
    let name = CreateKey::FIELDS.iter().find(|field| field.name == "name").unwrap();
    let name = field_schema(name, Plain::BodyField);
    assert!(name["not"]["pattern"].as_str().unwrap().contains("[Dd][Ee][Vv]"));
}

#[test]
fn names_of_the_system_are_refused_in_every_field_of_a_name() {
    let token = |name: &str| {
        TokenRequest::read(json!({ "sub": name, "role": "user" }).to_string().as_bytes()).map(drop)
    };
    let key = |name: &str| {
        CreateKey::read(json!({ "name": name, "role": "user" }).to_string().as_bytes()).map(drop)
    };
    let tenant = |name: &str| {
        CreateTenant::read(json!({ "tenant": "acme", "name": name }).to_string().as_bytes())
            .map(drop)
    };
    for name in ["system", "DevOps_Agent", "on-call"] {
        for read in [token(name), key(name), tenant(name)] {
            let Err(BadForm::Fields(errors)) = read else { panic!("{name} was taken") };
            assert!(errors[0].message.contains("reserved for Watchbill"), "{errors:?}");
        }
    }
    for name in ["kim", "devops-team"] {
        assert_eq!((token(name), key(name), tenant(name)), (Ok(()), Ok(()), Ok(())));
    }
}

/// A number that would be rounded could turn two tasks into one. It is refused, with its path.
#[test]
fn numbers_that_would_not_be_kept_are_refused_by_name() {
    let read = |number: &str| {
        let body = format!(r#"{{"type":"monitor","payload":{{"order":{{"ids":[1,{number}]}}}}}}"#);
        CreateTask::read(body.as_bytes())
    };
    for number in
        ["18446744073709551615", "-9223372036854775808", "9007199254740993", "0.1", "1e22"]
    {
        let read = read(number).unwrap_or_else(|error| panic!("{number}: {error}"));
        let kept = read.payload["order"]["ids"][1].to_string();
        let kept = kept.replace('+', "");
        assert_eq!(kept, *number);
    }
    for number in ["18446744073709551616", "18446744073709551617", "0.10000000000000001", "1e-400"]
    {
        let Err(BadForm::Fields(errors)) = read(number) else { panic!("{number} was taken") };
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].field, "payload.order.ids[1]");
        assert!(errors[0].message.contains(number), "{}", errors[0].message);
    }
    // Beyond the range of a double: the JSON reader refuses it.
    assert!(matches!(read("1e400"), Err(BadForm::Syntax(_))));
    for wrong in ["NaN", "Infinity", "-Infinity"] {
        assert!(matches!(read(wrong), Err(BadForm::Syntax(_))), "{wrong}");
    }
    let event = br#"{"event_type":"a.b","source_agent":"x","payload":{"n":-9223372036854775809}}"#;
    let refused = PublishEvent::read(event).map(|_| ());
    assert!(matches!(refused, Err(BadForm::Fields(_))), "{refused:?}");
    let result = br#"{"status":"completed","result":{"n":18446744073709551616}}"#;
    let mut none = Form::from_query(PatchStatus::QUERY, std::iter::empty());
    assert!(PatchStatus::read(&mut none, result).is_err());
}
