//! Checks permissions on AWS: the table of rights, the calls of the adapters, the ports of each
//! function, the roles of the template and `infra/iam.md` must agree.
//!
//! `WATCHBILL_WRITE_RIGHTS=1 cargo test -p watchbill-tests rights` rewrites the roles and the
//! page from the table.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use watchbill_aws::rights::{
    CallerKind, EVERY_DEAD, EVERY_LANE, OWN_DEAD, OWN_LANES, OWN_LOG, PORTS, Port, Right,
};

use super::template::{Resource, TEMPLATE, functions, named, resources};
use super::{assert_none, root, rust_files, text};

/// The folders that make calls, and the prefix of their files in the table.
const CALLERS: &[(&str, &str)] =
    &[("shared/integrations/aws/src", ""), ("shared/hosts/lambda/src", "lambda/")];
const PAGE: &str = "infra/iam.md";
/// The markers around the tables of the page.
const TABLES: (&str, &str) = ("<!-- from the table of rights -->\n", "<!-- end -->\n");

/// The permission that each SDK call needs. A transaction needs those of its parts.
const CALLS: &[(&str, &str)] = &[
    (".get_item()", "dynamodb:GetItem"),
    (".batch_get_item()", "dynamodb:BatchGetItem"),
    (".put_item()", "dynamodb:PutItem"),
    (".update_item()", "dynamodb:UpdateItem"),
    (".delete_item()", "dynamodb:DeleteItem"),
    (".query()", "dynamodb:Query"),
    (".transact_write_items()", ""),
    ("ConditionCheck::builder()", "dynamodb:ConditionCheckItem"),
    (".send_message()", "sqs:SendMessage"),
    (".send_message_batch()", "sqs:SendMessage"),
    ("queue::send(", "sqs:SendMessage"),
    (".change_message_visibility()", "sqs:ChangeMessageVisibility"),
    (".get_queue_attributes()", "sqs:GetQueueAttributes"),
    (".put_events()", "events:PutEvents"),
    (".get_object()", "s3:GetObject"),
    (".put_object()", "s3:PutObject"),
    (".get_parameter()", "ssm:GetParameter"),
    (".get_secret_value()", "secretsmanager:GetSecretValue"),
];

/// The shipped part of a source: without its tests and its comments.
fn shipped(path: &Path) -> String {
    let text = text(path);
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn sources(folder: &str) -> Vec<PathBuf> {
    rust_files().filter(|path| path.starts_with(folder)).collect()
}

#[test]
fn the_table_of_rights_lists_every_call_of_the_adapters() {
    let mut wrong = Vec::new();
    let mut asked = BTreeSet::new();
    let callers = CALLERS.iter().flat_map(|(folder, begins)| {
        let named = |path: PathBuf| {
            let inner = path.strip_prefix(folder).expect("it lies there").display().to_string();
            (path, format!("{begins}{inner}"))
        };
        sources(folder).into_iter().map(named).collect::<Vec<_>>()
    });
    let callers: Vec<(PathBuf, String)> = callers.collect();
    for (path, file) in &callers {
        let code = shipped(path);
        let count = |what: &str| code.matches(what).count();
        let calls = CALLS.iter().filter(|(call, _)| call.starts_with('.'));
        let known: usize = calls.map(|(call, _)| count(call)).sum();
        if known != count(".send()") {
            let sent = count(".send()");
            wrong.push(format!("{}: {sent} calls, of which CALLS knows {known}", path.display()));
        }
        let used = CALLS.iter().filter(|(call, action)| !action.is_empty() && count(call) > 0);
        let used: BTreeSet<&str> = used.map(|(_, action)| *action).collect();
        let ports = || PORTS.iter().filter(|port| port.files.contains(&file.as_str()));
        let rights =
            ports().flat_map(|port| port.rights).filter(|right| right.by == CallerKind::Us);
        let granted: BTreeSet<&str> = rights.flat_map(|right| right.actions).copied().collect();
        for action in used.difference(&granted) {
            wrong.push(format!("{}: {action} is in no port of rights.rs", path.display()));
        }
        asked.extend(used);
    }
    for port in PORTS {
        for right in port.rights.iter().filter(|right| right.by == CallerKind::Us) {
            let unused = right.actions.iter().filter(|action| !asked.contains(**action));
            wrong.extend(unused.map(|action| format!("{}: nobody calls {action}", port.name)));
        }
        for file in port.files.iter().filter(|file| callers.iter().all(|(_, known)| known != *file))
        {
            wrong.push(format!("{}: there is no {file}", port.name));
        }
    }
    assert_none("the table of rights and the calls", &wrong);
}

/// The ports of a function, derived from its sources and its resource.
fn ports(function: &Resource) -> Vec<&'static Port> {
    let folder = function.value("CodeUri").expect("a function has code");
    let sources = sources(&format!("{folder}src"));
    let mut code: String = sources.iter().map(|path| shipped(path)).collect();
    code.extend(function.lines.iter().map(|line| format!("{line}\n")));
    let given = |port: &&Port| {
        port.given_by.is_empty() || port.given_by.iter().any(|sign| code.contains(sign))
    };
    PORTS.iter().filter(given).collect()
}

