//! Parses the URL of a Redis.

use std::fmt;

use watchbill_wire::legacy::LegacyError;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Single,
    Cluster,
    Sentinel { master: String },
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// At least one.
    pub hosts: Vec<(String, u16)>,
    pub tls: bool,
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: i64,
    pub layout: Layout,
}

impl Address {
    pub fn parse(url: &str) -> Result<Self, LegacyError> {
        read(url.trim()).map_err(|problem| {
            LegacyError::Refused(format!(
                "REDIS_URL '{}': {problem}; write redis://[user:password@]host:port[/database], \
                 redis+cluster://host:port,host:port, or redis+sentinel://host:port/master-name \
                 (rediss… with TLS)",
                redacted(url.trim())
            ))
        })
    }

    pub fn is_cluster(&self) -> bool {
        self.layout == Layout::Cluster
    }
}

/// Without user and password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.layout {
            Layout::Single => f.write_str("Redis at ")?,
            Layout::Cluster => f.write_str("Redis cluster at ")?,
            Layout::Sentinel { master } => write!(f, "Redis '{master}' of the sentinels at ")?,
        }
        for (i, host) in self.hosts.iter().enumerate() {
            f.write_str(if i > 0 { "," } else { "" })?;
            f.write_str(&place(host))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) fn place((host, port): &(String, u16)) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A URL without anything that may be a password: the part before its `@`, the part after a `?`
/// or `#`, and, without an `@`, the part after a colon that no port follows.
fn redacted(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let (hidden, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("…@", rest),
        None => ("", rest),
    };
    let (rest, query) = match rest.split_once(['?', '#']) {
        Some((rest, _)) => (rest, "?…"),
        None => (rest, ""),
    };
    let rest = match rest.find(':') {
        Some(at) if hidden.is_empty() && !are_places(rest) => format!("{}:…", &rest[..at]),
        _ => rest.to_owned(),
    };
    format!("{scheme}{hidden}{rest}{query}")
}

/// Whether a text is only hosts with ports and a path.
fn are_places(rest: &str) -> bool {
    let hosts = rest.split('/').next().unwrap_or_default();
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    hosts.split(',').all(|host| {
        // Colons in brackets belong to the address.
        let port = host.rsplit_once(']').map_or(host, |(_, port)| port);
        port.split_once(':').is_none_or(|(_, port)| is_port(port))
    })
}

fn read(url: &str) -> Result<Address, String> {
    let (scheme, rest) = url.split_once("://").ok_or("it has no '://'")?;
    let scheme = scheme.to_ascii_lowercase();
    let (base, kind) = scheme.split_once('+').unwrap_or((&scheme, ""));
    let tls = match base {
        "redis" => false,
        "rediss" => true,
        _ => return Err(format!("the scheme '{scheme}' is not supported")),
    };
    // The last '@', because a password may hold an unescaped '@' or '/'.
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (Some(login), rest),
        None => (None, rest),
    };
    let (user, password) = credentials(login)?;
    if let Some((_, query)) = rest.split_once(['?', '#']) {
        // Some clients accept a password there.
        let names: Vec<_> =
            query.split('&').map(|one| one.split('=').next().unwrap_or("")).collect();
        return Err(format!("'{}' after the '?' is not supported", names.join("', '")));
    }
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut path = path.split('/').filter(|part| !part.is_empty());
    let layout = match kind {
        "" => Layout::Single,
        "cluster" => Layout::Cluster,
        "sentinel" => {
            let master = path.next().ok_or("the name of the master is missing")?;
            Layout::Sentinel { master: unescaped(master)? }
        }
        _ => return Err(format!("the scheme '{scheme}' is not supported")),
    };
    let database = match path.next() {
        Some(number) => {
            number.parse().map_err(|_| format!("'{number}' is not a database number"))?
        }
        None => 0,
    };
    if database < 0 || (layout == Layout::Cluster && database != 0) {
        return Err(format!("there is no database {database}; a cluster has only 0"));
    }
    if let Some(more) = path.next() {
        return Err(format!("'{more}' is one path segment too many"));
    }
    let port = if matches!(layout, Layout::Sentinel { .. }) { SENTINEL_PORT } else { PORT };
    let hosts = hosts.split(',').map(|text| host(text, port)).collect::<Result<Vec<_>, _>>()?;
    if layout == Layout::Single && hosts.len() > 1 {
        return Err("several hosts need redis+cluster or redis+sentinel".into());
    }
    Ok(Address { hosts, tls, user, password, database, layout })
}

fn credentials(login: Option<&str>) -> Result<(Option<String>, Option<String>), String> {
    let Some(login) = login else { return Ok((None, None)) };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let non_empty = |text: &str| match text {
        "" => Ok(None),
        text => unescaped(text).map(Some),
    };
    let (user, password) = (non_empty(user)?, non_empty(password)?);
    if user.is_some() && password.is_none() {
        return Err("it has a user but no password; write a password alone as ':password@'".into());
    }
    Ok((user, password))
}

