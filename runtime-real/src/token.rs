//! What a join token looks like on its way from one person to another: one word without spaces.
//!
//! It carries the fingerprint of the cluster's authority, so that a joiner knows whom to believe,
//! and a secret, of which the cluster keeps the hash alone.

use std::fmt;
use std::str::FromStr;

use crate::digest::{hex, sha256};
use crate::identity::{IdentityError, random};

/// What it begins with, and the version of its form.
const PREFIX: &str = "mill1";
/// Hexadecimal digits of 32 bytes.
const DIGITS: usize = 64;

/// What the cluster knows a secret by.
#[must_use]
pub(crate) fn hash_of(secret: &str) -> String {
    sha256(secret.as_bytes())
}

/// A join token. Its `Debug` says nothing of the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Fingerprint of the authority's certificate, see [`crate::pki::fingerprint`].
    pub authority: String,
    secret: String,
}

impl JoinToken {
    /// A new one, for the cluster of that authority.
    ///
    /// # Errors
    /// When there is no entropy.
    pub fn generate(authority: String) -> Result<JoinToken, IdentityError> {
        Ok(JoinToken { authority, secret: hex(&random::<32>()?) })
    }

    /// What the cluster knows it by.
    #[must_use]
    pub fn hash(&self) -> String {
        hash_of(&self.secret)
    }

    /// What a joiner shows.
    #[must_use]
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// The word.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}.{}.{}", self.authority, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<JoinToken, &'static str> {
        let is_hex = |part: &str| {
            let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            part.len() == DIGITS && part.bytes().all(digit)
        };
        match text.trim().split('.').collect::<Vec<_>>()[..] {
            [PREFIX, authority, secret] if is_hex(authority) && is_hex(secret) => {
                Ok(JoinToken { authority: authority.to_owned(), secret: secret.to_owned() })
            }
            _ => Err("this is not a whole join token: copy it again, it begins with `mill1.` and \
                      has 135 characters; `mill token create` makes another"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_hides_its_secret() {
        let token = JoinToken::generate("ab".repeat(32)).unwrap();
        let word = token.reveal();
        assert_eq!(word.len(), 135);
        let read: JoinToken = format!("{word}\n").parse().unwrap();
        assert_eq!((&read, read.hash().len()), (&token, 64));
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn what_was_copied_in_part_is_refused() {
        let word = JoinToken::generate("ab".repeat(32)).unwrap().reveal();
        for text in ["", "mill1", &word[1..], &word[..134], &word.replace("mill1", "mill2")] {
            assert!(text.parse::<JoinToken>().unwrap_err().contains("copy it again"), "{text}");
        }
    }
}
