//! Secrets on command lines, where the meaning of a flag depends on its program: `mysql -pX`.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::edit::TextEdit;
use super::filter::begins_a_word;
use super::names::{self, NameKind};

/// Where the secret is relative to the flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Right after the flag: `-pX`.
    Attached,
    /// The next word: `-a X`.
    Next,
    /// After this character in the next word, or in the rest of the flag: `-u bob:X`.
    After(char),
}

use Takes::{After, Attached, Next};

struct Program {
    names: &'static [&'static str],
    /// A word without which the flags mean something else: `docker login -p X`.
    after: Option<&'static str>,
    flags: &'static [(&'static str, Takes)],
}

const fn program(
    names: &'static [&'static str],
    flags: &'static [(&'static str, Takes)],
) -> Program {
    Program { names, after: None, flags }
}

const PROGRAMS: &[Program] = &[
    program(
        &["curl"],
        &[
            ("-u", After(':')),
            ("--user", After(':')),
            ("-U", After(':')),
            ("--proxy-user", After(':')),
            ("--oauth2-bearer", Next),
            ("-b", After('=')),
            ("--cookie", After('=')),
        ],
    ),
    program(
        &[
            "mysql",
            "mysqldump",
            "mysqladmin",
            "mysqlimport",
            "mysqlshow",
            "mysqlcheck",
            "mariadb",
            "mariadb-dump",
            "mariadb-admin",
        ],
        &[("-p", Attached)],
    ),
    program(&["redis-cli", "valkey-cli"], &[("-a", Next), ("--pass", Next)]),
    program(&["sshpass"], &[("-p", Next), ("-p", Attached)]),
    program(
        &["mongo", "mongosh", "mongodump", "mongorestore", "mongoexport", "mongoimport"],
        &[("-p", Next), ("--password", Next)],
    ),
    Program {
        after: Some("login"),
        ..program(
            &[
                "docker", "podman", "buildah", "skopeo", "nerdctl", "oras", "helm", "az", "crane",
                "oc",
            ],
            &[("-p", Next), ("-p", Attached)],
        )
    },
    program(&["sqlcmd", "bcp"], &[("-P", Next), ("-P", Attached)]),
    program(&["zip", "unzip", "zipcloak"], &[("-P", Next)]),
    program(&["7z", "7za"], &[("-p", Attached)]),
    program(
        &["ldapsearch", "ldapmodify", "ldapadd", "ldapdelete", "ldappasswd", "ldapwhoami"],
        &[("-w", Next), ("-w", Attached)],
    ),
    program(&["smbclient", "rpcclient", "smbget"], &[("-U", After('%')), ("--user", After('%'))]),
    program(&["openssl"], &[("-k", Next), ("-K", Next)]),
    program(&["ssh-keygen"], &[("-N", Next), ("-P", Next)]),
    program(&["xfreerdp", "xfreerdp3"], &[("/p:", Attached)]),
    program(&["rdesktop"], &[("-p", Next)]),
    program(&["snmpwalk", "snmpget"], &[("-A", Next), ("-X", Next), ("-c", Next)]),
    // Their secret is at a position, not after a flag.
    program(&["sqlplus", "expdp", "impdp", "sqlldr"], &[]),
    program(&["htpasswd"], &[]),
    program(&["vault"], &[]),
    program(&["rabbitmqctl"], &[]),
    Program { after: Some("/user:"), ..program(&["net"], &[]) },
    program(&["AUTH"], &[]),
];

/// Names of programs for the filter: in lower case, some with the space that follows.
pub(super) const WORDS: &[&str] = &[
    "curl",
    "mysql",
    "mariadb",
    "redis-cli",
    "valkey-cli",
    "sshpass",
    "mongo",
    "docker",
    "podman",
    "buildah",
    "skopeo",
    "nerdctl",
    "oras ",
    "helm",
    "az login",
    "crane",
    "oc login",
    "sqlcmd",
    "bcp ",
    "zip -p",
    "7z ",
    "7za",
    "ldap",
    "smbclient",
    "rpcclient",
    "smbget",
    "openssl",
    "ssh-keygen",
    "xfreerdp",
    "rdesktop",
    "snmp",
    "sqlplus",
    "expdp",
    "impdp",
    "sqlldr",
    "htpasswd",
    "vault login",
    "rabbitmqctl",
    "net use",
    "auth ",
];

static START: LazyLock<Regex> = LazyLock::new(|| {
    let names: Vec<&str> = PROGRAMS.iter().flat_map(|program| program.names).copied().collect();
    Regex::new(&format!(r"(?:(?-u:\b)|\\[nrtbf])({})(?-u:\b)", names.join("|")))
        .expect("names are plain letters")
});

/// How far after a program the filter searches for a flag. A flag with a secret is not further
/// away.
const MAX_LOOKAHEAD: usize = 1024;
/// Nesting depth of quotes that are searched, so that a text is read only a few times.
const MAX_DEPTH: u8 = 2;

