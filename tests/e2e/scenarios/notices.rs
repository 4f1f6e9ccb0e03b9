//! Scenario of a notice that is sent to a webhook.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::tasks::id;
use crate::e2e::{Backend, Settings, World};
use crate::support::TIMEOUT_ON_AWS;

/// A subscriber is notified of a failure, although the first delivery is refused.
pub async fn a_failure_is_sent_to_the_webhook<B: Backend>() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let webhook = Some(format!("http://{address}/hooks/watchbill"));
    let world = World::<B>::start(Settings { webhook, ..Settings::default() }).await;
    let delivered = async {
        // The first delivery is refused, so that a retry is needed.
        let (refused, again) =
            (receive_notice(&listener, 429).await, receive_notice(&listener, 204).await);
        assert_eq!(refused.0, again.0, "a repeat has the same id");
        again
    };
    let failing = async {
        let body = json!({"type": "monitor", "payload": {"service": "shop", "url": "no url"}});
        let task = id(&world.agent.submit(body).await);
        world.user.until(&task, "failed").await;
        task
    };
    let ((webhook_id, notice), task) = tokio::join!(delivered, failing);
    assert_eq!(
        (&notice["type"], &notice["data"]["task_id"]),
        (&json!("task.failed"), &json!(task))
    );
    assert_eq!(notice["data"]["event_id"], json!(webhook_id));
    assert!(notice["message"].as_str().is_some_and(|text| text.contains(&task)), "{notice}");
    world.end().await;
}

/// The id and the body of the next notice, which is answered with `status`.
pub async fn receive_notice(listener: &TcpListener, status: u16) -> (String, Value) {
    let waiting = tokio::time::timeout(TIMEOUT_ON_AWS, listener.accept());
    let (mut stream, _) = waiting.await.expect("a notice comes").expect("it connects");
    let (head, body) = request(&mut stream).await;
    let answer = format!(
        "HTTP/1.1 {status} X\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.expect("it waits for the answer");
    let id = head.lines().find_map(|line| line.strip_prefix("webhook-id: "));
    let id = id.expect("a webhook has an id").to_owned();
    (id, serde_json::from_slice(&body).expect("a notice is JSON"))
}

async fn request(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        let mut some = [0; 4096];
        let read = stream.read(&mut some).await.expect("it can be read");
        assert!(read > 0, "it ends too early");
        bytes.extend_from_slice(&some[..read]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|text| text.parse().ok()).expect("it has a length");
        if bytes.len() >= end + 4 + length {
            return (head, bytes[end + 4..].to_vec());
        }
    }
}
