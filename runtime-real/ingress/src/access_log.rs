//! What is known of a request when it is over, for whoever keeps an access log.

use std::net::IpAddr;
use std::time::Duration;

/// One finished request.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// The client: the peer, or whom a trusted proxy says it is.
    pub client: IpAddr,
    /// The method.
    pub method: String,
    /// The host, as it was sent.
    pub host: String,
    /// The path and the query, as they were sent.
    pub target: String,
    /// The request's id.
    pub request_id: String,
    /// The service it was for, where there was a route.
    pub service: Option<String>,
    /// The status; 499 if the client left before there was one.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From its head to the end of its answer.
    pub took: Duration,
}
