//! Checks the template against limits of AWS that show only at a deployment, or later.

use super::template::{Resource, TEMPLATE, functions, resources, section, values};
use super::{assert_none, text};
use std::path::Path;

/// Lambda's limit for all variables of a function, names and values, in bytes.
const ENVIRONMENT: usize = 4_096;
/// The longest stack name: a function is named `STACK-redis-bridge`, in at most 64 characters.
const STACK: usize = 51;
const ARN: usize = 160;
/// AWS allows 500 resources in a stack.
const RESOURCES: usize = 450;

/// The longest value that a parameter can have.
fn longest(parameters: &[Resource], name: &str) -> usize {
    if name == "AWS::StackName" {
        return STACK;
    }
    let Some(parameter) = parameters.iter().find(|parameter| parameter.name == name) else {
        // The name of a resource: the stack's, its own and a random part of 13 characters.
        return STACK + name.len() + 15;
    };
    let value = |key| parameter.value(key);
    if let Some(most) = value("MaxLength") {
        return most.parse().expect("a number of characters");
    }
    if let Some(allowed) = value("AllowedValues") {
        let words = allowed.trim_matches(['[', ']']).split(',');
        return words.map(|word| word.trim().trim_matches('"').len()).max().unwrap_or_default();
    }
    assert_eq!(value("Type"), Some("Number"), "{name} has no MaxLength");
    value("MaxValue").map_or(10, str::len)
}

/// The maximum length of a variable's value, as the template writes it.
fn length(parameters: &[Resource], value: &str) -> usize {
    let of = |name: &str| longest(parameters, name.trim());
    if let Some(name) = value.strip_prefix("!Ref ") {
        return of(name);
    }
    if value.starts_with("!If ") {
        let names = value.split("!Ref ").skip(1);
        let names = names.map(|part| part.split([',', ']']).next().unwrap_or_default());
        return names.map(of).max().unwrap_or_default();
    }
    if value.starts_with('!') { ARN } else { value.len() }
}

/// Name and value of each variable below `Variables:`.
fn variables(lines: &[String]) -> Vec<(&str, &str)> {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut from = lines.iter().skip_while(|line| line.trim() != "Variables:");
    let Some(head) = from.next() else { return Vec::new() };
    let inside = from.take_while(|line| line.trim().is_empty() || depth(line) > depth(head));
    let pairs = inside.filter(|line| !line.trim_start().starts_with('#'));
    pairs.filter_map(|line| line.trim().split_once(": ")).collect()
}

#[test]
fn the_variables_of_a_function_fit_whatever_the_parameters() {
    let parameters = section("Parameters:");
    let whole = text(Path::new(TEMPLATE));
    let globals = whole.lines().skip_while(|line| *line != "Globals:");
    let globals = globals.take_while(|line| *line != "Resources:").map(str::to_owned);
    let globals: Vec<_> = globals.collect();
    let shared = variables(&globals);
    assert!(shared.len() > 8, "{shared:?}");
    let mut wrong = Vec::new();
    for function in functions(&resources()) {
        let own = variables(&function.lines);
        let mine = |name: &str| own.iter().any(|(own, _)| *own == name);
        let all = own.iter().chain(shared.iter().filter(|(name, _)| !mine(name)));
        let bytes: usize = all
            .map(|(name, value)| name.len() + length(&parameters, value.trim_matches('"')))
            .sum();
        if bytes > ENVIRONMENT {
            wrong.push(format!("{}: up to {bytes} bytes", function.name));
        }
    }
    assert_none("Lambda takes 4 KB of variables", &wrong);
}

/// Includes what the transform adds: a permission, a rule or a mapping for each event, a version
/// of invocation settings, and the parts of the HTTP API.
#[test]
fn the_stack_has_room_for_more_resources() {
    let all = resources();
    let more: usize = functions(&all)
        .map(|function| {
            let events = values(&function.lines, "Type").skip(1).count();
            2 * events + values(&function.lines, "EventInvokeConfig").count()
        })
        .sum();
    let sum = all.len() + more + 5;
    assert!(sum < RESOURCES, "{sum} resources");
}

/// A first deployment that fails leaves nothing behind that blocks the next one.
#[test]
fn retained_resources_are_deleted_if_the_creation_fails() {
    let kept: Vec<_> =
        resources().into_iter().filter(|one| one.value("DeletionPolicy").is_some()).collect();
    assert_eq!(kept.len(), 3, "the table and two buckets");
    for one in kept {
        assert_eq!(one.value("DeletionPolicy"), Some("RetainExceptOnCreate"), "{}", one.name);
    }
}
