//! X25519 keys as WireGuard uses them: made here, written as the base64 text that `wg` prints.
//!
//! A private key is wiped when it is dropped and has no `Display`; its `Debug` names the public
//! one.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::KeyError;

/// Bytes of a key.
const LENGTH: usize = 32;
/// Characters of a key as text: 32 bytes in base64 with padding.
const TEXT: usize = 44;

/// The secret half of a machine's key. It never leaves the machine that made it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; LENGTH]);

impl PrivateKey {
    /// A new key from the system's generator, clamped as RFC 7748, section 5, says.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn generate() -> Result<PrivateKey, KeyError> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        getrandom::fill(&mut *bytes).map_err(|source| KeyError::Entropy { source })?;
        bytes[0] &= 248;
        bytes[31] &= 127;
        bytes[31] |= 64;
        Ok(PrivateKey(*bytes))
    }

    /// The half that others may know.
    pub fn public(&self) -> PublicKey {
        PublicKey(*x25519::PublicKey::from(&self.secret()).as_bytes())
    }

    /// The key as `wg genkey` prints it, for a file that only root reads. Wiped when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0))
    }

    pub(crate) fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    pub(crate) fn secret(&self) -> x25519::StaticSecret {
        x25519::StaticSecret::from(self.0)
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PrivateKey, KeyError> {
        let bytes = Zeroizing::new(decode(text)?);
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(KeyError::Zero);
        }
        Ok(PrivateKey(*bytes))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

/// Who a peer is: the public half of its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; LENGTH]);

impl PublicKey {
    /// The key with these bytes, as they are on the wire.
    pub const fn from_bytes(bytes: [u8; LENGTH]) -> PublicKey {
        PublicKey(bytes)
    }

    /// The bytes, as they are on the wire.
    pub const fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    pub(crate) fn point(&self) -> x25519::PublicKey {
        x25519::PublicKey::from(self.0)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PublicKey, KeyError> {
        Ok(PublicKey(decode(text)?))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The text is never part of an error: it may be a private key.
fn decode(text: &str) -> Result<[u8; LENGTH], KeyError> {
    if text.len() != TEXT {
        return Err(KeyError::Length { found: text.len() });
    }
    let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| KeyError::Base64)?);
    <[u8; LENGTH]>::try_from(bytes.as_slice()).map_err(|_| KeyError::Base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_key_is_the_one_of_the_standard() {
        // RFC 7748, section 6.1: Alice's keys.
        let private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
        let public = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        let key: PrivateKey = private.parse().unwrap();
        assert_eq!(key.public().to_string(), public);
        assert_eq!(&*key.to_text(), private);
    }

    #[test]
    fn debug_output_does_not_contain_the_private_key() {
        let key = PrivateKey::generate().unwrap();
        let text = format!("{key:?}");
        assert!(!text.contains(&*key.to_text()), "{text}");
        assert!(text.contains(&key.public().to_string()), "{text}");
    }

    #[test]
    fn two_keys_differ_and_are_clamped() {
        let (one, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        assert_ne!(one.public(), other.public());
        assert_eq!((one.0[0] & 7, one.0[31] & 0xc0), (0, 64));
    }

    #[test]
    fn what_is_not_a_key_is_refused_without_repeating_it() {
        for text in ["", "secret", "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LC!="] {
            let error = text.parse::<PrivateKey>().unwrap_err().to_string();
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
        let zero = STANDARD.encode([0; LENGTH]);
        assert!(matches!(zero.parse::<PrivateKey>(), Err(KeyError::Zero)));
    }
}
