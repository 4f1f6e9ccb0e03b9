//! The summary that stages and soaks print at the end.

use std::time::Duration;

use anyhow::{Result, bail};

pub struct Row {
    pub name: &'static str,
    pub took: Duration,
    pub error: Option<anyhow::Error>,
}

/// Prints the table, the first failure with the command to repeat it alone, and the counts.
pub fn print(kind: &str, again: &str, rows: &[Row], closing: &[String]) -> bool {
    println!("\n{}", table(rows));
    for line in closing {
        println!("{line}");
    }
    if let Some(row) = rows.iter().find(|row| row.error.is_some())
        && let Some(error) = &row.error
    {
        println!("first failure: {}: {error:#}", row.name);
        println!("run it alone:  {again} --only {}", row.name);
    }
    let failed = rows.iter().filter(|row| row.error.is_some()).count();
    println!("{kind}: {} passed, {failed} failed", rows.len() - failed);
    failed == 0
}

pub fn list<'a>(rows: impl Iterator<Item = (&'a str, &'a str)>) {
    for (name, why) in rows {
        println!("{name:10}  {why}");
    }
}

/// The requested ones of `all`, in the table's order; all of them if none is requested.
pub fn chosen<'a, T>(
    all: &'a [T],
    name: impl Fn(&T) -> &'static str,
    only: &[String],
) -> Result<Vec<&'a T>> {
    if let Some(unknown) = only.iter().find(|o| !all.iter().any(|t| name(t) == o.as_str())) {
        let known = all.iter().map(name).collect::<Vec<_>>().join(", ");
        bail!("there is none named '{unknown}'; choose one of: {known}");
    }
    let wanted = |t: &&T| only.is_empty() || only.iter().any(|o| o == name(t));
    Ok(all.iter().filter(wanted).collect())
}

fn table(rows: &[Row]) -> String {
    let mut out = format!("{:10}  {:6}  {:>8}", "stage", "result", "time");
    for row in rows {
        let result = if row.error.is_some() { "FAILED" } else { "passed" };
        out += &format!("\n{:10}  {result:6}  {:>6.1} s", row.name, row.took.as_secs_f64());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up() {
        let rows = [
            Row { name: "fmt", took: Duration::from_millis(640), error: None },
            Row {
                name: "clippy",
                took: Duration::from_secs(61),
                error: Some(anyhow::anyhow!("no")),
            },
        ];
        assert_eq!(
            table(&rows),
            "stage       result      time\nfmt         passed     0.6 s\nclippy      FAILED    61.0 s"
        );
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = chosen(&["fmt", "doc"], |n| n, &["dok".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "there is none named 'dok'; choose one of: fmt, doc");
        assert_eq!(chosen(&["fmt", "doc"], |n| n, &["doc".to_owned()]).unwrap(), [&"doc"]);
        assert_eq!(chosen(&["fmt", "doc"], |n| n, &[]).unwrap().len(), 2);
    }
}
