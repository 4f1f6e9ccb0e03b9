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

fn held_out(case: &Planted) -> bool {
    let hash = case.form.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32) % 3 == 0
}

#[test]
fn rates() {
    let all = planted();
    for (name, held) in [("tuning", false), ("held out", true)] {
        let cases: Vec<_> = all.iter().filter(|case| held_out(case) == held).collect();
        let leaks: Vec<_> = cases.iter().filter_map(|case| leak(case)).collect();
        println!("RATE {name}: {} of {} hidden", cases.len() - leaks.len(), cases.len());
        if !held {
            for leak in leaks {
                println!("LEAK {leak}");
            }
        }
    }
}
