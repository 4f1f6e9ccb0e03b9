//! Parses a script into the commands that a shell would run: operators, quotes, substitutions,
//! simple variables. Where the result is unknown, it keeps the written text.

use std::collections::BTreeMap;

/// Marks of redirections among a command's words. They are private-use characters, which are
/// first removed from scripts.
const OUT: char = '\u{E000}';
const IN: char = '\u{E001}';
const HERE: char = '\u{E002}';
/// Number of words that one word with braces may expand to.
const MAX_WORDS: usize = 64;
/// Nesting depth of substitutions whose output is computed.
const DEEPEST: usize = 12;

pub type Variables = BTreeMap<String, String>;

/// One command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShellCommand {
    pub words: Vec<String>,
    /// Files that it writes by redirection.
    pub writes: Vec<String>,
    /// Texts that it receives as input.
    pub reads: Vec<String>,
    /// Scripts whose output it receives, as words or as files.
    pub inner: Vec<String>,
}

/// Commands joined by pipes, in the order in which a shell would start them.
pub type Pipeline = Vec<ShellCommand>;

/// `variables`: those set already; the script's own are added.
pub fn parse(script: &str, variables: &mut Variables) -> Vec<Pipeline> {
    parse_at(script, variables, 0)
}

fn parse_at(script: &str, variables: &mut Variables, depth: usize) -> Vec<Pipeline> {
    // Shells ignore NUL, too.
    let script: String =
        script.replace("\\\r\n", "").replace("\\\n", "").replace([OUT, IN, HERE, '\0'], "");
    let mut scan = Scan {
        chars: script.chars().collect(),
        at: 0,
        buffer: String::new(),
        inner: Vec::new(),
        pipeline: Vec::new(),
        pipelines: Vec::new(),
        variables,
        depth,
    };
    scan.run();
    scan.pipelines
}

struct Scan<'v> {
    chars: Vec<char>,
    at: usize,
    buffer: String,
    inner: Vec<String>,
    pipeline: Pipeline,
    pipelines: Vec<Pipeline>,
    variables: &'v mut Variables,
    depth: usize,
}

