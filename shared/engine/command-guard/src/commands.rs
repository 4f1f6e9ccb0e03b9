//! Searches wrappers, pipes and nested scripts for the commands that the rules name.

use watchbill_redact as redact;

use super::paths::{is_device, is_root, is_sensitive};
use super::programs::{DECODERS, FETCHERS, INTERPRETERS, READERS, REMOTE, SHELLS, WRAPPERS};
use super::rules::{DangerRule, Need, RULES, VALUES};
use super::shell::{self, Pipeline, ShellCommand, Variables, assignment, printed};
use super::sql;

/// Nesting depth of scripts. No one writes deeper ones by hand.
const DEEPEST: usize = 12;
/// Number of words after a wrapper at which its command may begin.
const GUESSES: usize = 64;
/// Number of functions of a script that are checked.
const MAX_FUNCTIONS: usize = 100;

/// What is wrong with a text that a shell would run.
pub fn in_text(text: &str) -> Option<String> {
    if let Some(what) = sql::find(text) {
        return Some(what);
    }
    if is_fork_bomb(text) {
        return Some("it is a fork bomb".to_owned());
    }
    let mut look = Look { variables: Variables::new(), cwd: None, depth: 0 };
    if let Some(what) = look.script(text) {
        return Some(what);
    }
    // An unclosed quote, or a text that a command receives as input, hides what follows it.
    // Each line is then checked on its own.
    let odd = |quote: char| text.matches(quote).count() % 2 == 1;
    let hides = text.contains("<<") || odd('\'') || odd('"');
    if hides {
        let mut look = Look { variables: Variables::new(), cwd: None, depth: 0 };
        return text.lines().find_map(|line| look.script(line));
    }
    None
}

/// Like [`in_text`], for a program and its arguments that no shell parses.
pub fn describe(words: &[String]) -> Option<String> {
    let command = ShellCommand { words: words.to_vec(), ..ShellCommand::default() };
    let mut look = Look { variables: Variables::new(), cwd: None, depth: 0 };
    look.pipeline(&[command])
}

struct Look {
    variables: Variables,
    /// Working directory of the commands, once the script sets it.
    cwd: Option<String>,
    depth: usize,
}

impl Look {
    fn script(&mut self, text: &str) -> Option<String> {
        if self.depth >= DEEPEST {
            return Some("its scripts are nested too deep to be inspected".to_owned());
        }
        self.depth += 1;
        let pipelines: Vec<Pipeline> = shell::parse(text, &mut self.variables);
        let found = pipelines.iter().find_map(|pipeline| self.pipeline(pipeline));
        self.depth -= 1;
        found
    }

    fn pipeline(&mut self, pipeline: &[ShellCommand]) -> Option<String> {
        for (place, command) in pipeline.iter().enumerate() {
            let before = &pipeline[..place];
            let found = command
                .inner
                .iter()
                .find_map(|inner| self.script(inner))
                .or_else(|| self.writes(command))
                .or_else(|| self.words(&command.words, command, before, true));
            if found.is_some() {
                return found;
            }
            if let [cd, to, ..] = &command.words[..]
                && ["cd", "pushd"].contains(&cd.as_str())
            {
                self.cwd = Some(to.clone());
            }
        }
        None
    }

    fn writes(&self, command: &ShellCommand) -> Option<String> {
        command.writes.iter().find_map(|path| {
            if path.starts_with("/dev/tcp/") || path.starts_with("/dev/udp/") {
                return Some(format!("'{path}' opens a remote shell"));
            }
            let wrong = is_device(path) || is_sensitive(path);
            wrong.then(|| format!("it writes to '{path}', which the machine depends on"))
        })
    }

