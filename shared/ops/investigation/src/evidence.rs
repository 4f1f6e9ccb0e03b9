//! Groups the errors of log files by template and compares them with the period before.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use watchbill_domain::Timestamp;
use watchbill_redact as redact;

use super::before;
use super::frame::frame;
use super::log_files::LogScan;
use super::logs::{Entry, LogLevel, TimeContext, bounded, entries, template};

/// Maximum number of groups. Errors beyond it are counted as one group.
const MAX_GROUPS: usize = 5_000;
const EXAMPLES: usize = 3;
/// Maximum characters of a message with its stack that the rules read.
const SAMPLE: usize = 4_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trend {
    /// Does not occur in the period before.
    New,
    Rising,
    Steady,
    Falling,
    /// Its lines have no time.
    Unknown,
}

impl Trend {
    pub fn as_str(self) -> &'static str {
        match self {
            Trend::New => "new",
            Trend::Rising => "rising",
            Trend::Steady => "steady",
            Trend::Falling => "falling",
            Trend::Unknown => "unknown",
        }
    }
}

/// Errors of one template.
#[derive(Clone, Debug)]
pub struct Group {
    pub template: String,
    pub level: LogLevel,
    pub count: u64,
    /// Occurrences in the period of the same length before the range.
    pub before: u64,
    pub first: Option<Timestamp>,
    pub last: Option<Timestamp>,
    /// Redacted.
    pub examples: Vec<String>,
    pub files: BTreeSet<String>,
    pub frame: Option<String>,
    /// The first message with its stack, for the rules.
    pub sample: String,
}

impl Group {
    pub fn trend(&self) -> Trend {
        match (self.first, self.before) {
            (None, _) => Trend::Unknown,
            (_, 0) => Trend::New,
            (_, before) if self.count * 2 > before * 3 => Trend::Rising,
            (_, before) if self.count * 2 < before => Trend::Falling,
            _ => Trend::Steady,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct LogFacts {
    pub files: usize,
    /// Entries in the range, including those without a time.
    pub entries: u64,
    pub undated: u64,
    pub errors: u64,
    pub errors_before: u64,
    pub warnings: u64,
    /// Errors by template, the most frequent first.
    pub groups: Vec<Group>,
    pub gaps: Vec<String>,
}

impl LogFacts {
    /// When the first error began that is new in the range.
    pub fn onset(&self) -> Option<Timestamp> {
        let new = self.groups.iter().filter(|group| group.trend() == Trend::New);
        new.filter_map(|group| group.first).min()
    }
}

/// Reads every entry of the scan and groups the errors.
pub fn read_logs(
    scan: &LogScan,
    from: Timestamp,
    to: Timestamp,
    now: Timestamp,
    service: Option<String>,
) -> LogFacts {
    let context = TimeContext { now, utc_offset: scan.utc_offset };
    let service = service.map(|name| name.to_lowercase()).filter(|name| name != "system");
    let mut reading = EvidenceReader {
        from,
        to,
        earliest: before(from, to),
        facts: LogFacts { files: scan.files.len(), ..LogFacts::default() },
        groups: HashMap::new(),
    };
    let named =
        |path: &str| service.as_ref().is_some_and(|name| path.to_lowercase().contains(name));
    let any_named = scan.files.iter().any(|file| named(&file.path));
    for file in &scan.files {
        let text = bounded(&file.text);
        let all = entries(&text, &context);
        let dated = all.iter().filter_map(|entry| entry.at).min();
        if dated.is_none() && !all.is_empty() {
            let text = format!("{}: its lines have no timestamps, so all were read", file.path);
            reading.facts.gaps.push(text);
        }
        if let Some(first) = dated.filter(|first| file.only_end && *first > from) {
            let text = format!("{}: too large, only its end from {first} was read", file.path);
            reading.facts.gaps.push(text);
        }
        let whole_file = service.is_none() || named(&file.path);
        for entry in &all {
            let mentions = |name: &String| {
                entry.service.as_ref().map_or_else(
                    || entry.message.to_lowercase().contains(name),
                    |service| service.to_lowercase() == *name,
                )
            };
            // If no file is named after the service, lines that mention it count instead.
            if whole_file || service.as_ref().is_some_and(mentions) {
                reading.take(entry, &file.path);
            }
        }
    }
    if let Some(name) = &service
        && !any_named
        && reading.facts.entries == 0
    {
        let text = format!("logs: no file is named after '{name}' and no line mentions it");
        reading.facts.gaps.push(text);
    }
    reading.finish()
}

struct EvidenceReader {
    from: Timestamp,
    to: Timestamp,
    earliest: Timestamp,
    facts: LogFacts,
    groups: HashMap<String, Group>,
}

impl EvidenceReader {
    fn take(&mut self, entry: &Entry<'_>, path: &str) {
        let in_range = match entry.at {
            None => true,
            Some(at) => at >= self.from && at <= self.to,
        };
        let in_before = entry.at.is_some_and(|at| at >= self.earliest && at < self.from);
        if !in_range && !in_before {
            return;
        }
        if in_range {
            self.facts.entries += 1;
            self.facts.undated += u64::from(entry.at.is_none());
            self.facts.warnings += u64::from(entry.level == LogLevel::Warn);
        }
        if !entry.level.is_error() {
            return;
        }
        let clean = CleanEntry::of(entry);
        let group = self.group_of(entry, &clean);
        group.level = group.level.max(entry.level);
        if in_before {
            group.before += 1;
            self.facts.errors_before += 1;
            return;
        }
        add_to(group, entry, path);
        self.facts.errors += 1;
    }

    fn group_of(&mut self, entry: &Entry<'_>, clean: &CleanEntry<'_>) -> &mut Group {
        let mut key = template(&clean.message);
        // "Internal server error" from two places is two different errors.
        let place = frame(clean.whole.lines());
        if let Some(place) = &place {
            key.push_str(" at ");
            key.push_str(&template(place));
        }
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&key) {
            key = "(errors beyond the maximum number of groups)".to_owned();
        }
        self.groups.entry(key.clone()).or_insert_with(|| Group {
            template: key,
            level: entry.level,
            count: 0,
            before: 0,
            first: None,
            last: None,
            examples: Vec::new(),
            files: BTreeSet::new(),
            frame: place,
            sample: clean.whole.chars().take(SAMPLE).collect(),
        })
    }

    fn finish(mut self) -> LogFacts {
        let mut groups: Vec<Group> = self.groups.into_values().filter(|g| g.count > 0).collect();
        groups.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.template.cmp(&b.template)));
        for group in &mut groups {
            group.template = redact::shortened(&group.template, 300);
        }
        self.facts.groups = groups;
        self.facts
    }
}

