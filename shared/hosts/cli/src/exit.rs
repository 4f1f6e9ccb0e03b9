//! The exit codes of the command line.

/// How a command ended. Scripts rely on the number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    Fine = 0,
    TaskFailed = 1,
    Usage = 2,
    Unreachable = 3,
    Refused = 4,
    NotFound = 5,
    Conflict = 6,
    Invalid = 7,
    StillWaiting = 8,
    Server = 9,
    Broken = 10,
    /// 128 + SIGINT, as in shells.
    Interrupted = 130,
}

/// The table of exit codes, which `--help` prints.
pub const EXIT_CODES: &[(Exit, &str)] = &[
    (Exit::Fine, "success"),
    (Exit::TaskFailed, "the task failed or was cancelled (with --wait)"),
    (Exit::Usage, "the command line is wrong, or a local file could not be used"),
    (Exit::Unreachable, "could not reach the server"),
    (Exit::Refused, "refused: the key is missing, invalid, or lacks the permission (401, 403)"),
    (Exit::NotFound, "not found (404)"),
    (Exit::Conflict, "conflict: the current state does not allow this (409)"),
    (Exit::Invalid, "invalid input (400, 413, 415), or an invalid policy"),
    (Exit::StillWaiting, "still waiting: blocked, waiting for approval, or --wait timed out"),
    (Exit::Server, "server error, or rate limited after retries (5xx, 429)"),
    (Exit::Broken, "the audit log's hash chain is broken (audit verify)"),
    (Exit::Interrupted, "interrupted by Ctrl-C; the task continues"),
];

impl Exit {
    pub fn of_status(status: u16) -> Self {
        match status {
            401 | 403 => Exit::Refused,
            404 => Exit::NotFound,
            409 => Exit::Conflict,
            429 => Exit::Server,
            400..=499 => Exit::Invalid,
            _ => Exit::Server,
        }
    }

    /// The table as `--help` shows it.
    pub fn help() -> String {
        let mut text = String::from("Exit codes:\n");
        for (exit, meaning) in EXIT_CODES {
            text.push_str(&format!("  {:>3}  {meaning}\n", *exit as u8));
        }
        text
    }
}
