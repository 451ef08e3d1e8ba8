//! Certificates from an ACME directory (RFC 8555), as a library of single steps: register an
//! account, begin an order, complete it, ask when to renew. Every step may be repeated.
//!
//! It decides nothing: who orders, when, and when to try again is up to the caller, who is told
//! by [`ErrorKind`] what an error asks for. It keeps nothing either: what must outlive a process
//! ([`Credentials`], the URL of an order, a key) goes through the caller's hands. Showing the
//! answers to challenges is the ingress's work. Beside ACME: [`inspect`] for certificates that
//! people bring, [`LocalAuthority`] for development. Tested against pebble, which is Let's
//! Encrypt's test server, in `tests/`.

mod account;
mod challenge;
mod client;
mod clock;
mod complete;
mod error;
mod explain;
mod import_error;
mod inspect;
mod keys;
mod local;
mod order;
mod renewal;

pub use account::{Credentials, Directory, register};
pub use challenge::{Challenge, ChallengeKind, tls_alpn_certificate};
pub use complete::{Issued, complete};
pub use error::{AcmeError, ErrorKind};
pub use import_error::ImportError;
pub use inspect::{Inspected, MAX_CERTIFICATES, MAX_PEM_BYTES, inspect};
pub use keys::new_key;
pub use local::{LocalAuthority, MAX_LEAF_DAYS};
pub use order::{MAX_NAMES, Ordered, order};
pub use renewal::{RenewalWindow, renewal};
