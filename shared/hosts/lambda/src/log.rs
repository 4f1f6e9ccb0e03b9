//! The JSON log, and metrics for CloudWatch.

use std::io::Write as _;

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use watchbill_domain::Timestamp;
use watchbill_redact as redact;
use watchbill_redact::RedactingWriter;

/// JSON lines on standard output, for CloudWatch: with the spans' fields, so that request, task
/// and trace can be searched for, and without secrets.
pub fn start_log(filter: &str) -> anyhow::Result<()> {
    // Levels by target suffice. The richer filter would add regular expressions to every
    // function.
    let parsed: Targets = filter.parse().with_context(|| {
        format!("WATCHBILL_LOG '{filter}' is invalid; use error, warn, info or debug")
    })?;
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        // CloudWatch records the time of each line itself.
        .without_time()
        .with_writer(|| RedactingWriter::new(std::io::stdout()));
    redact::clean_panics();
    tracing_subscriber::registry()
        .with(parsed)
        .with(lines)
        .try_init()
        .context("the log can't be started")
}

#[derive(Clone, Copy, Debug)]
pub enum Unit {
    Count,
    Seconds,
}

#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub value: f64,
    pub unit: Unit,
}

/// Writes one log line from which CloudWatch makes metrics, without a call or permission. A
/// metric costs for each hour in which it is sent, so zeros are left out.
pub fn emit(stack: &str, now: Timestamp, metrics: &[Metric]) {
    let sent: Vec<_> = metrics.iter().filter(|metric| metric.value != 0.0).collect();
    if sent.is_empty() {
        return;
    }
    let line = form(stack, now, &sent).to_string();
    // Without standard output there is nowhere to report the error.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn form(stack: &str, now: Timestamp, metrics: &[&Metric]) -> Value {
    let unit = |unit| match unit {
        Unit::Count => "Count",
        Unit::Seconds => "Seconds",
    };
    let named: Vec<_> = metrics
        .iter()
        .map(|metric| json!({ "Name": metric.name, "Unit": unit(metric.unit) }))
        .collect();
    let mut form = Map::new();
    form.insert(
        "_aws".into(),
        json!({
            "Timestamp": now.millis(),
            "CloudWatchMetrics": [{
                "Namespace": "Watchbill",
                "Dimensions": [["Stack"]],
                "Metrics": named,
            }],
        }),
    );
    form.insert("Stack".into(), stack.into());
    for metric in metrics {
        form.insert(metric.name.into(), metric.value.into());
    }
    Value::Object(form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_each_metric_and_has_its_value() {
        let metric = Metric { name: "DeadLetters", value: 3.0, unit: Unit::Count };
        let line = form("bill", Timestamp::from_millis(7), &[&metric]);
        assert_eq!(
            line,
            json!({
                "_aws": {
                    "Timestamp": 7,
                    "CloudWatchMetrics": [{
                        "Namespace": "Watchbill",
                        "Dimensions": [["Stack"]],
                        "Metrics": [{"Name": "DeadLetters", "Unit": "Count"}],
                    }],
                },
                "Stack": "bill",
                "DeadLetters": 3.0,
            })
        );
    }
}
