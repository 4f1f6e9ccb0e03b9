//! Finds the alert rule that a free text requests: `alert if >5%` → `error_rate > 5%`.

use std::sync::LazyLock;

use regex::Regex;
use serde::Serialize;

use watchbill_redact as redact;

/// A suggested rule. It has no effect until someone sets it up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SuggestedRule {
    pub name: String,
    pub condition: String,
    pub severity: &'static str,
    /// The words it was read from.
    pub from: String,
}

static ASKED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)\b(?:alert|notify|warn|page|tell|ping)\b[^.;\n]{0,60}?\b(?:if|when|whenever|once)\b",
        r"\s*(?P<subject>[a-z0-9 _/-]{0,60}?)\s*",
        r"(?P<op>>=|<=|>|<|≥|≤|exceeds?|(?:(?:is|goes|rises|gets|stays|climbs)\s+)?(?:above|over|higher than|more than|greater than)",
        r"|(?:(?:is|goes|falls|drops|gets)\s+)?(?:below|under|less than|lower than)|reaches)",
        r"\s*(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>%|percent\b|ms\b|milliseconds?\b|s\b|seconds?\b|m\b|minutes?\b|mb\b|gb\b)?",
    ))
    .expect("the pattern is valid: the tests use it")
});

/// Words in the text and the series they mean, the more specific first.
const SERIES: &[(&str, &str)] = &[
    ("error rate", "error_rate"),
    ("failure rate", "error_rate"),
    ("response time", "response_time"),
    ("latency", "response_time"),
    ("cpu", "cpu"),
    ("memory", "memory"),
    ("ram", "memory"),
    ("disk", "disk"),
    ("load", "load"),
    ("5xx", "error_rate"),
    ("errors", "error_rate"),
    ("error", "error_rate"),
];

fn series(text: &str) -> Option<&'static str> {
    let text = text.to_lowercase();
    SERIES.iter().find(|(word, _)| text.contains(word)).map(|(_, name)| *name)
}

pub fn suggested_rule(text: &str) -> Option<SuggestedRule> {
    let found = ASKED.captures(text)?;
    let subject = found.name("subject").map_or("", |m| m.as_str());
    // `alert if >5%` refers to the subject of the sentence.
    let name = series(subject).or_else(|| series(text)).unwrap_or("value");
    let op = found["op"].to_lowercase();
    let op = match op.as_str() {
        ">=" | "≥" | "reaches" => ">=",
        "<=" | "≤" => "<=",
        _ if op.contains('<')
            || ["below", "under", "less", "lower"].iter().any(|w| op.contains(w)) =>
        {
            "<"
        }
        _ => ">",
    };
    let unit =
        match found.name("unit").map(|m| m.as_str().to_lowercase()).unwrap_or_default().as_str() {
            "" => "",
            "%" | "percent" => "%",
            "ms" | "millisecond" | "milliseconds" => "ms",
            "s" | "second" | "seconds" => "s",
            "mb" => "MB",
            "gb" => "GB",
            _ => "m",
        };
    Some(SuggestedRule {
        name: format!("{}_{name}", if op.starts_with('<') { "low" } else { "high" }),
        condition: format!("{name} {op} {}{unit}", &found["value"]),
        severity: "high",
        from: redact::shortened(&found[0], 120),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_in_free_text() {
        for (text, expected) in [
            ("Monitor API error rate and alert if >5%", Some("error_rate > 5%")),
            ("watch cpu and notify me when it goes above 80 %", Some("cpu > 80%")),
            ("alert if latency exceeds 2s", Some("response_time > 2s")),
            ("Monitor disk, page me once free space drops below 10GB", Some("disk < 10GB")),
            ("alert when memory reaches 90 percent", Some("memory >= 90%")),
            ("Monitor API error rate", None),
            ("alert if the site is down", None),
            ("deploy version 5% faster", None),
        ] {
            let found = suggested_rule(text).map(|rule| rule.condition);
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        assert_eq!(suggested_rule("alert if load > 4").unwrap().name, "high_load");
    }
}
