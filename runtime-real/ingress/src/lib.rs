//! Mill's ingress: HTTP requests from outside, on their way to replicas.
//!
//! [`Ingress::start`] runs one thread for each core, each with its own listeners and its own
//! connections to backends. [`Ingress::publish`] says what is routed where, as a plain [`Table`]
//! that replaces the last one at once. What a request goes through is in `proxy.rs`; which replica
//! it gets in `balance.rs`; when it may be sent again in `retry.rs`; how HTTP/1.1 replicas are
//! spoken to in `upstream.rs`.
//!
//! It decides nothing about clusters: who is healthy and which certificate is valid, others say.
//! Tests are in `tests/`, over real sockets, with programs that others wrote in
//! `tests/clients.rs`; and in `simulated/`, over a simulated network (`network.rs`), by seeds.

mod access_log;
mod answer;
mod auth;
mod balance;
mod body;
mod cidr;
mod clock;
mod connection;
mod decode;
mod exchange;
mod framing;
#[cfg(all(feature = "fuzzing", not(test)))]
#[doc(hidden)]
pub mod fuzzing;
mod headers;
mod hold;
mod host;
mod ingress;
mod io;
mod limits;
mod listen;
mod metrics;
mod network;
mod options;
mod path;
mod plan;
mod pool;
mod proxy;
mod rate;
mod retry;
mod sending;
#[cfg(test)]
mod simulated;
mod table;
mod tcp;
mod tls;
mod tunnel;
mod upstream;
mod worker;

pub use access_log::AccessRecord;
pub use cidr::{Cidr, NotACidr};
pub use ingress::{Drained, Ingress, Published, StartError};
pub use listen::is_free;
pub use metrics::{LATENCY_BUCKETS, RouteLabel, RouteSnapshot, Snapshot};
pub use options::{Limits, MAX_WORKERS, Options};
pub use plan::TableError;
pub use table::{
    Backend, DEFAULT_HOLD, HeaderRule, HttpRoute, Login, RateLimit, Service, Table, TcpRoute,
};
pub use tls::{CertificateError, CertificateSet, Certificates, Challenges};
