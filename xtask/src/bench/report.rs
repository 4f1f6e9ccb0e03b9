//! Formats figures as Markdown and puts them into the file.

use super::{Bench, Machine, Row};

/// The text between a benchmark's markers.
pub fn section(bench: &Bench, date: &str, machine: &Machine, rows: &[Row]) -> String {
    let Bench { name, runs, .. } = bench;
    let head = format!("`cargo xtask bench {name}`, {date}, {machine}. {runs} runs.");
    format!("{head}\n\n{}", table(rows))
}

fn table(rows: &[Row]) -> String {
    let mut out =
        "| figure | median | lowest | highest | unit |\n|---|--:|--:|--:|---|\n".to_owned();
    for Row { what, unit, median, lowest, highest } in rows {
        let (median, lowest, highest) = (number(*median), number(*lowest), number(*highest));
        out += &format!("| {what} | {median} | {lowest} | {highest} | {unit} |\n");
    }
    out
}

/// Three significant digits; more would claim too much precision.
fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// `text` with the section of `name` replaced; `None` if its markers are missing.
pub fn replace(text: &str, name: &str, section: &str) -> Option<String> {
    let (open, close) = (format!("<!-- bench:{name} -->"), format!("<!-- /bench:{name} -->"));
    let start = text.find(&open)? + open.len();
    let end = start + text[start..].find(&close)?;
    Some(format!("{}\n{}\n{}", &text[..start], section.trim_end(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_row_for_each_figure() {
        let row = Row { what: "rate", unit: "1/s", median: 1234.5, lowest: 12.34, highest: 0.5 };
        let expected = "| figure | median | lowest | highest | unit |\n|---|--:|--:|--:|---|\n\
            | rate | 1234 | 12.3 | 0.50 | 1/s |\n";
        assert_eq!(table(&[row]), expected);
    }

    #[test]
    fn only_its_own_section_is_exchanged() {
        let text = "# B\n<!-- bench:a -->\nold\n<!-- /bench:a -->\nkept\n<!-- bench:ab --><!-- /bench:ab -->\n";
        let new = replace(text, "a", "new\n").unwrap();
        assert_eq!(
            new,
            "# B\n<!-- bench:a -->\nnew\n<!-- /bench:a -->\nkept\n<!-- bench:ab --><!-- /bench:ab -->\n"
        );
        assert_eq!(
            replace(&new, "a", "new").as_deref(),
            Some(new.as_str()),
            "a repetition changes nothing"
        );
    }

    #[test]
    fn missing_markers_are_seen() {
        assert_eq!(replace("text", "a", "new"), None);
        assert_eq!(replace("<!-- /bench:a --><!-- bench:a -->", "a", "new"), None);
    }
}