/// Programs that take secrets without a flag.
fn is_placed(word: &[u8]) -> bool {
    const PLACED: &[&str] = &[
        "sqlplus",
        "expdp",
        "impdp",
        "sqlldr",
        "vault login",
        "rabbitmqctl",
        "net use",
        "auth ",
        "zip -p",
    ];
    PLACED.iter().any(|placed| word.eq_ignore_ascii_case(placed.as_bytes()))
}

/// Whether a command may begin here: a name followed by a space or by the next word of a list.
pub(super) fn may(text: &[u8], from: usize, to: usize) -> bool {
    let alone = begins_a_word(&text[..from]);
    let end = text[to..].iter().take(24).position(|b| !b.is_ascii_alphanumeric() && *b != b'-');
    let next = end.and_then(|end| text.get(to + end)).or(text.get(to.wrapping_sub(1)));
    // The Redis command is in capitals; in lower case it is a word of plain text.
    let command = !text[from..to].starts_with(b"auth ");
    let flag = |two: &[u8]| two[1] == b'-' && matches!(two[0], b' ' | b'"' | b'\'' | b'\t' | b'\n');
    let near = &text[to..text.len().min(to + MAX_LOOKAHEAD)];
    // In a list every word is a text of its own.
    let flags = near.windows(2).any(flag) || near.contains(&b'"') || is_placed(&text[from..to]);
    alone
        && command
        && flags
        && next.is_some_and(|b| matches!(b, b' ' | b'\t' | b'"' | b'\'' | b'\\'))
}

/// Hides the secrets that programs are given.
pub(super) fn apply(text: &str) -> Cow<'_, str> {
    let mut edit = TextEdit::of(text);
    scan(text, 0, 0, &mut edit);
    edit.finish()
}

/// Hides the secrets of `text`, which begins at `base` of the edited text, `depth` quotes deep.
fn scan(text: &str, base: usize, depth: u8, edit: &mut TextEdit<'_>) {
    let mut at = 0;
    while let Some(start) = START.captures_at(text, at).and_then(|found| found.get(1)) {
        // `["mysql", "-pX"]`
        let quoted = text[..start.start()].ends_with(['"', '\'']);
        at = start.start() - usize::from(quoted);
        let mut command = CommandLine::default();
        // A line is read once, however many programs it names.
        while let Some(word) = next_word(text, at) {
            at = word.end;
            let said = &text[word.from..word.to];
            if let Some(offset) = command.secret_in(said)
                && offset < said.len()
            {
                edit.hide(base + word.from + offset, base + word.to);
            } else if word.quoted && depth < MAX_DEPTH && said.contains(' ') {
                // `note="curl -u bob:X"` after another command of the line.
                scan(said, base + word.from, depth + 1, edit);
            }
            if word.ends_command {
                command = CommandLine::default();
            }
        }
        at = at.max(start.end());
        // The end of the line.
        at += text[at..].bytes().take_while(|b| matches!(b, b'\n' | b'\r' | b' ')).count();
    }
}

struct Word {
    /// Without its quotes.
    from: usize,
    to: usize,
    end: usize,
    ends_command: bool,
    quoted: bool,
}

/// The next word of the same line. A backslash at the end of a line continues it.
fn next_word(text: &str, mut at: usize) -> Option<Word> {
    let bytes = text.as_bytes();
    loop {
        match bytes.get(at)? {
            b' ' | b'\t' | b',' | b'[' => at += 1,
            b'\\' if bytes.get(at + 1) == Some(&b'\n') => at += 2,
            b'\\' if matches!(bytes.get(at + 1), Some(b'"' | b'\'')) => at += 1,
            b'\n' | b'\r' => return None,
            _ => break,
        }
    }
    if let Some(quote @ (b'"' | b'\'')) = bytes.get(at) {
        let inner = at + 1;
        // If the opening quote was escaped, the next quote ends the word; if not, the next
        // unescaped one.
        let escaped = at > 0 && bytes[at - 1] == b'\\';
        let ends = |at: &usize| {
            bytes[*at] == b'\n' || (bytes[*at] == *quote && (escaped || bytes[*at - 1] != b'\\'))
        };
        let to = (inner..bytes.len()).find(ends).unwrap_or(bytes.len());
        let end = to + usize::from(bytes.get(to) == Some(quote));
        // The closing quote was escaped.
        let to = inner + text[inner..to].trim_end_matches('\\').len();
        return Some(Word { from: inner, to, end, ends_command: false, quoted: true });
    }
    let mut end = at;
    let mut quote = None;
    // `-p'a b'` is one word; `note="a b"` is a name and a further word.
    let flag = bytes[at] == b'-';
    while let Some(b) = bytes.get(end) {
        match quote {
            _ if *b == b'\n' => break,
            Some(open) if *b == open => quote = None,
            Some(_) => {}
            // This quote closes the text that contains the command, as in `ran='vault login X'
            // n=1`.
            None if matches!(b, b'"' | b'\'') && !flag && end > at && is_joined(bytes[end - 1]) => {
                break;
            }
            None if matches!(b, b'"' | b'\'') => quote = Some(*b),
            None if b.is_ascii_whitespace() || matches!(b, b'|' | b';' | b']') => break,
            None => {}
        }
        end += 1;
    }
    let stop = matches!(bytes.get(end), Some(b'|' | b';' | b']'));
    let ends_command = stop || &bytes[at..end] == b"&&";
    Some(Word { from: at, to: end, end: end + usize::from(stop), ends_command, quoted: false })
}