impl Scan<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn run(&mut self) {
        while let Some(c) = self.peek(0) {
            self.at += 1;
            match c {
                '\\' => self.keep_escaped(),
                '\'' => self.single_quoted(),
                '"' => self.double_quoted(),
                '`' => self.backticks(),
                '$' => self.dollar(false),
                '#' if self.begins_word() => self.comment(),
                '<' | '>' if self.peek(0) == Some('(') => {
                    self.at += 1;
                    let inner = self.until_closed();
                    self.inner.push(inner);
                }
                '>' => self.redirect_out(),
                '<' => self.redirect_in(),
                '&' if self.peek(0) == Some('>') => {}
                '|' if self.peek(0) == Some('|') => self.end_pipeline(1),
                '|' => {
                    self.at += usize::from(self.peek(0) == Some('&'));
                    self.end_command();
                }
                '&' => self.end_pipeline(usize::from(self.peek(0) == Some('&'))),
                ';' | '\n' | '\r' | '(' | ')' => self.end_pipeline(0),
                c => self.buffer.push(c),
            }
        }
        self.end_pipeline(0);
    }

    fn begins_word(&self) -> bool {
        self.buffer.chars().last().is_none_or(char::is_whitespace)
    }

    fn keep_escaped(&mut self) {
        self.buffer.push('\\');
        if let Some(next) = self.peek(0) {
            self.buffer.push(next);
            self.at += 1;
        }
    }

    fn single_quoted(&mut self) {
        self.buffer.push('\'');
        while let Some(c) = self.peek(0) {
            self.at += 1;
            self.buffer.push(c);
            if c == '\'' {
                return;
            }
        }
    }

    fn double_quoted(&mut self) {
        self.buffer.push('"');
        while let Some(c) = self.peek(0) {
            self.at += 1;
            match c {
                '"' => {
                    self.buffer.push('"');
                    return;
                }
                '\\' => self.keep_escaped(),
                '`' => self.backticks(),
                '$' => self.dollar(true),
                c => self.buffer.push(c),
            }
        }
    }

    fn backticks(&mut self) {
        let mut inner = String::new();
        while let Some(c) = self.peek(0) {
            self.at += 1;
            match c {
                '`' => break,
                '\\' => {
                    inner.extend(self.peek(0));
                    self.at += 1;
                }
                c => inner.push(c),
            }
        }
        self.substitute(inner);
    }

    /// The text up to the parenthesis that closes the open one.
    fn until_closed(&mut self) -> String {
        let (mut depth, mut inner, mut quote) = (1, String::new(), None);
        while let Some(c) = self.peek(0) {
            self.at += 1;
            match (quote, c) {
                (_, '\\') => {
                    inner.push(c);
                    inner.extend(self.peek(0));
                    self.at += 1;
                    continue;
                }
                (Some(open), c) if c == open => quote = None,
                (None, '\'' | '"') => quote = Some(c),
                (None, '(') => depth += 1,
                (None, ')') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            inner.push(c);
        }
        inner
    }

    /// Inserts the output of a script, if it only prints its arguments.
    fn substitute(&mut self, script: String) {
        let mut variables = self.variables.clone();
        if self.depth < DEEPEST
            && let [pipeline] = &parse_at(&script, &mut variables, self.depth + 1)[..]
            && let [command] = &pipeline[..]
            && let Some(printed) = printed(command)
        {
            self.buffer.push_str(&printed);
        } else {
            self.buffer.push_str("$output");
        }
        self.inner.push(script);
    }

    fn dollar(&mut self, quoted: bool) {
        match self.peek(0) {
            Some('(') if self.peek(1) == Some('(') => {
                self.at += 1;
                self.until_closed();
                self.buffer.push('0');
            }
            Some('(') => {
                self.at += 1;
                let inner = self.until_closed();
                self.substitute(inner);
            }
            Some('\'') if !quoted => {
                self.at += 1;
                self.escaped_quoted();
            }
            Some('{') => {
                self.at += 1;
                let end = self.chars[self.at..].iter().position(|c| *c == '}');
                let end = end.map_or(self.chars.len(), |end| self.at + end);
                let name: String = self.chars[self.at..end].iter().collect();
                self.at = end + 1;
                let value = self.braced(&name, quoted);
                self.buffer.push_str(&value);
            }
            // Arguments that do not exist, and the like, expand to nothing.
            Some('@' | '*' | '!' | '0'..='9') => self.at += 1,
            Some(c) if c.is_alphabetic() || c == '_' => {
                let rest = &self.chars[self.at..];
                let end = rest.iter().position(|c| !c.is_alphanumeric() && *c != '_');
                let name: String = rest[..end.unwrap_or(rest.len())].iter().collect();
                self.at += name.chars().count();
                let value = self.value(&name, quoted);
                self.buffer.push_str(&value);
            }
            _ => self.buffer.push('$'),
        }
    }

    /// `$'…'`, with its escapes resolved.
    fn escaped_quoted(&mut self) {
        let mut text = String::new();
        while let Some(c) = self.peek(0) {
            self.at += 1;
            match c {
                '\'' => break,
                '\\' => {
                    let (c, taken) = escape(&self.chars[self.at..]);
                    text.extend(c);
                    self.at += taken;
                }
                c => text.push(c),
            }
        }
        self.buffer.push_str(&shell_words::quote(&text));
    }

    fn braced(&self, inside: &str, quoted: bool) -> String {
        let end = inside.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inside.len());
        let (name, rest) = inside.split_at(end);
        match rest.chars().next() {
            _ if name == "IFS" => self.value("IFS", quoted),
            _ if name.is_empty() => String::new(),
            None => self.value(name, quoted),
            // The first character of a variable that is a path.
            Some(':') if rest == ":0:1" && ["PATH", "HOME", "PWD", "SHELL"].contains(&name) => {
                "/".to_owned()
            }
            _ if self.variables.contains_key(name) => self.value(name, quoted),
            // The shell refuses it if the variable is empty.
            Some(_) if rest.starts_with(":?") || rest.starts_with('?') => "set".to_owned(),
            Some(_) => match rest.trim_start_matches(':').chars().next() {
                Some('-' | '=') => rest.trim_start_matches([':', '-', '=']).to_owned(),
                _ => format!("${name}"),
            },
        }
    }

    fn value(&self, name: &str, quoted: bool) -> String {
        match self.variables.get(name) {
            Some(value) => value.clone(),
            None if name == "IFS" && !quoted => " ".to_owned(),
            None => format!("${name}"),
        }
    }

    fn comment(&mut self) {
        while self.peek(0).is_some_and(|c| c != '\n') {
            self.at += 1;
        }
    }

    /// Removes the number of a stream in front of `>` or `<`.
    fn mark(&mut self, mark: char) {
        let bare = self.buffer.trim_end_matches(|c: char| c.is_ascii_digit());
        if bare.is_empty() || bare.ends_with(char::is_whitespace) {
            self.buffer.truncate(bare.len());
        }
        self.buffer.extend([' ', mark, ' ']);
    }

    fn redirect_out(&mut self) {
        while matches!(self.peek(0), Some('>' | '|' | '&')) {
            self.at += 1;
        }
        self.mark(OUT);
    }

    fn redirect_in(&mut self) {
        let mut signs = 1;
        while matches!(self.peek(0), Some('<' | '&' | '-')) {
            signs += usize::from(self.peek(0) == Some('<'));
            self.at += 1;
        }
        if self.peek(0) == Some('>') {
            self.at += 1;
            return self.mark(OUT);
        }
        self.mark(if signs == 3 { HERE } else { IN });
    }

    fn end_pipeline(&mut self, skip: usize) {
        self.at += skip;
        self.end_command();
        if !self.pipeline.is_empty() {
            self.pipelines.push(std::mem::take(&mut self.pipeline));
        }
    }

    fn end_command(&mut self) {
        let text = std::mem::take(&mut self.buffer);
        let mut command =
            ShellCommand { inner: std::mem::take(&mut self.inner), ..ShellCommand::default() };
        let split = shell_words::split(&text).unwrap_or_else(|_| {
            text.split_whitespace().map(|word| word.replace(['\'', '"', '\\'], "")).collect()
        });
        let mut words = split.into_iter().flat_map(unbraced);
        while let Some(word) = words.next() {
            match word.chars().next() {
                Some(OUT) => command.writes.extend(words.next()),
                Some(IN) => {
                    words.next();
                }
                Some(HERE) => command.reads.extend(words.next()),
                _ => command.words.push(word),
            }
        }
        self.remember(&mut command);
        if command != ShellCommand::default() {
            self.pipeline.push(command);
        }
    }

    /// Removes reserved words and assignments from the front, and stores the assigned values.
    fn remember(&mut self, command: &mut ShellCommand) {
        const RESERVED: &[&str] =
            &["{", "}", "!", "if", "then", "else", "elif", "fi", "while", "until", "do", "done"];
        const SETTERS: &[&str] = &["export", "local", "declare", "typeset", "readonly"];
        let mut first = 0;
        for word in &command.words {
            if RESERVED.contains(&word.as_str()) || SETTERS.contains(&word.as_str()) {
                first += 1;
            } else if let Some((name, value)) = assignment(word) {
                self.variables.insert(name.to_owned(), value.to_owned());
                first += 1;
            } else {
                break;
            }
        }
        command.words.drain(..first);
        if let [keyword, name, within, values @ ..] = &command.words[..]
            && keyword == "for"
            && within == "in"
        {
            self.variables.insert(name.clone(), values.join(" "));
        }
    }
}

