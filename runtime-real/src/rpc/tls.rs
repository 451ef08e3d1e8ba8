//! TLS between nodes: both sides show a certificate of the cluster's authority (TLS 1.3 only).
//!
//! A joiner has no certificate and knows the authority by its fingerprint alone, which came with
//! the token: the server shows the authority's certificate along with its own.

use std::io;
use std::sync::Arc;

use mill_core::name::NodeId;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use super::stream;
use crate::pki::{ANY_NODE, Credentials, fingerprint, name_of};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

fn roots(authority: &CertificateDer<'static>) -> io::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(other)?;
    Ok(Arc::new(roots))
}

/// What a node shows that is called, and what it asks of callers.
pub(super) fn server(credentials: &Credentials) -> io::Result<Arc<ServerConfig>> {
    let roots = roots(&credentials.authority)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(other)?;
    let chain = vec![credentials.certificate.clone(), credentials.authority.clone()];
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(other)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, credentials.secret())
        .map_err(other)?;
    // Whoever offers to carry one stream, does.
    config.alpn_protocols = vec![stream::ALPN.to_vec(), b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// What a node shows that calls, and what it asks of the one it calls.
pub(super) fn client(credentials: &Credentials) -> io::Result<Arc<ClientConfig>> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(other)?
        .with_root_certificates(roots(&credentials.authority)?)
        .with_client_auth_cert(vec![credentials.certificate.clone()], credentials.secret())
        .map_err(other)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// The same for connections that carry one stream each.
pub(super) fn of_streams(client: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = client.clone();
    // A node of an older version knows only the second.
    config.alpn_protocols = vec![stream::ALPN.to_vec(), b"h2".to_vec()];
    Arc::new(config)
}

/// What a joiner asks of whoever it calls: to be a node under the authority of that fingerprint.
pub(super) fn joiner(authority: &str) -> io::Result<Arc<ClientConfig>> {
    let verifier = Arc::new(Fingerprint { authority: authority.to_owned(), provider: provider() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// The name to ask for when a certain node is called, or any.
pub(super) fn server_name(node: Option<NodeId>, cluster: &str) -> io::Result<ServerName<'static>> {
    let name = node.map_or_else(|| ANY_NODE.to_owned(), |node| name_of(node, cluster));
    ServerName::try_from(name).map_err(other)
}

/// Whether whoever was called is under another authority than the one that was asked for.
pub fn is_wrong_authority(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(inner, Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)))
}

/// Accepts whoever shows an authority with this fingerprint and a certificate that it signed.
#[derive(Debug)]
struct Fingerprint {
    authority: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Fingerprint {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let known = chain.iter().find(|shown| fingerprint(shown) == self.authority);
        let known = known.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(known.clone().into_owned())?;
        let provider = self.provider.clone();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(certificate, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("nodes speak TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
