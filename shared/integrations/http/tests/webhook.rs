//! A webhook to an endpoint that misbehaves.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use watchbill_core::handler::HandlerError;
use watchbill_core::ports::Webhook as _;
use watchbill_domain::Timestamp;
use watchbill_http::webhook::{HttpWebhook, WebhookError};
use watchbill_testkit::FakeClock;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn clock() -> Arc<FakeClock> {
    Arc::new(FakeClock::at(Timestamp::parse("2026-01-01T00:00:00Z").unwrap()))
}

/// Posts once to an endpoint with this answer. Returns the request and the webhook's result.
async fn posted(answer: &'static str) -> (String, Result<(), HandlerError>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?token=s3cr3t", listener.local_addr().unwrap());
    let webhook = HttpWebhook::new(&url, Some(SECRET), clock()).unwrap();
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut sent = vec![0; 4096];
        let mut length = 0;
        while !String::from_utf8_lossy(&sent[..length]).ends_with("{}") {
            length += stream.read(&mut sent[length..]).await.unwrap();
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&sent[..length]).to_lowercase()
    };
    tokio::join!(serving, webhook.post("evt-1", b"{}"))
}

#[tokio::test]
async fn it_is_named_timed_and_signed() {
    let (sent, said) = posted("HTTP/1.1 204 No Content\r\n\r\n").await;
    said.unwrap();
    for header in ["webhook-id: evt-1", "webhook-timestamp: 1767225600", "webhook-signature: v1,"] {
        assert!(sent.contains(header), "{header} is not in {sent}");
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_will_not_is_given_up() {
    for (answer, wanted) in [
        ("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n", Some(60)),
        ("HTTP/1.1 429 X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n", Some(7)),
        ("HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n", None),
        // Following it would send body and signature to the named host.
        ("HTTP/1.1 302 X\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n", None),
        ("nonsense\r\n\r\n", Some(60)),
    ] {
        let said = posted(answer).await.1.unwrap_err();
        assert!(!said.to_string().contains("s3cr3t"), "the error contains the URL: {said}");
        let after = match said {
            HandlerError::Retry { after, .. } => Some(after),
            HandlerError::Reject { .. } => None,
        };
        assert_eq!(after, wanted.map(Duration::from_secs), "{answer}");
    }
}

#[test]
fn what_can_not_be_is_refused_at_start() {
    let refused = |url, secret| HttpWebhook::new(url, secret, clock()).err().unwrap();
    assert_eq!(refused("ftp://x/", None), WebhookError::Url("ftp://x/".into()));
    assert_eq!(refused("https://x/", Some("plain")), WebhookError::Secret);
}
