//! Decisions by a link from a notification. Opening the link only shows the approval; only the
//! form's button decides, so link previews decide nothing.
//!
//! The token follows the # of the link, which no browser sends, so no log, proxy or preview sees
//! it. The page's script sends it in the body of the form.

use axum::body::Body as HttpBody;
use axum::response::Response;
use http::Method;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use watchbill_core::decide::{ApprovalRejection, demands_a_person};
use watchbill_core::service::{LinkDecision, LinkUse};
use watchbill_domain::ApprovalStatus;
use watchbill_redact as redact;
use watchbill_wire::{
    ApprovalLink, ApprovalView, LinkChoice, LinkError, LinkForm, LinkKey, render_approval,
};

use crate::docs;
use crate::error::ApiError;
use crate::req::{self, Req};
use crate::route::{Access, Body, Doc, HandlerResult, Route, Success, raw};
use crate::state::ApiState;

const OPEN: &str = concat!(include_str!("../link_head.html"), include_str!("../link_open.html"));
const SCRIPT: &str = include_str!("../link.js");
const PAGE: &str = concat!(include_str!("../link_head.html"), include_str!("../link.html"));
/// Maximum bytes read of a body before the call is counted: token, decision and an escaped
/// reason of a thousand characters.
const MAX_BODY_BYTES: usize = 16 * 1024;

pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/links",
        access: Access::Public,
        handler: |_| {
            Box::pin(async { Ok(with_policy(page_of(StatusCode::OK, OPEN.into()), OPEN)) })
        },
        doc: Doc {
            text: "The page that a notification's link opens. The link's token follows the #; the \
                   page sends it to POST /links, or sends what is pasted into its field.",
            ..Doc::new("Approvals", "open_link", "Open a link", Success::Text("text/html"))
        },
    },
    Route {
        method: Method::GET,
        path: "/links/link.js",
        access: Access::Public,
        handler: |_| Box::pin(async { Ok(script()) }),
        doc: Doc::new(
            "Approvals",
            "link_script",
            "The link page's script",
            Success::Text("text/javascript"),
        ),
    },
    Route {
        method: Method::POST,
        path: "/links",
        access: Access::Link,
        handler: |req| Box::pin(use_link(req)),
        doc: Doc {
            text: "Takes what the page's forms send, as application/x-www-form-urlencoded or JSON. \
                   Without a decision it shows the approval and changes nothing. A decision uses \
                   up the link. Several people may read a link, so it can approve only if one \
                   approval is enough and anyone may give it; otherwise 403.",
            body: Some(Body {
                fields: LinkForm::FIELDS,
                required: true,
                one_of: false,
                example: r#"{"token":"eyJ0Ijoi…","decision":"approve"}"#,
            }),
            errors: &[400, 403, 404, 409, 413, 415, 503],
            ..Doc::new(
                "Approvals",
                "use_link",
                "Show or decide an approval by its link",
                Success::Text("text/html"),
            )
        },
    },
];

fn script() -> Response {
    let mut script = raw(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT.into());
    script.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    script
}

async fn use_link(mut req: Req) -> HandlerResult {
    let describe = asks_for_a_page(&req);
    let used = async {
        let form = match req.form_body().await? {
            Some(form) => LinkForm::of_form(form)?,
            None => LinkForm::read(&req.body().await?)?,
        };
        match form.choice {
            None => open_and_show(&req.state, &form.token).await,
            Some(choice) => open_and_decide(&req.state, &form.token, choice).await,
        }
    };
    page(used.await, describe)
}

/// Reads the body of a call by a link early, because the call is counted by its link. Returns
/// the body and the token, if there is one.
pub async fn read_early(
    state: &ApiState,
    parts: &Parts,
    body: HttpBody,
) -> Result<(HttpBody, Option<String>), ApiError> {
    let bytes = req::body_within(state, body, MAX_BODY_BYTES).await?;
    let form = if req::is_form(&parts.headers) {
        form_urlencoded::parse(&bytes)
            .find(|(name, _)| name == "token")
            .map(|(_, text)| text.into())
    } else {
        let json = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        json.and_then(|json| json["token"].as_str().map(str::to_owned))
    };
    let token = form.map(|text: String| LinkForm::token_of(&text).to_owned());
    Ok((HttpBody::from(bytes), token))
}

