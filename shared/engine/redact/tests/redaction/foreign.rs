//! Secrets under names and in forms from lists other than our own.

use serde_json::{Value, json};
use watchbill_redact as redact;
use watchbill_testkit::{Planted, planted};

/// The redacted output, if it shows the case's secret.
fn leak(case: &Planted) -> Option<String> {
    let shown = redact::text(&case.text);
    if let Some(leak) = case.leak(&shown) {
        return Some(format!("{}: text shows {leak:?}: {shown:?}", case.form));
    }
    let Ok(mut value) = serde_json::from_str::<Value>(&case.text) else { return None };
    let shown = redact::json(&case.text);
    if let Some(leak) = case.leak(&shown) {
        return Some(format!("{}: json shows {leak:?}: {shown:?}", case.form));
    }
    redact::value(&mut value);
    let shown = value.to_string();
    case.leak(&shown).map(|leak| format!("{}: value shows {leak:?}: {shown:?}", case.form))
}

#[test]
fn secrets_in_foreign_forms_are_hidden() {
    let all = planted();
    assert!(all.len() >= 450, "only {} forms were planted", all.len());
    let (untold, told): (Vec<_>, Vec<_>) = all.iter().partition(|case| !case.is_told());
    let leaks: Vec<_> = told.into_iter().filter_map(leak).collect();
    assert!(leaks.is_empty(), "{} forms pass:\n{}", leaks.len(), leaks.join("\n"));
    assert!(untold.len() <= 7, "{} forms can't be told", untold.len());
    for case in untold {
        assert!(leak(case).is_some(), "{} is told by now: take it off the list", case.form);
    }
}

/// How a log or a report quotes its input.
type Way = (&'static str, fn(&str) -> String);
const WAYS: &[Way] = &[
    ("lines", |text| format!("2026-11-30T01:02:03Z WARN web-7: it said\n{text}\nand no more")),
    ("field", |text| format!("INFO a worker said given={text:?} n=1")),
    ("line and field", |text| format!("INFO a worker said {text} given={text:?}")),
    ("lines in a field", |text| format!("INFO given={:?} n=1", format!("said\n{text}\nend"))),
    ("field in a field", |text| format!("INFO given={:?}", format!("inner={text:?}"))),
    ("list", |text| format!("INFO given={:?}", ["a", text, "b"])),
    ("single quotes", |text| {
        let text = text.replace('\\', "\\\\").replace('\n', "\\n").replace('\'', "\\'");
        format!("INFO given='{text}' n=1")
    }),
    ("json", |text| json!({"log": text, "list": [text]}).to_string()),
    ("json in json", |text| json!({"body": json!({"log": text}).to_string()}).to_string()),
    ("json on a line", |text| format!("got {} twice", json!({"body": text, "n": 1}))),
    ("json after a line", |text| format!("first\n{}\n", json!({"body": format!("a\n{text}\nb")}))),
    ("json in json on a line", |text| {
        format!("got {}", json!({"body": json!({"log": text}).to_string()}))
    }),
    ("json in a field", |text| format!("INFO got={:?}", json!({"body": text}).to_string())),
    ("a line with json in json", |text| {
        json!({"log": format!("got {}", json!({"body": format!("a\n{text}\nb")}))}).to_string()
    }),
];

/// The same secrets among other text, as in a log.
#[test]
fn they_are_hidden_within_other_text() {
    let cases: Vec<_> = planted().into_iter().filter(Planted::is_told).collect();
    let mut leaks = Vec::new();
    for (way, written) in WAYS {
        for case in &cases {
            let text = written(&case.text);
            let shown = [redact::text(&text), redact::json(&text)];
            if shown.iter().any(|shown| case.leak(shown).is_some()) {
                leaks.push(format!("{way}: {}", case.form));
            }
        }
    }
    assert!(leaks.is_empty(), "{} forms pass:\n{}", leaks.len(), leaks.join("\n"));
}