    /// `sure`: that a command begins here is certain, not a guess.
    fn words(
        &mut self,
        words: &[String],
        command: &ShellCommand,
        before: &[ShellCommand],
        sure: bool,
    ) -> Option<String> {
        let first = words.iter().position(|word| assignment(word).is_none())?;
        let words = &words[first..];
        let program = program(&words[0]);
        let args = &words[1..];
        if let Some(rule) = RULES.iter().find(|rule| self.breaks(rule, &program, args, sure)) {
            return Some(format!("'{}' {}", shortened(words), rule.what));
        }
        if SHELLS.contains(&program.as_str()) {
            return self.shell(args, command, before);
        }
        if READERS.contains(&program.as_str())
            && let Some(fed) = before.last().and_then(printed)
            && let Some(what) = self.script(&fed)
        {
            return Some(what);
        }
        if ["eval", "source", ".", "trap", "alias"].contains(&program.as_str()) {
            // `alias NAME=SCRIPT`
            let value = |arg: &String| match (program.as_str(), arg.split_once('=')) {
                ("alias", Some((_, script))) => script.to_owned(),
                _ => arg.clone(),
            };
            let text = args.iter().map(value).collect::<Vec<_>>().join(" ");
            return unseen(&command.inner).or_else(|| self.script(&text));
        }
        if INTERPRETERS.iter().any(|name| program.starts_with(name)) {
            let reads_input = !program.ends_with("awk") && args.iter().all(|a| a.starts_with('-'));
            let piped = if reads_input { before } else { &[] };
            return piped.iter().find_map(unseen_command).or_else(|| self.code(args));
        }
        self.wrapped(&program, args, command, before, sure)
    }

    /// Checks the script that a shell receives as an argument, as input, or through a pipe.
    fn shell(
        &mut self,
        args: &[String],
        command: &ShellCommand,
        before: &[ShellCommand],
    ) -> Option<String> {
        if args.iter().any(|arg| {
            let arg = arg.to_ascii_lowercase();
            arg.len() > 3 && "-encodedcommand".starts_with(&arg) || arg == "-enc" || arg == "-ec"
        }) {
            return Some("it runs encoded commands, which can't be inspected".to_owned());
        }
        let is_script = |arg: &String| {
            let lower = arg.to_ascii_lowercase();
            lower == "/c"
                || lower == "-command"
                || arg.starts_with('-') && !arg.starts_with("--") && arg.contains('c')
        };
        if let Some(place) = args.iter().position(is_script) {
            let rest = &args[place + 1..];
            let script = rest.iter().find(|arg| !arg.starts_with('-'));
            let whole = rest.join(" ");
            return script
                .and_then(|script| self.script(script))
                .or_else(|| self.script(&whole))
                .or_else(|| unseen(&command.inner));
        }
        if let Some(what) = command.reads.iter().find_map(|text| self.script(text)) {
            return Some(what);
        }
        if let Some(what) = unseen(&command.inner) {
            return Some(what);
        }
        let reads_input = args.iter().all(|arg| arg.starts_with('-'));
        if !reads_input {
            return None;
        }
        if let Some(what) = before.iter().find_map(unseen_command) {
            return Some(what);
        }
        before.last().and_then(printed).and_then(|text| self.script(&text))
    }

