//! Turns probe errors into messages for people.

use std::error::Error;
use std::io;

use reqwest::Url;
use rustls::CertificateError;
use watchbill_runtime::probe::{ProbeFailure, ProbeFailureKind};

/// A failure as an error type, so that the client can pass it through.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct ProbeFailureError(pub ProbeFailure);

pub fn failed(kind: ProbeFailureKind, message: impl Into<String>) -> ProbeFailureError {
    ProbeFailureError(ProbeFailure { kind, message: message.into() })
}

pub fn of_client(url: &Url, error: &reqwest::Error) -> ProbeFailureError {
    if let Some(ours) = within::<ProbeFailureError>(error) {
        return ours.clone();
    }
    let host = url.host_str().unwrap_or_default();
    if let Some(tls) = within::<rustls::Error>(error) {
        return failed(ProbeFailureKind::Tls, describe_tls_error(host, tls));
    }
    let inner = innermost(error);
    if error.is_connect() {
        failed(ProbeFailureKind::Connect, format!("can't connect to {host}: {inner}"))
    } else {
        failed(ProbeFailureKind::Protocol, format!("{host} sent no valid response: {inner}"))
    }
}

fn describe_tls_error(host: &str, error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("the certificate of {host} has expired")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("the certificate of {host} is not valid yet")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("the certificate of {host} is for another name")
            }
            CertificateError::UnknownIssuer => {
                format!("the certificate of {host} is not trusted: its issuer is unknown")
            }
            other => format!("the certificate of {host} is not trusted: {other}"),
        },
        other => format!("the TLS handshake with {host} failed: {other}"),
    }
}

/// The first error of type `T` in the chain, also inside I/O errors.
fn within<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(inner) = io.get_ref()
        {
            next = Some(inner);
            continue;
        }
        next = error.source();
    }
    None
}

/// The last error of the chain, which is the most specific.
pub fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
