//! Names and service addresses of a node: what its containers call others by.
//!
//! It carries out what [`Tables`] say and decides nothing. They are looked at anew for each
//! connection and each answer: from the moment that others are given, no connection is begun to a
//! replica that left, and no answer names it.
//! - `namespace`: where the addresses are, out of the way of the host's own; `place`: there, or on
//!   loopback for want of it
//! - `forwarders`: who listens at them; `balance`: which replica gets a connection; `carry`: one
//!   connection
//! - `names`: the name server
//!
//! Tested in `tests/`, as root, and with real daemons in `cli/tests/cluster`.

mod balance;
mod carry;
mod clock;
mod forwarders;
mod names;
mod namespace;
mod place;
#[cfg(test)]
mod simulated;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mill_core::name::NodeId;
use mill_core::net::Tables;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::forwarders::Counted;
use self::forwarders::Forwarders;
#[doc(hidden)]
pub use self::names::Apart;
use self::names::Names;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use self::names::fuzzing;
pub use self::names::{Asked, Examined};
pub use self::namespace::{NamespaceError, can_make, interface};
use self::place::Place;

/// Traffic of one node, until it is dropped.
#[derive(Debug)]
pub struct Traffic {
    tasks: Vec<JoinHandle<()>>,
    forwarders: Forwarders,
    names: Arc<Names>,
    resolver: Option<IpAddr>,
}

/// Why there is no traffic.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The name server's socket.
    #[error("the name server cannot listen on {address}")]
    Names {
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// The port of name servers.
const DNS_PORT: u16 = 53;

impl Traffic {
    /// Begins, for the network that the tables name then. Connections to replicas leave from where
    /// this is called.
    ///
    /// # Errors
    /// Without the right to make a namespace; nothing is left behind then.
    pub async fn start(
        node: NodeId,
        seen: watch::Receiver<Arc<Tables>>,
    ) -> Result<Traffic, StartError> {
        let network = seen.borrow().network;
        let place = Place::of(network).await?;
        let names = Arc::new(Names::new(seen.clone()).with_ipv6(place.has_ipv6()));
        let mut tasks = Vec::new();
        let mut resolver = None;
        if let Place::Namespace(namespace) = &place {
            let address = SocketAddr::new(IpAddr::V4(network.resolver()), DNS_PORT);
            let named = |source| StartError::Names { address, source };
            let udp = namespace.udp(address).await.map_err(named)?;
            let tcp = namespace.tcp(address).await.map_err(named)?;
            tasks.push(tokio::spawn(names.clone().serve(udp, tcp)));
            resolver = Some(address.ip());
        }
        let forwarders = Forwarders::new(node, seen);
        tasks.push(tokio::spawn(forwarders.clone().keep(place)));
        Ok(Traffic { tasks, forwarders, names, resolver })
    }

    /// Where containers ask for names. `None` on loopback, where only root may listen on a name
    /// server's port.
    pub fn resolver(&self) -> Option<IpAddr> {
        self.resolver
    }

    /// How names are on this node, by a name that the cluster knows. `None` without a name server.
    pub async fn examine(&self, name: &str) -> Option<Examined> {
        Some(self.names.examine(SocketAddr::new(self.resolver?, DNS_PORT), name).await)
    }

    /// Whether services have IPv6 addresses on this node.
    pub fn has_ipv6(&self) -> bool {
        self.names.has_ipv6()
    }

    /// What its name server was asked since the start.
    pub fn asked(&self) -> Asked {
        self.names.asked()
    }

    /// What was carried since the start, by service.
    pub fn counted(&self) -> Vec<Counted> {
        self.forwarders.counted()
    }
}

/// The name server alone, on any sockets: what `tools/versus-dns.sh` measures.
#[doc(hidden)]
pub async fn serve_names(seen: watch::Receiver<Arc<Tables>>, udp: UdpSocket, tcp: TcpListener) {
    Arc::new(Names::new(seen)).serve(udp, tcp).await;
}

/// The same, with the resolver that it asks, who is told apart, and what it counts: what tests ask.
#[doc(hidden)]
pub fn serve_names_beside(
    seen: watch::Receiver<Arc<Tables>>,
    resolver: SocketAddr,
    apart: Apart,
    udp: UdpSocket,
    tcp: TcpListener,
) -> impl Fn() -> Asked {
    let names = Arc::new(Names::with_resolver(seen, resolver));
    drop(tokio::spawn(names.clone().serve_to(apart, udp, tcp)));
    move || names.asked()
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
