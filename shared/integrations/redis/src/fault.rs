//! What a Redis error means to people: the one place that says it.

use redis::{ErrorKind, RedisError, ServerError};
use watchbill_wire::peer::PeerError;

use super::address::{Address, Layout};
use super::batch::Key;

/// What a server's refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    NoScript,
    /// Of another kind than expected: the one cause that is a single key's.
    WrongType,
    /// The server is no master, or none any more.
    ReadOnly,
    Other,
}

fn words(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

/// Errors out of scripts carry the code in their text, and before Redis 7 nowhere else.
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

/// A refusal of the server, other than [`Cause::WrongType`].
pub(super) fn refusal(
    address: &Address,
    error: &ServerError,
    command: &str,
    keys: &[Key],
) -> PeerError {
    let names: Vec<_> = keys.iter().map(|key| key.name.as_ref()).collect();
    let on = if names.is_empty() { "" } else { " on " };
    let done = format!("{command}{on}{}", names.join(", "));
    let said = words(error);
    if has(error, "NOPERM")
        || said.contains("executing the script can't")
        || said.contains("ACL failure in script")
    {
        let text = format!(
            "{address} does not let this user do {done}: {said}; grant it with ACL SETUSER"
        );
        return PeerError::Refused(text);
    }
    if has(error, "CROSSSLOT") {
        let text =
            format!("{address} is a cluster and can't do {done}, which lie on several nodes");
        return PeerError::Refused(text);
    }
    of_the_server(address, |code| has(error, code), &said)
        .unwrap_or_else(|| PeerError::Refused(format!("{address} refuses {done}: {said}")))
}

/// What is about the server as a whole, whatever it was asked for.
fn of_the_server(address: &Address, has: impl Fn(&str) -> bool, said: &str) -> Option<PeerError> {
    let away = |what: &str| Some(PeerError::Away(format!("{address} {what} ({said})")));
    let refused = |what: &str| Some(PeerError::Refused(format!("{address} {what}")));
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
            "is out of memory (maxmemory), nothing can be written; raise maxmemory or make room",
        ),
        () if has("MISCONF") => {
            refused("can't save to its disk and takes no writes; make room there, and see its log")
        }
        () if has("NOREPLICAS") => away("has too few replicas and takes no writes"),
        () if has("LOADING") => away("is still loading its data"),
        () if said.contains("max number of clients") => away("takes no more connections"),
        () if (has("MOVED") || has("ASK")) && single => {
            refused("is a cluster: use redis+cluster://host:port,host:port in REDIS_URL")
        }
        () if has("MOVED") || has("ASK") => away("is being rearranged"),
        () if ["TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "BUSY"].into_iter().any(has) => {
            away("can't answer now")
        }
        () => None,
    }
}

const NO_PASSWORD: &str =
    "asks for a password: put it into REDIS_URL as redis://:<password>@host:port";
const WRONG_PASSWORD: &str = "does not take this user and password: correct them in REDIS_URL";

/// A key of another kind than these programs keep there.
pub(super) fn foreign(address: &Address, key: &Key, found: &str) -> PeerError {
    PeerError::Foreign(format!(
        "the key {key} in {address} is a {found}, and a {} belongs there: it is someone else's; \
         rename it, or give these programs a database of their own (redis://host:port/<database>)",
        key.kind.word()
    ))
}

/// No answer within the time limit.
pub(super) fn late(address: &Address) -> PeerError {
    PeerError::Away(format!("{address} can't be reached: it did not answer in time"))
}

/// Whatever came in place of answers.
pub(super) fn lost(address: &Address, error: RedisError) -> PeerError {
    let text = error.to_string();
    match ServerError::try_from(error.clone()) {
        Ok(error) => return refusal(address, &error, "it", &[]),
        Err(_) if text.contains("certificate") || text.contains("CertNotValid") => {
            return PeerError::Refused(format!(
                "{address} shows a certificate that is not trusted here: {text}; name its \
                 authority in REDIS_CA_FILE, or the host as the certificate does"
            ));
        }
        Err(_) => {}
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => {
            PeerError::Refused(format!("{address} {WRONG_PASSWORD}"))
        }
        // The database is asked for first of all, also where a password is missing.
        ErrorKind::Server(_) if text.contains("Authentication required") => {
            PeerError::Refused(format!("{address} {NO_PASSWORD}"))
        }
        ErrorKind::Server(_) if text.contains("switch database") => PeerError::Refused(format!(
            "{address} has no database {}: correct the number at the end of REDIS_URL",
            address.database
        )),
        ErrorKind::InvalidClientConfig | ErrorKind::Client => {
            PeerError::Refused(format!("{address} can't be used: {text}"))
        }
        _ => PeerError::Away(format!("{address} can't be reached: {text}")),
    }
}

/// An answer of another form than the command's.
pub(super) fn odd(address: &Address, error: &redis::ParsingError) -> PeerError {
    PeerError::Refused(format!("{address} gives an answer that is not understood: {error}"))
}
