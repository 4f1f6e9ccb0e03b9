//! The API on Lambda: configured by the template, called by API Gateway.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use axum::Router;
use axum::extract::ConnectInfo;
use lambda_http::RequestExt as _;
use lambda_http::request::RequestContext;
use tower::ServiceExt as _;
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::SecretSource;
use watchbill_core::service::WaitBounds;
use watchbill_domain::Agent;
use watchbill_http::key_set::KeySetUrl;
use watchbill_lambda::config::Setup;

use crate::{AgentInfo, ApiConfig, JwksSource, JwtConfig, RateLimits, TrustedProxies};

/// How many calls may wait at once, each in its own Lambda invocation: in total, and per tenant.
const WAITS: WaitBounds = WaitBounds { all: 50, tenant: 20 };

/// The template's secret, and the field in it.
const FIRST_KEY: (&str, &str) = ("WATCHBILL_ADMIN_SECRET", "key");

pub async fn api_config(setup: &Setup, rules: &EngineConfig) -> anyhow::Result<ApiConfig> {
    let limits = setup.get("RATE_LIMITS");
    if limits == Some("off") {
        setup.must_be_forced("RATE_LIMITS=off")?;
    }
    let rate_limits = limits.map(RateLimits::parse).transpose().context("RATE_LIMITS")?;
    let proxies = setup.words("TRUSTED_PROXIES");
    let trusted_proxies = TrustedProxies::parse(proxies.iter().map(String::as_str));
    let first_key = setup.managed_secret(FIRST_KEY.0, FIRST_KEY.1);
    // The holder of the admin's key may decide approvals anyway, so links need no secret of
    // their own.
    let link_secret = setup.managed_secret(FIRST_KEY.0, FIRST_KEY.1);
    let jwks = setup.get("WATCHBILL_JWKS_URL").map(KeySetUrl::new).transpose()?;
    Ok(ApiConfig {
        first_key: first_key.map(|secret| Arc::new(secret) as Arc<dyn SecretSource>),
        link_secret: link_secret.map(|secret| Arc::new(secret) as Arc<dyn SecretSource>),
        jwt: JwtConfig {
            hs_secret: setup.read_parameter("WATCHBILL_JWT_SECRET_PARAMETER").await?,
            jwks: jwks.map(|url| Arc::new(UrlJwks(url)) as Arc<dyn JwksSource>),
            issuer: setup.get("WATCHBILL_JWT_ISSUER").map(str::to_owned),
            audience: setup.get("WATCHBILL_JWT_AUDIENCE").map(str::to_owned),
        },
        rate_limits: rate_limits.unwrap_or_default(),
        trusted_proxies: trusted_proxies.context("TRUSTED_PROXIES")?,
        cors_origins: setup.words("ORCHESTRATOR_CORS_ORIGINS"),
        agents: agents(rules),
        // API Gateway buffers whole responses.
        streams: false,
        waits: Some(WAITS),
        ..ApiConfig::default()
    })
}

fn agents(rules: &EngineConfig) -> Vec<AgentInfo> {
    let info = |agent| AgentInfo::new(agent, rules, false);
    Agent::taking_tasks().map(info).collect()
}

struct UrlJwks(KeySetUrl);

#[async_trait]
impl JwksSource for UrlJwks {
    async fn fetch(&self) -> Result<String, String> {
        self.0.fetch().await
    }
}

/// Serves the router for as long as Lambda delivers calls.
pub async fn serve_lambda(router: Router) -> anyhow::Result<()> {
    let service = lambda_http::service_fn(move |mut request: lambda_http::Request| {
        if let Some(caller) = address(&request) {
            request.extensions_mut().insert(ConnectInfo(SocketAddr::new(caller, 0)));
        }
        router.clone().oneshot(request)
    });
    let served = lambda_http::run(service).await;
    served.map_err(|error| anyhow::Error::from_boxed(error).context("the Lambda runtime failed"))
}

/// The client address as the gateway reports it; callers without a key are counted by it.
fn address(request: &lambda_http::Request) -> Option<IpAddr> {
    match request.request_context_ref()? {
        RequestContext::ApiGatewayV2(context) => context.http.source_ip.as_ref()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use watchbill_domain::TaskId;

    /// API Gateway passes paths decoded; other gateways and the emulators pass them as sent.
    /// Every valid id is reachable in both forms.
    #[test]
    fn an_id_is_reached_however_the_gateway_hands_over_its_path() {
        for id in [
            "plain-1",
            "a b",
            "tüsk:1;x=2,y",
            "+&@!$'()*",
            "a..b",
            "=2Fslash",
            "emoji-🦀",
            "[x]^`{|}\"<>",
        ] {
            assert!(TaskId::parse_new(id).is_ok(), "{id}");
            let coded: String = form_urlencoded::byte_serialize(id.as_bytes()).collect();
            for path in [id.to_owned(), coded.replace('+', "%20")] {
                let event = serde_json::json!({
                    "version": "2.0", "routeKey": "$default", "rawPath": format!("/tasks/{path}"),
                    "rawQueryString": "", "headers": { "host": "x.example.com" }, "isBase64Encoded": false,
                    "requestContext": {
                        "apiId": "x", "stage": "$default", "http": {
                            "method": "GET", "path": format!("/tasks/{path}"), "protocol": "HTTP/1.1",
                            "sourceIp": "203.0.113.7", "userAgent": "x",
                        },
                    },
                });
                let request = lambda_http::request::from_str(&event.to_string()).unwrap();
                let last = request.uri().path().strip_prefix("/tasks/").unwrap();
                let read = percent_decode(last);
                assert_eq!(read, id, "{path}");
            }
        }
    }

    /// Decodes a path segment as axum does.
    fn percent_decode(text: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'%' => {
                    let hex: String = rest.by_ref().take(2).map(char::from).collect();
                    u8::from_str_radix(&hex, 16).unwrap()
                }
                byte => byte,
            });
        }
        String::from_utf8(bytes).unwrap()
    }
}
