//! Unknown body fields, and responses that are sent back as requests.

use serde_json::{Value, json};
use watchbill_wire::{
    AnswerRequest, BadForm, CreateKey, CreateTask, FieldError, Form, LinkForm, OverrideFreeze,
    PatchStatus, PublishEvent, Reason, SetLimits, TokenRequest,
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

/// Every body that is read, each with the fields it requires.
#[test]
fn unknown_body_fields_are_refused_by_name() {
    fn read_of<T>(read: fn(&[u8]) -> Result<T, BadForm>, body: &[u8]) -> Result<(), BadForm> {
        read(body).map(drop)
    }
    type Read = fn(&[u8]) -> Result<(), BadForm>;
    let readers: [(Value, Read, &str, &str); 11] = [
        (
            json!({ "type": "monitor", "payload": {} }),
            |body| read_of(CreateTask::read, body),
            "priorty",
            "'priority'",
        ),
        (
            json!({ "type": "monitor", "payload": {} }),
            |body| read_of(CreateTask::read_with_id, body),
            "maxRetries",
            "'max_retries'",
        ),
        (
            json!({ "status": "completed" }),
            |body| {
                let mut query = Form::from_query(PatchStatus::QUERY, std::iter::empty());
                PatchStatus::read(&mut query, body).map(drop)
            },
            "results",
            "'result'",
        ),
        (json!({ "text": "yes" }), |body| read_of(AnswerRequest::read, body), "txt", "'text'"),
        (
            json!({ "reason": "late" }),
            |body| {
                let mut query = Form::from_query(Reason::FIELDS, std::iter::empty());
                Reason::read(&mut query, body).map(drop)
            },
            "comment",
            "use one of reason",
        ),
        (
            json!({ "event_type": "a.b", "source_agent": "x", "payload": {} }),
            |body| read_of(PublishEvent::read, body),
            "task",
            "'task_id'",
        ),
        (json!({ "day_usd": 1 }), |body| read_of(SetLimits::read, body), "day_dollars", "day_usd"),
        (
            json!({ "freeze": "x", "reason": "y" }),
            |body| read_of(OverrideFreeze::read, body),
            "freezes",
            "'freeze'",
        ),
        (
            json!({ "name": "x", "role": "user" }),
            |body| read_of(CreateKey::read, body),
            "tenant",
            "use one of name, role",
        ),
        (
            json!({ "sub": "x", "role": "user" }),
            |body| read_of(TokenRequest::read, body),
            "expires",
            "'expires_in'",
        ),
        (
            json!({ "token": "t", "decision": "approve" }),
            |body| read_of(LinkForm::read, body),
            "decison",
            "'decision'",
        ),
    ];
    for (body, read, unknown, meant) in readers {
        assert_eq!(read(body.to_string().as_bytes()), Ok(()), "{body}");
        for value in [json!(1), Value::Null] {
            let mut body = body.clone();
            body[unknown] = value;
            let refused = read(body.to_string().as_bytes());
            let Err(BadForm::Fields(errors)) = refused else { panic!("{body}: {refused:?}") };
            assert_eq!((errors.len(), errors[0].field.as_str()), (1, unknown));
            assert!(errors[0].message.contains(meant), "{}", errors[0].message);
        }
    }
}

#[test]
fn many_unknown_fields_are_counted_and_secrets_among_them_redacted() {
    let mut body = with("ghp_CANARY0123456789abcdefghij", json!(1));
    for n in 0..1_000 {
        body[format!("x{n:04}")] = json!(n);
    }
    let errors = errors(create(body));
    assert_eq!(errors.len(), 8);
    let told = format!("{errors:?}");
    assert!(told.contains("993 more fields") && !told.contains("CANARY"), "{told}");
}

#[test]
fn a_task_as_it_is_shown_can_be_sent_again() {
    let mut shown: Value =
        serde_json::from_str(include_str!("fixtures/task.json")).expect("it is JSON");
    shown["trace_id"] = json!("trace-1");
    shown["metadata"].as_object_mut().expect("an object").remove("trace_id");
    let task = create(shown).unwrap();
    assert_eq!(task.metadata["trace_id"], "trace-1");
    assert!(!task.metadata.contains_key("result"));
}

/// The senders of bus messages get no response, so unknown fields are ignored.
#[test]
fn an_events_detail_may_have_more() {
    let detail = with("surprise", json!([1]));
    let Value::Object(detail) = detail else { unreachable!("it is an object") };
    assert!(CreateTask::from_object(detail).is_ok());
}

#[test]
fn limits_are_taken_as_they_are_shown() {
    let read = |body: Value| SetLimits::read(body.to_string().as_bytes());
    let flat = read(json!({ "day_usd": 1, "hour_tokens": 7 })).unwrap();
    for same in [
        json!({ "day": { "usd": 1 }, "hour": { "tokens": 7 } }),
        json!({ "day": { "limit": { "usd": 1 } }, "hour": { "limit": { "tokens": 7 } } }),
        json!({ "day": { "usd": 1, "limit": { "usd": 9 } }, "hour_tokens": 7, "hour": { "tokens": 8 } }),
        json!({
            "success": true,
            "day": {
                "used": { "usd": 0.5, "tokens": 1 }, "reserved": {}, "limit": { "usd": 1.0 },
                "percent": 50, "status": "ok", "resets_at": "2026-01-01T00:00:00Z"
            },
            "hour": { "limit": { "tokens": 7 } }, "task": null
        }),
    ] {
        assert_eq!(read(same.clone()).unwrap(), flat, "{same}");
    }
    for (bad, field) in [
        (json!({ "day": { "usd": -1 } }), "day.usd"),
        (json!({ "day": { "limit": { "token": 1 } } }), "day.limit.token"),
        (json!({ "day": { "limits": {} } }), "day.limits"),
        (json!({ "day": 1 }), "day"),
        (json!({ "day": { "used": [1.844_674_407_370_956e19] } }), "day.used"),
        (json!({ "month": {} }), "month"),
    ] {
        let refused = read(bad.clone());
        let Err(BadForm::Fields(errors)) = refused else { panic!("{bad}: {refused:?}") };
        assert_eq!(errors[0].field, field, "{errors:?}");
    }
}
