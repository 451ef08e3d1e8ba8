//! An authority of one's own, for development: browsers trust it once its certificate is
//! installed, and it signs for any name without asking anybody.

use std::fmt;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType};
use rcgen::{ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

use crate::clock;
use crate::error::{AcmeError, ErrorKind, quoted};
use crate::import_error::ImportError;
use crate::inspect::{Authority, authority};
use crate::keys::bad_names;

/// The longest life of a leaf, in days: Apple's systems refuse more, also from own authorities.
pub const MAX_LEAF_DAYS: u32 = 825;
/// The life of the authority, in days.
const AUTHORITY_DAYS: i64 = 3_650;
/// Certificates are valid from before they are made: clocks of machines differ.
const BACKDATED: Duration = Duration::hours(1);

/// An authority with its private key. Secret: whoever has it can pretend to be any server, to
/// everyone who trusts it.
pub struct LocalAuthority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    until: OffsetDateTime,
}

impl LocalAuthority {
    /// Makes an authority with a key of its own, valid for ten years.
    ///
    /// # Errors
    /// `Internal` if the system has no randomness to give.
    pub fn found() -> Result<LocalAuthority, AcmeError> {
        let broken = |error| AcmeError::internal("cannot make a certificate authority", error);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(broken)?;
        let now = now();
        let until = now + Duration::days(AUTHORITY_DAYS);
        let mut params = CertificateParams::default();
        // Clients mix up authorities of one name with different keys.
        let digest = Sha256::digest(key.der_bytes());
        let mark: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Mill development authority {mark}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.key_identifier_method = KeyIdMethod::Sha256;
        params.not_before = now - BACKDATED;
        params.not_after = until;
        let certificate_pem = params.self_signed(&key).map_err(broken)?.pem();
        Ok(LocalAuthority { certificate_pem, issuer: Issuer::new(params, key), until })
    }

    /// The authority that [`LocalAuthority::to_pem`] gave.
    ///
    /// # Errors
    /// If the certificate is not one of an authority, or the key not its.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<LocalAuthority, ImportError> {
        let Authority { not_after } = authority(certificate_pem, key_pem)?;
        let key = KeyPair::from_pem(key_pem).map_err(|_| ImportError::KeyKind)?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key)
            .map_err(|error| ImportError::Unusable { why: quoted(&error.to_string()) })?;
        let until = OffsetDateTime::from_unix_timestamp(not_after)
            .map_err(|error| ImportError::Unusable { why: error.to_string() })?;
        Ok(LocalAuthority { certificate_pem: certificate_pem.to_owned(), issuer, until })
    }

    /// The certificate and the key (PKCS#8), as PEM. The key is secret.
    pub fn to_pem(&self) -> (String, String) {
        (self.certificate_pem.clone(), self.issuer.key().serialize_pem())
    }

    /// The certificate, as PEM: what clients must trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A certificate with a new key (ECDSA P-256), valid for this many days, but not longer than
    /// the authority: the chain and the key, as PEM. Names are DNS names, `*.` before one, or IP
    /// addresses.
    ///
    /// # Errors
    /// `Refused` if there are no names, one that can be in no certificate, or not 1 to
    /// [`MAX_LEAF_DAYS`] days; `Internal` if the system has no randomness to give.
    pub fn issue(&self, names: &[String], days: u32) -> Result<(String, String), AcmeError> {
        let refused = |words: String| AcmeError::new(ErrorKind::Refused, words);
        if names.is_empty() {
            return Err(refused("a certificate needs at least one name".to_owned()));
        }
        if !(1..=MAX_LEAF_DAYS).contains(&days) {
            let words = format!("a certificate is made for 1 to {MAX_LEAF_DAYS} days, not {days}");
            return Err(refused(words));
        }
        let mut params = CertificateParams::new(names).map_err(|error| bad_names(names, &error))?;
        let now = now();
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = now - BACKDATED;
        params.not_after = self.until.min(now + Duration::days(days.into()));
        let broken = |error| AcmeError::internal("cannot make a certificate", error);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(broken)?;
        let leaf = params.signed_by(&key, &self.issuer).map_err(broken)?;
        Ok((leaf.pem(), key.serialize_pem()))
    }
}

impl fmt::Debug for LocalAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalAuthority").field("until", &self.until).finish_non_exhaustive()
    }
}

/// The present second.
fn now() -> OffsetDateTime {
    let since = Duration::try_from(clock::wall()).unwrap_or_default();
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(since.whole_seconds())
}