/// The queues that a function consumes, and their dead-letter queues.
fn queues(all: &[Resource], function: &Resource) -> (Vec<String>, Vec<String>) {
    let mut lanes = Vec::new();
    let mut dead = Vec::new();
    for mapping in function.queues() {
        let lane = named(all, mapping.queue());
        let target = lane.value("deadLetterTargetArn").expect("a lane has dead letters");
        lanes.push(format!("{}.Arn", lane.name));
        let target = target.trim_start_matches("!GetAtt ").to_owned();
        if !dead.contains(&target) {
            dead.push(target);
        }
    }
    (lanes, dead)
}

/// The resources of a right, in the template's words.
fn places(all: &[Resource], function: &Resource, right: &Right) -> Vec<String> {
    let base = function.name.trim_end_matches("Function");
    let group = |place: &&str| match *place {
        OWN_LOG => vec![format!("{base}Logs.Arn")],
        OWN_LANES => queues(all, function).0,
        OWN_DEAD => queues(all, function).1,
        EVERY_LANE => {
            let agents = functions(all).filter(|one| one.name != "NotifierFunction");
            agents.flat_map(|one| queues(all, one).0).collect()
        }
        EVERY_DEAD => {
            let dead = all.iter().filter(|one| one.is("AWS::SQS::Queue"));
            let dead = dead.filter(|one| one.name.ends_with("DeadQueue"));
            dead.map(|one| format!("{}.Arn", one.name)).collect()
        }
        place => vec![place.to_owned()],
    };
    right.on.iter().flat_map(group).collect()
}

fn tagged(place: &str) -> String {
    if place.ends_with("Parameter") {
        let name = "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter";
        return format!("!Sub {name}${{{place}}}");
    }
    match place {
        "*" => "\"*\" # as Lambda requires: the interfaces have no names yet".to_owned(),
        place if place.contains("${") => format!("!Sub {place}"),
        place => format!("!GetAtt {place}"),
    }
}

fn listed(indent: usize, name: &str, values: &[String]) -> String {
    let blanks = " ".repeat(indent);
    match values {
        [one] => format!("{blanks}{name}: {one}\n"),
        many => {
            let rows = many.iter().map(|one| format!("{blanks}  - {one}\n")).collect::<String>();
            format!("{blanks}{name}:\n{rows}")
        }
    }
}

/// The statements of a function's role, as the template writes them.
fn statements(all: &[Resource], function: &Resource) -> String {
    let mut out = String::new();
    for right in ports(function).iter().flat_map(|port| port.rights) {
        let places: Vec<_> = places(all, function, right).iter().map(|p| tagged(p)).collect();
        let actions: Vec<_> = right.actions.iter().map(|action| (*action).to_owned()).collect();
        let indent = if right.when.is_some() { 20 } else { 16 };
        if let Some(when) = right.when {
            write!(out, "{:14}- Fn::If:\n{:18}- {when}\n", "", "").expect("a text");
        }
        let dash = " ".repeat(indent - 2);
        write!(out, "{dash}- Sid: {}\n{:indent$}Effect: Allow\n", right.sid, "").expect("a text");
        out += &listed(indent, "Action", &actions);
        out += &listed(indent, "Resource", &places);
        if right.when.is_some() {
            writeln!(out, "{:18}- !Ref AWS::NoValue", "").expect("a text");
        }
    }
    out
}

