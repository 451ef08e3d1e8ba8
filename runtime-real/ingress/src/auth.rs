//! Names and passwords (RFC 7617) against bcrypt hashes.
//!
//! bcrypt is slow on purpose, so it runs beside the worker's thread, a few at once, and what was
//! right is remembered under a salted hash in a cache of bounded size. What was wrong is not.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::table::Login;

/// Passwords known to be right, per route.
const MAX_KNOWN: usize = 1_024;

/// Hashes computed at once, per route.
const MAX_UNDER_WAY: usize = 2;

#[derive(Debug)]
pub(crate) struct Gate {
    logins: Vec<Login>,
    salt: [u8; 32],
    known: Mutex<BTreeSet<[u8; 32]>>,
    under_way: Semaphore,
}

impl Gate {
    pub(crate) fn new(logins: Vec<Login>) -> Gate {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).expect("the kernel's generator does not fail once it is seeded");
        let under_way = Semaphore::new(MAX_UNDER_WAY);
        Gate { logins, salt, known: Mutex::default(), under_way }
    }

    /// Whether these credentials open the gate.
    pub(crate) async fn admits(self: &Arc<Self>, header: Option<&HeaderValue>) -> bool {
        let Some((name, password)) = header.and_then(read) else {
            return false;
        };
        let digest = self.digest(&name, &password);
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest) {
            return true;
        }
        let Ok(_permit) = self.under_way.acquire().await else {
            return false;
        };
        let gate = Arc::clone(self);
        let check = tokio::task::spawn_blocking(move || gate.verify(&name, &password));
        if !check.await.unwrap_or(false) {
            return false;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.pop_first();
        }
        known.insert(digest);
        true
    }

    /// Computes a hash for unknown names too, so that names cannot be told by the time it takes.
    fn verify(&self, name: &str, password: &str) -> bool {
        let login = self.logins.iter().find(|login| login.name == name);
        let Some(hash) = login.or(self.logins.first()).map(|login| &login.hash) else {
            return false;
        };
        bcrypt::verify(password, hash).unwrap_or(false) && login.is_some()
    }

    fn digest(&self, name: &str, password: &str) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.salt);
        hasher.update(u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(name);
        hasher.update(password);
        hasher.finalize().into()
    }
}

fn read(header: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}
