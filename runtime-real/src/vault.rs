//! The cluster's key, and what is sealed under it: what only nodes of the cluster may read.
//!
//! XChaCha20-Poly1305 with random nonces. What a text is for is sealed with it, so that one cannot
//! be passed off as another. Each node is given the key when it joins, over the connection that
//! gives it its certificate; it is in no log and no message after that, and backups seal it to the
//! recovery key.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use mill_core::sealed::Sealed;

use crate::digest::{from_hex, hex};
use crate::identity::{IdentityError, random};

/// What sealed text begins with: the version of its form.
const PREFIX: &str = "v1.";
const NONCE_BYTES: usize = 24;

/// The cluster's key. Its `Debug` says nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// A new one.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn generate() -> Result<ClusterKey, IdentityError> {
        random().map(ClusterKey)
    }

    /// In hex, for the disk and for nodes that join.
    pub fn reveal(&self) -> String {
        hex(&self.0)
    }

    /// The reverse of [`ClusterKey::reveal`].
    pub fn read(text: &str) -> Option<ClusterKey> {
        Some(ClusterKey(from_hex(text.trim())?.try_into().ok()?))
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// Seals and opens; clones have the same key.
#[derive(Clone)]
pub(crate) struct Vault {
    cipher: Arc<XChaCha20Poly1305>,
}

/// What a sealed text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The account with a certificate authority.
    AcmeAccount,
    /// The key of a certificate.
    CertificateKey,
}

impl Purpose {
    fn name(self) -> &'static [u8] {
        match self {
            Purpose::AcmeAccount => b"acme account",
            Purpose::CertificateKey => b"certificate key",
        }
    }
}

/// Why something cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "what the cluster has sealed cannot be read with this node's key: was its data directory \
     restored from another cluster?"
)]
pub(crate) struct Unreadable;

impl Vault {
    pub(crate) fn new(key: &ClusterKey) -> Vault {
        Vault { cipher: Arc::new(XChaCha20Poly1305::new(&key.0.into())) }
    }

    /// Seals a text for a purpose.
    pub(crate) fn seal(&self, purpose: Purpose, text: &str) -> Result<Sealed, IdentityError> {
        let nonce: [u8; NONCE_BYTES] = random()?;
        let payload = Payload { msg: text.as_bytes(), aad: purpose.name() };
        let sealed = self.cipher.encrypt(XNonce::from_slice(&nonce), payload);
        let sealed = sealed.map_err(|error| IdentityError::Entropy(error.to_string()))?;
        let bytes = [&nonce[..], &sealed].concat();
        Ok(Sealed::new(format!("{PREFIX}{}", STANDARD_NO_PAD.encode(bytes))))
    }

    /// Opens what was sealed for that purpose.
    pub(crate) fn open(&self, purpose: Purpose, sealed: &Sealed) -> Result<String, Unreadable> {
        let bytes = sealed.text().strip_prefix(PREFIX).ok_or(Unreadable)?;
        let bytes = STANDARD_NO_PAD.decode(bytes).map_err(|_| Unreadable)?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES).ok_or(Unreadable)?;
        let payload = Payload { msg: sealed, aad: purpose.name() };
        let opened = self.cipher.decrypt(XNonce::from_slice(nonce), payload);
        String::from_utf8(opened.map_err(|_| Unreadable)?).map_err(|_| Unreadable)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_key_opens_it_and_only_for_what_it_was_sealed_for() {
        let key = ClusterKey::generate().unwrap();
        let vault = Vault::new(&key);
        let sealed = vault.seal(Purpose::CertificateKey, "a key").unwrap();
        assert_eq!(vault.open(Purpose::CertificateKey, &sealed).unwrap(), "a key");
        assert!(vault.open(Purpose::AcmeAccount, &sealed).is_err());
        let other = Vault::new(&ClusterKey::generate().unwrap());
        assert!(other.open(Purpose::CertificateKey, &sealed).is_err());
        let again = vault.seal(Purpose::CertificateKey, "a key").unwrap();
        assert_ne!(sealed, again);
        for damaged in ["", "v1.", "v1.AAAA", "v2.AAAA"] {
            let damaged = Sealed::new(damaged.to_owned());
            assert!(vault.open(Purpose::CertificateKey, &damaged).is_err());
        }
        assert_eq!(ClusterKey::read(&key.reveal()), Some(key.clone()));
        assert_eq!(format!("{key:?} {vault:?}"), "ClusterKey(..) Vault(..)");
    }
}
