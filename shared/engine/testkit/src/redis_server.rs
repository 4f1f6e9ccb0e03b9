//! A real Redis server of a test's own: on a free port, in a folder of its own, gone when it
//! is dropped. One that can't be started fails the test.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::free_port;

const PROGRAM: &str = "redis-server";
/// For a start; it takes a tenth of a second on a machine that does nothing else.
const PATIENCE: Duration = Duration::from_secs(30);
/// A port that was free a moment ago may not be any more.
const TRIES: usize = 5;

/// What a server is started with.
#[derive(Clone, Debug, Default)]
pub struct RedisSetup {
    password: Option<String>,
    tls: bool,
    sentinel_of: Option<u16>,
    lines: Vec<String>,
}

impl RedisSetup {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// With a certificate for `localhost` and `127.0.0.1`, of an authority made for this
    /// server, whose own is at [`RedisServer::ca_file`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Keeps what it has through a [kill](RedisServer::kill).
    pub fn append_only(self) -> Self {
        self.line("appendonly yes").line("appendfsync always")
    }

    /// Refuses writes beyond it.
    pub fn max_memory(self, size: &str) -> Self {
        self.line(&format!("maxmemory {size}")).line("maxmemory-policy noeviction")
    }

    pub fn replica_of(self, port: u16) -> Self {
        self.line(&format!("replicaof 127.0.0.1 {port}")).line("repl-diskless-sync-delay 0")
    }

    /// A node of a cluster, which the test forms.
    pub fn cluster(self) -> Self {
        self.line("cluster-enabled yes").line("cluster-node-timeout 2000")
    }

    /// No server of data, but the only sentinel of a master `primary` on this port: it takes
    /// the master for dead after a second.
    pub fn sentinel_of(mut self, port: u16) -> Self {
        self.sentinel_of = Some(port);
        self
    }

    /// A line of the configuration.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    pub fn start(self) -> RedisServer {
        let folder = tempfile::tempdir().expect("a folder for the server");
        if self.tls {
            certificates(&folder);
        }
        for _ in 0..TRIES {
            let port = free_port();
            if let Ok(process) = self.run(&folder, port) {
                return RedisServer { setup: self, folder, port, process };
            }
        }
        match self.run(&folder, free_port()) {
            Ok(_) => unreachable!("a port that was free five times in a row was not"),
            Err(log) => panic!("{PROGRAM} can't be started: {log}"),
        }
    }

    fn configuration(&self, folder: &TempDir, port: u16) -> String {
        let folder = folder.path().display();
        let plain = if self.tls { 0 } else { port };
        let mut text = format!("port {plain}\nbind 127.0.0.1\ndir {folder}\n");
        if self.tls {
            text += &format!(
                "tls-port {port}\ntls-cert-file {folder}/server.pem\n\
                 tls-key-file {folder}/server.key\ntls-ca-cert-file {folder}/ca.pem\n\
                 tls-auth-clients no\n"
            );
        }
        if let Some(master) = self.sentinel_of {
            text += &format!(
                "sentinel monitor primary 127.0.0.1 {master} 1\n\
                 sentinel down-after-milliseconds primary 1000\n\
                 sentinel failover-timeout primary 5000\n"
            );
        } else {
            text += "save \"\"\n";
        }
        if let Some(password) = &self.password {
            let of_master = match self.sentinel_of {
                Some(_) => "sentinel auth-pass primary",
                None => "masterauth",
            };
            text += &format!("requirepass \"{password}\"\n{of_master} \"{password}\"\n");
        }
        for line in &self.lines {
            text += line;
            text.push('\n');
        }
        text
    }

    /// Ends with the server's log where it does not come up.
    fn run(&self, folder: &TempDir, port: u16) -> Result<Child, String> {
        let file = folder.path().join("redis.conf");
        // A sentinel writes what it has found out into it, and reads it after a restart.
        if self.sentinel_of.is_none() || !file.exists() {
            std::fs::write(&file, self.configuration(folder, port)).expect("a file is written");
        }
        let mut command = Command::new(PROGRAM);
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        if self.sentinel_of.is_some() {
            command.arg("--sentinel");
        }
        let started = command.spawn();
        let mut process = started.unwrap_or_else(|error| {
            panic!("{PROGRAM} can't be started ({error}); install it (Debian: redis-server)")
        });
        let output = process.stdout.take().expect("its output is piped");
        let (lines, log) = mpsc::channel();
        // Reads to the end, also when nobody listens any more: a full pipe would stop it.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let ready = if self.sentinel_of.is_some() { "+monitor" } else { "Ready to accept" };
        let mut said = String::new();
        while let Ok(line) = log.recv_timeout(PATIENCE) {
            if line.contains(ready) {
                return Ok(process);
            }
            said += &line;
            said.push('\n');
        }
        let _ = process.kill();
        let _ = process.wait();
        Err(said)
    }
}

/// A server that runs.
pub struct RedisServer {
    setup: RedisSetup,
    folder: TempDir,
    port: u16,
    process: Child,
}

impl RedisServer {
    /// Without anything special.
    pub fn start() -> Self {
        RedisSetup::new().start()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// With its password.
    pub fn url(&self) -> String {
        let scheme = if self.setup.tls { "rediss" } else { "redis" };
        match &self.setup.password {
            Some(password) => format!("{scheme}://:{password}@127.0.0.1:{}", self.port),
            None => format!("{scheme}://127.0.0.1:{}", self.port),
        }
    }

    /// The certificate of the authority, with [TLS](RedisSetup::tls).
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// As `kill -9` does it.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Ends it as a machine does that shuts down.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let _ = self.process.wait();
    }

    /// On the same port, with the data it had on disk.
    pub fn restart(&mut self) {
        self.kill();
        match self.setup.run(&self.folder, self.port) {
            Ok(process) => self.process = process,
            Err(log) => panic!("{PROGRAM} can't be started again: {log}"),
        }
    }

    /// It goes on being there, and answers nothing.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let process = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &process]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} to the server is sent");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn certificates(folder: &TempDir) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no names to refuse");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key pair");
    let ca = authority.self_signed(&authority_key).expect("a certificate");
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let server = CertificateParams::new(names).expect("names of a server");
    let server_key = KeyPair::generate().expect("a key pair");
    let issuer = Issuer::new(authority, authority_key);
    let signed = server.signed_by(&server_key, &issuer).expect("a signed certificate");
    for (name, text) in [
        ("ca.pem", ca.pem()),
        ("server.pem", signed.pem()),
        ("server.key", server_key.serialize_pem()),
    ] {
        std::fs::write(folder.path().join(name), text).expect("a file is written");
    }
}
