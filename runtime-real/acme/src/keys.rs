//! Private keys of certificates, and the requests that are signed with them.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::error::{AcmeError, ErrorKind, quoted};

/// A new private key for a certificate: ECDSA P-256 in PKCS#8, as PEM. Secret.
///
/// # Errors
/// `Internal` if the system has no randomness to give.
pub fn new_key() -> Result<String, AcmeError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|error| AcmeError::internal("cannot make a key", error))?;
    Ok(key.serialize_pem())
}

/// A certificate signing request for these names, in DER.
pub(crate) fn request(names: &[String], key_pem: &str) -> Result<Vec<u8>, AcmeError> {
    // The error may repeat parts of the key, so it is not shown.
    let key = KeyPair::from_pem(key_pem).map_err(|_| {
        AcmeError::new(
            ErrorKind::Internal,
            "the key that the certificate is for cannot be read: begin a new order with a new key",
        )
    })?;
    let asked = CertificateParams::new(names).and_then(|mut params| {
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&key)
    });
    let request = asked.map_err(|error| bad_names(names, &error))?;
    Ok(request.der().to_vec())
}

/// Why these names can be in no certificate.
pub(crate) fn bad_names(names: &[String], error: &rcgen::Error) -> AcmeError {
    let words = format!(
        "{} can be in no certificate ({error}): use DNS names as they are on the wire, \
         international ones in their form with xn--",
        quoted(&names.join(", "))
    );
    AcmeError::new(ErrorKind::Refused, words)
}