fn add_to(group: &mut Group, entry: &Entry<'_>, path: &str) {
    group.count += 1;
    if let Some(at) = entry.at {
        group.first = Some(group.first.map_or(at, |first| first.min(at)));
        group.last = Some(group.last.map_or(at, |last| last.max(at)));
    }
    if group.examples.len() < EXAMPLES {
        let at = entry.at.map(|at| format!("{at} ")).unwrap_or_default();
        let text = redact::shortened(&format!("{at}{}", entry.message), 300);
        if !group.examples.contains(&text) {
            group.examples.push(text);
        }
    }
    if group.files.len() < 5 && !group.files.contains(path) {
        group.files.insert(path.to_owned());
    }
}

/// An entry's text, redacted before anything is cut from it, so that no half of a secret
/// remains.
struct CleanEntry<'a> {
    message: Cow<'a, str>,
    /// With its stack.
    whole: Cow<'a, str>,
}

impl<'a> CleanEntry<'a> {
    fn of(entry: &'a Entry<'_>) -> Self {
        let message = redact::text(&entry.message);
        if entry.stack.is_empty() {
            return Self { whole: message.clone(), message };
        }
        let mut whole = entry.message.to_string();
        for line in &entry.stack {
            whole.push('\n');
            whole.push_str(line);
        }
        redact::string(&mut whole);
        Self { message, whole: Cow::Owned(whole) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_files::LogFile;

    fn facts(text: String) -> LogFacts {
        let modified = Timestamp::from_millis(0);
        let file = LogFile { path: "app.log".to_owned(), text, only_end: false, modified };
        let scan = LogScan { files: vec![file], ..LogScan::default() };
        let at = |text| Timestamp::parse(text).unwrap();
        let (from, to) = (at("2026-11-30T00:00:00Z"), at("2026-11-30T02:00:00Z"));
        read_logs(&scan, from, to, to, None)
    }

    #[test]
    fn kept_texts_are_redacted_before_they_are_cut() {
        let key = format!("ghp_{}", "a1".repeat(18));
        // At the cut-off points of a template and of a sample.
        for end in [600, SAMPLE] {
            for before in end - 60..end {
                let line = "x ".repeat(before / 2);
                let text =
                    format!("2026-11-30T01:00:00Z ERROR {line}{key} end\n    at pay (a.js:1:1)");
                let facts = facts(text);
                let [group] = &*facts.groups else { panic!("{} groups", facts.groups.len()) };
                for shown in [&group.template, &group.sample, &group.examples[0]] {
                    assert!(!shown.contains("ghp"), "{before}: {shown}");
                }
            }
        }
    }

    #[test]
    fn a_secret_on_several_lines_is_redacted() {
        let key = "MIIEowIBAAKCAQEA7";
        let facts = facts(format!(
            "2026-11-30T01:00:00Z ERROR bad key\n    -----BEGIN PRIVATE KEY-----\n    {key}\n    \
             -----END PRIVATE KEY-----\n    at pay (/app/cart.js:42:13)"
        ));
        assert!(!facts.groups[0].sample.contains(key), "{}", facts.groups[0].sample);
        assert_eq!(facts.groups[0].frame.as_deref(), Some("pay (/app/cart.js:42:13)"));
    }
}
