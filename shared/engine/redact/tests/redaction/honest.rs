//! What only sounds like a secret stays as it is, so that answers stay of use.

use watchbill_redact as redact;

const LINES: &[&str] = &[
    "tokens: 512",
    "input_tokens=1024 output_tokens=88",
    "author: bob",
    "authored by bob, author=alice",
    "password reset mail sent",
    "the password policy needs 12 characters",
    "passed=17 failed=2",
    "tests_passed: 17",
    "PASS: TestLogin (0.02s)",
    "--- PASS: TestLogin (0.02s)",
    "pass: ok, fail: none",
    "auth failed for user bob",
    "auth: none",
    "auth=basic",
    "bypass: enabled for cache",
    "compass heading=12",
    "key not found: user_17",
    "primary_key=id",
    "foreign key constraint fk_user_17 fails",
    "cache_key=tenant:7:report",
    "keyboard: qwerty",
    "partition_key=tenant#7",
    "idempotency_key=deploy-2026-11-30-web",
    "monkey=george77",
    "session opened for user root by (uid=0)",
    "Accepted publickey for bob from 10.0.0.7 port 51234 ssh2",
    "Failed password for invalid user test9 from 10.0.0.7 port 22 ssh2",
    "pam_unix(sshd:auth): authentication failure; logname= uid=0 tty=ssh ruser= rhost=10.0.0.7",
    "basic monitoring is on",
    "bearer authentication is needed",
    "the secret santa list",
    "secret_name=db",
    "cookie consent was given",
    "http://localhost:8080/@scope/pkg",
    "https://example.com/a?mail=bob@example.com",
    "https://example.com:8443/a/b#c",
    "https://cdn.example.com/npm/vue@3.2.1/dist/vue.js",
    "git@github.com:acme/shop.git",
    "mail to bob@example.com failed",
    "docker run -p 8080:80 nginx",
    "mysql -P 3306 -h db shop",
    "curl -u $USER:$PASSWORD https://example.com",
    "ssh -p 2222 bob@host",
    "mkdir -p /var/lib/app",
    "cp -a /from /to",
    "tar -k -x -f a.tar",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "commit 3b18e512dba79e4c8300dd08aeb37f8e728b8dad",
    "task_id=019a00c8-9480-7000-8000-000000000001",
    "disk-usage-of-the-machine and risk-assessment-of-the-service",
    "<name>web</name><value>7</value>",
    "- name: LOG_LEVEL\n  value: debug",
    "env:\n  - name: PORT\n    value: \"8080\"",
    "authorization_url=https://example.com/oauth",
    "token_type=Bearer, expires_in=3600",
    "ssh_key: ~/.ssh/id_ed25519",
    "secret_arn=arn:aws:kms:eu-west-1:1:key/7",
    "at com.example.Auth.check(Auth.java:12)",
    "pin=13 mode=output",
    "the keeper wakes; pinging pw-7",
    "\u{1b}[32mINFO\u{1b}[0m all is well",
    "größe: 12 \u{200b}px",
    r#"{"tokens": {"input": 12, "output": 5}, "author": "bob", "pass": 17}"#,
    r#"{"name": "replicas", "value": "3"}"#,
    r#"["deploy", "--env", "production"]"#,
    r#"got {"name": "replicas", "value": "3"} and ["deploy", "--env", "production"]"#,
    r#"given="it said\nauthor: bob\ntokens:\n  - used\n" path="C:\new\token\x41" n=1"#,
    "these tokens:\n  - one\n  - two",
    "password: -",
    "the API key is not known here, or was revoked",
    "the webhook secret is not whsec_ and base64 of at least 24 bytes",
    "409 where no secret is set.",
    "the password was wrong; the password is required",
    "password is incorrect, or the secret was never sent",
    "the passphrase is missing, the mnemonic is not set for this wallet",
    r#"{"environment": "production", "auth": {"mode": "none"}, "key": "tenant#7"}"#,
];

#[test]
fn what_only_sounds_like_a_secret_stays() {
    let changed: Vec<_> = LINES
        .iter()
        .filter_map(|line| {
            let shown = redact::text(line);
            (shown != *line).then(|| format!("{line}\n  is {shown}"))
        })
        .collect();
    assert!(changed.is_empty(), "{}", changed.join("\n"));
}
