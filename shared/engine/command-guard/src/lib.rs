//! Checks the commands in a call's arguments. Dangerous ones are refused; no approval can allow
//! them.
//!
//! - `rules`: the dangerous commands, as data.
//! - `shell`: parses a script into the commands that a shell would run.
//! - `commands`: searches wrappers, pipes and nested scripts for the commands that the rules
//!   name.
//! - `programs`: programs that run other commands, as data.
//! - `paths`: classifies paths.
//! - `sql`: statements that delete or change data of a whole table.
//!
//! This guards against mistakes and simple tricks; it is not a sandbox. It can't see what a
//! program does once it runs. Therefore mutating calls require approval unless a rule allows
//! them.
//!
//! To add a dangerous command: a row in `rules::RULES`, an evasion and a harmless look-alike in
//! `tests`.

mod commands;
mod paths;
mod programs;
mod rules;
mod shell;
mod sql;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

/// Words in the names of arguments that contain commands.
const COMMAND_WORDS: &[&str] = &[
    "command",
    "commands",
    "cmd",
    "cmds",
    "script",
    "scripts",
    "run",
    "runs",
    "args",
    "argv",
    "arguments",
    "entrypoint",
    "exec",
    "execute",
    "shell",
    "sh",
    "bash",
    "code",
    "eval",
    "sql",
    "query",
    "queries",
    "statement",
    "statements",
    "hook",
    "hooks",
    "steps",
    "program",
];
/// Arguments that together form one command, in this order.
const PARTS: &[&str] = &["entrypoint", "command", "cmd", "program", "args", "arguments", "argv"];
/// Nesting depth of objects and lists. Parsed JSON is no deeper.
const DEEPEST: usize = 128;

/// What is wrong with the arguments of a mutating call, without secrets. `None` if nothing is.
pub fn find(arguments: &Map<String, Value>) -> Option<String> {
    in_object(arguments, false, 0)
}

fn in_object(fields: &Map<String, Value>, is_command: bool, depth: usize) -> Option<String> {
    if depth > DEEPEST {
        return Some("its arguments are nested too deep to be inspected".to_owned());
    }
    for (name, value) in fields {
        let is_command = is_command || names_a_command(name);
        let found = in_value(value, is_command, depth + 1);
        if let Some(what) = found {
            return Some(if is_command && !value.is_object() {
                format!("{name}: {what}")
            } else {
                what
            });
        }
    }
    let together = together(fields);
    (together.len() > 1).then(|| commands::describe(&together)).flatten()
}

fn in_value(value: &Value, is_command: bool, depth: usize) -> Option<String> {
    match value {
        Value::String(text) if is_command => commands::in_text(text),
        Value::Object(fields) => in_object(fields, is_command, depth),
        Value::Array(items) => {
            let each = items.iter().find_map(|item| in_value(item, is_command, depth + 1));
            let words: Vec<String> = items.iter().filter_map(text).collect();
            each.or_else(|| {
                (is_command && words.len() > 1)
                    .then(|| commands::describe(&words).or_else(|| sql::find(&words.join(" "))))
                    .flatten()
            })
        }
        _ => None,
    }
}

/// Also matches `build_command` and `buildCommand`.
fn names_a_command(name: &str) -> bool {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if !c.is_alphanumeric() || c.is_uppercase() {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            words.last_mut().expect("a word was pushed before").extend(c.to_lowercase());
        }
    }
    let whole = name.to_lowercase();
    words.iter().any(|word| COMMAND_WORDS.contains(&word.as_str()))
        || COMMAND_WORDS.contains(&whole.as_str())
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A command whose program and arguments are in separate arguments.
fn together(fields: &Map<String, Value>) -> Vec<String> {
    let mut words = Vec::new();
    for part in PARTS {
        let found = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(part));
        for (_, value) in found {
            match value {
                Value::String(text) => match shell_words::split(text).ok() {
                    Some(split) => words.extend(split),
                    None => words.push(text.clone()),
                },
                Value::Array(items) => words.extend(items.iter().filter_map(text)),
                _ => {}
            }
        }
    }
    words
}