    /// Code of another language: it passes quoted text to a shell.
    fn code(&mut self, args: &[String]) -> Option<String> {
        let code = args.iter().filter(|arg| arg.contains(['(', '"', '\'', ';']));
        for code in code {
            let flat: String = code.chars().filter(|c| !c.is_whitespace()).collect();
            for call in ["rmtree(", "rmSync(", "rm_rf(", "rmdirSync(", "removedirs(", "rm_r("] {
                let Some((_, rest)) = flat.split_once(call) else { continue };
                let path: String = rest
                    .trim_start_matches(['\'', '"'])
                    .chars()
                    .take_while(|c| !"'\",)".contains(*c))
                    .collect();
                if is_root(&path, None) {
                    return Some(format!("'{call}{path})' deletes a root folder"));
                }
            }
            let lower = flat.to_ascii_lowercase();
            if ["whiletrue:os.fork()", "while1:os.fork()", "forkwhilefork", "loop{fork}"]
                .iter()
                .any(|bomb| lower.contains(bomb))
            {
                return Some("it is a fork bomb".to_owned());
            }
            for quote in ['"', '\''] {
                let texts: Vec<&str> = code.split(quote).skip(1).step_by(2).collect();
                // One by one, and as the words of one command.
                let each = texts.iter().find_map(|text| self.script(text));
                let found = each.or_else(|| self.script(&texts.join(" ")));
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// The command of a wrapper: checked where it should begin, and at any later word, because
    /// not all options can be known.
    fn wrapped(
        &mut self,
        program: &str,
        args: &[String],
        command: &ShellCommand,
        before: &[ShellCommand],
        sure: bool,
    ) -> Option<String> {
        let wrapper = WRAPPERS.iter().find(|(name, ..)| *name == program);
        let remote = REMOTE.iter().find(|(names, _)| names.contains(&program));
        let (begins, from) = match (wrapper, remote) {
            (Some((_, values, operands)), _) => {
                let begins = begin(args, values, *operands);
                (Some(begins), 0)
            }
            (None, Some((_, words))) => {
                let place = args.iter().position(|arg| words.contains(&arg.as_str()));
                if program == "find" && (place.is_some() || args.iter().any(|a| a == "-delete")) {
                    let wipes = self.find_wipes(args, place);
                    if wipes.is_some() {
                        return wipes;
                    }
                }
                (None, place? + 1)
            }
            (None, None) => return None,
        };
        let mut args = args.to_vec();
        if program == "xargs"
            && let Some(fed) = before.last().and_then(printed)
        {
            args.extend(fed.split_whitespace().map(str::to_owned));
        }
        if program == "xargs"
            && let Some(fed) = before.last()
            && let [lister, paths @ ..] = &fed.words[..]
            && ["find", "ls"].contains(&self::program(lister).as_str())
        {
            // What is below a root folder counts as the folder itself.
            args.extend(paths.iter().filter(|path| path.starts_with(['/', '~', '$'])).cloned());
        }
        for place in from..args.len().min(from + GUESSES) {
            let surely = sure && begins == Some(place);
            if let Some(what) = self.nested(&args[place..], command, before, surely) {
                return Some(what);
            }
            // A word that contains spaces is a script for ssh, su, watch and the like.
            if args[place].contains(char::is_whitespace)
                && let Some(what) = self.script(&args[place])
            {
                return Some(what);
            }
        }
        None
    }

    fn nested(
        &mut self,
        words: &[String],
        command: &ShellCommand,
        before: &[ShellCommand],
        sure: bool,
    ) -> Option<String> {
        // Guessing within guesses would be slow and find nothing more: the words after it are
        // guessed at as well.
        let program = program(words.first()?);
        let unwraps = WRAPPERS.iter().any(|(name, ..)| *name == program)
            || REMOTE.iter().any(|(names, _)| names.contains(&program.as_str()));
        if !sure && unwraps {
            return None;
        }
        if self.depth >= DEEPEST {
            return Some("its wrappers are nested too deep to be inspected".to_owned());
        }
        self.depth += 1;
        let found = self.words(words, command, before, sure);
        self.depth -= 1;
        found
    }

    /// `find / … -delete` and `find / … -exec rm …`
    fn find_wipes(&self, args: &[String], exec: Option<usize>) -> Option<String> {
        let paths = args.iter().take_while(|arg| !arg.starts_with(['-', '(', '!']));
        let mut roots = paths.filter(|path| is_root(path, self.cwd.as_deref()));
        let root = roots.next()?;
        let run = exec.and_then(|place| args.get(place + 1)).map(|word| program(word));
        let wipes = ["rm", "shred", "unlink", "chmod", "chown", "mv", "truncate"];
        let wrong = match run {
            Some(run) => wipes.contains(&run.as_str()),
            None => args.iter().any(|arg| arg == "-delete"),
        };
        wrong.then(|| format!("'find {root}' changes everything below a root folder"))
    }

    fn breaks(&self, rule: &DangerRule, program: &str, args: &[String], sure: bool) -> bool {
        if !rule.is_about(program) {
            return false;
        }
        let operands = operands(program, args);
        let cwd = self.cwd.as_deref();
        let has =
            |options: &[&str]| args.iter().any(|arg| options.iter().any(|o| is_option(arg, o)));
        rule.needs.iter().all(|need| match need {
            Need::Words(words) => {
                let mut rest = operands.iter();
                words.iter().all(|word| rest.any(|found| found.eq_ignore_ascii_case(word)))
            }
            Need::Option(options) => has(options),
            Need::NoOption(options) => !has(options),
            Need::First(words) => operands.first().is_some_and(|first| words.contains(first)),
            Need::Operand(fits) => operands.iter().any(|word| fits(word, cwd)),
            Need::LastOperand(fits) => operands.last().is_some_and(|word| fits(word, cwd)),
            Need::EarlierOperand(fits) => operands.iter().rev().skip(1).any(|word| fits(word, cwd)),
            Need::Word(fits) => args.iter().any(|word| fits(word)),
            Need::Sure => sure,
        })
    }
}

/// The words that are neither options nor their values. `-1` is a target of `kill`.
fn operands<'w>(program: &str, args: &'w [String]) -> Vec<&'w str> {
    let values = VALUES.iter().find(|(names, _)| names.contains(&program)).map(|(_, v)| *v);
    let values = values.unwrap_or_default();
    let (mut operands, mut skip, mut all) = (Vec::new(), false, false);
    for (place, arg) in args.iter().enumerate() {
        let last = place > 0 && place + 1 == args.len();
        match arg.as_str() {
            _ if skip => skip = false,
            "--" if !all => all = true,
            "-1" if last => operands.push("-1"),
            arg if arg.starts_with('-') && arg.len() > 1 && !all => {
                skip = values.contains(&arg);
            }
            arg => operands.push(arg),
        }
    }
    operands
}

/// `-r` also matches in `-rf`. Longer options match as they are written, with or without a
/// value.
fn is_option(arg: &str, option: &str) -> bool {
    if arg == option {
        return true;
    }
    let letter = option.strip_prefix('-').filter(|rest| rest.chars().count() == 1);
    match letter {
        Some(letter) => {
            let letters = arg.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
            letters.is_some_and(|letters| letters.contains(letter))
        }
        None => arg.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')),
    }
}

/// Index at which the command of a wrapper should begin.
fn begin(args: &[String], values: &[&str], mut operands: usize) -> usize {
    let mut place = 0;
    while let Some(arg) = args.get(place) {
        if values.contains(&arg.as_str()) {
            place += 2;
        } else if arg.starts_with('-') || assignment(arg).is_some() {
            place += 1;
        } else if operands > 0 {
            operands -= 1;
            place += 1;
        } else {
            break;
        }
    }
    place
}

/// The program that a word names, without its folder. A pattern such as `/bin/r?` is resolved
/// to the first matching program among those that rules or shells name.
fn program(word: &str) -> String {
    let name = word.rsplit(['/', '\\']).next().unwrap_or_default().to_ascii_lowercase();
    let name = name.strip_suffix(".exe").unwrap_or(&name).to_owned();
    if !name.contains(['?', '*', '[']) || !name.contains(|c: char| c.is_alphanumeric()) {
        return name;
    }
    let known = RULES.iter().flat_map(|rule| rule.programs).chain(SHELLS);
    let found = known.into_iter().find(|known| fits(name.as_bytes(), known.as_bytes()));
    found.map_or(name, |found| (*found).to_owned())
}

/// Whether a shell pattern (`?`, `*`, `[…]`) matches a name.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => fits(rest, name) || !name.is_empty() && fits(pattern, &name[1..]),
        ([b'?', rest @ ..], [_, name @ ..]) => fits(rest, name),
        ([b'[', rest @ ..], [first, name @ ..]) => match rest.iter().position(|b| *b == b']') {
            Some(end) => {
                let set = &rest[..end];
                let within = set.windows(3).any(|w| w[1] == b'-' && (w[0]..=w[2]).contains(first));
                (set.contains(first) || within) && fits(&rest[end + 1..], name)
            }
            None => false,
        },
        ([one, pattern @ ..], [first, name @ ..]) => one == first && fits(pattern, name),
        _ => false,
    }
}

