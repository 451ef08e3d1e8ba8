//! The recovery key: what a person keeps outside the cluster, to bring it back from a backup.
//!
//! The cluster knows the public half alone, and seals to it what makes a machine a primary. Sealed
//! boxes of X25519 and XSalsa20-Poly1305, as libsodium has them, by `crypto_box`.

use std::fmt;
use std::str::FromStr;

use crypto_box::aead::OsRng;
use crypto_box::{PublicKey, SecretKey};

use crate::digest::{from_hex, hex};

/// What it begins with, and the version of its form.
const PREFIX: &str = "millrec1";

/// A recovery key. Its `Debug` says nothing of it.
#[derive(Clone)]
pub struct RecoveryKey(SecretKey);

impl RecoveryKey {
    /// A new one.
    #[must_use]
    pub fn generate() -> RecoveryKey {
        RecoveryKey(SecretKey::generate(&mut OsRng))
    }

    /// Its public half, in hex: what the cluster knows.
    #[must_use]
    pub fn public(&self) -> String {
        hex(self.0.public_key().as_bytes())
    }

    /// The word that a person keeps.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}.{}", hex(&self.0.to_bytes()))
    }

    /// What was sealed to this key; `None` if it was another.
    #[must_use]
    pub fn unseal(&self, sealed: &str) -> Option<Vec<u8>> {
        self.0.unseal(&from_hex(sealed)?).ok()
    }
}

/// Seals bytes to the owner of a public key; `None` if it is not one.
#[must_use]
pub fn seal(public: &str, bytes: &[u8]) -> Option<String> {
    let public: [u8; 32] = from_hex(public)?.try_into().ok()?;
    Some(hex(&PublicKey::from(public).seal(&mut OsRng, bytes).ok()?))
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey")
    }
}

impl FromStr for RecoveryKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<RecoveryKey, &'static str> {
        let digits = text.trim().strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('.'));
        let bytes: Option<[u8; 32]> = digits.and_then(from_hex).and_then(|it| it.try_into().ok());
        let wrong = "this is not a whole recovery key: copy it again, it begins with `millrec1.` and \
                     has 73 characters; `mill init` printed it when the cluster began";
        bytes.map(|bytes| RecoveryKey(SecretKey::from(bytes))).ok_or(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_opens_what_was_sealed_to_it() {
        let key = RecoveryKey::generate();
        let sealed = seal(&key.public(), b"the authority").unwrap();
        let read: RecoveryKey = key.reveal().parse().unwrap();
        assert_eq!(key.reveal().len(), 73);
        assert_eq!(read.unseal(&sealed).unwrap(), b"the authority");
        assert_eq!(RecoveryKey::generate().unseal(&sealed), None);
        assert!(!sealed.contains(&hex(b"the authority")));
        assert!(key.reveal()[1..].parse::<RecoveryKey>().unwrap_err().contains("copy it again"));
        assert_eq!(seal("ab", b""), None);
    }
}
