//! Extracts URLs and names from free text.

/// URLs in the text, without trailing punctuation.
pub fn urls(text: &str) -> Vec<String> {
    text.split(|c: char| c.is_whitespace() || "<>\"'`()[]{}".contains(c))
        .filter_map(|token| {
            let start = ["https://", "http://", "tcp://"].iter().find_map(|s| token.find(s))?;
            let url = token[start..].trim_end_matches(|c| ".,;!?:".contains(c));
            (url.len() > 8).then(|| url.to_owned())
        })
        .take(20)
        .collect()
}

/// A name made of words: `Disk full on /var` → `disk_full_on_var`.
pub fn slug(text: &str, most_words: usize) -> String {
    let parts: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .take(most_words)
        .map(str::to_lowercase)
        .collect();
    parts.join("_")
}