/// Browsers do; programs get the usual error format.
fn asks_for_a_page(req: &Req) -> bool {
    let accept = req.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// The content of the page, or its error.
struct LinkPage {
    title: String,
    text: String,
    /// The token that the form sends.
    token: String,
    /// Whether the form is shown.
    open: bool,
    /// Why the form can't approve, if it can't.
    rejects_alone: Option<String>,
}

async fn open_and_show(state: &ApiState, token: &str) -> Result<LinkPage, ApiError> {
    let link = link(state, token).await?;
    let core = state.core();
    let full = core.approvals().get(&link.tenant, &link.approval).await?;
    let open = full.approval.status == ApprovalStatus::Pending
        && full.approval.plan_hash == link.plan_hash
        && !core.approvals().is_link_used(&link.tenant, &link.nonce).await?;
    let why = demands_a_person(&full.approval, core.rules()).filter(|_| open);
    let rejects_alone = why.map(|why| ApprovalRejection::SharedLink { why }.to_string());
    let view = ApprovalView::from(full);
    let title = match (view.status, open) {
        (ApprovalStatus::Pending, true) => format!("{} requests approval", view.requested_by),
        (ApprovalStatus::Pending, false) => "This link was used already".to_owned(),
        (status, _) => format!("This approval is already {}", status.as_str()),
    };
    let (text, token) = (render_approval(&view), token.to_owned());
    Ok(LinkPage { title, text, token, open, rejects_alone })
}

async fn open_and_decide(
    state: &ApiState,
    token: &str,
    choice: LinkChoice,
) -> Result<LinkPage, ApiError> {
    let link = link(state, token).await?;
    let decision = match choice {
        LinkChoice::Approve => LinkDecision::Approve,
        LinkChoice::Reject { reason } => LinkDecision::Reject { reason },
    };
    let used = LinkUse {
        nonce: link.nonce.clone(),
        plan_hash: link.plan_hash.clone(),
        to: link.to.clone(),
        expires: link.expires,
    };
    let full = state
        .core()
        .approvals()
        .decide_by_link(&link.tenant, &link.approval, &used, decision)
        .await?;
    let title = match full.approval.status {
        ApprovalStatus::Approved => format!("Approved by {}", link.to),
        ApprovalStatus::Rejected => format!("Rejected by {}", link.to),
        _ => {
            let (have, need) = (full.approval.votes.len(), full.approval.quorum);
            format!("Your approval is counted: {have} of {need}")
        }
    };
    let text = render_approval(&ApprovalView::from(full));
    Ok(LinkPage { title, text, token: String::new(), open: false, rejects_alone: None })
}

/// Whether this token was signed here, even if used or expired. Its bearer's calls are counted
/// by it, so that no one else can use up its rate limit.
pub async fn is_signed(state: &ApiState, token: &str) -> bool {
    match key(state).await {
        Ok(key) => {
            let opened = key.open(token, state.core().clock().now());
            !matches!(opened, Err(LinkError::Forged))
        }
        Err(_) => false,
    }
}

async fn link(state: &ApiState, token: &str) -> Result<ApprovalLink, ApiError> {
    key(state).await?.open(token, state.core().clock().now()).map_err(|error| match error {
        LinkError::Forged => ApiError::new(StatusCode::NOT_FOUND, error.to_string()),
        LinkError::Expired(_) => ApiError::conflict(error.to_string()),
    })
}

async fn key(state: &ApiState) -> Result<LinkKey, ApiError> {
    let Some(source) = &state.shared().link_secret else {
        let detail = "approval links are not enabled here; decide with `watchbill approvals`";
        return Err(ApiError::new(StatusCode::NOT_FOUND, detail));
    };
    let secret = source.fetch().await.map_err(|reason| {
        tracing::error!(reason, "the secret of approval links can't be fetched");
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "links can't be verified now; try again later",
        )
    })?;
    LinkKey::new(secret.as_bytes()).ok_or_else(|| {
        tracing::error!("the secret of approval links has fewer than 16 bytes");
        ApiError::internal()
    })
}

/// Renders a result as a page; callers that view pages get errors as pages too.
fn page(result: Result<LinkPage, ApiError>, describe: bool) -> HandlerResult {
    let (status, shown) = match result {
        Ok(shown) => (StatusCode::OK, shown),
        Err(fault) if !describe => return Err(fault),
        Err(fault) => {
            let title = fault.status.canonical_reason().unwrap_or("Error");
            let (title, text) = (title.to_owned(), fault.detail);
            let token = String::new();
            let shown = LinkPage { title, text, token, open: false, rejects_alone: None };
            (fault.status, shown)
        }
    };
    let hidden = |hidden: bool| if hidden { " hidden" } else { "" };
    let page = PAGE
        .replace("{{form}}", hidden(!shown.open))
        .replace("{{approve}}", hidden(shown.rejects_alone.is_some()))
        .replace("{{note}}", hidden(shown.rejects_alone.is_none()))
        .replace("{{token}}", &escape(&shown.token))
        .replace("{{why}}", &escape(shown.rejects_alone.as_deref().unwrap_or_default()))
        .replace("{{title}}", &escape(&redact::text(&shown.title)))
        .replace("{{text}}", &escape(&redact::text(&shown.text)));
    Ok(with_policy(page_of(status, page), PAGE))
}

fn page_of(status: StatusCode, page: String) -> Response {
    raw(status, "text/html; charset=utf-8", page.into())
}

/// Adds the policy that allows a page its style and form. Only the page that opens links has a
/// script.
fn with_policy(mut response: Response, page: &str) -> Response {
    let script = if page.contains("<script src=") { "script-src 'self'; " } else { "" };
    let policy = format!(
        "default-src 'none'; {script}style-src '{}'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
        docs::hash_of(page, "style")
    );
    let policy = HeaderValue::from_str(&policy).expect("a policy is ASCII");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Braces mark the page's placeholders.
            '{' => out.push_str("&#123;"),
            c => out.push(c),
        }
    }
    out
}
