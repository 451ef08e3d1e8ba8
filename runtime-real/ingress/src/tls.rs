//! Certificates by server name, replaced while connections are open; and answers to ACME
//! challenges (RFC 8555 section 8.3, RFC 8737).
//!
//! Both are levels: what is published replaces what was there, for handshakes that begin after
//! it. An exact name comes before a wildcard, that before the default.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use thiserror::Error;

/// Sessions that can be resumed without a ticket.
const SESSIONS: usize = 4_096;

/// What clients of TLS-ALPN-01 ask for (RFC 8737 section 6.2).
const ACME_PROTOCOL: &[u8] = b"acme-tls/1";

/// The certificates of an ingress; clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct Certificates(Arc<Store>);

#[derive(Debug, Default)]
struct Store {
    set: RwLock<Arc<CertificateSet>>,
    challenges: RwLock<Arc<Challenges>>,
}

/// Which certificate is shown for which name.
#[derive(Clone, Debug, Default)]
pub struct CertificateSet {
    by_name: BTreeMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

/// Answers to an ACME server.
#[derive(Clone, Debug, Default)]
pub struct Challenges {
    /// HTTP-01: what is answered below `/.well-known/acme-challenge/`, by token.
    pub http: BTreeMap<String, String>,
    tls_alpn: BTreeMap<String, Arc<CertifiedKey>>,
}

/// A key that cannot be used with its certificate.
#[derive(Debug, Error)]
#[error("the certificate for {names} cannot be used; check that its key belongs to it")]
pub struct CertificateError {
    names: String,
    #[source]
    source: rustls::Error,
}

impl CertificateSet {
    /// Shows this chain, leaf first, for these names: `shop.example.com` or `*.example.com`.
    ///
    /// # Errors
    /// If the key is of no kind that TLS knows, or belongs to another certificate.
    pub fn add(
        &mut self,
        names: &[&str],
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
    ) -> Result<(), CertificateError> {
        let refused = |source| CertificateError { names: names.join(", "), source };
        let signer = ring::sign::any_supported_type(key).map_err(refused)?;
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(refused)?;
        let certified = Arc::new(certified);
        for name in names {
            self.by_name.insert(name.to_ascii_lowercase(), Arc::clone(&certified));
        }
        Ok(())
    }

    /// Shows the certificate of this name to clients that name no host, or an unknown one. False
    /// if there is none of that name.
    pub fn set_default(&mut self, name: &str) -> bool {
        self.default = self.by_name.get(name).map(Arc::clone);
        self.default.is_some()
    }

    fn of(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.by_name.get(name).or_else(|| {
            let (_, rest) = name.split_once('.')?;
            self.by_name.get(&format!("*.{rest}"))
        })
    }
}

impl Challenges {
    /// TLS-ALPN-01: shows this certificate for this name to clients that ask for `acme-tls/1`. It
    /// carries a critical extension that rustls would refuse to check, so it is not checked.
    ///
    /// # Errors
    /// If the key is of no kind that TLS knows.
    pub fn add_tls_alpn(
        &mut self,
        name: &str,
        certificate: CertificateDer<'static>,
        key: &PrivateKeyDer<'static>,
    ) -> Result<(), CertificateError> {
        let signer = ring::sign::any_supported_type(key)
            .map_err(|source| CertificateError { names: name.to_owned(), source })?;
        let certified = CertifiedKey { cert: vec![certificate], key: signer, ocsp: None };
        self.tls_alpn.insert(name.to_ascii_lowercase(), Arc::new(certified));
        Ok(())
    }
}

impl Certificates {
    /// Replaces all certificates. Open connections keep what they began with.
    pub fn replace(&self, set: CertificateSet) {
        *self.0.set.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
    }

    /// Replaces all answers to challenges.
    pub fn replace_challenges(&self, challenges: Challenges) {
        *self.0.challenges.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(challenges);
    }

    /// Whether this name has a certificate of its own, not just the default.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.set().of(name).is_some()
    }

    pub(crate) fn http_challenge(&self, token: &str) -> Option<String> {
        self.challenges().http.get(token).cloned()
    }

    /// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, sessions that resume by ticket or from memory.
    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("ring has cipher suites for both versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ACME_PROTOCOL.to_vec()];
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        if let Ok(ticketer) = ring::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Arc::new(config)
    }

    fn set(&self) -> Arc<CertificateSet> {
        Arc::clone(&self.0.set.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn challenges(&self) -> Arc<Challenges> {
        Arc::clone(&self.0.challenges.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let acme = hello.alpn().is_some_and(|mut asked| asked.any(|one| one == ACME_PROTOCOL));
        if acme {
            return self.challenges().tls_alpn.get(&name?).map(Arc::clone);
        }
        let set = self.set();
        let own = name.and_then(|name| set.of(&name).map(Arc::clone));
        own.or_else(|| set.default.clone())
    }
}
