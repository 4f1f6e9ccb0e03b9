//! CEL expressions, compiled once.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{Expr, IdedExpr, LiteralValue};
use cel::extractors::This;
use cel::objects::Map;
use cel::{Context, Env, ExecutionError, IdedExpr as Node, Program, Value, extensions};
use regex::Regex;
use watchbill_governance::Condition;

/// Variables of an expression, and the fields of `task`.
const VARIABLES: &[&str] = &["task", "tool", "args", "environment"];
const TASK_FIELDS: &[&str] =
    &["type", "priority", "agent", "source", "created_by", "payload", "metadata"];
/// Functions in addition to the operators. A test calls each.
pub(crate) const FUNCTIONS: &[&str] = &[
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "dyn",
    "type",
    "lowerAscii",
    "upperAscii",
    "trim",
    "split",
    "join",
    "replace",
    "substring",
    "indexOf",
    "charAt",
];
/// Length limit of an expression. A longer one should be split into several rules.
const MAX_CHARS: usize = 4_000;
/// Memory of one pattern, bytes.
const PATTERN_SIZE: usize = 256 * 1024;

/// An expression of a policy file.
pub struct CelCondition {
    text: String,
    program: Program,
    patterns: Arc<BTreeMap<String, Regex>>,
}

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings).expect("no extension defines a name twice");
    Arc::new(env)
});

impl CelCondition {
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("the expression is empty; leave `when` out if it always holds".to_owned());
        }
        if text.len() > MAX_CHARS {
            return Err(format!("the expression is longer than {MAX_CHARS} characters"));
        }
        let program = parse(text)?;
        let mut patterns = BTreeMap::new();
        Check { scope: Vec::new(), patterns: &mut patterns }.node(program.expression())?;
        Ok(Self { text: text.to_owned(), program, patterns: Arc::new(patterns) })
    }

    fn run(&self, subject: &serde_json::Value) -> Result<Value, ExecutionError> {
        let mut context = Context::with_env(ENV.clone());
        let patterns = self.patterns.clone();
        let matches = move |This(text): This<Arc<String>>, pattern: Arc<String>| {
            let found = match patterns.get(pattern.as_str()) {
                Some(regex) => regex.is_match(&text),
                None => regex(&pattern)
                    .map_err(|fault| ExecutionError::function_error("matches", fault))?
                    .is_match(&text),
            };
            Ok::<bool, ExecutionError>(found)
        };
        context.add_function("matches", matches).map_err(|error| {
            ExecutionError::function_error("matches", format!("is already defined: {error}"))
        })?;
        for name in VARIABLES {
            context.add_variable_from_value(*name, value(&subject[*name]));
        }
        // The engine checks arithmetic and comparisons; a panic that still occurs must not take
        // down the caller.
        catch_unwind(AssertUnwindSafe(|| self.program.execute(&context))).unwrap_or_else(|_| {
            Err(ExecutionError::function_error("expression", "the evaluation panicked"))
        })
    }
}

impl Condition for CelCondition {
    fn holds(&self, subject: &serde_json::Value) -> Result<bool, String> {
        match self.run(subject) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(other) => Err(format!("it evaluates to {}, not to true or false", other.type_of())),
            Err(error) => Err(error.to_string()),
        }
    }

    fn text(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Debug for CelCondition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CelCondition").field(&self.text).finish()
    }
}

fn parse(text: &str) -> Result<Program, String> {
    // The parser is generated code that may panic on malformed texts.
    let parsed = catch_unwind(AssertUnwindSafe(|| ENV.compile(text)));
    let parsed = parsed.map_err(|_| "the expression can't be parsed".to_owned())?;
    parsed.map_err(|errors| {
        let message = errors.to_string();
        // "ERROR: <input>:1:5: what is wrong", then the text with a mark under it.
        let first = message.lines().next().unwrap_or_default();
        let what = first.split("<input>:").last().unwrap_or(first);
        match what.splitn(3, ':').collect::<Vec<_>>()[..] {
            [_, column, what] => format!("at character {column} of the expression:{what}"),
            _ => first.to_owned(),
        }
    })
}

