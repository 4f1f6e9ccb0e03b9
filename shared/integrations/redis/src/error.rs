//! Translates Redis errors into messages for people, and nothing else does.

use redis::{ErrorKind, RedisError, ServerError};
use watchbill_wire::legacy::LegacyError;

use super::address::{Address, Layout};
use super::batch::Key;

/// What a server's refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    NoScript,
    /// The key has an unexpected type; the only cause that concerns a single key.
    WrongType,
    /// The server is not, or no longer, a master.
    ReadOnly,
    Other,
}

fn words(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

/// Errors from scripts have the code in their text, and before Redis 7 only there.
fn has(error: &ServerError, code: &str) -> bool {
    let word = |text: &str| text.trim_matches(|c: char| !c.is_ascii_alphabetic()) == code;
    error.code() == code || error.details().is_some_and(|text| text.split(' ').any(word))
}

pub(super) fn cause(error: &ServerError) -> Cause {
    match () {
        () if error.code() == "NOSCRIPT" => Cause::NoScript,
        () if has(error, "WRONGTYPE") => Cause::WrongType,
        () if has(error, "READONLY") => Cause::ReadOnly,
        () => Cause::Other,
    }
}

/// A refusal by the server, other than [`Cause::WrongType`].
pub(super) fn refusal(
    address: &Address,
    error: &ServerError,
    command: &str,
    keys: &[Key],
) -> LegacyError {
    let names: Vec<_> = keys.iter().map(|key| key.name.as_ref()).collect();
    let on = if names.is_empty() { "" } else { " on " };
    let request = format!("{command}{on}{}", names.join(", "));
    let message = words(error);
    if has(error, "NOPERM")
        || message.contains("executing the script can't")
        || message.contains("ACL failure in script")
    {
        let text =
            format!("{address} denies this user {request}: {message}; grant it with ACL SETUSER");
        return LegacyError::Refused(text);
    }
    if has(error, "CROSSSLOT") {
        let text = format!(
            "{address} is a cluster and can't run {request}: the keys are on several nodes"
        );
        return LegacyError::Refused(text);
    }
    of_the_server(address, |code| has(error, code), &message)
        .unwrap_or_else(|| LegacyError::Refused(format!("{address} rejects {request}: {message}")))
}

/// Errors about the server as a whole, whatever the command.
fn of_the_server(
    address: &Address,
    has: impl Fn(&str) -> bool,
    message: &str,
) -> Option<LegacyError> {
    let away = |what: &str| Some(LegacyError::Away(format!("{address} {what} ({message})")));
    let refused = |what: &str| Some(LegacyError::Refused(format!("{address} {what}")));
    let single = address.layout == Layout::Single;
    match () {
        () if has("NOAUTH") => refused(NO_PASSWORD),
        () if has("WRONGPASS") => refused(WRONG_PASSWORD),
        () if has("READONLY") && single => refused(
            "is a read-only replica: point REDIS_URL to the master, or use \
             redis+sentinel://host:port/master-name",
        ),
        () if has("READONLY") => away("is a read-only replica"),
        () if has("OOM") => refused(
            "is out of memory (maxmemory) and accepts no writes; raise maxmemory or free memory",
        ),
        () if has("MISCONF") => {
            refused("can't save to disk and accepts no writes; free disk space, and see its log")
        }
        () if has("NOREPLICAS") => away("has too few replicas and accepts no writes"),
        () if has("LOADING") => away("is still loading its data"),
        () if message.contains("max number of clients") => away("accepts no more connections"),
        () if (has("MOVED") || has("ASK")) && single => {
            refused("is a cluster: use redis+cluster://host:port,host:port in REDIS_URL")
        }
        () if has("MOVED") || has("ASK") => away("is being resharded"),
        () if ["TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "BUSY"].into_iter().any(has) => {
            away("can't serve requests now")
        }
        () => None,
    }
}

const NO_PASSWORD: &str =
    "requires a password; put it into REDIS_URL as redis://:<password>@host:port";
const WRONG_PASSWORD: &str = "rejects this user and password; correct them in REDIS_URL";

/// A key whose type is not the one that these programs store there.
pub(super) fn foreign(address: &Address, key: &Key, found: &str) -> LegacyError {
    LegacyError::Foreign(format!(
        "the key {key} in {address} is a {found}, not a {}, so it belongs to another program; \
         rename it, or give these programs a separate database (redis://host:port/<database>)",
        key.kind.word()
    ))
}

/// No answer within the timeout.
pub(super) fn late(address: &Address) -> LegacyError {
    LegacyError::Away(format!("{address} can't be reached: it did not respond in time"))
}

/// Any error that came instead of answers.
pub(super) fn lost(address: &Address, error: RedisError) -> LegacyError {
    let text = error.to_string();
    match ServerError::try_from(error.clone()) {
        Ok(error) => return refusal(address, &error, "the request", &[]),
        Err(_) if text.contains("certificate") || text.contains("CertNotValid") => {
            return LegacyError::Refused(format!(
                "{address} has a certificate that is not trusted: {text}; set REDIS_CA_FILE to \
                 its authority, or use the certificate's host name"
            ));
        }
        Err(_) => {}
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => {
            LegacyError::Refused(format!("{address} {WRONG_PASSWORD}"))
        }
        // The database is selected first, even if a password is missing.
        ErrorKind::Server(_) if text.contains("Authentication required") => {
            LegacyError::Refused(format!("{address} {NO_PASSWORD}"))
        }
        ErrorKind::Server(_) if text.contains("switch database") => LegacyError::Refused(format!(
            "{address} has no database {}: correct the number at the end of REDIS_URL",
            address.database
        )),
        ErrorKind::InvalidClientConfig | ErrorKind::Client => {
            LegacyError::Refused(format!("{address} can't be used: {text}"))
        }
        _ => LegacyError::Away(format!("{address} can't be reached: {text}")),
    }
}

/// A malformed answer to a command.
pub(super) fn odd(address: &Address, error: &redis::ParsingError) -> LegacyError {
    LegacyError::Refused(format!("{address} sent an unexpected response: {error}"))
}
