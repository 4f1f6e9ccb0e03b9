//! Which environment work is aimed at, and whether that is production. An unknown name counts
//! as production, so that a typing error or a look-alike never lowers the protection.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use icu_normalizer::ComposingNormalizerBorrowed;
use serde_json::{Map, Value};

/// Ordered from the strictest to the least strict. The smallest of several applies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EnvironmentKind {
    Production,
    Staging,
    Sandbox,
}

impl EnvironmentKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EnvironmentKind::Production => "production",
            EnvironmentKind::Staging => "staging",
            EnvironmentKind::Sandbox => "sandbox",
        }
    }
}

const PRODUCTION: &[&str] = &["production", "prod", "prd", "live"];
const STAGING: &[&str] = &["staging", "stage", "preprod", "uat"];
const SANDBOX: &[&str] =
    &["dev", "development", "preview", "test", "testing", "qa", "sandbox", "local"];
/// Words that name a region and not the kind of an environment (`eu-staging`).
const PLACES: &[&str] = &[
    "eu", "us", "uk", "na", "sa", "ap", "apac", "emea", "asia", "north", "south", "east", "west",
    "central",
];
/// Previews of a pull request are named `pr-…`, with any suffix.
const PULL_REQUEST: &str = "pr";
/// Longest name in bytes. A longer one counts as production.
const MAX_NAME_BYTES: usize = 256;
/// Nesting depth of objects that are searched for further environments.
const MAX_DEPTH: usize = 4;
/// Fields, in lower case and without separators, that name an environment.
const FIELDS: &[&str] = &[
    "environment",
    "environmentname",
    "env",
    "envname",
    "targetenvironment",
    "targetenv",
    "deployenvironment",
    "deploymentenvironment",
];
/// Fields that contain further fields of the same work.
const HOLDERS: &[&str] = &[
    "target",
    "args",
    "arguments",
    "params",
    "parameters",
    "options",
    "metadata",
    "payload",
    "deploy",
    "deployment",
];

/// The names of each kind of environment, in the form of [`normalized`]: the built-in ones, and
/// those that an installation lists. Any other name is production.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environments {
    pub production: BTreeSet<String>,
    pub staging: BTreeSet<String>,
    pub sandbox: BTreeSet<String>,
}

impl Default for Environments {
    fn default() -> Self {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
        Self { production: words(PRODUCTION), staging: words(STAGING), sandbox: words(SANDBOX) }
    }
}

/// Canonical form of a name: compatibility forms (full-width letters) as plain ones, lower
/// case, trimmed.
pub fn normalized(name: &str) -> String {
    compatible(name).to_lowercase()
}

fn compatible(name: &str) -> String {
    ComposingNormalizerBorrowed::new_nfkc().normalize(name).trim().to_owned()
}

impl Environments {
    /// The kind of one value. Production if it is missing, empty or not a text.
    pub fn kind(&self, environment: Option<&Value>) -> EnvironmentKind {
        match environment.and_then(Value::as_str) {
            Some(name) if name.len() <= MAX_NAME_BYTES => self.kind_of_name(name),
            _ => EnvironmentKind::Production,
        }
    }

    /// The environment that work is aimed at: the strictest of `fields.environment`, which is
    /// production if missing, and every environment that another field of the work or its
    /// metadata names.
    pub fn aimed_at(
        &self,
        fields: &Map<String, Value>,
        metadata: &Map<String, Value>,
    ) -> EnvironmentKind {
        let own = self.kind(fields.get("environment"));
        let further = self.named_in(fields, 0).chain(self.named_in(metadata, 1));
        further.fold(own, EnvironmentKind::min)
    }

    /// The kind of environment that a word of a text names, if any.
    pub fn spoken_of(&self, word: &str) -> Option<EnvironmentKind> {
        if self.has_production_word(word) {
            return Some(EnvironmentKind::Production);
        }
        let kind = self.kind(Some(&Value::from(word)));
        (kind != EnvironmentKind::Production).then_some(kind)
    }

    fn kind_of_name(&self, name: &str) -> EnvironmentKind {
        let name = compatible(name);
        let lower = name.to_lowercase();
        match self.listed(&lower) {
            Some(kind) => kind,
            // Letters of other scripts can look like ASCII ones, and some characters are
            // invisible.
            None if !name.is_ascii() => EnvironmentKind::Production,
            None => self.kind_of_words(&name, &lower),
        }
    }

    /// The strictest list that contains the name.
    fn listed(&self, name: &str) -> Option<EnvironmentKind> {
        let lists = [
            (&self.production, EnvironmentKind::Production),
            (&self.staging, EnvironmentKind::Staging),
            (&self.sandbox, EnvironmentKind::Sandbox),
        ];
        lists.into_iter().find(|(list, _)| list.contains(name)).map(|(_, kind)| kind)
    }

