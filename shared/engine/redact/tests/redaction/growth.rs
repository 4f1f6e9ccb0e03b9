//! The time of every rule is linear in the text, even for hostile text.

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use watchbill_redact as redact;
use watchbill_testkit::hostile;

/// Size for a build without optimisation; `cargo xtask bench redact` uses 1 and 4 MB.
const SMALL: usize = 16 * 1024;
/// How often both sizes are measured in turn. The minimum is the least disturbed measurement.
const ROUNDS: usize = 3;
/// Largest factor for four times the text: 4 plus measuring noise. Quadratic growth gives 16.
const MAX_RATIO: f64 = 6.0;
/// Caches are shared with other work. Quadratic growth fails at each attempt.
const ATTEMPTS: usize = 4;

/// CPU time of this thread, so that other load of the machine doesn't count.
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
            let least = attempts.take_while(|growth| *growth > MAX_RATIO).count();
            if least == ATTEMPTS {
                failed.push(format!("{way} over {}", hostile.name));
            }
        }
    }
    assert!(failed.is_empty(), "more than {MAX_RATIO} times as long: {failed:#?}");
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
    assert!(grown <= MAX_RATIO, "{grown}");
}
