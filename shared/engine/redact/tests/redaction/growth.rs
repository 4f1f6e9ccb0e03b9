//! Every rule takes time in proportion to the text, however hostile the text is.

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use watchbill_redact as redact;
use watchbill_testkit::hostile;

/// In a build without optimisation; `cargo xtask bench redact` takes 1 and 4 MB.
const SMALL: usize = 16 * 1024;
/// As often each is measured in turn; the least is what nothing else disturbed.
const ROUNDS: usize = 3;
/// Four times the text may take so much longer: 4 and what measuring adds. Quadratic is 16.
const MOST: f64 = 6.0;
/// Caches are shared with other work, too. What grows too fast does so at each attempt.
const ATTEMPTS: usize = 4;

/// What this thread has worked: other work of the machine doesn't count.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs().try_into().expect("nanoseconds"),
    )
}

/// How much longer four times the text takes.
fn growth(clean: fn(&str), hostile: &dyn Fn(usize) -> String) -> f64 {
    let texts = [hostile(SMALL), hostile(4 * SMALL)];
    let mut least = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        for (least, text) in least.iter_mut().zip(&texts) {
            let start = worked();
            clean(black_box(text));
            *least = (*least).min(worked() - start);
        }
    }
    least[1].as_secs_f64() / least[0].as_secs_f64()
}

#[test]
fn four_times_the_text_takes_at_most_six_times_as_long() {
    type Way = (&'static str, fn(&str));
    let ways: [Way; 2] = [
        ("text", |text| drop(black_box(redact::text(text)))),
        ("shortened", |text| drop(black_box(redact::shortened(text, text.len() / 4)))),
    ];
    let mut failed = Vec::new();
    for hostile in hostile() {
        for (way, clean) in ways {
            let attempts = (0..ATTEMPTS).map(|_| growth(clean, &*hostile.text));
            let least = attempts.take_while(|growth| *growth > MOST).count();
            if least == ATTEMPTS {
                failed.push(format!("{way} over {}", hostile.name));
            }
        }
    }
    assert!(failed.is_empty(), "more than {MOST} times as long: {failed:#?}");
}

#[test]
fn each_rule_has_a_hostile_text() {
    let hostile = hostile();
    for rule in redact::rules() {
        let of_rule = |name: &str| name == rule || name.starts_with(&format!("{rule}:"));
        assert!(hostile.iter().any(|hostile| of_rule(&hostile.name)), "{rule} has none");
    }
}

#[test]
fn the_name_of_a_list_is_read_once() {
    let list = |size: usize| format!("{{\"{}\": [{}1]}}", "n".repeat(size), "1,".repeat(size / 2));
    let grown = (0..ATTEMPTS)
        .map(|_| growth(|text| drop(black_box(redact::json(text))), &list))
        .fold(f64::MAX, f64::min);
    assert!(grown <= MOST, "{grown}");
}
