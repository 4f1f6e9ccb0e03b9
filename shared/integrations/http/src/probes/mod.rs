//! Probes over HTTP(S) and TCP. A name is resolved once, its addresses are checked, and the
//! connection goes to a checked address; so it is at each redirect.

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

use failure::{Failed, failed};

const MOST_REDIRECTS: u32 = 5;
/// Bytes of a body that are searched.
const BODY: usize = 256 << 10;

/// Probes that go out from this machine.
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

    /// Trusts these issuers (PEM) beside the system's: for a company's own authority.
    pub fn trusting(mut self, pem: &[u8]) -> Result<Self, String> {
        let read = Certificate::from_pem_bundle(pem);
        self.roots.extend(read.map_err(|e| format!("the issuers' PEM can't be read: {e}"))?);
        Ok(self)
    }

    fn client(&self) -> Result<&Client, Failed> {
        let built = self.client.get_or_init(|| {
            let checked = Checked { policy: self.policy.clone() };
            Client::builder()
                .user_agent(concat!("watchbill-probe/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .dns_resolver(Arc::new(checked))
                // A proxy would connect to addresses that nobody checked.
                .no_proxy()
                // A kept connection would hide what connecting costs and whether it works.
                .pool_max_idle_per_host(0)
                .tls_info(true)
                .tls_certs_merge(self.roots.clone())
                .build()
                .map_err(|error| format!("the HTTP client can't be built: {error:?}"))
        });
        built.as_ref().map_err(|reason| failed(ProbeFailureKind::Connect, reason))
    }

    async fn try_probe(&self, probe: &Probe, seen: &mut ProbeOutcome) -> Result<(), Failed> {
        let url = Url::parse(&probe.url)
            .map_err(|e| failed(ProbeFailureKind::BadUrl, format!("the URL is not valid: {e}")))?;
        match url.scheme() {
            "tcp" => self.tcp(&url, seen).await,
            "http" | "https" => self.http(url, probe, seen).await,
            other => Err(failed(
                ProbeFailureKind::BadUrl,
                format!("'{other}' can't be probed: use http, https or tcp"),
            )),
        }
    }

    async fn tcp(&self, url: &Url, seen: &mut ProbeOutcome) -> Result<(), Failed> {
        let (Some(host), Some(port)) = (url.host_str(), url.port()) else {
            return Err(failed(ProbeFailureKind::BadUrl, "a tcp:// URL needs a host and a port"));
        };
        let addresses = resolve(host, port, &self.policy).await?;
        let begun = self.clock.monotonic();
        let connected = TcpStream::connect(addresses.as_slice()).await;
        seen.latency = self.clock.monotonic().saturating_sub(begun);
        connected.map(drop).map_err(|error| {
            failed(
                ProbeFailureKind::Connect,
                format!("{host}:{port} can't be connected to: {error}"),
            )
        })
    }

    async fn http(
        &self,
        mut url: Url,
        probe: &Probe,
        seen: &mut ProbeOutcome,
    ) -> Result<(), Failed> {
        let begun = self.clock.monotonic();
        loop {
            check_literal(&url, &self.policy)?;
            let sent = self.client()?.get(url.clone()).send().await;
            let response = match sent {
                Ok(response) => response,
                Err(error) => return Err(self.explain(&url, &error, seen).await),
            };
            seen.latency = self.clock.monotonic().saturating_sub(begun);
            seen.http_status = Some(response.status().as_u16());
            let certificate = response.extensions().get::<TlsInfo>();
            if let Some(shown) = certificate.and_then(TlsInfo::peer_certificate) {
                seen.tls_days_left = certificate::days_left(shown, self.clock.now());
            }
            if !probe.follow_redirects || !response.status().is_redirection() {
                return match &probe.body_contains {
                    Some(text) => search(response, text, seen).await,
                    None => Ok(()),
                };
            }
            let Some(next) = redirected(&url, &response)? else { return Ok(()) };
            if seen.redirects == MOST_REDIRECTS {
                let text = format!("it redirects more than {MOST_REDIRECTS} times");
                return Err(failed(ProbeFailureKind::Redirect, text));
            }
            seen.redirects += 1;
            url = next;
        }
    }

    /// What an error of the client means; of a certificate that is refused, its days left.
    async fn explain(&self, url: &Url, error: &reqwest::Error, seen: &mut ProbeOutcome) -> Failed {
        let told = failure::of_client(url, error);
        if told.0.kind == ProbeFailureKind::Tls
            && let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default())
            && let Ok(addresses) = resolve(host, port, &self.policy).await
            && let Some(address) = addresses.first()
            && let Some(shown) = certificate::look_at(host, *address).await
        {
            seen.tls_days_left = certificate::days_left(&shown, self.clock.now());
        }
        told
    }
}

