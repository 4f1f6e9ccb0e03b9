//! Deciding by a link from a notification: looking shows, only the form's button decides, so
//! that programs that follow links to preview them decide nothing.
//!
//! The token stands behind the # of the link, which no browser sends: no log, proxy or preview gets
//! to see it. A script of the page takes it out of there and sends it in the body of the form.

use axum::body::Body as HttpBody;
use axum::response::Response;
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
use crate::fault::Fault;
use crate::req::{self, Req};
use crate::route::{Access, Answer, Body, Doc, Route, Success, Verb, raw};
use crate::state::ApiState;

const OPEN: &str = concat!(include_str!("../link_head.html"), include_str!("../link_open.html"));
const SCRIPT: &str = include_str!("../link.js");
const PAGE: &str = concat!(include_str!("../link_head.html"), include_str!("../link.html"));
/// The most that is read of a body before the call is counted: token, decision and a reason of a
/// thousand characters, escaped.
const MOST: usize = 16 * 1024;

pub const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Get,
        path: "/links",
        access: Access::Public,
        handler: |_| {
            Box::pin(async { Ok(with_policy(page_of(StatusCode::OK, OPEN.into()), OPEN)) })
        },
        doc: Doc {
            text: "A page for people, from a notification. The link's token stands behind a #: the \
                   page sends it from there to POST /links, or from a field into which it is pasted.",
            ..Doc::new("Approvals", "open_link", "Open a link", Success::Text("text/html"))
        },
    },
    Route {
        verb: Verb::Get,
        path: "/links/link.js",
        access: Access::Public,
        handler: |_| Box::pin(async { Ok(script()) }),
        doc: Doc::new(
            "Approvals",
            "link_script",
            "The script of the page for links",
            Success::Text("text/javascript"),
        ),
    },
    Route {
        verb: Verb::Post,
        path: "/links",
        access: Access::Link,
        handler: |req| Box::pin(use_link(req)),
        doc: Doc {
            text: "What the page's forms send, as application/x-www-form-urlencoded or as JSON. \
                   Without a decision it shows what is asked, and changes nothing. A decision uses \
                   the link up. Several people can read a link, so it approves only where one \
                   approval is enough and anyone may give it; else 403.",
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
                "Look at what a link is for, or decide by it",
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

async fn use_link(mut req: Req) -> Answer {
    let in_words = asks_for_a_page(&req);
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
    page(used.await, in_words)
}

/// Reads the body of a call by a link, which is counted by its link. Gives the body back, and the
/// link's token if there is one.
pub async fn read_early(
    state: &ApiState,
    parts: &Parts,
    body: HttpBody,
) -> Result<(HttpBody, Option<String>), Fault> {
    let bytes = req::body_within(state, body, MOST).await?;
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

/// Browsers do; programs get their faults as they get all others.
fn asks_for_a_page(req: &Req) -> bool {
    let accept = req.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// What the page says, or the fault it tells of.
struct Said {
    title: String,
    text: String,
    /// What its form sends.
    token: String,
    /// The form is shown.
    open: bool,
    /// Why the form can't approve, where it can't.
    rejects_alone: Option<String>,
}

async fn open_and_show(state: &ApiState, token: &str) -> Result<Said, Fault> {
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
        (ApprovalStatus::Pending, true) => format!("{} asks for leave", view.requested_by),
        (ApprovalStatus::Pending, false) => "This link was used already".to_owned(),
        (status, _) => format!("This is {} already", status.as_str()),
    };
    let (text, token) = (render_approval(&view), token.to_owned());
    Ok(Said { title, text, token, open, rejects_alone })
}

async fn open_and_decide(state: &ApiState, token: &str, choice: LinkChoice) -> Result<Said, Fault> {
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
            format!("Your yes is counted: {have} of {need}")
        }
    };
    let text = render_approval(&ApprovalView::from(full));
    Ok(Said { title, text, token: String::new(), open: false, rejects_alone: None })
}

/// Whether this token was signed here, be it used up or run out. Whoever has it is counted by
/// it, so that nobody else can use up its calls.
pub async fn is_signed(state: &ApiState, token: &str) -> bool {
    match key(state).await {
        Ok(key) => {
            let opened = key.open(token, state.core().clock().now());
            !matches!(opened, Err(LinkError::Forged))
        }
        Err(_) => false,
    }
}

async fn link(state: &ApiState, token: &str) -> Result<ApprovalLink, Fault> {
    key(state).await?.open(token, state.core().clock().now()).map_err(|error| match error {
        LinkError::Forged => Fault::new(StatusCode::NOT_FOUND, error.to_string()),
        LinkError::Expired(_) => Fault::conflict(error.to_string()),
    })
}

async fn key(state: &ApiState) -> Result<LinkKey, Fault> {
    let Some(source) = &state.shared().link_secret else {
        let detail = "there are no approval links here; decide with `watchbill approvals`";
        return Err(Fault::new(StatusCode::NOT_FOUND, detail));
    };
    let secret = source.fetch().await.map_err(|reason| {
        tracing::error!("the secret of approval links can't be told: {reason}");
        Fault::new(StatusCode::SERVICE_UNAVAILABLE, "links can't be read now; try again later")
    })?;
    LinkKey::new(secret.as_bytes()).ok_or_else(|| {
        tracing::error!("the secret of approval links has fewer than 16 bytes");
        Fault::internal()
    })
}

/// A page for whatever became of it; people who look at one get their faults as pages too.
fn page(said: Result<Said, Fault>, in_words: bool) -> Answer {
    let (status, said) = match said {
        Ok(said) => (StatusCode::OK, said),
        Err(fault) if !in_words => return Err(fault),
        Err(fault) => {
            let title = fault.status.canonical_reason().unwrap_or("That did not work");
            let (title, text) = (title.to_owned(), fault.detail);
            let token = String::new();
            let said = Said { title, text, token, open: false, rejects_alone: None };
            (fault.status, said)
        }
    };
    let hidden = |hidden: bool| if hidden { " hidden" } else { "" };
    let page = PAGE
        .replace("{{form}}", hidden(!said.open))
        .replace("{{approve}}", hidden(said.rejects_alone.is_some()))
        .replace("{{note}}", hidden(said.rejects_alone.is_none()))
        .replace("{{token}}", &escape(&said.token))
        .replace("{{why}}", &escape(said.rejects_alone.as_deref().unwrap_or_default()))
        .replace("{{title}}", &escape(&redact::text(&said.title)))
        .replace("{{text}}", &escape(&redact::text(&said.text)));
    Ok(with_policy(page_of(status, page), PAGE))
}

fn page_of(status: StatusCode, page: String) -> Response {
    raw(status, "text/html; charset=utf-8", page.into())
}

/// Lets a page have its style and send its form here. The one that opens links has a script.
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
            // Braces are the page's own marks.
            '{' => out.push_str("&#123;"),
            c => out.push(c),
        }
    }
    out
}