/// `NAME=value`
pub fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let fits = |(place, c): (usize, char)| {
        c == '_' || if place == 0 { c.is_alphabetic() } else { c.is_alphanumeric() }
    };
    (!name.is_empty() && name.chars().enumerate().all(fits)).then_some((name, value))
}

/// The output of `echo` or `printf`.
pub fn printed(command: &ShellCommand) -> Option<String> {
    let (program, words) = command.words.split_first()?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let skip = words.iter().take_while(|word| ["-n", "-e", "-ne", "-en"].contains(word)).count();
    let text = match program.as_str() {
        "echo" => words[skip..].join(" "),
        "printf" if words.first().is_some_and(|format| format.contains('%')) => {
            words[1..].join(" ")
        }
        "printf" => words.join(" "),
        _ => return None,
    };
    // Both can interpret escapes; a shell's own echo often does.
    let (chars, mut at, mut read) = (text.chars().collect::<Vec<_>>(), 0, String::new());
    while let Some(c) = chars.get(at) {
        at += 1;
        if *c == '\\' {
            let (c, taken) = escape(&chars[at..]);
            read.extend(c);
            at += taken;
        } else {
            read.push(*c);
        }
    }
    Some(read)
}

/// The character that an escape after a backslash stands for, and the length of the escape.
fn escape(rest: &[char]) -> (Option<char>, usize) {
    let number = |digits: &[char], radix: u32, most: usize| {
        let taken = digits.iter().take(most).take_while(|c| c.is_digit(radix)).count();
        let text: String = digits[..taken].iter().collect();
        (u32::from_str_radix(&text, radix).ok().and_then(char::from_u32), taken)
    };
    let Some(first) = rest.first() else { return (Some('\\'), 0) };
    let more = |(c, taken): (Option<char>, usize)| (c, taken + 1);
    match first {
        'n' => (Some('\n'), 1),
        't' => (Some('\t'), 1),
        'r' => (Some('\r'), 1),
        'x' => more(number(&rest[1..], 16, 2)),
        'u' => more(number(&rest[1..], 16, 4)),
        'U' => more(number(&rest[1..], 16, 8)),
        '0' => more(number(&rest[1..], 8, 3)),
        '1'..='7' => number(rest, 8, 3),
        c => (Some(*c), 1),
    }
}

/// `{a,b}` and `x{a,b}`, expanded to words.
fn unbraced(word: String) -> Vec<String> {
    let mut words = vec![word];
    for _ in 0..4 {
        let open = |word: &String| {
            let start = word.find('{')?;
            let end = start + word[start..].find('}')?;
            let choices = &word[start + 1..end];
            choices.contains(',').then(|| {
                let (before, after) = (&word[..start], &word[end + 1..]);
                choices.split(',').map(|choice| format!("{before}{choice}{after}")).collect()
            })
        };
        let next: Vec<String> =
            words.iter().flat_map(|word| open(word).unwrap_or(vec![word.clone()])).collect();
        if next.len() > MAX_WORDS || next == words {
            break;
        }
        words = next;
    }
    words
}
