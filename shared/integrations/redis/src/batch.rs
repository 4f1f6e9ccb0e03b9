//! Commands and scripts that are sent together.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use redis::{Arg, Cmd, Pipeline, Script};

/// The type of value that these programs store under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    List,
    Set,
    Sorted,
    Hash,
}

impl Kind {
    /// The name that the command TYPE returns.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Text => "string",
            Kind::List => "list",
            Kind::Set => "set",
            Kind::Sorted => "zset",
            Kind::Hash => "hash",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub name: Cow<'static, str>,
    pub kind: Kind,
}

impl Key {
    pub const fn fixed(name: &'static str, kind: Kind) -> Self {
        Self { name: Cow::Borrowed(name), kind }
    }

    pub fn new(name: String, kind: Kind) -> Self {
        Self { name: Cow::Owned(name), kind }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A script with its text and its SHA1 hash.
pub(super) struct Lua {
    text: &'static str,
    script: LazyLock<Script>,
}

impl Lua {
    fn hash(&self) -> &str {
        self.script.get_hash()
    }
}

/// The script of this file in `scripts/`.
macro_rules! lua {
    ($name:literal) => {{
        const TEXT: &str = include_str!(concat!("../scripts/", $name, ".lua"));
        $crate::batch::Lua::new(TEXT, || redis::Script::new(TEXT))
    }};
}
pub(super) use lua;

impl Lua {
    pub const fn new(text: &'static str, script: fn() -> Script) -> Self {
        Self { text, script: LazyLock::new(script) }
    }
}

/// Commands sent at once; answers are in the order of the commands.
pub(super) struct Batch {
    pipeline: Pipeline,
    steps: Vec<Step>,
}

struct Step {
    keys: Vec<Key>,
    lua: Option<&'static Lua>,
}

impl Batch {
    pub fn new() -> Self {
        Self { pipeline: Pipeline::new(), steps: Vec::new() }
    }

    /// A command whose first arguments are these keys.
    pub fn plain(&mut self, name: &str, keys: &[&Key]) -> &mut Pipeline {
        self.step(keys, None);
        self.pipeline.cmd(name);
        self.names(keys)
    }

    pub fn script(&mut self, lua: &'static Lua, keys: &[&Key]) -> &mut Pipeline {
        self.step(keys, Some(lua));
        self.pipeline.cmd("EVALSHA").arg(lua.hash()).arg(keys.len());
        self.names(keys)
    }

    fn step(&mut self, keys: &[&Key], lua: Option<&'static Lua>) {
        self.steps.push(Step { keys: keys.iter().copied().cloned().collect(), lua });
    }

    fn names(&mut self, keys: &[&Key]) -> &mut Pipeline {
        for key in keys {
            self.pipeline.arg(&*key.name);
        }
        &mut self.pipeline
    }

    /// Makes one transaction of the batch. Only for plain commands: in a transaction an unknown
    /// script is noticed too late.
    pub fn in_one_step(self) -> Self {
        let mut whole = Self::new();
        whole.plain("MULTI", &[]);
        for (command, step) in self.pipeline.cmd_iter().zip(self.steps) {
            whole.pipeline.add_command(command.clone());
            whole.steps.push(step);
        }
        whole.plain("EXEC", &[]);
        whole
    }

    pub fn apart(self) -> impl Iterator<Item = Self> {
        let commands: Vec<Cmd> = self.pipeline.cmd_iter().cloned().collect();
        commands.into_iter().zip(self.steps).map(|(command, step)| {
            let mut pipeline = Pipeline::with_capacity(1);
            pipeline.add_command(command);
            Self { pipeline, steps: vec![step] }
        })
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    pub fn keys(&self, at: usize) -> &[Key] {
        self.steps.get(at).map_or(&[], |step| &step.keys)
    }

    /// The name of a step's command, for people.
    pub fn name(&self, at: usize) -> String {
        let first = self.pipeline.cmd_iter().nth(at).and_then(|command| {
            command.args_iter().next().and_then(|arg| match arg {
                Arg::Simple(word) => Some(String::from_utf8_lossy(word).into_owned()),
                _ => None,
            })
        });
        first.unwrap_or_default()
    }

    /// These steps with their scripts in full, so that the server caches them again.
    pub fn in_full(&self, at: &[usize]) -> Pipeline {
        let mut full = Pipeline::with_capacity(at.len());
        let mut wanted = at.iter().copied().peekable();
        for (i, command) in self.pipeline.cmd_iter().enumerate() {
            if wanted.next_if_eq(&i).is_none() {
                continue;
            }
            full.add_command(match self.steps[i].lua {
                Some(lua) => eval(lua, command),
                None => command.clone(),
            });
        }
        full
    }
}

fn eval(lua: &Lua, evalsha: &Cmd) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(lua.text);
    for arg in evalsha.args_iter().skip(2) {
        if let Arg::Simple(bytes) = arg {
            command.arg(bytes);
        }
    }
    command
}
