//! Tests of connections over real sockets: others are served while clients send half a head,
//! half a body or nothing, or never read.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use futures_util::stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use watchbill_api::{ApiConfig, ApiState, RateLimits, StaticKey, TrustedProxies};
use watchbill_core::decide::EngineConfig;
use watchbill_core::service::{Core, Ports};
use watchbill_domain::{Role, TenantId, hash_key};
use watchbill_host::{clock::SystemClock, entropy::SystemEntropy};
use watchbill_local::serve::connections::{
    Accept, ConnectionMetrics, Limits, Server, Table, files,
};
use watchbill_testkit::{MemoryBlobs, MemoryStore, MemoryWake};

/// Everything that must happen ends within this, even on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A timeout that the test waits for.
const SHORT: Duration = Duration::from_millis(300);
/// A timeout that the test never reaches.
const LONG: Duration = Duration::from_secs(600);

struct Served {
    address: SocketAddr,
    table: Arc<Table>,
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

impl Served {
    async fn new(most: usize, headers_within: Duration, stalled: Duration, api: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { most: None, headers_within, stalled_after: stalled };
        Self::over(listener, address, most, limits, api)
    }

    fn over(
        listener: impl Accept + 'static,
        address: SocketAddr,
        most: usize,
        limits: Limits,
        router: Router,
    ) -> Self {
        let table = Arc::new(Table::new(most));
        let server = Server {
            limits,
            table: table.clone(),
            trusted: TrustedProxies::default(),
            clock: Arc::new(SystemClock::new()),
        };
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(async move { server.run(listener, router, stopped).await });
        Self { address, table, stop, running }
    }

    async fn connect(&self) -> TcpStream {
        timeout(TIMEOUT, TcpStream::connect(self.address)).await.unwrap().unwrap()
    }

