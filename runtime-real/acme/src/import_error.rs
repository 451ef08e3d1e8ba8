//! What can be wrong with certificates and keys that people bring. Nothing of a key is repeated.

use crate::inspect::{MAX_CERTIFICATES, MAX_PEM_BYTES};

/// Why a certificate, or its key, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// More than [`MAX_PEM_BYTES`].
    #[error(
        "{bytes} bytes are more than the {MAX_PEM_BYTES} that a chain of certificates may have"
    )]
    TooLong {
        /// How many bytes it has.
        bytes: usize,
    },
    /// More than [`MAX_CERTIFICATES`].
    #[error(
        "{found} certificates are more than the {MAX_CERTIFICATES} of a chain: give the leaf and \
         those that lead to its authority, not a bundle of authorities"
    )]
    TooMany {
        /// How many.
        found: usize,
    },
    /// Broken PEM.
    #[error("the certificate is damaged PEM ({why}): check that the file was copied whole")]
    Pem {
        /// What is wrong with it.
        why: String,
    },
    /// PEM of something else, or no PEM.
    #[error(
        "there is no certificate in it: give PEM, which begins with \
         -----BEGIN CERTIFICATE-----; openssl x509 -inform der turns DER into PEM"
    )]
    NoCertificate,
    /// One of the certificates is none.
    #[error("certificate {position} of the chain cannot be read: {why}")]
    Unreadable {
        /// Its position, from 1.
        position: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The leaf has no names that clients look at.
    #[error(
        "the certificate has no subject alternative names, so no client accepts it: have it \
         issued again with the DNS names in that extension"
    )]
    NoNames,
    /// The first certificate signed another one of the chain.
    #[error(
        "the first certificate of the chain ({subject}) is the authority of another one: put the \
         certificate of the server first, then the one that signed it, and so on"
    )]
    LeafNotFirst {
        /// Whose certificate is first.
        subject: String,
    },
    /// TLS servers of ours refuse it.
    #[error("the certificate cannot be used for TLS: {why}")]
    Unusable {
        /// What is wrong with it.
        why: String,
    },
    /// No key in the PEM.
    #[error(
        "there is no private key in it: give PEM, which begins with -----BEGIN PRIVATE KEY-----"
    )]
    NoKey,
    /// A password protects the key.
    #[error("the private key is encrypted: decrypt it first, with openssl pkey -in KEY -out PLAIN")]
    EncryptedKey,
    /// Not a key that TLS servers of ours sign with.
    #[error(
        "the private key is of no kind that can be used: use ECDSA P-256 or P-384, RSA, Ed25519"
    )]
    KeyKind,
    /// The key is the one of another certificate.
    #[error("the private key belongs to another certificate: give the key that this one is for")]
    KeyMismatch,
    /// The certificate may not sign others.
    #[error("the certificate is not one of an authority: it may not sign other certificates")]
    NoAuthority,
}
