//! Which log lines point to which causes. The first matching rule wins, so specific ones come
//! first.

use std::sync::LazyLock;

use regex::Regex;
use watchbill_runtime::evidence::Resource;

pub struct CauseRule {
    pub name: &'static str,
    /// The reported cause. The pattern's group `what` is appended if it matched.
    pub cause: &'static str,
    pub pattern: &'static str,
    /// The confidence if every error is of this kind, 0–1. Lower for a symptom that many causes
    /// share.
    pub weight: f64,
    /// The machine metric that supports or contradicts it.
    pub resource: Option<Resource>,
    pub recommendation: &'static str,
}

const HOST: &str = r"(?P<what>[\w.-]+\.?[\w.-]*:\d{2,5})";

pub const RULES: &[CauseRule] = &[
    CauseRule {
        name: "disk full",
        cause: "a disk is full",
        pattern: r"(?i)no space left on device|disk (?:is )?full|ENOSPC|disk quota exceeded|not enough (?:disk )?space",
        weight: 0.9,
        resource: Some(Resource::Disk),
        recommendation: "free space or enlarge the disk, then rotate and compress old logs and data",
    },
    CauseRule {
        name: "out of memory",
        cause: "memory ran out",
        pattern: r"(?i)out of memory|OutOfMemory|oom[- ]?kill|killed process \d+|cannot allocate memory|ENOMEM|heap out of memory|MemoryError|GC overhead limit",
        weight: 0.9,
        resource: Some(Resource::Memory),
        recommendation: "raise the memory limit or find what grows: compare memory before and after the last change",
    },
    CauseRule {
        name: "file handles",
        cause: "the process ran out of file handles or connections",
        pattern: r"(?i)too many open files|EMFILE|ENFILE|too many (?:clients|connections)|connection pool (?:is )?(?:exhausted|timed? ?out)|remaining connection slots|pool(?:ed)? (?:timeout|exhausted)",
        weight: 0.85,
        resource: None,
        recommendation: "raise the limit and look for connections or files that are never closed",
    },
    CauseRule {
        name: "certificate",
        cause: "a certificate is expired or not trusted",
        pattern: r"(?i)certificate (?:has |is )?(?:expired|not (?:yet )?valid|verify failed|invalid|unknown)|CERT_HAS_EXPIRED|x509: certificate|self[- ]signed certificate|SSLHandshake|PKIX path|UnknownIssuer|unable to get local issuer",
        weight: 0.9,
        resource: None,
        recommendation: "renew the certificate or install its issuer, and monitor its expiry",
    },
    CauseRule {
        name: "name resolution",
        cause: "a name can't be resolved",
        pattern: r"(?i)(?:getaddrinfo|ENOTFOUND|EAI_AGAIN|name or service not known|temporary failure in name resolution|no such host|could not resolve host|NXDOMAIN|UnknownHost|failed to lookup address)(?:[^\n]*?\s(?P<what>[\w-]+(?:\.[\w-]+)+))?",
        weight: 0.85,
        resource: None,
        recommendation: "check the name's spelling in the configuration and that the DNS server answers",
    },
    CauseRule {
        name: "port in use",
        cause: "a port is already in use",
        pattern: r"(?i)(?:address already in use|EADDRINUSE|bind: address|only one usage of each socket)(?:[^\n]*?(?P<what>[\w.:*\[\]]*:\d{2,5}))?",
        weight: 0.9,
        resource: None,
        recommendation: "stop the other process on that port or choose another; look for an old instance that still runs",
    },
    CauseRule {
        name: "rate limit",
        cause: "a service limits the request rate",
        pattern: r"(?i)rate[- ]?limit|too many requests|\b429\b|quota exceeded|throttl(?:ed|ing)|TooManyRequests",
        weight: 0.85,
        resource: None,
        recommendation: "slow down and honour Retry-After, or ask for a higher limit",
    },
    CauseRule {
        name: "authentication",
        cause: "credentials are wrong, expired or missing",
        pattern: r"(?i)authentication failed|password authentication|invalid (?:credentials|api key|token|password)|unauthorized|\b401\b|token (?:has |is )?expired|access token|login failed|ExpiredToken|InvalidSignature|AuthenticationException",
        weight: 0.85,
        resource: None,
        recommendation: "renew the credential and check that the running process has the new one",
    },
    CauseRule {
        name: "permission",
        cause: "a permission is missing",
        pattern: r#"(?i)(?:permission denied|EACCES|EPERM|operation not permitted|access (?:is )?denied|AccessDenied|\b403\b|forbidden|read-only file system|not authorized to perform)(?:[^\n]*?(?P<what>/[\w./-]{2,}))?"#,
        weight: 0.85,
        resource: None,
        recommendation: "grant the missing permission to the user or role that the process runs as",
    },
    CauseRule {
        name: "database",
        cause: "a query does not match the database schema",
        pattern: r#"(?i)(?:relation|table|column) ["'`]?(?P<what>[\w.]+)["'`]? (?:of relation \S+ )?(?:does not|doesn't) exist|no such (?:table|column):? ?|unknown column|syntax error at or near|undefined column|deadlock (?:found|detected)|duplicate key value|lock wait timeout"#,
        weight: 0.8,
        resource: None,
        recommendation: "check that the migrations of the deployed version ran",
    },
    CauseRule {
        name: "dependency refuses",
        cause: "a required service refuses connections",
        pattern: r"(?i)(?:connection refused|ECONNREFUSED|connect\(\) failed|actively refused|failed to connect to|could not connect to|no live upstreams|upstream prematurely closed|ConnectException)",
        weight: 0.85,
        resource: None,
        recommendation: "check that the service runs and listens on the configured address",
    },
    CauseRule {
        name: "dependency is slow",
        cause: "a required service does not respond in time",
        pattern: r"(?i)timed? ?out|ETIMEDOUT|ESOCKETTIMEDOUT|deadline exceeded|TimeoutException|upstream request timeout|\b504\b",
        weight: 0.7,
        resource: Some(Resource::Cpu),
        recommendation: "check the called service's latency and load, and the network in between",
    },
    CauseRule {
        name: "dependency disconnects",
        cause: "connections to a service are interrupted",
        pattern: r"(?i)connection reset|ECONNRESET|broken pipe|EPIPE|socket hang up|connection (?:was )?closed|unexpected EOF|network is unreachable|no route to host|EHOSTUNREACH|\b502\b|\b503\b|service unavailable",
        weight: 0.65,
        resource: None,
        recommendation: "look for restarts of the service at the other end, and for network trouble",
    },
    CauseRule {
        name: "configuration",
        cause: "a setting is missing or wrong",
        pattern: r#"(?i)(?:missing|required|undefined|unset|invalid) (?:required )?(?:environment|env|config\w*|setting)|environment variable ["'`]?(?P<what>\w+)["'`]?[^\n]*(?:not set|missing|undefined)|config(?:uration)? (?:file )?(?:not found|error|invalid)|failed to (?:parse|load|read) config"#,
        weight: 0.85,
        resource: None,
        recommendation: "compare the configuration with the one of the last version that worked",
    },
    CauseRule {
        name: "missing module",
        cause: "a required file or module is missing",
        pattern: r#"(?i)cannot find module ["']?(?P<what>[\w@./-]+)|ModuleNotFoundError|ImportError|ClassNotFoundException|NoClassDefFound|no such file or directory|ENOENT|FileNotFound"#,
        weight: 0.75,
        resource: None,
        recommendation: "check that the build contains the file, and check the working directory",
    },
    CauseRule {
        name: "fault in the code",
        cause: "the code fails on an unexpected value",
        pattern: r"(?i)NullPointer|null reference|nil pointer|undefined is not|is not a function|is not defined|cannot read propert|of undefined|of null|NoneType|KeyError|IndexError|AttributeError|TypeError|ValueError|ReferenceError|index out of (?:range|bounds)|panicked at|panic:|unhandled (?:exception|rejection)|assertion failed|segmentation fault|stack overflow|IllegalArgument|IllegalState|ZeroDivision|unwrap\(\)",
        weight: 0.8,
        resource: None,
        recommendation: "open the code location in the evidence, and check its last change",
    },
];

