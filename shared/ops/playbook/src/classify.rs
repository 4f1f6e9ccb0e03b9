//! Classifies a free text by rules: the first known verb decides, else the nouns.

use std::collections::BTreeMap;

use watchbill_domain::{TaskType, words};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    Deployment,
    Monitoring,
    LogAnalysis,
    AlertManagement,
    Troubleshooting,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Deployment => "deployment",
            Class::Monitoring => "monitoring",
            Class::LogAnalysis => "log analysis",
            Class::AlertManagement => "alert management",
            Class::Troubleshooting => "troubleshooting",
        }
    }

    /// The task type of the class. Gates and permissions are decided on it.
    pub fn task_type(self) -> TaskType {
        match self {
            Class::Deployment => TaskType::Deploy,
            Class::Monitoring => TaskType::Monitor,
            Class::AlertManagement => TaskType::Alert,
            Class::LogAnalysis | Class::Troubleshooting => TaskType::Investigate,
        }
    }

    /// Which of two is meant where a text speaks of both: the lower.
    fn rank(self) -> usize {
        match self {
            Class::Troubleshooting => 0,
            Class::LogAnalysis => 1,
            Class::AlertManagement => 2,
            Class::Monitoring => 3,
            Class::Deployment => 4,
        }
    }

    pub fn of_type(task_type: TaskType) -> Option<Self> {
        match task_type {
            TaskType::Deploy => Some(Class::Deployment),
            TaskType::Monitor => Some(Class::Monitoring),
            TaskType::Alert => Some(Class::AlertManagement),
            TaskType::Investigate => Some(Class::Troubleshooting),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Classification {
    pub class: Class,
    /// The reason, for the timeline.
    pub because: String,
}

/// Filler words that are skipped before the verb.
const POLITE: &[&str] = &[
    "please", "can", "could", "would", "you", "we", "i", "need", "want", "to", "let's", "lets",
    "hey", "hi", "urgent", "asap", "now", "kindly", "the", "help", "me", "us", "and", "then",
    "quickly", "first", "go", "try", "should", "must", "have", "start", "begin", "run", "do",
    "perform", "a", "an", "some", "s", "let",
];

const VERBS: &[(&str, Class)] = &[
    ("deploy", Class::Deployment),
    ("deploying", Class::Deployment),
    ("redeploy", Class::Deployment),
    ("release", Class::Deployment),
    ("ship", Class::Deployment),
    ("rollout", Class::Deployment),
    ("rollback", Class::Deployment),
    ("roll", Class::Deployment),
    ("revert", Class::Deployment),
    ("promote", Class::Deployment),
    ("publish", Class::Deployment),
    ("launch", Class::Deployment),
    ("monitor", Class::Monitoring),
    ("watch", Class::Monitoring),
    ("measure", Class::Monitoring),
    ("track", Class::Monitoring),
    ("probe", Class::Monitoring),
    ("ping", Class::Monitoring),
    ("observe", Class::Monitoring),
    ("acknowledge", Class::AlertManagement),
    ("ack", Class::AlertManagement),
    ("silence", Class::AlertManagement),
    ("mute", Class::AlertManagement),
    ("escalate", Class::AlertManagement),
    ("alert", Class::AlertManagement),
    ("alerts", Class::AlertManagement),
    ("notify", Class::AlertManagement),
    ("investigate", Class::Troubleshooting),
    ("troubleshoot", Class::Troubleshooting),
    ("diagnose", Class::Troubleshooting),
    ("debug", Class::Troubleshooting),
    ("why", Class::Troubleshooting),
    ("explain", Class::Troubleshooting),
    ("fix", Class::Troubleshooting),
];

/// Verbs whose class depends on their object, with the class if there is none.
const OPEN_VERBS: &[(&str, Class)] = &[
    ("analyze", Class::Troubleshooting),
    ("analyse", Class::Troubleshooting),
    ("search", Class::LogAnalysis),
    ("scan", Class::LogAnalysis),
    ("grep", Class::LogAnalysis),
    ("read", Class::LogAnalysis),
    ("parse", Class::LogAnalysis),
    ("summarize", Class::LogAnalysis),
    ("summarise", Class::LogAnalysis),
    ("find", Class::Troubleshooting),
    ("figure", Class::Troubleshooting),
    ("look", Class::Troubleshooting),
    ("identify", Class::Troubleshooting),
    ("examine", Class::Troubleshooting),
    ("inspect", Class::Troubleshooting),
    ("resolve", Class::Troubleshooting),
    ("check", Class::Monitoring),
    ("verify", Class::Monitoring),
    ("show", Class::Monitoring),
    ("review", Class::Monitoring),
    ("report", Class::Monitoring),
    ("handle", Class::Troubleshooting),
    ("manage", Class::AlertManagement),
    ("list", Class::AlertManagement),
    ("close", Class::AlertManagement),
    ("raise", Class::AlertManagement),
    ("trigger", Class::AlertManagement),
    ("create", Class::AlertManagement),
    ("send", Class::AlertManagement),
    ("push", Class::Deployment),
];

/// Nouns with their class. If no verb decides, the class with the most nouns wins.
const NOUNS: &[(&str, Class)] = &[
    ("deployment", Class::Deployment),
    ("rollback", Class::Deployment),
    ("release", Class::Deployment),
    ("production", Class::Deployment),
    ("staging", Class::Deployment),
    ("health", Class::Monitoring),
    ("metrics", Class::Monitoring),
    ("uptime", Class::Monitoring),
    ("cpu", Class::Monitoring),
    ("memory", Class::Monitoring),
    ("disk", Class::Monitoring),
    ("status", Class::Monitoring),
    ("monitoring", Class::Monitoring),
    ("log", Class::LogAnalysis),
    ("logs", Class::LogAnalysis),
    ("alert", Class::AlertManagement),
    ("alerts", Class::AlertManagement),
    ("alarm", Class::AlertManagement),
    ("error", Class::Troubleshooting),
    ("errors", Class::Troubleshooting),
    ("failing", Class::Troubleshooting),
    ("failed", Class::Troubleshooting),
    ("fails", Class::Troubleshooting),
    ("slow", Class::Troubleshooting),
    ("down", Class::Troubleshooting),
    ("broken", Class::Troubleshooting),
    ("crash", Class::Troubleshooting),
    ("crashes", Class::Troubleshooting),
    ("crashing", Class::Troubleshooting),
    ("outage", Class::Troubleshooting),
    ("timeouts", Class::Troubleshooting),
    ("500", Class::Troubleshooting),
    ("502", Class::Troubleshooting),
    ("503", Class::Troubleshooting),
];

/// How many words into the text the verb is searched.
const VERB_WITHIN: usize = 4;

pub fn classify(text: &str) -> Option<Classification> {
    let words = words(text);
    let rest = words.iter().skip_while(|word| POLITE.contains(&word.as_str()));
    let rest: Vec<&str> = rest.map(String::as_str).collect();
    let mentions = |any: &[&str]| rest.iter().any(|word| any.contains(word));

    for (n, word) in rest.iter().take(VERB_WITHIN).enumerate() {
        // "deploy" decides only as the verb: "the deploy failed" is about a failure.
        let verb = VERBS.iter().find(|(verb, _)| verb == word);
        if let Some((_, class)) = verb.filter(|_| n == 0 || !is_noun_too(word)) {
            return Some(certain(*class, word));
        }
        let Some((_, class)) = OPEN_VERBS.iter().find(|(verb, _)| verb == word) else { continue };
        return Some(by_object(word, *class, mentions));
    }
    by_nouns(&rest)
}

fn is_noun_too(word: &str) -> bool {
    ["deploy", "release", "rollback", "rollout", "alert", "alerts", "watch", "launch", "ship"]
        .contains(&word)
}

fn certain(class: Class, word: &str) -> Classification {
    Classification { class, because: format!("the text says '{word}'") }
}

/// `check the logs` is log analysis, `check the alerts` is not.
fn by_object(verb: &str, alone: Class, mentions: impl Fn(&[&str]) -> bool) -> Classification {
    let with_object = |class: Class, object: &str| Classification {
        class,
        because: format!("the text says '{verb}' and speaks of {object}"),
    };
    if alone == Class::Deployment {
        return certain(alone, verb);
    }
    if mentions(&["log", "logs", "logfile", "logfiles"]) {
        return with_object(Class::LogAnalysis, "logs");
    }
    if mentions(&["alert", "alerts", "alarm", "alarms"]) && verb != "find" {
        return with_object(Class::AlertManagement, "alerts");
    }
    if alone == Class::Monitoring && mentions(&["why", "cause", "causes"]) {
        return with_object(Class::Troubleshooting, "a cause");
    }
    certain(alone, verb)
}

/// The class that most words speak of; of two the one that comes first in [`Class::rank`].
fn by_nouns(words: &[&str]) -> Option<Classification> {
    let class_of = |word: &str| NOUNS.iter().find(|(noun, _)| *noun == word).map(|(_, c)| *c);
    let mut counts: BTreeMap<usize, (Class, usize, &str)> = BTreeMap::new();
    for word in words {
        if let Some(class) = class_of(word) {
            counts.entry(class.rank()).or_insert((class, 0, word)).1 += 1;
        }
    }
    let best = counts.into_values().rev().max_by_key(|(_, count, _)| *count);
    best.map(|(class, _, word)| Classification {
        class,
        because: format!("the text speaks of '{word}'"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_text_is_classified() {
        for (text, expected) in [
            ("Deploy latest changes to production", Some(Class::Deployment)),
            ("please roll back production", Some(Class::Deployment)),
            ("Push the new build to staging", Some(Class::Deployment)),
            ("Monitor API error rate and alert if >5%", Some(Class::Monitoring)),
            ("Can you check https://example.com/health?", Some(Class::Monitoring)),
            ("check cpu and memory", Some(Class::Monitoring)),
            ("system health", Some(Class::Monitoring)),
            (
                "Analyze error logs from the past hour and identify root causes",
                Some(Class::LogAnalysis),
            ),
            ("check the logs for timeouts", Some(Class::LogAnalysis)),
            ("Acknowledge alert 42", Some(Class::AlertManagement)),
            ("resolve the high_cpu alert", Some(Class::AlertManagement)),
            ("list open alerts", Some(Class::AlertManagement)),
            ("Resolve the outage of the shop", Some(Class::Troubleshooting)),
            ("Why is checkout slow since the deploy?", Some(Class::Troubleshooting)),
            ("the last deploy failed", Some(Class::Troubleshooting)),
            ("Investigate why the release is broken", Some(Class::Troubleshooting)),
            ("502 errors on login", Some(Class::Troubleshooting)),
            ("figure out what is failing", Some(Class::Troubleshooting)),
            ("bake a cake", None),
            ("", None),
        ] {
            assert_eq!(classify(text).map(|c| c.class), expected, "{text}");
        }
    }
}
