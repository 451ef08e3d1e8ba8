//! What is in a certificate, and whether our TLS servers can use it.
//!
//! For certificates that people import, so garbage is expected and explained. Whether a client
//! will trust the chain is not decided here: the authority may be one that only they know.

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use crate::error::quoted;
use crate::import_error::ImportError;

/// The most bytes of a chain, or a key, in PEM.
pub const MAX_PEM_BYTES: usize = 64 << 10;
/// The most certificates of a chain.
pub const MAX_CERTIFICATES: usize = 10;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The DNS names, in lower case, and the IP addresses that it is for, in the order in which it
    /// has them.
    pub names: Vec<String>,
    /// From when it is valid, in milliseconds since 1970.
    pub not_before_ms: u64,
    /// Until when it is valid, in milliseconds since 1970.
    pub not_after_ms: u64,
    /// Who signed it: the common name of the authority, or its whole name if it has none.
    pub issuer: String,
}

/// Reads a chain of certificates, leaf first, and checks that this key belongs to the leaf.
///
/// # Errors
/// If it is no PEM of certificates, the leaf is not first, names nobody, or cannot be used for
/// TLS; if the key is none, or belongs to another certificate. The text says what to do.
pub fn inspect(chain_pem: &str, key_pem: Option<&str>) -> Result<Inspected, ImportError> {
    let chain = certificates(chain_pem)?;
    let parsed = parse(&chain)?;
    let leaf = parsed.first().ok_or(ImportError::NoCertificate)?;
    leaf_is_first(leaf, &parsed[1..])?;
    let names = names(leaf)?;
    ParsedCertificate::try_from(&chain[0]).map_err(|error| unusable(&error))?;
    if let Some(key_pem) = key_pem {
        key_belongs(&chain, key_pem)?;
    }
    Ok(Inspected {
        names,
        not_before_ms: millis(leaf.validity().not_before),
        not_after_ms: millis(leaf.validity().not_after),
        issuer: common_name(leaf.issuer()),
    })
}

fn certificates(chain_pem: &str) -> Result<Vec<CertificateDer<'static>>, ImportError> {
    if chain_pem.len() > MAX_PEM_BYTES {
        return Err(ImportError::TooLong { bytes: chain_pem.len() });
    }
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect();
    let chain = read.map_err(|error| ImportError::Pem { why: quoted(&error.to_string()) })?;
    match chain.len() {
        0 => Err(ImportError::NoCertificate),
        found if found > MAX_CERTIFICATES => Err(ImportError::TooMany { found }),
        _ => Ok(chain),
    }
}

fn parse<'a>(
    chain: &'a [CertificateDer<'static>],
) -> Result<Vec<X509Certificate<'a>>, ImportError> {
    let each = chain.iter().enumerate().map(|(index, der)| {
        let unreadable = |why: String| ImportError::Unreadable { position: index + 1, why };
        match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Ok(certificate),
            Ok(_) => Err(unreadable("something follows it".to_owned())),
            Err(error) => Err(unreadable(quoted(&error.to_string()))),
        }
    });
    each.collect()
}

fn leaf_is_first(
    leaf: &X509Certificate<'_>,
    others: &[X509Certificate<'_>],
) -> Result<(), ImportError> {
    let signed = |other: &X509Certificate<'_>| other.issuer().as_raw() == leaf.subject().as_raw();
    if others.iter().any(|other| signed(other) && other.subject() != leaf.subject()) {
        return Err(ImportError::LeafNotFirst { subject: common_name(leaf.subject()) });
    }
    Ok(())
}

fn names(leaf: &X509Certificate<'_>) -> Result<Vec<String>, ImportError> {
    let extension = leaf.subject_alternative_name().map_err(|error| {
        let why = quoted(&error.to_string());
        ImportError::Unreadable { position: 1, why }
    })?;
    let general = extension.map(|found| &found.value.general_names[..]).unwrap_or_default();
    let names: Vec<String> = general.iter().filter_map(name).collect();
    if names.is_empty() {
        return Err(ImportError::NoNames);
    }
    Ok(names)
}

fn name(general: &GeneralName<'_>) -> Option<String> {
    match general {
        GeneralName::DNSName(name) => Some(quoted(name).to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let sixteen = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
            four.or(sixteen).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// As the ingress will: whatever passes here is accepted there.
fn key_belongs(chain: &[CertificateDer<'static>], key_pem: &str) -> Result<(), ImportError> {
    if key_pem.len() > MAX_PEM_BYTES {
        return Err(ImportError::NoKey);
    }
    // Of the new form and the old; neither is in what base64 can be.
    if key_pem.contains("ENCRYPTED PRIVATE KEY") || key_pem.contains("4,ENCRYPTED") {
        return Err(ImportError::EncryptedKey);
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| ImportError::NoKey)?;
    let signer = any_supported_type(&key).map_err(|_| ImportError::KeyKind)?;
    match CertifiedKey::new(chain.to_vec(), signer).keys_match() {
        Ok(()) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(ImportError::KeyMismatch),
        Err(error) => Err(unusable(&error)),
    }
}

fn unusable(error: &rustls::Error) -> ImportError {
    ImportError::Unusable { why: quoted(&error.to_string()) }
}

fn common_name(name: &X509Name<'_>) -> String {
    let found = name.iter_common_name().find_map(|one| one.as_str().ok());
    quoted(&found.map_or_else(|| name.to_string(), str::to_owned))
}

fn millis(time: ASN1Time) -> u64 {
    u64::try_from(time.timestamp()).unwrap_or_default().saturating_mul(1_000)
}

/// What is asked of the certificate of an authority.
pub(crate) struct Authority {
    /// Until when it is valid, in seconds since 1970.
    pub(crate) not_after: i64,
}

/// Reads the certificate of an authority, which is for no names, and checks its key.
pub(crate) fn authority(certificate_pem: &str, key_pem: &str) -> Result<Authority, ImportError> {
    let chain = certificates(certificate_pem)?;
    let parsed = parse(&chain)?;
    let first = parsed.first().ok_or(ImportError::NoCertificate)?;
    if !first.is_ca() {
        return Err(ImportError::NoAuthority);
    }
    key_belongs(&chain, key_pem)?;
    Ok(Authority { not_after: first.validity().not_after.timestamp() })
}
