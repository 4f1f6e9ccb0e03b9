//! What went wrong, in words for people.

use std::error::Error;
use std::io;

use reqwest::Url;
use rustls::CertificateError;
use watchbill_runtime::probe::{ProbeFailure, ProbeFailureKind};

/// A failure as an error, so that it passes through the client unharmed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct Failed(pub ProbeFailure);

pub fn failed(kind: ProbeFailureKind, message: impl Into<String>) -> Failed {
    Failed(ProbeFailure { kind, message: message.into() })
}

pub fn of_client(url: &Url, error: &reqwest::Error) -> Failed {
    if let Some(ours) = within::<Failed>(error) {
        return ours.clone();
    }
    let host = url.host_str().unwrap_or_default();
    if let Some(tls) = within::<rustls::Error>(error) {
        return failed(ProbeFailureKind::Tls, tls_in_words(host, tls));
    }
    let inner = innermost(error);
    if error.is_connect() {
        failed(ProbeFailureKind::Connect, format!("{host} can't be connected to: {inner}"))
    } else {
        failed(ProbeFailureKind::Protocol, format!("{host} gave no valid answer: {inner}"))
    }
}

fn tls_in_words(host: &str, error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("the certificate of {host} has run out")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("the certificate of {host} is not valid yet")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("the certificate of {host} is for another name")
            }
            CertificateError::UnknownIssuer => {
                format!("the certificate of {host} is not trusted: its issuer is unknown here")
            }
            other => format!("the certificate of {host} is not trusted: {other}"),
        },
        other => format!("no TLS with {host}: {other}"),
    }
}

/// The first error of a type in the chain, also where an I/O error wraps it.
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

/// The last of the chain, which says most.
pub fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