    /// Sends this on a new connection.
    async fn send(&self, text: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// Makes a whole call on a new connection and returns the response.
    async fn call(&self, path: &str, key: &str) -> String {
        read(self.send(&request(path, key, "connection: close\r\n")).await).await
    }

    async fn until(&self, fits: impl Fn(ConnectionMetrics) -> bool) {
        let looking = async {
            while !fits(self.table.figures()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = timeout(TIMEOUT, looking).await;
        assert!(seen.is_ok(), "{:?}", self.table.figures());
    }
}

fn request(path: &str, key: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: here\r\nx-api-key: {key}\r\n{more}\r\n")
}

/// Reads until the other side closes.
async fn read(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A connection that is reset has sent its response before.
    let _ = timeout(TIMEOUT, stream.read_to_end(&mut answer))
        .await
        .expect("the server closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads the first line, while the connection stays open.
async fn first_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(timeout(TIMEOUT, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(line).unwrap()
}

const KEY: &str = "user-key-0123456789";
const OTHER: &str = "other-key-0123456789";

fn api(connections: usize, body_within: Duration) -> Router {
    let ports = Ports {
        store: Arc::new(MemoryStore::new()),
        blobs: Arc::new(MemoryBlobs::new()),
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(SystemEntropy),
        wake: Arc::new(MemoryWake::new()),
    };
    let key = |name: &str, key: &str, tenant: &str| StaticKey {
        name: name.into(),
        key_hash: hash_key(key),
        role: Role::Agent,
        tenant: TenantId::parse(tenant).unwrap(),
    };
    let config = ApiConfig {
        static_keys: vec![key("one", KEY, "default"), key("two", OTHER, "other")],
        rate_limits: RateLimits::Off,
        connections: Some(connections),
        body_within,
        ..ApiConfig::default()
    };
    let core = Core::new(ports, Arc::new(EngineConfig::default()), 1);
    watchbill_api::router(ApiState::new(core, config).unwrap())
}

#[tokio::test]
async fn eleven_hundred_half_heads_shut_no_one_out() {
    // This process holds both ends.
    assert!(files::connections() > 1_100, "the limit of open files is too low for this test");
    let served = Served::new(256, LONG, LONG, api(256, LONG)).await;
    let mut held = Vec::new();
    for n in 0..1_100 {
        let text = if n % 3 == 0 { "" } else { "GET / HTTP/1.1\r\nhost: here\r\nx-half: " };
        held.push(served.send(text).await);
        if n % 100 == 99 {
            let answer = served.call("/health", "").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "after {n}: {answer}");
        }
    }
    let figures = served.table.figures();
    assert!(figures.open <= 256 && figures.gave_way >= 1_100 - 256, "{figures:?}");
    assert_eq!(figures.refused, 0);
    // A busy connection never gives way.
    let mut stream = served.send(&request("/events", KEY, "accept: text/event-stream\r\n")).await;
    assert!(first_line(&mut stream).await.starts_with("HTTP/1.1 200"));
    for _ in 0..300 {
        held.push(served.send("GET / HT").await);
    }
    let answer = served.call("/tasks", OTHER).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut rest = [0; 1024];
    let more = timeout(TIMEOUT, stream.read(&mut rest)).await.unwrap().unwrap();
    assert!(more > 0, "the event stream is still there");
}

#[tokio::test]
async fn half_heads_and_idle_connections_are_closed_in_time() {
    let served = Served::new(64, SHORT, LONG, api(64, LONG)).await;
    for text in ["", "GET /", "GET / HTTP/1.1\r\nhost: here\r\nx-half: "] {
        read(served.send(text).await).await;
    }
    // After a response the timeout starts again.
    let mut kept = served.send(&request("/", "", "")).await;
    assert!(first_line(&mut kept).await.starts_with("HTTP/1.1 200"));
    read(kept).await;
    served.until(|figures| figures.open == 0).await;
}

#[tokio::test]
async fn half_a_body_is_given_up_in_time() {
    let served = Served::new(64, LONG, LONG, api(64, SHORT)).await;
    let head = "POST /tasks HTTP/1.1\r\nhost: here\r\ncontent-length: 100\r\n";
    let half = format!("{head}x-api-key: {KEY}\r\n\r\n{{\"type\":");
    let answer = read(served.send(&half).await).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    // A caller without a key gets the response before any of the body is read.
    let answer = read(served.send(&format!("{head}\r\n{{")).await).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

/// Clients keep connections, and would send their next call into one that closes silently.
#[tokio::test]
async fn a_body_that_nobody_read_ends_its_connection_and_the_answer_says_so() {
    let served = Served::new(64, LONG, LONG, api(64, LONG)).await;
    let post = |length: usize, more: &str| {
        format!("POST /tasks HTTP/1.1\r\nhost: here\r\ncontent-length: {length}\r\n{more}\r\n")
    };
    let key = format!("x-api-key: {KEY}\r\n");
    for (text, status) in [
        (post(10_000_000, &key), "413"),
        (post(10_000_000, ""), "401"),
        (post(100, "") + "{", "401"),
        (post(2, "expect: 100-continue\r\n"), "401"),
    ] {
        let answer = read(served.send(&text).await).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        let (head, _) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.to_ascii_lowercase().contains("\r\nconnection: close"), "{head}");
    }
    // A body that has arrived completely is skipped, and the connection is reused.
    let mut kept = served.send(&(post(2, "") + "{}")).await;
    assert!(first_line(&mut kept).await.starts_with("HTTP/1.1 401"));
    let next = request("/health", "", "connection: close\r\n");
    kept.write_all(next.as_bytes()).await.unwrap();
    let rest = read(kept).await;
    let (head, rest) = rest.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_ascii_lowercase().contains("connection:"), "{head}");
    assert!(rest.contains("HTTP/1.1 200"), "{rest}");
}

fn unread() -> Router {
    let piece = || Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 64 * 1024]));
    let whole = || async { Bytes::from(vec![b'x'; 64 << 20]) };
    let endless = move || async move { Body::from_stream(stream::repeat_with(piece)) };
    Router::new()
        .route("/whole", get(whole))
        .route("/endless", get(endless))
        .route("/", get(|| async { "here" }))
}

#[tokio::test]
async fn answers_and_streams_that_nobody_reads_are_broken_off() {
    let served = Served::new(64, LONG, SHORT, unread()).await;
    let mut held = Vec::new();
    for path in ["/whole", "/endless"] {
        held.push(served.send(&request(path, "", "")).await);
    }
    // Both are sent and broken off while another call is served.
    let answer = served.call("/", "").await;
    assert!(answer.ends_with("here"), "{answer}");
    for stream in held {
        let mut stream = stream;
        assert!(first_line(&mut stream).await.starts_with("HTTP/1.1 200"));
        served.until(|figures| figures.open <= 1).await;
        drop(stream);
    }
    served.until(|figures| figures.open == 0).await;
}

#[tokio::test]
async fn who_reads_slowly_gets_the_whole_answer() {
    const SIZE: usize = 8 << 20;
    let whole = || async { Bytes::from(vec![b'x'; SIZE]) };
    let router = Router::new().route("/", get(whole));
    let served = Served::new(64, LONG, SHORT, router).await;
    let mut stream = served.send(&request("/", "", "connection: close\r\n")).await;
    let (mut read, mut piece) = (0, vec![0; 1 << 20]);
    loop {
        // A third of the timeout for each piece: longer than the timeout in total.
        tokio::time::sleep(SHORT / 3).await;
        let mut got = 0;
        while got < piece.len() {
            match timeout(TIMEOUT, stream.read(&mut piece[got..])).await.unwrap().unwrap() {
                0 => break,
                n => got += n,
            }
        }
        read += got;
        if got < piece.len() {
            break;
        }
    }
    assert!(read > SIZE, "{read} bytes with the head");
}

#[tokio::test]
async fn streams_of_one_key_leave_room_for_others() {
    let served = Served::new(2_048, LONG, LONG, api(2_048, LONG)).await;
    let open = request("/events", KEY, "accept: text/event-stream\r\n");
    let (mut held, mut streams) = (Vec::new(), 0);
    for _ in 0..256 {
        let mut stream = served.send(&open).await;
        let line = first_line(&mut stream).await;
        match &line[9..12] {
            "200" => streams += 1,
            "503" => {}
            _ => panic!("{line}"),
        }
        held.push(stream);
    }
    assert_eq!(streams, 64);
    let other = request("/events", OTHER, "accept: text/event-stream\r\n");
    let mut other = served.send(&other).await;
    assert!(first_line(&mut other).await.starts_with("HTTP/1.1 200"));
    for key in [KEY, OTHER] {
        let answer = served.call("/tasks", key).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn with_all_connections_busy_a_new_one_gets_a_503() {
    let (began, mut at_work) = watch::channel(0);
    let forever = move || {
        began.send_modify(|calls| *calls += 1);
        std::future::pending::<&str>()
    };
    let served = Served::new(2, LONG, LONG, Router::new().route("/", get(forever))).await;
    let held = [served.send(&request("/", "", "")).await, served.send(&request("/", "", "")).await];
    timeout(TIMEOUT, at_work.wait_for(|calls| *calls == 2)).await.unwrap().unwrap();
    let answer = read(served.connect().await).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(served.table.figures().refused, 1);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Retry-After: 5"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["status"], 503);
    drop(held);
    served.until(|figures| figures.open == 0).await;
}

/// A listener of a system that has no file handles left for a while.
struct Exhausted(TcpListener, usize);

impl Accept for Exhausted {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        const EMFILE: i32 = 24;
        if self.1 > 0 {
            self.1 -= 1;
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        self.0.accept().await
    }
}

#[tokio::test]
async fn failed_accepts_end_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = Exhausted(listener, 4);
    let served = Served::over(listener, address, 64, Limits::default(), api(64, LONG));
    let answer = served.call("/health", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(served.table.figures().failed_accepts, 4);
}

#[tokio::test]
async fn a_stop_lets_calls_end_and_closes_what_is_idle() {
    let (go, gone) = watch::channel(false);
    let slow = move || {
        let mut gone = gone.clone();
        async move {
            let _ = gone.wait_for(|go| *go).await;
            "done"
        }
    };
    let served = Served::new(64, LONG, LONG, Router::new().route("/slow", get(slow))).await;
    let idle = served.connect().await;
    let called = served.send(&request("/slow", "", "")).await;
    served.until(|figures| figures.open == 2).await;
    while go.receiver_count() < 2 {
        tokio::task::yield_now().await;
    }
    served.stop.send(true).unwrap();
    read(idle).await;
    go.send(true).unwrap();
    assert!(read(called).await.ends_with("done"));
    timeout(TIMEOUT, served.running).await.expect("it ends").unwrap();
}
