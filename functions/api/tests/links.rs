//! Approval links: what they allow, and how invalid ones are refused.

use std::sync::Arc;
use std::time::Duration;

use watchbill_api::ApiConfig;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::{Clock as _, FixedSecret};
use watchbill_domain::{ApprovalId, TenantId};
use watchbill_governance::Policy;
use watchbill_wire::{ApprovalLink, LinkKey};

use crate::common::{AGENT, APPROVER, Api, Got, TestRequest, api, api_under, ask, config};
use serde_json::json;

const SECRET: &str = "what links are signed with";

/// One approval by anyone is enough, so a link that several people can read may give it.
fn world() -> Api {
    under(EngineConfig { approve_own: true, ..EngineConfig::default() }, 1)
}

fn under(rules: EngineConfig, quorum: u8) -> Api {
    let link_secret = Some(Arc::new(FixedSecret(SECRET.into())) as _);
    let policy = Policy { quorum, ..Policy::default() };
    api_under(ApiConfig { link_secret, ..config() }, rules, policy)
}

async fn link(api: &Api, to: &str, nonce: &str) -> ApprovalLink {
    let body = json!({"type": "monitor", "payload": {"service": "x"}, "priority": "P0"});
    let task = api.create(body).await["task_id"].as_str().unwrap().to_owned();
    let approval = ApprovalId::parse(&format!("approval_{task}")).unwrap();
    let tenant = TenantId::default();
    let plan_hash = api.core.approvals().get(&tenant, &approval).await.unwrap().approval.plan_hash;
    let expires = api.clock.now().plus(Duration::from_secs(60));
    let (to, nonce) = (to.to_owned(), nonce.to_owned());
    ApprovalLink { tenant, approval, plan_hash, to, nonce, expires }
}

fn token(link: &ApprovalLink) -> String {
    LinkKey::new(SECRET.as_bytes()).unwrap().sign(link)
}

fn show(token: &str) -> TestRequest {
    ask("POST", "/links").json(&json!({ "token": token }))
}

fn approve(link: &ApprovalLink) -> TestRequest {
    ask("POST", "/links").json(&json!({ "token": token(link), "decision": "approve" }))
}

