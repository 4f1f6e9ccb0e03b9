//! A real Redis server for one test: on a free port, in its own folder, stopped on drop. The
//! test fails if the server can't be started.

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
/// Start timeout. A start takes a tenth of a second on an idle machine.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts to start, because a port that was free may be taken in the meantime.
const MAX_ATTEMPTS: usize = 5;

/// The configuration that a server is started with.
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

    /// Uses TLS with a certificate for `localhost` and `127.0.0.1`, signed by an authority made
    /// for this server (see [`RedisServer::ca_file`]).
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Keeps its data through a [kill](RedisServer::kill).
    pub fn append_only(self) -> Self {
        self.line("appendonly yes").line("appendfsync always")
    }

    /// Refuses writes beyond this amount of memory.
    pub fn max_memory(self, size: &str) -> Self {
        self.line(&format!("maxmemory {size}")).line("maxmemory-policy noeviction")
    }

    pub fn replica_of(self, port: u16) -> Self {
        self.line(&format!("replicaof 127.0.0.1 {port}")).line("repl-diskless-sync-delay 0")
    }

    /// A cluster node. The test forms the cluster.
    pub fn cluster(self) -> Self {
        self.line("cluster-enabled yes").line("cluster-node-timeout 2000")
    }

    /// A sentinel instead of a data server: the only sentinel of the master `primary` on this
    /// port. It considers the master dead after one second.
    pub fn sentinel_of(mut self, port: u16) -> Self {
        self.sentinel_of = Some(port);
        self
    }

    /// Adds a line to the configuration file.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    pub fn start(self) -> RedisServer {
        let folder = tempfile::tempdir().expect("a folder for the server");
        if self.tls {
            certificates(&folder);
        }
        for _ in 0..MAX_ATTEMPTS {
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

    /// Starts the process. The error is the server's log.
    fn run(&self, folder: &TempDir, port: u16) -> Result<Child, String> {
        let file = folder.path().join("redis.conf");
        // A sentinel writes its state into the file and reads it after a restart.
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
        // Reads to the end even when nothing receives the lines: a full pipe would block the
        // server.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let ready = if self.sentinel_of.is_some() { "+monitor" } else { "Ready to accept" };
        let mut said = String::new();
        while let Ok(line) = log.recv_timeout(TIMEOUT) {
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

/// A running server.
pub struct RedisServer {
    setup: RedisSetup,
    folder: TempDir,
    port: u16,
    process: Child,
}

impl RedisServer {
    /// Starts a server with the default setup.
    pub fn start() -> Self {
        RedisSetup::new().start()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL, including the password.
    pub fn url(&self) -> String {
        let scheme = if self.setup.tls { "rediss" } else { "redis" };
        match &self.setup.password {
            Some(password) => format!("{scheme}://:{password}@127.0.0.1:{}", self.port),
            None => format!("{scheme}://127.0.0.1:{}", self.port),
        }
    }

    /// The authority's certificate, with [TLS](RedisSetup::tls).
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Kills the server as `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Stops the server with SIGTERM, as a machine that shuts down does.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let _ = self.process.wait();
    }

    /// Starts the server again on the same port, with the data it had on disk.
    pub fn restart(&mut self) {
        self.kill();
        match self.setup.run(&self.folder, self.port) {
            Ok(process) => self.process = process,
            Err(log) => panic!("{PROGRAM} can't be started again: {log}"),
        }
    }

    /// Suspends the process: it stays there and answers nothing.
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