fn regex(pattern: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).build().map_err(|error| {
        let text = error.to_string();
        let what = text.lines().last().unwrap_or_default();
        format!("the pattern '{pattern}' is invalid: {}", what.trim_start_matches("error: "))
    })
}

/// JSON has one number type. Whole numbers become `int`, so that they can be compared with and
/// added to the numbers of an expression.
fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(b) => Value::Bool(*b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(int), _) => Value::Int(int),
            (None, Some(uint)) => Value::UInt(uint),
            _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::String(Arc::new(text.clone())),
        serde_json::Value::Array(items) => Value::List(Arc::new(items.iter().map(value).collect())),
        serde_json::Value::Object(fields) => {
            let fields: HashMap<&str, Value> =
                fields.iter().map(|(name, field)| (name.as_str(), value(field))).collect();
            Value::Map(Map::from(fields))
        }
    }
}

/// Refuses at read time what would otherwise fail later: unknown names and invalid patterns.
struct Check<'a> {
    /// Variables of macros such as `exists`, innermost last.
    scope: Vec<String>,
    patterns: &'a mut BTreeMap<String, Regex>,
}

impl Check<'_> {
    fn node(&mut self, node: &Node) -> Result<(), String> {
        match &node.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.variable(name),
            Expr::Call(call) => {
                self.function(&call.func_name, &call.args)?;
                call.target.as_deref().map_or(Ok(()), |target| self.node(target))?;
                self.nodes(&call.args)
            }
            Expr::List(list) => self.nodes(&list.elements),
            Expr::Select(select) => {
                let is_task = matches!(&select.operand.expr, Expr::Ident(name) if name == "task");
                if is_task && !TASK_FIELDS.contains(&select.field.as_str()) {
                    let known = TASK_FIELDS.join(", ");
                    return Err(format!("task has no field '{}'; it has {known}", select.field));
                }
                self.node(&select.operand)
            }
            Expr::Comprehension(all) => {
                self.nodes([&all.iter_range, &all.accu_init])?;
                let before = self.scope.len();
                self.scope.push(all.iter_var.clone());
                self.scope.extend(all.iter_var2.clone());
                self.scope.push(all.accu_var.clone());
                self.nodes([&all.loop_cond, &all.loop_step, &all.result])?;
                self.scope.truncate(before);
                Ok(())
            }
            Expr::Map(_) | Expr::Struct(_) => {
                Err("maps can't be written in a condition; compare field by field".to_owned())
            }
        }
    }

    fn nodes<'n>(&mut self, nodes: impl IntoIterator<Item = &'n IdedExpr>) -> Result<(), String> {
        nodes.into_iter().try_for_each(|node| self.node(node))
    }

    fn variable(&self, name: &str) -> Result<(), String> {
        let types = ["bool", "int", "uint", "double", "string", "list", "map", "null_type"];
        if VARIABLES.contains(&name)
            || types.contains(&name)
            || self.scope.iter().any(|known| known == name)
        {
            return Ok(());
        }
        Err(format!("'{name}' is unknown; use one of {}", VARIABLES.join(", ")))
    }

    fn function(&mut self, name: &str, args: &[IdedExpr]) -> Result<(), String> {
        let is_operator = !name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !is_operator && !FUNCTIONS.contains(&name) {
            let known = FUNCTIONS.join(", ");
            return Err(format!(
                "the function '{name}' is unknown; use one of has, all, exists, exists_one, map, \
                 filter, {known}"
            ));
        }
        if name == "matches"
            && let Some(Expr::Literal(LiteralValue::String(pattern))) =
                args.last().map(|arg| &arg.expr)
        {
            let pattern = pattern.inner().to_owned();
            self.patterns.insert(pattern.clone(), regex(&pattern)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn subject() -> serde_json::Value {
        json!({
            "task": { "type": "deploy", "priority": "P2", "agent": "ops", "source": "user",
                "created_by": "alice", "payload": {}, "metadata": {} },
            "tool": "deploy",
            "args": { "project": "shop", "replicas": 3, "share": 0.5, "tags": ["a", "b"],
                "nothing": null, "deep": { "er": true }, "words": "x,y" },
            "environment": "staging",
        })
    }

    fn holds(text: &str) -> Result<bool, String> {
        CelCondition::compile(text).expect(text).holds(&subject())
    }

    #[test]
    fn expressions_see_task_tool_arguments_and_environment() {
        for text in [
            "task.type == 'deploy' && tool == 'deploy' && environment == 'staging'",
            "args.replicas + 1 == 4 && args.replicas < 3.5 && args.share <= 0.5",
            "args.tags.exists(t, t == 'b') && args.tags.all(tag, size(tag) == 1)",
            "has(args.project) && !has(args.branch)",
            "has(args.branch) && args.branch == 'main' || args.project in ['shop', 'web']",
            "args.project.matches('^sh.p$') && matches(args.project, 'o')",
            "args.nothing == null && args.deep.er",
            "args['project'] == 'shop'",
            "task.created_by.upperAscii() == 'ALICE'",
            "args.tags.filter(t, t != 'a').map(t, t + '!') == ['b!']",
        ] {
            assert_eq!(holds(text), Ok(true), "{text}");
        }
        assert_eq!(holds("args.project.matches(args.tags[0])"), Ok(false));
    }

    #[test]
    fn a_condition_that_can_not_be_evaluated_is_an_error() {
        for text in
            ["args.branch == 'main'", "args.project > 3", "args.replicas", "args.tags[7] == 'a'"]
        {
            assert!(holds(text).is_err(), "{text}");
        }
        // One side decides, so the other need not be evaluated.
        assert_eq!(holds("args.branch == 'main' || tool == 'deploy'"), Ok(true));
    }

    #[test]
    fn a_fault_is_found_at_reading() {
        for (text, wanted) in [
            ("", "empty"),
            ("args.project = 'shop'", "character"),
            ("args.project == ", "character"),
            ("arg.project == 'shop'", "'arg' is unknown; use one of task, tool"),
            ("task.priorty == 'P0'", "no field 'priorty'"),
            ("args.project.looksLike('x')", "'looksLike' is unknown"),
            ("args.project.matches('(')", "the pattern '(' is invalid"),
            ("args.tags.exists(t, x == 'b')", "'x' is unknown"),
            ("t == 'a' || args.tags.exists(t, t == 'b')", "'t' is unknown"),
            ("args == {'a': 1}", "maps"),
        ] {
            let said = CelCondition::compile(text).expect_err(text);
            assert!(said.contains(wanted), "{text}: {said}");
        }
    }

    #[test]
    fn every_function_that_is_offered_is_there() {
        let calls = [
            "size('ab') == 2",
            "'ab'.contains('b')",
            "'ab'.startsWith('a')",
            "'ab'.endsWith('b')",
            "'ab'.matches('b')",
            "int('3') == 3",
            "uint('3') == 3u",
            "double('3') == 3.0",
            "string(3) == '3'",
            "bool('true')",
            "dyn(true)",
            "type(3) == int",
            "'Ab'.lowerAscii() == 'ab'",
            "'ab'.upperAscii() == 'AB'",
            "' a '.trim() == 'a'",
            "'a,b'.split(',')[1] == 'b'",
            "['a', 'b'].join('-') == 'a-b'",
            "'ab'.replace('a', 'b') == 'bb'",
            "'abc'.substring(1) == 'bc'",
            "'abc'.indexOf('c') == 2",
            "'abc'.charAt(1) == 'b'",
        ];
        for (name, call) in FUNCTIONS.iter().zip(calls) {
            assert!(call.contains(name), "{call} does not call {name}");
            assert_eq!(holds(call), Ok(true), "{call}");
        }
        assert_eq!(calls.len(), FUNCTIONS.len());
    }

    #[test]
    fn malformed_texts_are_refused_and_break_nothing() {
        let nested = format!("{}true{}", "(".repeat(1_900), ")".repeat(1_900));
        let _ = CelCondition::compile(&nested);
        let _ = CelCondition::compile(&format!("{}true", "!".repeat(3_900)));
        let _ = CelCondition::compile(&format!("true{}", " && true".repeat(480)));
        let deep = "(".repeat(500);
        for text in
            [deep.as_str(), "\u{0}", "'", "\"\\", "a.b.c.", "[", "{", "1 +", "🙂", "@", "``"]
        {
            assert!(CelCondition::compile(text).is_err(), "{text}");
        }
    }
}
