//! When a certificate expires, even if it is not trusted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use watchbill_domain::Timestamp;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Whole days from `now` until it expires; negative if it has expired.
pub fn days_left(certificate: &[u8], now: Timestamp) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let end = parsed.validity().not_after.timestamp();
    Some((end - now.millis().div_euclid(1_000)).div_euclid(86_400))
}

/// Handshakes only until the certificate arrives, so nothing is sent to an untrusted server.
pub async fn look_at(host: &str, address: SocketAddr) -> Option<Vec<u8>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let seen =
        Arc::new(CertificateRecorder { provider: provider.clone(), certificate: Mutex::new(None) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()?;
    let stream = TcpStream::connect(address).await.ok()?;
    // Always fails, because the verifier rejects every certificate.
    let _ = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    seen.certificate.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[derive(Debug)]
struct CertificateRecorder {
    provider: Arc<CryptoProvider>,
    certificate: Mutex<Option<Vec<u8>>>,
}

impl ServerCertVerifier for CertificateRecorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut kept = self.certificate.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some(end_entity.to_vec());
        Err(Error::General("the probe only reads the certificate".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("the probe only reads the certificate".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("the probe only reads the certificate".to_owned()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
