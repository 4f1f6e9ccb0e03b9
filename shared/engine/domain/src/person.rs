//! Which names count as the same person, where one person must not count twice: in a quorum,
//! and where no one approves what they submitted themselves.

use icu_normalizer::ComposingNormalizerBorrowed;

use super::Agent;

/// How many people are remembered as having asked for a task: the first, and the latest of
/// those who retried it. The list is in the task's header, which must stay small.
pub const MAX_REQUESTERS: usize = 16;

/// Names that Watchbill itself acts under, or that would read as if it did.
const RESERVED: &[&str] = &[
    "admin-key",
    "anonymous",
    "bridge",
    "first-start",
    "governance",
    "intake",
    "notifier",
    "on-call",
    "operator",
    "policy",
    "recorder",
    "redis",
    "router",
    "schedule",
    "scheduler",
    "sweeper",
    "system",
    "watchbill",
];
/// Prefixes of names that Watchbill acts under for something, such as `reaction:<name>`.
const RESERVED_FOR: &[&str] =
    &["eventbridge:", "lambda:", "reaction:", "redis:", "schedule:", "watchbill:", "worker:"];

/// A name in the form in which it is compared: without case, width, surrounding space and
/// invisible characters.
pub fn folded_name(name: &str) -> String {
    let nfkc = ComposingNormalizerBorrowed::new_nfkc();
    let lower = nfkc.normalize(name).to_lowercase();
    let seen: String = lower.chars().filter(|c| !c.is_control() && !is_invisible(*c)).collect();
    let seen = nfkc.normalize(&seen).into_owned();
    seen.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Soft hyphens, joiners, direction marks, variation selectors, tags: Unicode's ignorable
/// characters that NFKC leaves in place.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// A pattern (ECMA 262) that matches the ASCII names for which [`is_reserved_name`] is true.
pub fn reserved_pattern() -> String {
    let letter = |c: char| match c {
        '-' => "[ _.-]".to_owned(),
        c if c.is_ascii_alphabetic() => format!("[{}{c}]", c.to_ascii_uppercase()),
        c => c.to_string(),
    };
    let any_case = |name: &str| name.replace('_', "-").chars().map(letter).collect::<String>();
    let names = RESERVED.iter().chain(Agent::SPELLINGS).map(|name| any_case(name));
    let names: Vec<_> = names.collect();
    let beginnings: Vec<_> = RESERVED_FOR.iter().map(|of| any_case(of)).collect();
    format!("^ *(({}) *$|{})", names.join("|"), beginnings.join("|"))
}

/// Whether no caller may have this name, because Watchbill acts under it.
pub fn is_reserved_name(name: &str) -> bool {
    let folded = folded_name(name);
    let dashed = folded.replace([' ', '_', '.'], "-");
    let agents = || Agent::SPELLINGS.iter().any(|agent| agent.replace('_', "-") == dashed);
    RESERVED.contains(&dashed.as_str())
        || RESERVED_FOR.iter().any(|of| folded.starts_with(of))
        || agents()
}

/// The names that a person counts under: their own, and that of the maker of their key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person(Vec<String>);

impl Person {
    pub fn new(name: &str, made_by: Option<&str>) -> Self {
        Self([Some(name), made_by].into_iter().flatten().map(folded_name).collect())
    }

    pub fn is(&self, other: &Person) -> bool {
        self.0.iter().any(|name| other.0.contains(name))
    }

    /// Whether one of these names is this person's.
    pub fn is_one_of<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> bool {
        names.into_iter().any(|name| self.0.contains(&folded_name(name)))
    }
}

/// Adds a name to those who asked for something, each once.
pub fn add_requester(known: &mut Vec<String>, name: &str) {
    let folded = folded_name(name);
    if known.iter().any(|known| folded_name(known) == folded) {
        return;
    }
    if known.len() >= MAX_REQUESTERS {
        known.remove(1);
    }
    known.push(name.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_a_name_are_one_name() {
        for spelled in
            ["Kim", " kim\u{a0}", "KIM", "\u{ff2b}\u{ff49}\u{ff4d}", "k\u{200b}im", "ki\u{ad}m\t"]
        {
            assert_eq!(folded_name(spelled), "kim", "{spelled:?}");
        }
        assert_eq!(folded_name("Ann  \u{2003}Lee"), "ann lee");
        // Composed and decomposed.
        assert_eq!(folded_name("Zoe\u{308}"), folded_name("ZO\u{cb}"));
        assert_ne!(folded_name("kim"), folded_name("kim2"));
    }

    #[test]
    fn folding_again_changes_nothing() {
        for name in ["\u{130}stanbul", "\u{1e9e}", "\u{fb01}x", "A\u{345}", "\u{3a3}\u{3a3}"] {
            let once = folded_name(name);
            assert_eq!(folded_name(&once), once, "{name:?}");
        }
    }

    #[test]
    fn a_key_counts_as_itself_and_as_its_maker() {
        let kim = Person::new("kim", None);
        let made = Person::new("kim-2", Some("Kim"));
        let sam = Person::new("sam", None);
        assert!(made.is(&kim) && kim.is(&made) && !made.is(&sam));
        assert!(made.is(&Person::new("kim-3", Some("kim"))), "two keys of one maker");
        assert!(made.is_one_of(["sam", "KIM"]) && !sam.is_one_of(["kim"]));
    }

    #[test]
    fn names_of_the_system_are_reserved_in_every_spelling() {
        for name in [
            "system",
            "System ",
            "on-call",
            "On_Call",
            "ops",
            "OPS_AGENT",
            "reaction:x",
            "first start",
        ] {
            assert!(is_reserved_name(name), "{name}");
        }
        for name in ["kim", "admin", "ci", "ops-team", "dashboard", "release-manager"] {
            assert!(!is_reserved_name(name), "{name}");
        }
    }

    #[test]
    fn the_pattern_matches_the_same_ascii_names() {
        let pattern = regex::Regex::new(&reserved_pattern()).expect("a pattern");
        let names = RESERVED.iter().chain(Agent::SPELLINGS).flat_map(|name| {
            let name = (*name).to_owned();
            let upper = name.to_uppercase().replace('-', ".");
            let longer = [format!("{name}2"), format!("x{name}"), format!("{name}-x")];
            [name.clone(), upper, format!(" {name} ")].into_iter().chain(longer)
        });
        let of = RESERVED_FOR.iter().flat_map(|of| [format!("{of}x"), of.to_uppercase()]);
        for name in names.chain(of).chain(["kim".into(), "lambda".into(), "a lambda:".into()]) {
            assert_eq!(pattern.is_match(&name), is_reserved_name(&name), "{name:?}");
        }
    }

    #[test]
    fn the_first_who_asked_is_never_forgotten() {
        let mut known = vec!["alex".to_owned()];
        for n in 0..100 {
            add_requester(&mut known, &format!("p{n}"));
        }
        add_requester(&mut known, "ALEX");
        assert_eq!(known.len(), MAX_REQUESTERS);
        assert_eq!((known[0].as_str(), known[15].as_str()), ("alex", "p99"));
    }
}
