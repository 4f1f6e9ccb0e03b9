//! Names and values in separate places: XML elements, and pairs as in `{"name": …, "value":
//! …}`.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::assigned;
use super::edit::TextEdit;
use super::names::{self, NameKind};

/// Hides the content of `<password>x</password>`, also with a prefix, attributes or CDATA.
pub(super) fn elements(text: &str) -> Cow<'_, str> {
    if !text.contains("</") {
        return Cow::Borrowed(text);
    }
    let mut edit = TextEdit::of(text);
    for (open, _) in text.match_indices('<') {
        if open < edit.done() {
            continue;
        }
        if let Some((from, to)) = content(text, open) {
            edit.hide(from, to);
        }
    }
    edit.finish()
}

/// The secret within the element whose tag begins here. Reads only up to the next tag.
fn content(text: &str, open: usize) -> Option<(usize, usize)> {
    let rest = &text[open + 1..];
    let end = rest.find(['<', '>']).filter(|end| rest.as_bytes()[*end] == b'>')?;
    let tag = &rest[..end];
    let name = tag.split(|c: char| c.is_whitespace()).next()?;
    let kind = names::kind(name.rsplit(':').next()?);
    if kind == NameKind::Plain || tag.ends_with('/') {
        return None;
    }
    let from = open + 1 + end + 1;
    let (inner, close) = match text[from..].trim_start().strip_prefix("<![CDATA[") {
        Some(inner) => (inner, inner.find("]]>").unwrap_or(inner.len())),
        None => (&text[from..], text[from..].find('<')?),
    };
    let cdata = inner.len() != text.len() - from;
    let said = &inner[..close];
    let from = text.len() - inner.len() + (said.len() - said.trim_start().len());
    let hides = (cdata || inner[close..].starts_with("</")) && names::hides(kind, said.trim());
    hides.then(|| (from, from + said.trim().len()))
}

macro_rules! quote {
    () => {
        r#"(?:\\*["'])?"#
    };
}
macro_rules! between {
    () => {
        r#"(?:[\s,;]|\\n|\\r){1,64}(?:[A-Za-z]{1,32}="[^"<>]{0,64}"\s{1,8})?"#
    };
}
macro_rules! name_of {
    () => {
        r#"\b(?:parameter|option|header|field)?(?:name|key|header|field)"#
    };
}

/// `name: NAME, value: ` up to where the value begins.
static FORWARD: LazyLock<Regex> = LazyLock::new(|| {
    let sign = concat!(quote!(), r"\s{0,8}[:=]\s{0,8}");
    let pattern = [
        "(?i)",
        name_of!(),
        sign,
        quote!(),
        r"([A-Za-z0-9_.:-]{2,128})",
        quote!(),
        between!(),
        quote!(),
        "(?:parameter|option)?val(?:ue)?",
        sign,
    ];
    Regex::new(&pattern.concat()).expect("the pattern is well formed")
});

/// `value: VALUE, name: NAME`.
static BACKWARD: LazyLock<Regex> = LazyLock::new(|| {
    let sign = concat!(quote!(), r"\s{0,8}[:=]\s{0,8}");
    let pattern = [
        "(?i)(?:parameter|option)?val(?:ue)?",
        sign,
        r#"(\\?"[^"]*"|\\?'[^']*'|[^\s,;}"'\\]+)"#,
        between!(),
        quote!(),
        name_of!(),
        sign,
        quote!(),
        r"([A-Za-z0-9_.:-]{2,128})",
    ];
    Regex::new(&pattern.concat()).expect("the pattern is well formed")
});

/// `variable "NAME" { default = `, as in Terraform.
static VARIABLE: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r#"variable\s{1,8}\\*"([A-Za-z0-9_-]{2,128})\\*"\s{0,8}\{[^{}]{0,256}?default\s{0,8}=\s{0,8}"#;
    Regex::new(pattern).expect("the pattern is well formed")
});

/// Hides the value in pairs of a secret's name and its value.
pub(super) fn pairs(text: &str) -> Cow<'_, str> {
    let holds = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let mut clean = Cow::Borrowed(text);
    if holds(&["val", "Val", "VAL"]) {
        for step in [|text| forward(text, &FORWARD), backward] as [Step; 2] {
            clean = super::then(clean, step);
        }
    }
    match holds(&["variable"]) && holds(&["default"]) {
        true => super::then(clean, |text| forward(text, &VARIABLE)),
        false => clean,
    }
}

type Step = for<'a> fn(&'a str) -> Cow<'a, str>;

fn forward<'a>(text: &'a str, pattern: &Regex) -> Cow<'a, str> {
    let mut edit = TextEdit::of(text);
    let mut at = 0;
    while let Some(found) = pattern.captures_at(text, at) {
        let (whole, name) = (found.get(0).expect("there is a match"), &found[1]);
        at = whole.end();
        let kind = names::kind(name);
        if kind == NameKind::Plain {
            continue;
        }
        if let Some(to) = assigned::value(text, whole.end(), kind)
            && names::hides(kind, &text[whole.end()..to])
        {
            edit.hide(whole.end(), to);
            at = to;
        }
    }
    edit.finish()
}

fn backward(text: &str) -> Cow<'_, str> {
    let mut edit = TextEdit::of(text);
    for found in BACKWARD.captures_iter(text) {
        let value = found.get(1).expect("the value is not an option");
        let kind = names::kind(&found[2]);
        if kind != NameKind::Plain && names::hides(kind, value.as_str()) {
            edit.hide(value.start(), value.end());
        }
    }
    edit.finish()
}
