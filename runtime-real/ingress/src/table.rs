//! The tables that drive an ingress: what is routed where. Plain values, made by others.
//!
//! A [`Table`] is a level, not a change: each one replaces the last. What makes no sense in it is
//! found in `plan.rs` before anything is replaced.

use std::net::SocketAddr;
use std::time::Duration;

use crate::cidr::Cidr;

/// All that an ingress routes.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// HTTP routes, in no order.
    pub http: Vec<HttpRoute>,
    /// TCP routes, in no order.
    pub tcp: Vec<TcpRoute>,
    /// The services that routes name.
    pub services: Vec<Service>,
    /// Peers whose `X-Forwarded-*` headers are believed, and that may have more connections than
    /// other clients.
    pub trusted_proxies: Vec<Cidr>,
}

/// Requests for a host, below a path, and where they go.
#[derive(Clone, Debug)]
pub struct HttpRoute {
    /// A lower-case host name; `*.example.com` stands for one label in place of the star. An
    /// exact host comes before a wildcard.
    pub host: String,
    /// A path prefix that begins with `/` and matches whole segments; the longest wins.
    pub path: String,
    /// Name of the service that answers.
    pub service: String,
    /// Plain requests are redirected to HTTPS (308), but for ACME challenges.
    pub tls: bool,
    /// The prefix is taken from the path before it is passed on.
    pub strip_prefix: bool,
    /// Upgrades of the connection (WebSocket) are let through.
    pub websocket: bool,
    /// How long a whole request may take; 504 after that, or the connection ends.
    pub timeout: Option<Duration>,
    /// Bytes that a request's body may have; 413 above that.
    pub max_body: Option<u64>,
    /// Every request is redirected to this URL (302), which is sent as it stands.
    pub redirect: Option<String>,
    /// How long a request waits when its service has no replica.
    pub hold: Duration,
    /// Only these clients are let in, where there is any; 403 for the others.
    pub allow: Vec<Cidr>,
    /// How often one client may come; 429 above that.
    pub rate_limit: Option<RateLimit>,
    /// Who may come, by name and password; 401 for the others.
    pub basic_auth: Vec<Login>,
    /// What is done to requests before they are passed on.
    pub request_headers: Vec<HeaderRule>,
    /// What is done to answers before they are passed back.
    pub response_headers: Vec<HeaderRule>,
    /// Every request is answered 503 with this text.
    pub maintenance: Option<String>,
}

/// How long requests wait for a replica where nothing else is said.
pub const DEFAULT_HOLD: Duration = Duration::from_secs(5);

impl HttpRoute {
    /// A route with nothing out of the ordinary.
    pub fn new(host: &str, path: &str, service: &str) -> HttpRoute {
        HttpRoute {
            host: host.to_owned(),
            path: path.to_owned(),
            service: service.to_owned(),
            tls: false,
            strip_prefix: false,
            websocket: false,
            timeout: None,
            max_body: None,
            redirect: None,
            hold: DEFAULT_HOLD,
            allow: Vec::new(),
            rate_limit: None,
            basic_auth: Vec::new(),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            maintenance: None,
        }
    }
}

/// A token bucket for each client address (IPv6: each /64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests each second in the long run; at least 1.
    pub per_second: u32,
    /// Requests at once; at least 1.
    pub burst: u32,
}

/// A name and the bcrypt hash of its password, as `htpasswd -B` prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub name: String,
    /// The hash: `$2y$05$...`.
    pub hash: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One thing that is done to a header field, in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderRule {
    /// The field has this value, whatever it had.
    Set {
        /// The field's name.
        name: String,
        /// Its value.
        value: String,
    },
    /// The field is not there.
    Remove {
        /// The field's name.
        name: String,
    },
}

/// Connections to a port, and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRoute {
    /// Where connections come in.
    pub listen: SocketAddr,
    /// With a name, only TLS connections for that server name (SNI) take this route; they are
    /// passed on as they are. Several routes may share a port if all of them have names.
    pub server_name: Option<String>,
    /// Name of the service that answers.
    pub service: String,
}

/// Replicas that answer for one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// What routes call it.
    pub name: String,
    /// Its healthy replicas; none is no error, requests wait for one.
    pub backends: Vec<Backend>,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Whose it is: an alloc's id. Another id at the same address is another replica.
    pub id: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// It runs on this node: preferred among equals.
    pub same_node: bool,
    /// It speaks HTTP/2 without TLS from the first byte (prior knowledge), as gRPC servers do.
    pub h2c: bool,
}
