//! What the fields of an object or the items of a list imply for one another: `name` and
//! `value`, the parts of a key, the words of a command.

use std::borrow::Cow;

use super::commands::CommandLine;
use super::names::{self, NameKind};
use super::{HIDDEN, nested};

/// Fields that contain the name of another field, in lower case.
const NAMES: &[&str] = &[
    "name",
    "key",
    "header",
    "field",
    "variable",
    "option",
    "k",
    "parameterkey",
    "parametername",
    "headername",
    "optionname",
    "varname",
];
/// Fields that contain the value of such a name.
const VALUES: &[&str] = &[
    "value",
    "val",
    "v",
    "parametervalue",
    "headervalue",
    "optionvalue",
    "stringvalue",
    "default",
];
/// The private parts of a JSON web key, which is recognised by its `kty` (RFC 7518, 6).
const KEY_PARTS: &[&str] = &["d", "k", "p", "q", "dp", "dq", "qi", "oth"];

fn is_one_of(name: &str, of: &[&str]) -> bool {
    name.len() <= 16 && of.iter().any(|one| one.eq_ignore_ascii_case(name))
}

pub(super) fn is_name(field: &str) -> bool {
    is_one_of(field, NAMES)
}

/// What an object's fields imply for one another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    /// The kind of the value, according to the name that the object contains.
    kind: NameKind,
    is_key: bool,
}

impl Default for Pair {
    fn default() -> Self {
        Self { kind: NameKind::Plain, is_key: false }
    }
}

impl Pair {
    /// The object has a field of this name.
    pub fn has(&mut self, field: &str) {
        self.is_key |= field == "kty";
    }

    /// The object contains this name. The most secret kind of its names applies.
    pub fn named(&mut self, said: &str) {
        let worse = |kind| match kind {
            NameKind::Secret => 4,
            NameKind::Likely => 3,
            NameKind::Perhaps => 2,
            NameKind::Many => 1,
            NameKind::Plain => 0,
        };
        let kind = names::kind(said);
        if worse(kind) > worse(self.kind) {
            self.kind = kind;
        }
    }

    /// The kind of a field, from its own name and the other fields.
    pub fn kind_of(&self, field: &str) -> NameKind {
        if self.is_key && KEY_PARTS.contains(&field) {
            return NameKind::Secret;
        }
        match self.kind != NameKind::Plain && is_one_of(field, VALUES) {
            true => self.kind,
            false => names::kind(field),
        }
    }
}

/// Cleans the texts of a list in order: `["--password", "x"]`, `["Cookie", "a=b"]`, the words
/// of a command.
pub(super) struct Items {
    command: CommandLine,
    /// The item before was a name of this kind.
    after: Option<NameKind>,
    flag: bool,
    nested: usize,
}

/// Longest item that can be the name of a secret.
const MAX_NAME: usize = 64;

impl Items {
    pub fn new(nested: usize) -> Self {
        Self { command: CommandLine::default(), after: None, flag: false, nested }
    }

    /// Skips an item that is not a text.
    pub fn pass(&mut self) {
        self.after = None;
    }

    /// Cleans the next text of a list under a name of this kind.
    pub fn clean<'a>(&mut self, said: &'a str, kind: NameKind) -> Cow<'a, str> {
        let (after, flag) = (self.after.take(), self.flag);
        let place = self.command.secret_in(said).filter(|at| *at < said.len());
        let given = after.is_some_and(|kind| {
            let looks = if flag { !said.starts_with('-') } else { names::is_generated(said) };
            looks && names::hides(kind, said)
        });
        if names::hides(kind, said) || given {
            return Cow::Owned(HIDDEN.to_owned());
        }
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if said.len() <= MAX_NAME && said.bytes().all(name) {
            self.after = Some(names::kind(said))
                .filter(|kind| !matches!(kind, NameKind::Plain | NameKind::Many));
            self.flag = said.starts_with('-');
        }
        let clean = nested(said, self.nested + 1);
        match place {
            // The rules may have moved the index by hiding something.
            Some(at) if matches!(clean, Cow::Borrowed(_)) => {
                Cow::Owned(format!("{}{HIDDEN}", &said[..at]))
            }
            _ => clean,
        }
    }
}