/// Scripts whose content can't be checked: fetched or decoded when they are run.
fn unseen(inner: &[String]) -> Option<String> {
    let commands = inner.iter().flat_map(|script| shell::parse(script, &mut Variables::new()));
    commands.flatten().find_map(|command| unseen_command(&command))
}

fn unseen_command(command: &ShellCommand) -> Option<String> {
    let words = command.words.iter().map(|word| program(word)).take(4);
    let names: Vec<String> = words.collect();
    let uses = |known: &[&str]| names.iter().find(|name| known.contains(&name.as_str())).cloned();
    if let Some(name) = uses(FETCHERS) {
        return Some(format!("it runs what {name} downloads, which can't be inspected"));
    }
    uses(DECODERS).map(|name| format!("it runs the output of {name}, which can't be inspected"))
}

/// `:(){ :|:& };:` under any name.
fn is_fork_bomb(text: &str) -> bool {
    let flat: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    flat.match_indices("(){").take(MAX_FUNCTIONS).any(|(place, _)| {
        let before = &flat[..place];
        let name = before.rsplit([';', '&', '|', '\n', '}', '"', '\'']).next().unwrap_or_default();
        let name = name.strip_prefix("function").unwrap_or(name);
        let body = &flat[place + 3..];
        !name.is_empty() && body.contains(&format!("{name}|{name}"))
    })
}

fn shortened(words: &[String]) -> String {
    redact::shortened(&words.join(" "), 80)
}
