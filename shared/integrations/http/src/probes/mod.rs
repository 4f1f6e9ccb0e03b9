//! Probes over HTTP(S) and TCP. Each name is resolved once, its addresses are checked, and the
//! connection goes to a checked address; the same holds for redirects.

mod certificate;
mod failure;
mod policy;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::LOCATION;
use reqwest::tls::TlsInfo;
use reqwest::{Certificate, Client, Response, Url};
use tokio::net::{TcpStream, lookup_host};
use watchbill_core::ports::Clock;
use watchbill_runtime::probe::{Probe, ProbeFailure, ProbeFailureKind, ProbeOutcome, Probes};

pub use policy::{Forbidden, ProbePolicy, is_public};

use failure::{ProbeFailureError, failed};

const MAX_REDIRECTS: u32 = 5;
/// The most body bytes that are searched.
const BODY: usize = 256 << 10;

/// Probes from this machine.
pub struct NetProbes {
    policy: Arc<ProbePolicy>,
    clock: Arc<dyn Clock>,
    roots: Vec<Certificate>,
    client: OnceLock<Result<Client, String>>,
}

impl NetProbes {
    pub fn new(policy: ProbePolicy, clock: Arc<dyn Clock>) -> Self {
        Self { policy: Arc::new(policy), clock, roots: Vec::new(), client: OnceLock::new() }
    }

    /// Also trusts these issuers (PEM), such as a company's own authority, next to the
    /// system's.
    pub fn trusting(mut self, pem: &[u8]) -> Result<Self, String> {
        let read = Certificate::from_pem_bundle(pem);
        self.roots.extend(read.map_err(|e| format!("can't read the issuers' PEM: {e}"))?);
        Ok(self)
    }