/// The template with the roles from the table.
fn template(all: &[Resource]) -> String {
    let wanted: BTreeMap<String, String> = functions(all)
        .map(|function| (function.name.replace("Function", "Role"), statements(all, function)))
        .collect();
    let mut out = String::new();
    let (mut role, mut within) = (None, false);
    for line in text(Path::new(TEMPLATE)).split_inclusive('\n') {
        let depth = line.len() - line.trim_start().len();
        if depth == 2
            && let Some(name) = line.trim_end().strip_suffix(':')
        {
            role = wanted.get(name.trim());
        }
        within &= line.trim().is_empty() || depth > 12;
        if line == "\n" {
            within = false;
        }
        if !within {
            out += line;
        }
        if let Some(statements) = role.filter(|_| line == "            Statement:\n") {
            out += statements;
            within = true;
        }
    }
    out
}

/// The tables of the page.
fn tables(all: &[Resource]) -> String {
    let mut out = "| role | ports |\n|---|---|\n".to_owned();
    for function in functions(all) {
        let names: Vec<_> =
            ports(function).iter().skip(1).map(|port| port.name.to_lowercase()).collect();
        let role = function.name.replace("Function", "Role");
        writeln!(out, "| {role} | {} |", names.join(", ")).expect("a text");
    }
    out += "\n| port | may | on | asked for by |\n|---|---|---|---|\n";
    for (port, right) in PORTS.iter().flat_map(|port| port.rights.iter().map(move |r| (port, r))) {
        let actions: Vec<_> = right.actions.iter().map(|action| format!("`{action}`")).collect();
        let on = right.on.iter().map(|place| place.replace("${", "").replace('}', ""));
        let on: Vec<_> = on.collect();
        let by = if right.by == CallerKind::Us { "us" } else { "AWS" };
        let when = right.when.map(|when| format!(", if {when}")).unwrap_or_default();
        let (name, actions, on) = (port.name.to_lowercase(), actions.join(", "), on.join(", "));
        writeln!(out, "| {name} | {actions} | {on}{when} | {by} |").expect("a text");
    }
    out
}

fn page(all: &[Resource]) -> String {
    let old = text(Path::new(PAGE));
    let (before, rest) = old.split_once(TABLES.0).expect("the page has a place for the tables");
    let (_, after) = rest.split_once(TABLES.1).expect("and its end");
    format!("{before}{}{}{}{after}", TABLES.0, tables(all), TABLES.1)
}

/// The first lines in which two texts differ.
fn differences(path: &str, there: &str, wanted: &str) -> Vec<String> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (there, wanted) = (lines(there), lines(wanted));
    let same = there.iter().zip(&wanted).take_while(|(one, other)| one == other).count();
    let show = |lines: &[String]| lines.iter().skip(same).take(8).cloned().collect::<Vec<_>>();
    if there == wanted {
        return Vec::new();
    }
    let (there, wanted) = (show(&there).join("\n"), show(&wanted).join("\n"));
    vec![format!("{path}:{}\n{there}\n  instead of\n{wanted}", same + 1)]
}

#[test]
fn roles_and_page_match_the_table_of_rights() {
    let all = resources();
    let wanted = [(TEMPLATE, template(&all)), (PAGE, page(&all))];
    if env::var_os("WATCHBILL_WRITE_RIGHTS").is_some() {
        for (path, wanted) in &wanted {
            fs::write(root().join(path), wanted).expect("a file of the clone can be written");
        }
    }
    let wrong = wanted
        .iter()
        .flat_map(|(path, wanted)| differences(path, &text(Path::new(path)), wanted))
        .collect::<Vec<_>>();
    assert_none("written anew by WATCHBILL_WRITE_RIGHTS=1", &wrong);
}

/// A function without the port of its trigger would pass for one that needs no rights.
#[test]
fn every_function_has_the_ports_that_its_trigger_needs() {
    let all = resources();
    let mut wrong = Vec::new();
    for function in functions(&all) {
        let has = |name: &str| ports(function).iter().any(|port| port.name == name);
        let lanes = !function.queues().is_empty();
        let stream = function.lines.iter().any(|line| line.trim() == "Type: DynamoDB");
        for (needed, port) in [(lanes, "Messages of its lanes"), (stream, "Feed of changes")] {
            if needed != has(port) {
                wrong.push(format!("{}: {port}: {}", function.name, has(port)));
            }
        }
    }
    assert_none("ports and triggers", &wrong);
}