#[async_trait]
impl Probes for NetProbes {
    async fn probe(&self, probe: &Probe) -> ProbeOutcome {
        let mut seen = ProbeOutcome::default();
        let tried = tokio::time::timeout(probe.timeout, self.try_probe(probe, &mut seen)).await;
        match tried {
            Ok(Ok(())) => {}
            Ok(Err(Failed(failure))) => seen.failure = Some(failure),
            Err(_) => {
                let what =
                    if seen.http_status.is_some() { "its answer did not end" } else { "no answer" };
                seen.latency = seen.latency.max(probe.timeout);
                seen.failure = Some(ProbeFailure {
                    kind: ProbeFailureKind::Timeout,
                    message: format!("{what} within {:?}", probe.timeout),
                });
            }
        }
        seen
    }
}

/// Resolves for the client and leaves only addresses that the policy allows.
struct Checked {
    policy: Arc<ProbePolicy>,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.policy.clone();
        Box::pin(async move {
            // The client puts its port in the place of this one.
            let found = resolve(name.as_str(), 0, &policy).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

async fn resolve(host: &str, port: u16, policy: &ProbePolicy) -> Result<Vec<SocketAddr>, Failed> {
    let bare = host.trim_matches(['[', ']']);
    let found = lookup_host((bare, port)).await.map_err(|error| {
        failed(ProbeFailureKind::Dns, format!("the name {bare} can't be resolved: {error}"))
    })?;
    let allowed = policy.allowed(bare, found);
    let allowed = allowed.map_err(|e| failed(ProbeFailureKind::Forbidden, e.to_string()))?;
    if allowed.is_empty() {
        return Err(failed(ProbeFailureKind::Dns, format!("the name {bare} has no address")));
    }
    Ok(allowed)
}

/// An address in place of a name is not resolved by the client, so it is checked here.
fn check_literal(url: &Url, policy: &ProbePolicy) -> Result<(), Failed> {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_matches(['[', ']']);
    let Ok(address) = bare.parse::<IpAddr>() else { return Ok(()) };
    policy
        .allowed(bare, [SocketAddr::new(address, 0)])
        .map(drop)
        .map_err(|e| failed(ProbeFailureKind::Forbidden, e.to_string()))
}

fn redirected(url: &Url, response: &Response) -> Result<Option<Url>, Failed> {
    let Some(location) = response.headers().get(LOCATION) else { return Ok(None) };
    let wrong = |why: String| failed(ProbeFailureKind::Redirect, why);
    let location =
        location.to_str().map_err(|_| wrong("it redirects to an unreadable place".into()))?;
    let next = url.join(location).map_err(|e| wrong(format!("it redirects to a bad URL: {e}")))?;
    match next.scheme() {
        "http" | "https" => Ok(Some(next)),
        other => Err(wrong(format!("it redirects to '{other}', which is not followed"))),
    }
}

async fn search(mut response: Response, text: &str, seen: &mut ProbeOutcome) -> Result<(), Failed> {
    let mut body = Vec::new();
    while body.len() < BODY {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(BODY - body.len())]),
            Ok(None) => break,
            Err(error) => {
                let text = format!("its answer broke off: {}", failure::innermost(&error));
                return Err(failed(ProbeFailureKind::Protocol, text));
            }
        }
    }
    seen.body_matched = Some(String::from_utf8_lossy(&body).contains(text));
    Ok(())
}