    fn client(&self) -> Result<&Client, ProbeFailureError> {
        let built = self.client.get_or_init(|| {
            let checked = PolicyResolver { policy: self.policy.clone() };
            Client::builder()
                .user_agent(concat!("watchbill-probe/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .dns_resolver(Arc::new(checked))
                // A proxy would connect to unchecked addresses.
                .no_proxy()
                // A pooled connection would hide the cost and the failures of connecting.
                .pool_max_idle_per_host(0)
                .tls_info(true)
                .tls_certs_merge(self.roots.clone())
                .build()
                .map_err(|error| format!("can't build the HTTP client: {error:?}"))
        });
        built.as_ref().map_err(|reason| failed(ProbeFailureKind::Connect, reason))
    }

    async fn try_probe(
        &self,
        probe: &Probe,
        outcome: &mut ProbeOutcome,
    ) -> Result<(), ProbeFailureError> {
        let url = Url::parse(&probe.url)
            .map_err(|e| failed(ProbeFailureKind::BadUrl, format!("the URL is not valid: {e}")))?;
        match url.scheme() {
            "tcp" => self.tcp(&url, outcome).await,
            "http" | "https" => self.http(url, probe, outcome).await,
            other => Err(failed(
                ProbeFailureKind::BadUrl,
                format!("the scheme '{other}' can't be probed: use http, https or tcp"),
            )),
        }
    }

    async fn tcp(&self, url: &Url, outcome: &mut ProbeOutcome) -> Result<(), ProbeFailureError> {
        let (Some(host), Some(port)) = (url.host_str(), url.port()) else {
            return Err(failed(ProbeFailureKind::BadUrl, "a tcp:// URL needs a host and a port"));
        };
        let addresses = resolve(host, port, &self.policy).await?;
        let begun = self.clock.monotonic();
        let connected = TcpStream::connect(addresses.as_slice()).await;
        outcome.latency = self.clock.monotonic().saturating_sub(begun);
        connected.map(drop).map_err(|error| {
            failed(ProbeFailureKind::Connect, format!("can't connect to {host}:{port}: {error}"))
        })
    }

    async fn http(
        &self,
        mut url: Url,
        probe: &Probe,
        outcome: &mut ProbeOutcome,
    ) -> Result<(), ProbeFailureError> {
        let begun = self.clock.monotonic();
        loop {
            check_literal(&url, &self.policy)?;
            let sent = self.client()?.get(url.clone()).send().await;
            let response = match sent {
                Ok(response) => response,
                Err(error) => return Err(self.explain(&url, &error, outcome).await),
            };
            outcome.latency = self.clock.monotonic().saturating_sub(begun);
            outcome.http_status = Some(response.status().as_u16());
            let certificate = response.extensions().get::<TlsInfo>();
            if let Some(shown) = certificate.and_then(TlsInfo::peer_certificate) {
                outcome.tls_days_left = certificate::days_left(shown, self.clock.now());
            }
            if !probe.follow_redirects || !response.status().is_redirection() {
                return match &probe.body_contains {
                    Some(text) => search(response, text, outcome).await,
                    None => Ok(()),
                };
            }
            let Some(next) = redirected(&url, &response)? else { return Ok(()) };
            if outcome.redirects == MAX_REDIRECTS {
                let text = format!("more than {MAX_REDIRECTS} redirects");
                return Err(failed(ProbeFailureKind::Redirect, text));
            }
            outcome.redirects += 1;
            url = next;
        }
    }

    /// Explains a client error. Records the days left if a certificate was refused.
    async fn explain(
        &self,
        url: &Url,
        error: &reqwest::Error,
        outcome: &mut ProbeOutcome,
    ) -> ProbeFailureError {
        let failure = failure::of_client(url, error);
        if failure.0.kind == ProbeFailureKind::Tls
            && let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default())
            && let Ok(addresses) = resolve(host, port, &self.policy).await
            && let Some(address) = addresses.first()
            && let Some(shown) = certificate::look_at(host, *address).await
        {
            outcome.tls_days_left = certificate::days_left(&shown, self.clock.now());
        }
        failure
    }
}

#[async_trait]
impl Probes for NetProbes {
    async fn probe(&self, probe: &Probe) -> ProbeOutcome {
        let mut outcome = ProbeOutcome::default();
        let tried = tokio::time::timeout(probe.timeout, self.try_probe(probe, &mut outcome)).await;
        match tried {
            Ok(Ok(())) => {}
            Ok(Err(ProbeFailureError(failure))) => outcome.failure = Some(failure),
            Err(_) => {
                let what = if outcome.http_status.is_some() {
                    "the response did not end"
                } else {
                    "no response"
                };
                outcome.latency = outcome.latency.max(probe.timeout);
                outcome.failure = Some(ProbeFailure {
                    kind: ProbeFailureKind::Timeout,
                    message: format!("{what} within {:?}", probe.timeout),
                });
            }
        }
        outcome
    }
}

/// Resolves names for the client, and returns only addresses that the policy allows.
struct PolicyResolver {
    policy: Arc<ProbePolicy>,
}

impl Resolve for PolicyResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.policy.clone();
        Box::pin(async move {
            // The client replaces this port with its own.
            let found = resolve(name.as_str(), 0, &policy).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

async fn resolve(
    host: &str,
    port: u16,
    policy: &ProbePolicy,
) -> Result<Vec<SocketAddr>, ProbeFailureError> {
    let bare = host.trim_matches(['[', ']']);
    let found = lookup_host((bare, port)).await.map_err(|error| {
        failed(ProbeFailureKind::Dns, format!("can't resolve the name {bare}: {error}"))
    })?;
    let allowed = policy.allowed(bare, found);
    let allowed = allowed.map_err(|e| failed(ProbeFailureKind::Forbidden, e.to_string()))?;
    if allowed.is_empty() {
        return Err(failed(ProbeFailureKind::Dns, format!("the name {bare} has no address")));
    }
    Ok(allowed)
}

/// Checks a literal address, which the client does not resolve.
fn check_literal(url: &Url, policy: &ProbePolicy) -> Result<(), ProbeFailureError> {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_matches(['[', ']']);
    let Ok(address) = bare.parse::<IpAddr>() else { return Ok(()) };
    policy
        .allowed(bare, [SocketAddr::new(address, 0)])
        .map(drop)
        .map_err(|e| failed(ProbeFailureKind::Forbidden, e.to_string()))
}

fn redirected(url: &Url, response: &Response) -> Result<Option<Url>, ProbeFailureError> {
    let Some(location) = response.headers().get(LOCATION) else { return Ok(None) };
    let wrong = |why: String| failed(ProbeFailureKind::Redirect, why);
    let location =
        location.to_str().map_err(|_| wrong("the redirect's Location is not text".into()))?;
    let next =
        url.join(location).map_err(|e| wrong(format!("the redirect's URL is not valid: {e}")))?;
    match next.scheme() {
        "http" | "https" => Ok(Some(next)),
        other => Err(wrong(format!("redirects to '{other}' are not followed"))),
    }
}

async fn search(
    mut response: Response,
    text: &str,
    outcome: &mut ProbeOutcome,
) -> Result<(), ProbeFailureError> {
    let mut body = Vec::new();
    while body.len() < BODY {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(BODY - body.len())]),
            Ok(None) => break,
            Err(error) => {
                let text = format!(
                    "the connection broke during the response: {}",
                    failure::innermost(&error)
                );
                return Err(failed(ProbeFailureKind::Protocol, text));
            }
        }
    }
    outcome.body_matched = Some(String::from_utf8_lossy(&body).contains(text));
    Ok(())
}
