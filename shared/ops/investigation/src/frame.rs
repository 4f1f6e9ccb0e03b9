//! Finds the place in the code that an error came from.

use std::sync::LazyLock;

use regex::Regex;

use watchbill_redact as redact;

/// Maximum characters of a place that are shown.
const MAX_CHARS: usize = 200;

/// Stack frame formats: JavaScript and Java, Python, Go and Rust.
const FORMS: &[&str] = &[
    r"^\s*at (?P<place>.+:\d+(?::\d+)?\)?)\s*$",
    r"^\s*at (?P<place>[\w.$<>]+\([^)]*\))\s*$",
    r#"^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<name>.+))?"#,
    r"^\s*(?:at )?(?P<place>\S+\.(?:go|rs|rb|php|cs|py|js|ts):\d+\S*)",
    r"panicked at (?P<place>\S+:\d+(?::\d+)?)",
];

static COMPILED: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let compile = |form: &&str| Regex::new(form).expect("the patterns are valid: a test uses each");
    FORMS.iter().map(compile).collect()
});

/// Markers of third-party code, whose frames tell less.
const FOREIGN: &[&str] = &[
    "node_modules",
    "node:internal",
    "site-packages",
    "dist-packages",
    "java.base",
    "java.lang.",
    "java.util.",
    "sun.reflect",
    "/rustc/",
    "/usr/lib/",
    "/usr/local/go/",
    ".cargo/registry",
    "org.springframework.",
    "org.apache.",
];

/// The frame nearest to the fault among the lines of a message and its stack, preferably in the
/// program's own code.
pub fn frame<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut found: Vec<(String, bool)> = Vec::new();
    for line in lines {
        let Some(captures) = COMPILED.iter().find_map(|form| form.captures(line)) else { continue };
        let python = captures.name("file").is_some();
        let place = match (captures.name("place"), captures.name("file")) {
            (Some(place), _) => place.as_str().trim().to_owned(),
            (None, Some(file)) => {
                let name = captures.name("name").map_or("", |name| name.as_str());
                let within = if name.is_empty() { String::new() } else { format!(" in {name}") };
                format!("{}:{}{within}", file.as_str(), &captures["line"])
            }
            (None, None) => continue,
        };
        found.push((place, python));
    }
    // Python writes the innermost frame last, others first.
    if found.iter().any(|(_, python)| *python) {
        found.reverse();
    }
    let own = found.iter().find(|(place, _)| !FOREIGN.iter().any(|word| place.contains(word)));
    own.or(found.first()).map(|(place, _)| redact::shortened(place, MAX_CHARS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_nearest_to_the_fault() {
        for (message, stack, expected) in [
            (
                "TypeError: x is undefined",
                "    at pay (node_modules/a/b.js:1:1)\n    at pay (/app/cart.js:42:13)",
                "pay (/app/cart.js:42:13)",
            ),
            (
                "boom",
                "\tat java.util.Map.get(Map.java:1)\n\tat com.example.Cart.pay(Cart.java:42)",
                "com.example.Cart.pay(Cart.java:42)",
            ),
            (
                "boom",
                "Traceback (most recent call last):\n  File \"/a/outer.py\", line 1, in main\n  File \"/a/inner.py\", line 9, in pay\nKeyError: 'x'",
                "/a/inner.py:9 in pay",
            ),
            ("thread 'main' panicked at src/cart.rs:7:5:", "", "src/cart.rs:7:5"),
            ("goroutine 1", "\t/srv/cart.go:12 +0x1d", "/srv/cart.go:12"),
        ] {
            let lines = std::iter::once(message).chain(stack.lines());
            assert_eq!(frame(lines).as_deref(), Some(expected), "{message}");
        }
        assert_eq!(frame(["nothing here"]), None);
    }

    #[test]
    fn a_place_is_redacted_before_it_is_cut() {
        let key = format!("ghp_{}", "a1".repeat(18));
        for before in 150..200 {
            let line = format!("    at {}({key}.js:42:13)", "x".repeat(before));
            let place = frame([&*line]).expect("the line is a frame");
            assert!(!place.contains("ghp_"), "{before}: {place}");
            assert!(place.chars().count() <= MAX_CHARS, "{before}: {place}");
        }
    }
}
