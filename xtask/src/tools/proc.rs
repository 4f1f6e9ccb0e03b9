//! Servers that a stage starts, calls, and ends.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cmd;
use crate::ctx::Ctx;
use crate::stopwatch::Stopwatch;

/// The time between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The range of server ports. It is below the ports for outgoing connections (Linux from 32,768,
/// others from 49,152), so that no client, not even the one that waits for the server, takes the
/// port first.
const PORTS: Range<u16> = 15_000..25_000;

/// A port of this machine that was free a moment ago.
pub fn free_port() -> Result<u16> {
    let any = RandomState::new().build_hasher().finish() % u64::from(PORTS.end - PORTS.start);
    let first = PORTS.start + u16::try_from(any)?;
    (first..PORTS.end)
        .chain(PORTS.start..first)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .with_context(|| format!("no port of {PORTS:?} is free"))
}

/// A child process that serves HTTP on 127.0.0.1. It is killed on drop, so no stage leaves one
/// behind.
pub struct Server {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Server {
    /// Starts it with its output in `log`, and waits until `GET <path>` returns 200.
    pub fn start(
        ctx: &Ctx,
        name: &str,
        mut command: Command,
        port: u16,
        path: &str,
        patience: Duration,
    ) -> Result<Self> {
        let log = ctx.folder("log")?.join(name).with_extension("log");
        let file = File::create(&log).with_context(|| format!("can't write {}", log.display()))?;
        command.stdout(file.try_clone()?).stderr(file);
        eprintln!("$ {}", cmd::shown(&command));
        let child = command.spawn().with_context(|| format!("can't start {name}"))?;
        let mut server = Self { child, port, log };
        server.wait_for(name, path, patience)?;
        Ok(server)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sends SIGTERM and waits for it to end by itself.
    pub fn terminate(mut self, patience: Duration) -> Result<ExitStatus> {
        // The standard library knows only SIGKILL, and unsafe code is forbidden here.
        cmd::run(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let watch = Stopwatch::start();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if watch.elapsed() > patience {
                bail!("the server did not exit within {patience:?} of SIGTERM\n{}", self.tail());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// The end of its output.
    pub fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].join("\n");
        format!("{last}\n(full log: {})", self.log.display())
    }

    fn wait_for(&mut self, name: &str, path: &str, patience: Duration) -> Result<()> {
        let watch = Stopwatch::start();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{name} exited at once with {status}\n{}", self.tail());
            }
            let answer = get(self.port, path);
            if answer.as_ref().is_ok_and(|status| *status == 200) {
                return Ok(());
            }
            if watch.elapsed() > patience {
                let last = answer.map_or_else(|e| e.to_string(), |status| status.to_string());
                bail!(
                    "{name}: GET {path} returned no 200 within {patience:?} ({last})\n{}",
                    self.tail()
                );
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status of a GET. Enough of HTTP/1.1 to see whether a server is up.
fn get(port: u16, path: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let head = format!("Host: 127.0.0.1:{port}\r\nConnection: close");
    // One write: a peer that responds after a first piece and closes would reset the rest.
    stream.write_all(format!("GET {path} HTTP/1.1\r\n{head}\r\n\r\n").as_bytes())?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    let status = std::str::from_utf8(&head).ok().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    status
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP/1.1 response"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn ctx(folder: &std::path::Path) -> Ctx {
        Ctx { root: folder.to_owned(), target: folder.to_owned(), data: None }
    }

    /// Answers one request after another with the given statuses, on one thread.
    fn answers(statuses: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for status in statuses {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                assert!(stream.read(&mut request).unwrap() > 0);
                // In one piece: the client closes as soon as it has read the status.
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        port
    }

    #[test]
    fn a_server_is_waited_for_and_ends_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let port = answers(&["503 Service Unavailable", "200 OK"]);
        let mut command = Command::new("sleep");
        command.arg("600");
        let patience = Duration::from_secs(20);
        let ctx = ctx(folder.path());
        let server = Server::start(&ctx, "sleep", command, port, "/health", patience).unwrap();
        assert_eq!(server.url(), format!("http://127.0.0.1:{port}"));
        let status = server.terminate(patience).unwrap();
        assert_eq!(status.signal(), Some(15), "sleep dies of SIGTERM: {status}");
    }

    #[test]
    fn a_port_for_a_server_is_none_that_a_client_is_given() {
        // A port that this system chooses for one of our clients.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!PORTS.contains(&client.local_addr().unwrap().port()));
        let free: HashSet<u16> = (0..20).map(|_| free_port().unwrap()).collect();
        assert!(free.iter().all(|port| PORTS.contains(port)), "{free:?}");
        assert!(free.len() > 1, "concurrent tests would all choose {free:?}");
    }

    #[test]
    fn a_server_that_ends_at_once_is_reported_with_its_last_output() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no disk; exit 4"]);
        let ctx = ctx(folder.path());
        let patience = Duration::from_secs(20);
        let started = Server::start(&ctx, "sh", command, free_port().unwrap(), "/", patience);
        let error = started.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.starts_with("sh exited at once with exit status: 4\nno disk"), "{error}");
    }
}
