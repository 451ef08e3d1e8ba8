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

    /// Whether a forwarder may begin to listen on a port, given its replicas. On loopback it is not
    /// to be in the way of one that listens on that very port, of all of the host's addresses; which
    /// it does is known once it is there.
    pub fn may_begin(&self, replicas: &[Replica], port: u16) -> bool {
        let knows = match self {
            Place::Namespace(_) => true,
            Place::Loopback => !replicas.is_empty(),
        };
        knows && self.may_go_on(replicas, port)
    }

    /// Whether a forwarder that listens may go on: callers reach a replica that has the very port
    /// without one.
    pub fn may_go_on(&self, replicas: &[Replica], port: u16) -> bool {
        match self {
            Place::Namespace(_) => true,
            Place::Loopback => replicas.iter().all(|replica| replica.port != port),
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
