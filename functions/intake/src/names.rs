//! Derives event types for external events. AWS services, and many other programs, name a type
//! in words (`EC2 Instance State-change Notification`); ours are `noun.verb`, which reactions
//! match on.
//!
//! The noun is the source and the verb is the detail-type. Both are lower-cased, and every run
//! of characters other than ASCII letters and digits becomes `_`. Leading words of the type that
//! repeat the source are removed: `aws.cloudwatch`, `CloudWatch Alarm State Change` becomes
//! `aws_cloudwatch.alarm_state_change`. A type that already has our form is kept. The original
//! is stored in `metadata.detail_type`.

use watchbill_domain::{EventType, UnknownName, derived_uuid};

/// Maximum characters of an event type, and how many of them a long source may use.
const MAX_CHARS: usize = 64;
const MAX_NOUN_CHARS: usize = 28;
/// Digits appended to shortened names to keep them distinct.
const DIGITS: usize = 8;
/// Vendor prefixes before a service's name, which do not identify the service.
const BRANDS: &[&str] = &["aws", "amazon"];

/// Derives the type of an external event. Fails only for a name without an ASCII letter or
/// digit.
pub fn event_type(source: &str, detail_type: &str) -> Result<EventType, UnknownName> {
    if let Ok(ours) = EventType::parse(detail_type) {
        return Ok(ours);
    }
    let (noun, verb) = (words(source), words(detail_type));
    let verb = own_words(&noun, &verb);
    let (mut noun, mut verb) = (name(&noun), name(verb));
    if noun.len() + 1 + verb.len() > MAX_CHARS {
        let id = derived_uuid(&[source, detail_type]).simple().to_string();
        noun.truncate(MAX_NOUN_CHARS);
        verb.truncate(MAX_CHARS - noun.len() - 2 - DIGITS);
        verb = format!("{verb}_{}", &id[id.len() - DIGITS..]);
    }
    EventType::parse(&format!("{noun}.{verb}"))
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect()
}

/// Removes the leading words that repeat the source; at least one word remains.
fn own_words<'w>(source: &[String], words: &'w [String]) -> &'w [String] {
    let mut own = words;
    if let [first, rest @ ..] = own
        && BRANDS.contains(&first.as_str())
        && !rest.is_empty()
    {
        own = rest;
    }
    let names: Vec<String> = (0..source.len()).map(|from| source[from..].concat()).collect();
    // Also matches `Trusted Advisor …` of `aws.trustedadvisor`.
    let repeats = (1..own.len()).rev().find(|n| names.contains(&own[..*n].concat()));
    &own[repeats.unwrap_or(0)..]
}

/// Joins the words. A name must begin with a letter.
fn name(words: &[String]) -> String {
    let name = words.join("_");
    match name.chars().next() {
        Some(first) if first.is_ascii_digit() => format!("n{name}"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(source: &str, detail_type: &str) -> String {
        event_type(source, detail_type).unwrap().to_string()
    }

    #[test]
    fn a_name_says_the_source_once() {
        for (source, detail_type, wanted) in [
            ("ci.example", "deploy.failed", "deploy.failed"),
            ("ci.example", "Build Finished", "ci_example.build_finished"),
            ("aws.health", "AWS Health Event", "aws_health.event"),
            ("aws.ec2", "AWS API Call via CloudTrail", "aws_ec2.api_call_via_cloudtrail"),
            ("aws.health", "AWS", "aws_health.aws"),
            ("shop", "Shop", "shop.shop"),
            ("3ds", "3-D Secure: failed!", "n3ds.n3_d_secure_failed"),
            (
                "aws.trustedadvisor",
                "Trusted Advisor Check Item Refresh Notification",
                "aws_trustedadvisor.check_item_refresh_notification",
            ),
        ] {
            assert_eq!(named(source, detail_type), wanted);
        }
        for (source, detail_type) in [("日本", "Build"), ("ci", "¿?"), ("", "")] {
            event_type(source, detail_type).unwrap_err();
        }
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let source = "aws.partner/example.com/some-account/a-bus-with-a-long-name";
        let long = "Something That Was Told In A Great Many Words Happened To Item";
        let (one, other) =
            (named(source, &format!("{long} 1")), named(source, &format!("{long} 2")));
        assert_eq!(one.len(), 64, "{one}");
        assert!(one.starts_with("aws_partner_example_com_some"), "{one}");
        assert_ne!(one, other);
        assert_eq!(one, named(source, &format!("{long} 1")), "the same each time");
    }
}
