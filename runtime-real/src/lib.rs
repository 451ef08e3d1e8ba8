//! Mill against the real world.
//!
//! This crate does and never decides: every decision is made in `mill-core`, and the modules here
//! carry its effects to the machine and the machine's answers back to it.

mod acme;
mod api;
pub mod backup;
mod book;
pub mod clock;
pub mod daemon;
mod digest;
pub mod docker;
pub mod doctor;
mod host;
pub mod identity;
pub mod ingress;
pub mod mesh;
mod metrics;
pub mod pki;
mod private;
mod recorder;
pub mod recovery;
pub mod recovery_key;
pub mod rpc;
pub mod streams;
pub mod token;
pub mod traffic;
mod vault;

pub use api::LINES_MAX as LOG_LINES_MAX;
