//! Tests of TLS and its certificate checks.

use std::time::Duration;

use watchbill_redis::RedisKeys;
use watchbill_redis::keys::LegacyMessage;
use watchbill_testkit::{RedisServer, RedisSetup};

use super::fixture::{Hand, away, open, options, refused, strings};

fn trusting(server: &RedisServer, authority: &RedisServer) -> RedisKeys {
    let mut options = options();
    options.ca_file = Some(authority.ca_file());
    RedisKeys::open(&server.url(), options).unwrap()
}

#[tokio::test]
async fn a_certificate_of_the_named_authority_is_trusted() {
    let server = RedisSetup::new().tls().password("s3cret").start();
    let peer = trusting(&server, &server);
    peer.ping().await.unwrap();
    let mut heard = peer.listen(&strings(&["c"])).await.unwrap();
    let message = LegacyMessage { channel: "c".into(), text: "x".into() };
    assert!(peer.publish("c", None, "1", std::slice::from_ref(&message)).await.unwrap());
    assert_eq!(heard.next().await.unwrap(), message);
}

#[tokio::test]
async fn another_authority_is_not() {
    let (server, other) = (RedisSetup::new().tls().start(), RedisSetup::new().tls().start());
    for peer in [open(&server.url()), trusting(&server, &other)] {
        let text = refused(peer.ping().await);
        assert!(text.contains("certificate") && text.contains("REDIS_CA_FILE"), "{text}");
        refused(peer.listen(&strings(&["c"])).await.map(drop));
    }
}

#[tokio::test]
async fn a_certificate_is_for_its_name() {
    let server = RedisSetup::new().tls().start();
    let mut options = options();
    options.ca_file = Some(server.ca_file());
    // The same machine under a name that is not in the certificate.
    let url = format!("rediss://[::ffff:127.0.0.1]:{}", server.port());
    let text = refused(RedisKeys::open(&url, options).unwrap().ping().await);
    assert!(text.contains("certificate"), "{text}");
}

#[tokio::test]
async fn a_server_without_it_is_not_spoken_to() {
    let server = RedisServer::start();
    let url = server.url().replace("redis://", "rediss://:s3cret@");
    let mut options = options();
    options.connect_within = Duration::from_millis(500);
    let text = away(RedisKeys::open(&url, options).unwrap().ping().await);
    assert!(!text.contains("s3cret"), "{text}");
    let clients: String = Hand::at(&server).await.ask("INFO commandstats").await;
    assert!(!clients.contains("cmdstat_auth"), "the password did not go out: {clients}");
}