fn host(text: &str, port: u16) -> Result<(String, u16), String> {
    let text = text.trim();
    let (name, port) = match text.rsplit_once(':') {
        // Colons in brackets belong to the address.
        Some((name, number)) if !number.ends_with(']') => {
            // Not repeated in the error: without an '@' it may be a password.
            (name, number.parse().map_err(|_| "the text after a ':' is not a port")?)
        }
        _ => (text, port),
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match name {
        "" => Err("the host is missing".into()),
        name => Ok((name.to_owned(), port)),
    }
}

/// Decodes percent escapes. The text is secret, so errors do not repeat it.
fn unescaped(text: &str) -> Result<String, String> {
    const WRONG: &str = "a % is not followed by two hexadecimal digits; write %25 for a %";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit().ok_or(WRONG)?, digit().ok_or(WRONG)?);
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| WRONG)?);
    }
    String::from_utf8(bytes).map_err(|_| "the text before the '@' is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Address {
        Address::parse(url).unwrap()
    }

    #[test]
    fn every_form_is_parsed() {
        let plain = parse("redis://example.org");
        assert_eq!(plain.hosts, [("example.org".to_owned(), 6379)]);
        assert_eq!((plain.tls, plain.database, &plain.layout), (false, 0, &Layout::Single));
        let tls = parse("rediss://bridge:s%40cret@[::1]:7000/3");
        assert_eq!(tls.hosts, [("::1".to_owned(), 7000)]);
        assert_eq!((tls.tls, tls.database), (true, 3));
        assert_eq!(
            (tls.user.as_deref(), tls.password.as_deref()),
            (Some("bridge"), Some("s@cret"))
        );
        let cluster = parse("redis+cluster://a:1,b:2");
        assert_eq!(cluster.hosts, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert!(cluster.is_cluster());
        let sentinel = parse("rediss+sentinel://:pw@a,b:5/primary/2");
        assert_eq!(sentinel.hosts, [("a".to_owned(), 26379), ("b".to_owned(), 5)]);
        assert_eq!(sentinel.layout, Layout::Sentinel { master: "primary".into() });
        assert_eq!((sentinel.password.as_deref(), sentinel.database), (Some("pw"), 2));
    }

    #[test]
    fn a_password_may_contain_delimiters() {
        assert_eq!(parse("redis://:a/b@c?d@host").password.as_deref(), Some("a/b@c?d"));
    }

    #[test]
    fn errors_do_not_contain_the_password() {
        for (url, why) in [
            ("localhost:6379", "no '://'"),
            ("http://u:secret@host", "'http' is not supported"),
            ("redis+ring://u:secret@host", "'redis+ring' is not supported"),
            ("redis://u:secret@host:x", "is not a port"),
            ("redis://u:secret", "is not a port"),
            ("redis://:secret/0", "is not a port"),
            ("u:secret", "no '://'"),
            ("unix:///run/redis.sock?password=secret", "'unix' is not supported"),
            ("redis://host:6379?db=1&password=secret", "'db', 'password' after"),
            ("redis://u:secret@", "host is missing"),
            ("redis://u:secret@host/one", "'one' is not a database number"),
            ("redis://u:secret@host/1/2", "one path segment too many"),
            ("redis://u:secret@a,b", "several hosts need"),
            ("redis://u:secret@host?protocol=3", "'protocol' after the '?' is not supported"),
            ("redis+sentinel://u:secret@host", "name of the master"),
            ("redis+cluster://u:secret@host/2", "no database 2"),
            ("redis://secret@host", "a user but no password"),
            ("redis://u:secret%zz@host", "%25"),
        ] {
            let text = Address::parse(url).unwrap_err().to_string();
            assert!(text.contains(why), "{text}");
            assert!(!text.contains("secret"), "{text}");
            assert!(text.starts_with("REDIS_URL '") && text.contains("; write redis://"), "{text}");
        }
    }

    #[test]
    fn a_value_without_a_password_is_shown_as_it_is() {
        for url in ["garbage", "localhost:6379", "unix:///run/redis.sock", ""] {
            let text = Address::parse(url).unwrap_err().to_string();
            assert!(text.contains(&format!("REDIS_URL '{url}'")), "{text}");
        }
    }

    #[test]
    fn display_omits_user_and_password() {
        assert_eq!(parse("redis://u:secret@host/1").to_string(), "Redis at host:6379");
        let sentinels = parse("redis+sentinel://:secret@a,[::2]:7/m").to_string();
        assert_eq!(sentinels, "Redis 'm' of the sentinels at a:26379,[::2]:7");
    }
}
