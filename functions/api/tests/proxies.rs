//! How callers behind a proxy are counted, and that a stranger uses up only its own rate limit.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use watchbill_api::{ApiConfig, RateLimits, TrustedProxies};
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::{Clock as _, FixedSecret};
use watchbill_domain::{ApprovalId, TenantId};
use watchbill_wire::{ApprovalLink, LinkKey};

use crate::common::{ADMIN, Api, api_with, ask, config};
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use serde_json::json;
use tower::ServiceExt as _;

const SECRET: &str = "what links are signed with";
const PROXY: [u8; 4] = [10, 0, 0, 7];

fn api(trusted: &[&str]) -> Api {
    let config = ApiConfig {
        rate_limits: RateLimits::parse("*=3").unwrap(),
        trusted_proxies: TrustedProxies::parse(trusted.iter().copied()).unwrap(),
        link_secret: Some(Arc::new(FixedSecret(SECRET.into())) as _),
        ..config()
    };
    // A link can approve if one approval by anyone is enough.
    api_with(config, EngineConfig { approve_own: true, ..EngineConfig::default() })
}

/// The status of a call from this peer, with `client` in `X-Forwarded-For`.
async fn call(api: &Api, peer: impl Into<IpAddr>, client: Option<&str>, path: &str) -> u16 {
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    let peer = SocketAddr::new(peer.into(), 1000);
    request.extensions_mut().insert(ConnectInfo(peer));
    if let Some(client) = client {
        request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
    }
    api.router.clone().oneshot(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn callers_behind_a_trusted_proxy_are_counted_apart() {
    let api = api(&["10.0.0.0/8"]);
    for status in [200, 200, 200, 429] {
        assert_eq!(call(&api, PROXY, Some("6.6.6.6, 203.0.113.6"), "/health").await, status);
    }
    assert_eq!(call(&api, PROXY, Some("203.0.113.7"), "/health").await, 200);
    assert_eq!(call(&api, PROXY, None, "/health").await, 200, "the proxy's own look");
    assert_eq!(call(&api, [10, 0, 0, 8], Some("203.0.113.6"), "/health").await, 429);
}

#[tokio::test]
async fn only_trusted_proxies_report_the_client() {
    let api = api(&[]);
    for (n, status) in [200, 200, 200, 429].into_iter().enumerate() {
        let client = format!("203.0.113.{n}");
        assert_eq!(call(&api, PROXY, Some(&client), "/health").await, status);
    }
    assert_eq!(call(&api, [203, 0, 113, 9], None, "/health").await, 200);
}

#[tokio::test]
async fn the_addresses_of_one_ipv6_host_are_counted_together() {
    let api = api(&[]);
    for (n, status) in [200, 200, 200, 429].into_iter().enumerate() {
        let peer: IpAddr = format!("2001:db8:0:1::{n}").parse().unwrap();
        assert_eq!(call(&api, peer, None, "/health").await, status);
    }
    let other: IpAddr = "2001:db8:0:2::1".parse().unwrap();
    assert_eq!(call(&api, other, None, "/health").await, 200);
}

async fn link(api: &Api) -> String {
    let body = json!({ "type": "monitor", "payload": { "service": "x" }, "priority": "P0" });
    let made = ask("POST", "/tasks").key(ADMIN).json(&body).of(api).await.json();
    let approval = format!("approval_{}", made["task_id"].as_str().unwrap());
    let approval = ApprovalId::parse(&approval).unwrap();
    let tenant = TenantId::default();
    let plan_hash = api.core.approvals().get(&tenant, &approval).await.unwrap().approval.plan_hash;
    let expires = api.clock.now().plus(Duration::from_secs(3600));
    let (to, nonce) = ("on-call".to_owned(), "01".to_owned());
    let link = ApprovalLink { tenant, approval, plan_hash, to, nonce, expires };
    LinkKey::new(SECRET.as_bytes()).unwrap().sign(&link)
}

#[tokio::test]
async fn a_stranger_behind_the_same_proxy_locks_nobodys_link() {
    let api = api(&[]);
    let link = link(&api).await;
    let (good, mac) = link.rsplit_once('.').unwrap();
    for n in 0..50 {
        let forged = match n % 2 {
            0 => n.to_string(),
            _ => format!("{good}.{n}{mac}"),
        };
        let status = send(&api, &format!("token={forged}")).await;
        assert_eq!(status, if n < 3 { 404 } else { 429 }, "{n}");
    }
    // The link's bearer views and decides, with a rate limit of its own per minute.
    for (more, status) in [("", 200), ("", 200), ("&decision=approve", 200), ("", 429)] {
        assert_eq!(send(&api, &format!("token={link}{more}")).await, status, "{more}");
    }
}

/// Sends the link page's form from behind the proxy.
async fn send(api: &Api, fields: &str) -> u16 {
    let mut request = Request::post("/links")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(fields.to_owned()))
        .unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::new(PROXY.into(), 1000)));
    api.router.clone().oneshot(request).await.unwrap().status().as_u16()
}
