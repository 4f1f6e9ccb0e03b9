//! What a Redis error means to people: the one place that says it.

use redis::{ErrorKind, RedisError, ServerError};
use watchbill_core::ports::PeerError;

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
    error.code() == code || error.details().is_some_and(|text| text.contains(code))
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
    let said = words(error);
    let on = match keys {
        [] => String::new(),
        keys => {
            let names: Vec<_> = keys.iter().map(|key| key.name.as_ref()).collect();
            format!(" on {}", names.join(", "))
        }
    };
    let has = |code| has(error, code);
    let away = |what: &str| PeerError::Away(format!("{address} {what} ({said})"));
    let refused = |what: String| PeerError::Refused(format!("{address} {what}"));
    let watched = !matches!(address.layout, Layout::Single);
    if has("NOAUTH") {
        return refused(
            "asks for a password: put it into REDIS_URL as redis://:<password>@host:port".into(),
        );
    }
    if has("WRONGPASS") {
        return refused("does not take this user and password: correct them in REDIS_URL".into());
    }
    if has("NOPERM") || has("ACL failure") || has("executing the script can't") {
        return refused(format!(
            "does not let this user do {command}{on}: {said}; grant it with ACL SETUSER"
        ));
    }
    if has("READONLY") {
        let what = "is a read-only replica";
        return if watched {
            away(what)
        } else {
            refused(format!(
                "{what}: point REDIS_URL to the master, or use redis+sentinel://host:port/master-name"
            ))
        };
    }
    if has("OOM") {
        return refused(
            "is out of memory (maxmemory), nothing can be written; raise maxmemory or make room"
                .into(),
        );
    }
    if has("MISCONF") {
        return refused(format!(
            "can't save to its disk and takes no writes: {said}; make room there"
        ));
    }
    if has("NOREPLICAS") {
        return away("has too few replicas and takes no writes");
    }
    if has("LOADING") {
        return away("is still loading its data");
    }
    if has("TRYAGAIN") || has("CLUSTERDOWN") || has("MASTERDOWN") || has("BUSY") || has("UNBLOCKED")
    {
        return away("can't answer now");
    }
    if has("CROSSSLOT") {
        return refused(format!(
            "is a cluster and can't do {command}{on}, which lie on several nodes"
        ));
    }
    if has("MOVED") || has("ASK") {
        return if watched {
            away("is being rearranged")
        } else {
            refused("is a cluster: use redis+cluster://host:port,host:port in REDIS_URL".into())
        };
    }
    refused(format!("refuses {command}{on}: {said}"))
}

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
        ErrorKind::AuthenticationFailed => PeerError::Refused(format!(
            "{address} does not take this user and password: correct them in REDIS_URL ({})",
            error.detail().unwrap_or("no reason given")
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
