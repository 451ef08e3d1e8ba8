//! Challenges, and the certificate that answers one of them.

use instant_acme::{AuthorizationState, ChallengeType};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};

use crate::error::{AcmeError, ErrorKind, quoted};
use crate::keys::bad_names;

/// How an authority convinces itself that a name is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChallengeKind {
    /// It asks port 80 of the name for `/.well-known/acme-challenge/TOKEN`, whose body must be the
    /// key authorization (RFC 8555 section 8.3).
    Http01,
    /// It opens TLS to port 443 of the name with the protocol `acme-tls/1`, and must be shown
    /// [`tls_alpn_certificate`] (RFC 8737).
    TlsAlpn01,
}

/// What must be shown to the authority, on every node that the name may lead to, before the order
/// is completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// How it is shown.
    pub kind: ChallengeKind,
    /// The DNS name that is to be proven.
    pub name: String,
    /// What the authority asks for in HTTP-01.
    pub token: String,
    /// The key authorization: the answer to HTTP-01, and what the certificate of TLS-ALPN-01 is
    /// made of. Public once it is shown.
    pub authorization: String,
}

impl ChallengeKind {
    /// Both kinds, the asked one first.
    pub(crate) fn first(self) -> [ChallengeKind; 2] {
        match self {
            ChallengeKind::Http01 => [ChallengeKind::Http01, ChallengeKind::TlsAlpn01],
            ChallengeKind::TlsAlpn01 => [ChallengeKind::TlsAlpn01, ChallengeKind::Http01],
        }
    }

    pub(crate) fn wire(self) -> ChallengeType {
        match self {
            ChallengeKind::Http01 => ChallengeType::Http01,
            ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        }
    }

    /// The name that the RFC gives it.
    pub(crate) fn words(self) -> &'static str {
        match self {
            ChallengeKind::Http01 => "http-01",
            ChallengeKind::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

/// The challenges of an authorization that we can answer.
///
/// # Errors
/// `Refused` if there is none: a wildcard, or a policy of the authority.
pub(crate) fn answerable(
    authorization: &AuthorizationState,
    thumbprint: &str,
) -> Result<Vec<Challenge>, AcmeError> {
    let name = authorization.identifier().to_string();
    let found: Vec<Challenge> = ChallengeKind::Http01
        .first()
        .into_iter()
        .filter_map(|kind| {
            let offered = authorization.challenges.iter().find(|one| one.r#type == kind.wire())?;
            let authorization = format!("{}.{thumbprint}", offered.token);
            let token = offered.token.clone();
            Some(Challenge { kind, name: name.clone(), token, authorization })
        })
        .collect();
    if found.is_empty() {
        return Err(none_answerable(&name));
    }
    Ok(found)
}

pub(crate) fn none_answerable(name: &str) -> AcmeError {
    AcmeError::new(
        ErrorKind::Refused,
        format!(
            "the certificate authority offers neither http-01 nor tls-alpn-01 to prove {}, and \
             mill answers no other challenge: import a certificate for it",
            quoted(name)
        ),
    )
}

/// The certificate that answers TLS-ALPN-01: for this name, signed by itself, with the critical
/// extension acmeIdentifier (RFC 8737 section 3). A TLS server must show it without checking it,
/// since checks refuse critical extensions that they do not know.
///
/// # Errors
/// `Refused` if the name can be in no certificate.
pub fn tls_alpn_certificate(
    name: &str,
    authorization: &str,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), AcmeError> {
    let names = [name.to_owned()];
    let mut params =
        CertificateParams::new(&names[..]).map_err(|error| bad_names(&names, &error))?;
    params.distinguished_name = DistinguishedName::new();
    let digest = Sha256::digest(authorization.as_bytes());
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
    let made = KeyPair::generate().and_then(|key| Ok((params.self_signed(&key)?, key)));
    let (certificate, key) = made
        .map_err(|error| AcmeError::internal("cannot make a certificate for a challenge", error))?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok((certificate.into(), key.into()))
}
