//! What the commands in a call's arguments would do: dangerous ones are refused whatever anyone
//! says.
//!
//! - `rules`: what is dangerous, as data.
//! - `shell`: a script as the commands a shell would make of it.
//! - `commands`: looks through wrappers, pipes and nested scripts for what the rules name.
//! - `programs`: what runs other commands, as data.
//! - `paths`: what a path amounts to.
//! - `sql`: statements that lose data wholesale.
//!
//! A guard against slips and crude tricks, not a sandbox: what a program does once it runs is
//! not seen here. That is why what changes something is asked about unless a rule allows it.
//!
//! How to add a dangerous command: a row in `rules::RULES`, an evasion and a harmless
//! look-alike in `tests`.

mod commands;
mod paths;
mod programs;
mod rules;
mod shell;
mod sql;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

/// Words in the names of arguments that hold commands.
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
/// Arguments that make one command together, in this order.
const PARTS: &[&str] = &["entrypoint", "command", "cmd", "program", "args", "arguments", "argv"];
/// Objects and lists within each other; JSON that is read has no more.
const DEEPEST: usize = 128;

/// What is wrong with the arguments of a mutating call, in words without secrets; nothing if
/// nothing is.
pub fn find(arguments: &Map<String, Value>) -> Option<String> {
    in_object(arguments, false, 0)
}

fn in_object(fields: &Map<String, Value>, is_command: bool, depth: usize) -> Option<String> {
    if depth > DEEPEST {
        return Some("its arguments are nested too deep to be looked through".to_owned());
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
    (together.len() > 1).then(|| commands::in_words(&together)).flatten()
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
                    .then(|| commands::in_words(&words).or_else(|| sql::find(&words.join(" "))))
                    .flatten()
            })
        }
        _ => None,
    }
}

/// `build_command` and `buildCommand` too.
fn names_a_command(name: &str) -> bool {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if !c.is_alphanumeric() || c.is_uppercase() {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            words.last_mut().expect("there is one").extend(c.to_lowercase());
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

/// A program and its arguments that stand in arguments of their own.
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
