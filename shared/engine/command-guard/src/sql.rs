//! Statements that delete or change data of a whole table or database.

use std::sync::LazyLock;

use regex::Regex;

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a test compiles every pattern")
}

static DROP: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\bDROP\s+(DATABASE|SCHEMA|TABLE|TABLESPACE|KEYSPACE)\b"));
static TRUNCATE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"\bTRUNCATE\s+TABLE\b|(^|[;'"])\s*TRUNCATE\s+(ONLY\s+)?[A-Z_][\w."`]*\s*($|[;'",]|CASCADE|RESTART)"#,
    )
});
static DELETE: LazyLock<Regex> = LazyLock::new(|| pattern(r#"\bDELETE\s+FROM\s+[\w."`\[\]]+"#));
static UPDATE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r#"\bUPDATE\s+[\w."`\[\]]+(\s+(AS\s+)?\w+)?\s+SET\s+[\w."`\[\]]+\s*="#)
});
static WHERE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\bWHERE\b(.*)"));
/// Conditions that every row meets.
static ALWAYS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"^\s*\(*\s*(TRUE|NOT\s+FALSE|1|(\d+)\s*(=|<=|>=)\s*\d+|'(\w*)'\s*=\s*'\w*')\s*\)*\s*['"]?\s*$"#,
    )
});
static DOCUMENTS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\bDROPDATABASE\s*\(|\bDB\.\w+\.DROP\s*\(|\.(DELETEMANY|REMOVE)\s*\(\s*(\{\s*\})?\s*\)|\b(FLUSHALL|FLUSHDB)\b",
    )
});

pub fn find(text: &str) -> Option<String> {
    // Most texts contain none of these words and are not copied.
    let has = |word: &[u8]| {
        text.as_bytes().windows(word.len()).any(|found| found.eq_ignore_ascii_case(word))
    };
    if ![&b"drop"[..], b"truncate", b"delete", b"update", b"remove", b"flush"].into_iter().any(has)
    {
        return None;
    }
    let text = plain(text);
    if let Some(found) = DROP.find(&text) {
        return Some(format!("'{}' deletes data permanently", found.as_str()));
    }
    if TRUNCATE.is_match(&text) {
        return Some("TRUNCATE empties a table".to_owned());
    }
    if DOCUMENTS.is_match(&text) {
        return Some("it empties or drops a database".to_owned());
    }
    for (statement, what) in [(&DELETE, "DELETE"), (&UPDATE, "UPDATE")] {
        let mut all = statement.find_iter(&text).peekable();
        while let Some(found) = all.next() {
            // One statement ends before the next begins, so each text is searched once.
            let rest = &text[found.end()..all.peek().map_or(text.len(), |next| next.start())];
            if meets_every_row(rest.split(';').next().unwrap_or_default()) {
                return Some(format!("{what} without a WHERE changes every row"));
            }
        }
    }
    None
}

fn meets_every_row(rest: &str) -> bool {
    // Text in a comment is not a condition.
    let rest = rest.split("-- ").next().unwrap_or_default();
    match WHERE.captures(rest) {
        None => true,
        Some(found) => ALWAYS.is_match(&found[1]),
    }
}

/// In capitals, without comments, with single spaces.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        plain.push_str(&rest[..start]);
        plain.push(' ');
        let comment = &rest[start + 2..];
        // The content of /*!50000 … */ is executed.
        rest = match comment.strip_prefix('!') {
            Some(run) => run.trim_start_matches(|c: char| c.is_ascii_digit()),
            None => comment.find("*/").map_or("", |end| &comment[end + 2..]),
        };
    }
    plain.push_str(rest);
    let plain = plain.replace("*/", " ").to_uppercase();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}