    /// A name of several words is staging or sandbox only if each of its words is known to be
    /// one of these or names a region. Numbers have no effect.
    fn kind_of_words(&self, name: &str, lower: &str) -> EnvironmentKind {
        let is_pull_request = is_pull_request(lower);
        let mut kind = is_pull_request.then_some(EnvironmentKind::Sandbox);
        // All letters joined, except listed words that contain a production word, such as
        // `preprod`. A production word in them counts at any position, also across separators.
        let mut letters = String::new();
        for run in name.split(|c: char| !c.is_ascii_alphabetic()).filter(|run| !run.is_empty()) {
            for word in self.words(run) {
                match self.listed(&word) {
                    Some(EnvironmentKind::Production) => return EnvironmentKind::Production,
                    Some(known) => {
                        kind = Some(kind.map_or(known, |kind| kind.min(known)));
                        // A listed staging or sandbox word may contain a production word.
                        if !self.production.iter().any(|production| word.contains(production)) {
                            letters.push_str(&word);
                        }
                    }
                    None if PLACES.contains(&word.as_str()) || is_pull_request => {
                        letters.push_str(&word);
                    }
                    None => return EnvironmentKind::Production,
                }
            }
        }
        let has_production = self.production.iter().any(|word| {
            let is_letters = word.chars().all(char::is_alphabetic);
            if is_letters { letters.contains(word) } else { lower.contains(word) }
        });
        kind.filter(|_| !has_production).unwrap_or(EnvironmentKind::Production)
    }

    /// The words of a run of letters, in lower case: the whole run if it is listed (`PreProd`),
    /// else split at camel case (`devEU`).
    fn words(&self, run: &str) -> Vec<String> {
        let whole = run.to_ascii_lowercase();
        if self.listed(&whole).is_some() {
            return vec![whole];
        }
        camel_words(run)
    }

    fn has_production_word(&self, text: &str) -> bool {
        let text = compatible(text);
        let mut runs = text.split(|c: char| !c.is_alphabetic());
        runs.any(|run| {
            let words = self.words(run);
            words.iter().any(|word| self.production.contains(word))
        })
    }

    /// Each environment that a field names, except `environment` of the work itself (depth 0),
    /// which the caller checks.
    fn named_in<'a>(
        &'a self,
        fields: &'a Map<String, Value>,
        depth: usize,
    ) -> Box<dyn Iterator<Item = EnvironmentKind> + Send + 'a> {
        let each = fields.iter().filter(move |(name, _)| depth > 0 || *name != "environment");
        Box::new(each.flat_map(move |(name, value)| self.named_by(name, value, depth)))
    }

    fn named_by<'a>(
        &'a self,
        name: &str,
        value: &'a Value,
        depth: usize,
    ) -> Box<dyn Iterator<Item = EnvironmentKind> + Send + 'a> {
        let name: String = name.chars().filter(|c| c.is_alphanumeric()).collect();
        let name = name.to_lowercase();
        let is_holder = HOLDERS.contains(&name.as_str());
        match value {
            Value::String(_) if FIELDS.contains(&name.as_str()) => {
                Box::new(std::iter::once(self.kind(Some(value))))
            }
            // Usually a host or a service; `production` if a provider uses that name.
            Value::String(text) if name == "target" && self.has_production_word(text) => {
                Box::new(std::iter::once(EnvironmentKind::Production))
            }
            Value::Object(further) if is_holder && depth < MAX_DEPTH => {
                self.named_in(further, depth + 1)
            }
            // Deeper than any legitimate request. It is not searched, so it counts as
            // production.
            Value::Object(_) if is_holder => Box::new(std::iter::once(EnvironmentKind::Production)),
            // `env` may hold variables, which name no environment.
            Value::Null => Box::new(std::iter::empty()),
            _ if name != "env" && FIELDS.contains(&name.as_str()) => {
                Box::new(std::iter::once(EnvironmentKind::Production))
            }
            _ => Box::new(std::iter::empty()),
        }
    }
}

/// `pr-12`, `PR12`, `pr/fix-login`, but neither `pr` alone nor `prod`.
fn is_pull_request(lower: &str) -> bool {
    let Some(rest) = lower.strip_prefix(PULL_REQUEST) else { return false };
    rest.starts_with(|c: char| !c.is_ascii_alphabetic())
        && rest.contains(|c: char| c.is_ascii_alphanumeric())
}

/// `prodEU` → prod, eu; `EUProd` → eu, prod.
fn camel_words(run: &str) -> Vec<String> {
    let letters: Vec<char> = run.chars().collect();
    let mut words: Vec<String> = Vec::new();
    for (place, letter) in letters.iter().enumerate() {
        let before = place.checked_sub(1).map(|place| letters[place]);
        let after = letters.get(place + 1);
        let begins = letter.is_uppercase()
            && (before.is_some_and(|c| c.is_lowercase())
                || after.is_some_and(|c| c.is_lowercase()));
        if place == 0 || begins {
            words.push(String::new());
        }
        words.last_mut().expect("the first letter begins one").extend(letter.to_lowercase());
    }
    words
}
