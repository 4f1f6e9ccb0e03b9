//! Probes against servers that misbehave.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use watchbill_domain::Timestamp;
use watchbill_http::probes::{NetProbes, ProbePolicy};
use watchbill_runtime::probe::{Probe, ProbeFailureKind, ProbeOutcome, Probes};
use watchbill_testkit::FakeClock;

fn clock() -> Arc<FakeClock> {
    Arc::new(FakeClock::at(Timestamp::parse("2026-01-01T00:00:00Z").unwrap()))
}

fn probes(policy: ProbePolicy) -> NetProbes {
    NetProbes::new(policy, clock())
}

fn anywhere() -> ProbePolicy {
    ProbePolicy { allow_private: true, ..ProbePolicy::default() }
}

fn probe(url: &str) -> Probe {
    Probe {
        url: url.to_owned(),
        timeout: Duration::from_secs(10),
        body_contains: None,
        follow_redirects: true,
    }
}

fn kind(outcome: &ProbeOutcome) -> Option<ProbeFailureKind> {
    outcome.failure.as_ref().map(|failure| failure.kind)
}

/// Answers every request with the same bytes and closes. Returns the port.
async fn server(answer: impl Into<Vec<u8>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer.into());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 2_048];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_healthy_service_and_a_sick_one() {
    let port = server("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nready").await;
    let url = format!("http://127.0.0.1:{port}/health");
    let asked = Probe { body_contains: Some("ready".into()), ..probe(&url) };
    let seen = probes(anywhere()).probe(&asked).await;
    assert_eq!((seen.http_status, seen.body_matched, seen.failure), (Some(200), Some(true), None));
    let asked = Probe { body_contains: Some("happy".into()), ..probe(&url) };
    assert_eq!(probes(anywhere()).probe(&asked).await.body_matched, Some(false));

    let port = server("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
    let seen = probes(anywhere()).probe(&probe(&format!("http://127.0.0.1:{port}"))).await;
    assert_eq!((seen.http_status, seen.failure), (Some(503), None));
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let asked = Probe { timeout: Duration::from_millis(120), ..probe(&url) };
    let seen = probes(anywhere()).probe(&asked).await;
    assert_eq!(kind(&seen), Some(ProbeFailureKind::Timeout));
    assert!(seen.latency >= asked.timeout, "{seen:?}");
}

#[tokio::test]
async fn a_server_that_hangs_up_or_talks_nonsense() {
    for answer in ["", "no http at all\r\n\r\n"] {
        let port = server(answer).await;
        let seen = probes(anywhere()).probe(&probe(&format!("http://127.0.0.1:{port}/"))).await;
        assert_eq!(kind(&seen), Some(ProbeFailureKind::Protocol), "{answer}: {seen:?}");
    }
    let port = server("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nshort").await;
    let url = format!("http://127.0.0.1:{port}/");
    let asked = Probe { body_contains: Some("long".into()), ..probe(&url) };
    let seen = probes(anywhere()).probe(&asked).await;
    assert_eq!((seen.http_status, kind(&seen)), (Some(200), Some(ProbeFailureKind::Protocol)));
}

#[tokio::test]
async fn of_a_huge_body_only_the_beginning_is_read() {
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 900000000\r\n\r\n".to_vec();
    answer.resize(answer.len() + (1 << 20), b'x');
    answer.extend_from_slice(b"needle");
    let port = server(answer).await;
    let url = format!("http://127.0.0.1:{port}/");
    let asked = Probe { body_contains: Some("needle".into()), ..probe(&url) };
    let seen = probes(anywhere()).probe(&asked).await;
    assert_eq!((seen.body_matched, seen.failure), (Some(false), None));
}

#[tokio::test]
async fn forbidden_addresses_are_refused_and_the_setting_is_named() {
    let port = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("tcp://127.0.0.1:{port}"),
        format!("tcp://localhost:{port}"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
    ] {
        let seen = probes(ProbePolicy::default()).probe(&probe(&url)).await;
        assert_eq!(kind(&seen), Some(ProbeFailureKind::Forbidden), "{url}: {seen:?}");
        let message = seen.failure.unwrap().message;
        assert!(message.contains("PROBE_ALLOW_HOSTS"), "{message}");
    }
    let named = ProbePolicy { allow_hosts: vec!["localhost".into()], ..ProbePolicy::default() };
    let seen = probes(named).probe(&probe(&format!("http://localhost:{port}/"))).await;
    assert_eq!((seen.http_status, seen.failure), (Some(200), None));
}

#[tokio::test]
async fn a_redirect_cannot_lead_to_a_forbidden_address() {
    let inner = server("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret").await;
    for target in [format!("http://localhost:{inner}/"), format!("http://127.0.0.2:{inner}/")] {
        let answer =
            format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n");
        let outer = server(answer).await;
        let named = ProbePolicy { allow_hosts: vec!["127.0.0.1".into()], ..ProbePolicy::default() };
        let url = format!("http://127.0.0.1:{outer}/");
        let seen = probes(named.clone()).probe(&probe(&url)).await;
        assert_eq!(kind(&seen), Some(ProbeFailureKind::Forbidden), "{target}: {seen:?}");
        let asked = Probe { follow_redirects: false, ..probe(&url) };
        assert_eq!(probes(named).probe(&asked).await.http_status, Some(302));
    }
}

#[tokio::test]
async fn redirects_are_bounded_and_stay_on_http() {
    let port = server("HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n").await;
    let seen = probes(anywhere()).probe(&probe(&format!("http://127.0.0.1:{port}/"))).await;
    assert_eq!((kind(&seen), seen.redirects), (Some(ProbeFailureKind::Redirect), 5));
    let port =
        server("HTTP/1.1 302 F\r\nlocation: file:///etc/passwd\r\ncontent-length: 0\r\n\r\n").await;
    let seen = probes(anywhere()).probe(&probe(&format!("http://127.0.0.1:{port}/"))).await;
    assert_eq!(kind(&seen), Some(ProbeFailureKind::Redirect));
}

#[tokio::test]
async fn tcp_connects_or_says_why_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = probes(anywhere()).probe(&probe(&format!("tcp://{address}"))).await;
    assert_eq!(seen.failure, None);
    drop(listener);
    let seen = probes(anywhere()).probe(&probe(&format!("tcp://{address}"))).await;
    assert_eq!(kind(&seen), Some(ProbeFailureKind::Connect));
    let seen = probes(anywhere()).probe(&probe(&format!("http://{address}"))).await;
    assert_eq!(kind(&seen), Some(ProbeFailureKind::Connect));
}

