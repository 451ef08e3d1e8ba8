//! What an ingress is started with: where it listens, and every limit by name.
//!
//! Limits that are counted per worker say so; a worker shares nothing with the others while it
//! serves, so a limit for the whole process is divided among them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::access_log::AccessRecord;

/// Where an ingress listens, with how many threads, and within which limits.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where plain HTTP is served; port 0 takes a free one.
    pub http: Option<SocketAddr>,
    /// Where HTTPS is served; port 0 takes a free one.
    pub https: Option<SocketAddr>,
    /// Threads, each with its own listeners and connections to backends; 1 to
    /// [`MAX_WORKERS`]. By default one for each core.
    pub workers: usize,
    /// The port that redirects to HTTPS name; 443 is left out of the URL.
    pub public_https_port: u16,
    /// See [`Limits`].
    pub limits: Limits,
    /// Where records of finished requests go. A full channel loses them, counted in
    /// [`crate::Snapshot::access_records_lost`]; no request ever waits for it.
    pub access_log: Option<mpsc::Sender<AccessRecord>>,
}

/// The most threads one ingress may have.
pub const MAX_WORKERS: usize = 64;

impl Default for Options {
    fn default() -> Options {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            http: None,
            https: None,
            workers: cores.min(MAX_WORKERS),
            public_https_port: 443,
            limits: Limits::default(),
            access_log: None,
        }
    }
}

/// Every bound on what strangers may make an ingress hold or wait for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open client connections, over all workers.
    pub connections: usize,
    /// Open client connections from one address (IPv6: one /64), over all workers; trusted proxies
    /// are not held to it.
    pub connections_per_address: usize,
    /// Bytes of a request's head: request line and header fields, or HTTP/2's header list.
    pub header_bytes: usize,
    /// Header fields of a request.
    pub header_count: usize,
    /// How long a head, or a TLS handshake, may take. A head is looked at every half of it, so
    /// one is cut off after 1 to 1.5 times this.
    pub header_timeout: Duration,
    /// How long a connection without a request stays open.
    pub idle_timeout: Duration,
    /// How long a client may send nothing of a body that is awaited.
    pub body_read_stall: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub body_write_stall: Duration,
    /// How long a backend may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long a backend's machine may leave what it is sent unacknowledged (TCP_USER_TIMEOUT,
    /// tcp(7)), until its connection is given up.
    pub unanswered_timeout: Duration,
    /// How long a backend may take until the head of its answer, where the route has no timeout;
    /// counted from the last that came of the request's body.
    pub answer_timeout: Duration,
    /// Streams that a client may have open on one HTTP/2 connection.
    pub http2_streams: u32,
    /// Streams that a client may have reset before they were served (rapid reset,
    /// CVE-2023-44487) until its connection is closed.
    pub http2_pending_resets: usize,
    /// Requests that a client may give up before they are answered on one HTTP/2 connection, until
    /// it is closed; only where they are more than half of all, so that no browser gets there.
    pub http2_given_up: u32,
    /// Requests that wait for a replica, per worker.
    pub held: usize,
    /// Idle connections kept to one backend, per worker. With fewer than there are requests at
    /// once, some of them wait for a new one.
    pub pool_idle: usize,
    /// How long a connection to a backend may be idle before it is closed.
    pub pool_idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 16_384,
            connections_per_address: 1_024,
            header_bytes: 32 * 1024,
            header_count: 100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_read_stall: Duration::from_secs(30),
            body_write_stall: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            unanswered_timeout: Duration::from_secs(8),
            answer_timeout: Duration::from_secs(60),
            http2_streams: 128,
            http2_pending_resets: 20,
            http2_given_up: 200,
            held: 1_024,
            pool_idle: 1_024,
            pool_idle_timeout: Duration::from_secs(30),
        }
    }
}
