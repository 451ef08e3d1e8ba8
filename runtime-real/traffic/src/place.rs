//! Where service addresses are: in a namespace of the daemon's own, or, for a daemon that may make
//! none, among the host's loopback addresses, all of which anybody may listen on.

use std::io;
use std::net::SocketAddr;

use mill_core::net::{Network, Replica};
use tokio::net::TcpListener;

use crate::namespace::{Namespace, NamespaceError};

/// Where forwarders listen.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Where nothing else does.
    Namespace(Namespace),
    /// Beside whatever listens on the host.
    Loopback,
}

impl Place {
    /// The one that a network is for.
    ///
    /// # Errors
    /// As [`Namespace::make`].
    pub async fn of(network: Network) -> Result<Place, NamespaceError> {
        match network.is_loopback() {
            true => Ok(Place::Loopback),
            false => Namespace::make(network).await.map(Place::Namespace),
        }
    }

    /// Whether services have IPv6 addresses there.
    pub fn has_ipv6(&self) -> bool {
        match self {
            Place::Namespace(namespace) => namespace.has_ipv6(),
            Place::Loopback => false,
        }
    }

    /// Whether callers of a port reach these replicas without a forwarder: one that listens on the
    /// very port of all of the host's addresses does so on these, and nobody else can.
    pub fn is_served_by(&self, replicas: &[Replica], port: u16) -> bool {
        match self {
            Place::Namespace(_) => false,
            Place::Loopback => replicas.iter().any(|replica| replica.port == port),
        }
    }

    /// A listener there.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn tcp(&self, address: SocketAddr) -> io::Result<TcpListener> {
        match self {
            Place::Namespace(namespace) => namespace.tcp(address).await,
            Place::Loopback => TcpListener::bind(address).await,
        }
    }
}