fn text(got: &Got) -> String {
    String::from_utf8(got.body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_link_decides_once() {
    let api = world();
    let link = link(&api, "on-call", "01").await;
    let shown = show(&token(&link)).of(&api).await;
    assert_eq!(shown.status, 200);
    assert!(text(&shown).contains("worker requests approval"), "{}", text(&shown));
    assert!(text(&shown).contains("value=\"approve\">"), "{}", text(&shown));
    let policy = shown.header("content-security-policy");
    assert!(policy.contains("form-action 'self'") && !policy.contains("unsafe"), "{policy}");
    let decided = approve(&link).of(&api).await;
    assert_eq!(decided.status, 200);
    assert!(text(&decided).contains("Approved by on-call"), "{}", text(&decided));
    let again = approve(&link).of(&api).await;
    again.problem(409);
    assert!(again.detail().contains("was already used"), "{}", again.detail());
    let shown = show(&token(&link)).of(&api).await;
    assert!(
        text(&shown).contains("<form method=\"post\" action=\"links\" hidden>"),
        "{}",
        text(&shown)
    );
    // Another link to the same approval is not another decision.
    let other = ApprovalLink { nonce: "02".into(), ..link.clone() };
    let again = approve(&other).of(&api).await;
    again.problem(409);
    assert!(again.detail().contains("already"), "{}", again.detail());
}

/// If several must approve, or no one their own task, the approver must be known.
#[tokio::test]
async fn a_link_that_several_can_read_counts_for_nobody() {
    let four_eyes = under(EngineConfig::default(), 1);
    let quorum = under(EngineConfig { approve_own: true, ..EngineConfig::default() }, 2);
    for api in [four_eyes, quorum] {
        let link = link(&api, "on-call", "01").await;
        let shown = text(&show(&token(&link)).of(&api).await);
        assert!(shown.contains("value=\"approve\" hidden>"), "{shown}");
        assert!(
            shown.contains("<form method=\"post\" action=\"links\">"),
            "it can reject: {shown}"
        );
        assert!(shown.contains("a shared link does not identify you"), "{shown}");
        let refused = approve(&link).of(&api).await;
        refused.problem(403);
        assert!(refused.detail().contains("your own key or token"), "{}", refused.detail());
        let view = ask("GET", &format!("/approvals/{}", link.approval)).key(AGENT).of(&api).await;
        assert_eq!(view.json()["approval"]["votes"], json!([]));
        let path = format!("/approvals/{}/approve", link.approval);
        assert_eq!(ask("POST", &path).key(APPROVER).of(&api).await.status, 200);
    }
}

#[tokio::test]
async fn invalid_links_are_refused() {
    let api = world();
    let good = link(&api, "on-call", "01").await;
    let forged = format!("{}x", token(&good));
    show(&forged).of(&api).await.problem(404);
    let decides = json!({ "token": forged, "decision": "approve" });
    ask("POST", "/links").json(&decides).of(&api).await.problem(404);
    let other_plan = ApprovalLink { plan_hash: "00".repeat(32), ..good.clone() };
    assert!(approve(&other_plan).of(&api).await.detail().contains("another plan"));
    let other_tenant = TenantId::parse("other").unwrap();
    approve(&ApprovalLink { tenant: other_tenant, ..good.clone() }).of(&api).await.problem(404);
    let token = token(&good);
    let perhaps = json!({ "token": token, "decision": "perhaps" });
    for wrong in [json!({}), json!({ "decision": "approve" }), perhaps] {
        ask("POST", "/links").json(&wrong).of(&api).await.problem(400);
    }
    // Browsers get errors as a page.
    let page = show(&forged).header("accept", "text/html,*/*").of(&api).await;
    assert_eq!(
        (page.status.as_u16(), page.header("content-type")),
        (404, "text/html; charset=utf-8")
    );
    api.clock.advance(Duration::from_secs(60));
    let late = approve(&good).of(&api).await;
    late.problem(409);
    assert!(late.detail().contains("expired"), "{}", late.detail());
}

#[tokio::test]
async fn a_form_rejects_with_its_reason() {
    let api = world();
    let link = link(&api, "on-call", "01").await;
    let form = ask("POST", "/links")
        .header("content-type", "application/x-www-form-urlencoded")
        .raw(format!("token={}&decision=reject&reason=not+today", token(&link)));
    assert!(text(&form.of(&api).await).contains("Rejected by on-call"));
    let shown = ask("GET", &format!("/approvals/{}", link.approval)).key(AGENT).of(&api).await;
    let approval = &shown.json()["approval"];
    assert_eq!(
        (&approval["status"], &approval["reason"]),
        (&json!("rejected"), &json!("not today"))
    );
}

#[tokio::test]
async fn without_a_secret_there_are_no_links() {
    let api = api();
    let link = link(&api, "on-call", "01").await;
    show(&token(&link)).of(&api).await.problem(404);
}

/// Logs, proxies and link previews see paths: no path contains the token, and the page that a
/// link opens does nothing until a browser runs its script.
#[tokio::test]
async fn no_path_contains_a_token() {
    let api = world();
    let link = link(&api, "on-call", "01").await;
    let page = ask("GET", "/links").of(&api).await;
    assert_eq!(page.status, 200);
    let (shown, policy) = (text(&page), page.header("content-security-policy"));
    assert!(shown.contains("<script src=\"links/link.js\">") && shown.contains("<noscript>"));
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    let script = ask("GET", "/links/link.js").of(&api).await;
    assert_eq!(script.header("content-type"), "text/javascript; charset=utf-8");
    assert!(text(&script).contains("location.hash"));
    ask("GET", &format!("/links/{}", token(&link))).of(&api).await.problem(404);
    // The page's field also accepts the whole link as it was sent.
    let whole = format!("https://ops.example.com/links#{}", token(&link));
    let shown = text(&show(&whole).of(&api).await);
    let hidden = format!("<input type=\"hidden\" name=\"token\" value=\"{}\">", token(&link));
    assert!(shown.contains(&hidden), "{shown}");
}

#[tokio::test]
async fn more_than_a_link_needs_is_refused_before_it_is_counted() {
    let api = world();
    let large = json!({ "token": "x".repeat(20_000) });
    ask("POST", "/links").json(&large).of(&api).await.problem(413);
}