/// A TLS server with a self-signed certificate for `localhost`. Returns port and certificate.
async fn tls_server(not_after: (i32, u8, u8)) -> (u16, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(not_after.0, not_after.1, not_after.2);
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = [0; 2_048];
                let _ = stream.read(&mut request).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (port, certificate.pem())
}

#[tokio::test]
async fn an_untrusted_certificate_is_told_with_its_days_left() {
    // The probe's clock is at 2026-01-01.
    let (port, pem) = tls_server((2126, 1, 1)).await;
    let url = format!("https://localhost:{port}/");
    let seen = probes(anywhere()).probe(&probe(&url)).await;
    assert_eq!(kind(&seen), Some(ProbeFailureKind::Tls), "{seen:?}");
    assert_eq!((seen.http_status, seen.tls_days_left), (None, Some(36_524)));
    assert!(seen.failure.unwrap().message.contains("not trusted"));

    let trusting = probes(anywhere()).trusting(pem.as_bytes()).unwrap();
    let seen = trusting.probe(&probe(&url)).await;
    assert_eq!(
        (seen.http_status, seen.tls_days_left, seen.failure),
        (Some(200), Some(36_524), None)
    );
}

#[tokio::test]
async fn a_certificate_that_ran_out_has_negative_days_left() {
    let (port, _) = tls_server((2025, 12, 22)).await;
    let seen = probes(anywhere()).probe(&probe(&format!("https://localhost:{port}/"))).await;
    assert_eq!((kind(&seen), seen.tls_days_left), (Some(ProbeFailureKind::Tls), Some(-10)));
}