/// Whether a quote after this byte is not part of the same word.
fn is_joined(before: u8) -> bool {
    before == b'=' || before.is_ascii_alphanumeric()
}

/// The part of a command that was read so far.
#[derive(Default)]
pub(super) struct CommandLine {
    program: Option<&'static Program>,
    name: &'static str,
    /// Whether the word has occurred without which the flags mean something else.
    after: bool,
    next: Option<Takes>,
    /// Number of words that were not flags.
    words: usize,
    batch: bool,
}

impl CommandLine {
    /// Index in this word at which a secret begins.
    pub fn secret_in(&mut self, word: &str) -> Option<usize> {
        if let Some((program, name)) = program_of(word) {
            *self = Self {
                program: Some(program),
                name,
                after: program.after.is_none(),
                ..Self::default()
            };
            return None;
        }
        let program = self.program?;
        if let Some(takes) = self.next.take() {
            let there = takes.begins(word);
            return there.filter(|at| !is_placeholder(&word[*at..]));
        }
        let found = match word.starts_with('-') || word.starts_with("/p:") {
            true => self.flag(program, word),
            false => self.place(word),
        };
        self.after |= program.after.is_some_and(|after| word.starts_with(after));
        found.filter(|at| !is_placeholder(&word[*at..]))
    }

    fn flag(&mut self, program: &'static Program, word: &str) -> Option<usize> {
        self.batch |= !word.starts_with("--") && word.contains('b');
        if !self.after {
            return None;
        }
        for (flag, takes) in program.flags {
            let rest = word.strip_prefix(flag);
            match (rest, takes) {
                (Some(""), Attached) | (None, _) => {}
                (Some(""), takes) => {
                    self.next = Some(*takes);
                    return None;
                }
                (Some(rest), Attached) if !rest.starts_with(['=', '-']) => return Some(flag.len()),
                (Some(rest), takes) if rest.starts_with('=') => {
                    return takes.begins(&rest[1..]).map(|at| flag.len() + 1 + at);
                }
                (Some(rest), After(_)) if !flag.starts_with("--") => {
                    return takes.begins(rest).map(|at| flag.len() + at);
                }
                _ => {}
            }
        }
        // `-sSubob:x`: several flags in one word.
        if self.name == "curl" && !word.starts_with("--") {
            let at = word
                .find('u')
                .filter(|at| word[1..*at].bytes().all(|b| b"sSfkLvigNnOI".contains(&b)))?;
            match &word[at + 1..] {
                "" => self.next = Some(After(':')),
                rest => return After(':').begins(rest).map(|found| at + 1 + found),
            }
        }
        None
    }

    fn place(&mut self, word: &str) -> Option<usize> {
        self.words += 1;
        match (self.name, self.words) {
            ("sqlplus" | "expdp" | "impdp" | "sqlldr", 1) => {
                let slash = word.find('/').filter(|at| *at > 0 && !word.starts_with('@'))?;
                Some(slash + 1)
            }
            ("htpasswd", 3) if self.batch => Some(0),
            ("vault", 2) => names::is_generated(word).then_some(0),
            ("rabbitmqctl", 3) => Some(0),
            ("AUTH", 1 | 2) => names::is_generated(word).then_some(0),
            ("net", 4 | 5) if self.after => Some(0),
            _ => None,
        }
    }
}

impl Takes {
    fn begins(self, word: &str) -> Option<usize> {
        match self {
            Attached | Next => (!word.starts_with('-')).then_some(0),
            After(sign) => word.find(sign).map(|at| at + 1),
        }
    }
}

fn program_of(word: &str) -> Option<(&'static Program, &'static str)> {
    let word = word.rsplit('/').next().unwrap_or(word);
    PROGRAMS.iter().find_map(|program| {
        program.names.iter().find(|name| **name == word).map(|name| (program, *name))
    })
}

/// `$PASSWORD`, `<password>` and values that are hidden already.
fn is_placeholder(value: &str) -> bool {
    let bare = value.trim_matches(['"', '\'']);
    bare.starts_with('$') || !names::hides(NameKind::Secret, bare)
}