static COMPILED: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let compile = |rule: &CauseRule| {
        Regex::new(rule.pattern).expect("the table's patterns are valid: a test compiles them")
    };
    RULES.iter().map(compile).collect()
});

static ADDRESS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(HOST).expect("the pattern is valid: a test compiles it"));

/// The first rule that matches a message (with its stack), and the `what` that it names.
pub fn matching(text: &str) -> Option<(usize, Option<String>)> {
    COMPILED.iter().enumerate().find_map(|(n, pattern)| {
        let captures = pattern.captures(text)?;
        let what = captures.name("what").map(|what| what.as_str().to_owned());
        // A dependency is named by its address, anywhere in the line.
        let what = what.or_else(|| {
            let address = RULES[n].name.starts_with("dependency").then(|| ADDRESS.captures(text));
            Some(address??["what"].to_owned())
        });
        Some((n, what))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_matches_its_lines() {
        for (line, name, what) in [
            ("write failed: No space left on device", "disk full", None),
            ("java.lang.OutOfMemoryError: Java heap space", "out of memory", None),
            ("accept: too many open files", "file handles", None),
            ("tls: x509: certificate has expired", "certificate", None),
            ("getaddrinfo ENOTFOUND db.example.com", "name resolution", Some("db.example.com")),
            ("listen EADDRINUSE: address already in use :::8080", "port in use", Some(":::8080")),
            ("upstream said 429 Too Many Requests", "rate limit", None),
            ("password authentication failed for user \"app\"", "authentication", None),
            ("open /var/data/x: permission denied", "permission", None),
            ("relation \"orders\" does not exist", "database", Some("orders")),
            (
                "dial tcp 10.0.0.5:5432: connect: connection refused",
                "dependency refuses",
                Some("10.0.0.5:5432"),
            ),
            ("GET http://pay:8443/x timed out", "dependency is slow", Some("pay:8443")),
            ("read: connection reset by peer", "dependency disconnects", None),
            ("environment variable DB_URL is not set", "configuration", Some("DB_URL")),
            ("Error: Cannot find module 'left'", "missing module", Some("left")),
            ("TypeError: Cannot read properties of undefined", "fault in the code", None),
        ] {
            let (n, found) = matching(line).unwrap_or_else(|| panic!("no rule for {line}"));
            assert_eq!((RULES[n].name, found.as_deref()), (name, what), "{line}");
        }
        assert!(matching("order 5 could not be shipped").is_none());
        assert!(RULES.iter().all(|rule| rule.weight > 0.0 && rule.weight <= 1.0));
    }
}
