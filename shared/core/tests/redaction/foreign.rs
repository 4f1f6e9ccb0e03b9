//! Secrets under names and in forms that are on other lists than our own.

use serde_json::Value;
use watchbill_core::redact;
use watchbill_testkit::{Planted, planted};

/// How the case is shown, if that tells of its secret.
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

/// The same where it is said among other things, as in a log.
#[test]
fn they_are_hidden_within_other_text() {
    let cases = planted().into_iter().filter(Planted::is_told);
    let leaks: Vec<_> = cases
        .filter(|case| !case.text.starts_with(['{', '[']))
        .filter_map(|mut case| {
            case.text =
                format!("2026-11-30T01:02:03Z WARN web-7: it said\n{}\nand no more", case.text);
            let within = serde_json::json!({"log": case.text, "list": [case.text]}).to_string();
            let nested = serde_json::json!({"body": within}).to_string();
            case.leak(&redact::text(&case.text))
                .map(|_| ("text", &case))
                .or_else(|| case.leak(&redact::json(&within)).map(|_| ("json", &case)))
                .or_else(|| case.leak(&redact::json(&nested)).map(|_| ("json in json", &case)))
                .map(|(way, case)| format!("{way}: {}", case.form))
        })
        .collect();
    assert!(leaks.is_empty(), "{} forms pass:\n{}", leaks.len(), leaks.join("\n"));
}
