//! A network namespace of the daemon's own, in which service addresses are.
//!
//! Forwarders and the name server listen in it, so that none of them is in the way of a container
//! that listens on the same port of all of the host's interfaces, and no firewall rule is needed:
//! a pair of virtual interfaces leads there, and each address of the cluster's local half is one of
//! the namespace's own. It goes when the process ends, however that ends. A thread lives in it and
//! binds sockets there; what is bound can be used from anywhere. Needs root. The IPv6 addresses
//! beside these (`ipv6`) are there too, unless the host has no IPv6.

mod ipv6;

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;

use mill_core::net::Network;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
};
use tokio::sync::{mpsc, oneshot};

/// What the end in the namespace is called there.
const INSIDE: &str = "mill";
/// The loopback interface of any namespace.
const LOOPBACK: u32 = 1;
/// The kernel's table of its own addresses (rtnetlink(7)).
const LOCAL_TABLE: u32 = 255;
/// No packet between two ends on one machine has to be cut.
const MTU: u32 = 65_535;
/// Sockets that wait to be bound.
const WAITING: usize = 16;

/// Why there is no namespace.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The kernel would not make one.
    #[error(
        "cannot make a network namespace for service addresses ({0}): run the daemon as root, with \
         CAP_SYS_ADMIN and CAP_NET_ADMIN"
    )]
    Make(io::Error),
    /// It was made, and no way into it.
    #[error("cannot make the way to service addresses, {doing}: {source}")]
    Connect {
        /// At which step.
        doing: &'static str,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// Another daemon has the same addresses on this machine.
    #[error(
        "interface {0} is there already: another daemon of a cluster with the same addresses runs \
         on this machine"
    )]
    Taken(String),
}

/// The namespace, for as long as this is there.
#[derive(Clone, Debug)]
pub struct Namespace {
    wanted: mpsc::Sender<Wanted>,
    has_ipv6: bool,
}

enum Wanted {
    Tcp(SocketAddr, oneshot::Sender<io::Result<TcpListener>>),
    Udp(SocketAddr, oneshot::Sender<io::Result<UdpSocket>>),
}

/// What the inside tells while it is set up, and is told.
struct Hello {
    /// Its namespace.
    file: File,
    /// Answered once the interface is there.
    connected: oneshot::Sender<Way>,
}

/// What leads into the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Both kinds of addresses.
    Both,
    /// Those of IPv4 alone.
    Ipv4,
}

impl Namespace {
    /// Makes the namespace, and the way to the local addresses of a network. Call it from where the
    /// host's own interfaces are.
    ///
    /// # Errors
    /// Without the right to, and when another daemon has these addresses here.
    pub async fn make(network: Network) -> Result<Namespace, NamespaceError> {
        let (hello, greeted) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let (wanted, wishes) = mpsc::channel(WAITING);
        let inside = move || inside(network, hello, ready, wishes);
        std::thread::Builder::new()
            .name("mill-namespace".to_owned())
            .spawn(inside)
            .map_err(NamespaceError::Make)?;
        let gone = || NamespaceError::Make(io::Error::other("its thread ended"));
        let Hello { file, connected } = greeted.await.map_err(|_| gone())??;
        let way = outside(network, &file).await?;
        // If it is gone, the next line says so.
        let _ = connected.send(way);
        let way = is_ready.await.map_err(|_| gone())??;
        let namespace = Namespace { wanted, has_ipv6: way == Way::Both };
        let has_ipv6 = namespace.has_ipv6 && ipv6::leads_there(network, &namespace).await;
        Ok(Namespace { has_ipv6, ..namespace })
    }

    /// Whether the IPv6 addresses of services are there.
    pub fn has_ipv6(&self) -> bool {
        self.has_ipv6
    }

    /// A listener in the namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn tcp(&self, address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
        let (reply, answer) = oneshot::channel();
        let listener = self.ask(Wanted::Tcp(address, reply), answer).await?;
        tokio::net::TcpListener::from_std(listener)
    }

    /// A datagram socket in the namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn udp(&self, address: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
        let (reply, answer) = oneshot::channel();
        let socket = self.ask(Wanted::Udp(address, reply), answer).await?;
        tokio::net::UdpSocket::from_std(socket)
    }

    async fn ask<T>(
        &self,
        wanted: Wanted,
        answer: oneshot::Receiver<io::Result<T>>,
    ) -> io::Result<T> {
        let gone = || io::Error::other("the namespace of service addresses is gone");
        self.wanted.send(wanted).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Whether this process may make a namespace, and the way into it.
pub fn can_make() -> bool {
    let inside = || unshare(CloneFlags::CLONE_NEWNET).is_ok();
    std::thread::spawn(inside).join().unwrap_or(false)
}

/// What the interface of this machine is called that leads to a network's local addresses.
pub fn interface(network: Network) -> String {
    format!("mill{}-{}", network.0, network.1)
}

fn doing(doing: &'static str) -> impl Fn(rtnetlink::Error) -> NamespaceError {
    move |source| NamespaceError::Connect { doing, source }
}

/// The thread that lives in the namespace.
fn inside(
    network: Network,
    hello: oneshot::Sender<Result<Hello, NamespaceError>>,
    ready: oneshot::Sender<Result<Way, NamespaceError>>,
    wishes: mpsc::Receiver<Wanted>,
) {
    let made = unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
    let made = made.and_then(|()| File::open("/proc/thread-self/ns/net"));
    let made = made.and_then(|file| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok((file, runtime))
    });
    let (file, runtime) = match made {
        Ok(made) => made,
        // Whoever waits for it is told; nobody else is there.
        Err(error) => return drop(hello.send(Err(NamespaceError::Make(error)))),
    };
    runtime.block_on(async {
        let (connected, is_connected) = oneshot::channel();
        if hello.send(Ok(Hello { file, connected })).is_err() {
            return;
        }
        let Ok(way) = is_connected.await else { return };
        let is_set_up = set_up(network, way).await;
        let failed = is_set_up.is_err();
        if ready.send(is_set_up).is_err() || failed {
            return;
        }
        bind(wishes).await;
    });
}

/// Binds what is wanted until nobody can want anything any more.
async fn bind(mut wishes: mpsc::Receiver<Wanted>) {
    while let Some(wanted) = wishes.recv().await {
        match wanted {
            Wanted::Tcp(address, reply) => {
                let bound = match address {
                    SocketAddr::V4(_) => TcpListener::bind(address),
                    SocketAddr::V6(address) => ipv6::listen(address),
                };
                let bound = bound.and_then(|bound| bound.set_nonblocking(true).map(|()| bound));
                // Who asked may be gone.
                let _ = reply.send(bound);
            }
            Wanted::Udp(address, reply) => {
                let bound = UdpSocket::bind(address);
                let bound = bound.and_then(|bound| bound.set_nonblocking(true).map(|()| bound));
                let _ = reply.send(bound);
            }
        }
    }
}

/// The host's end of the pair, and the way through it.
async fn outside(network: Network, namespace: &File) -> Result<Way, NamespaceError> {
    let (connection, handle, _) = new_connection().map_err(NamespaceError::Make)?;
    let connection = tokio::spawn(connection);
    let outcome = lead_there(network, namespace, &handle).await;
    connection.abort();
    outcome
}

async fn lead_there(
    network: Network,
    namespace: &File,
    handle: &Handle,
) -> Result<Way, NamespaceError> {
    let name = interface(network);
    if index(handle, &name).await.is_ok() {
        return Err(NamespaceError::Taken(name));
    }
    // The other end is made where it belongs: at no moment is there a pair that outlives a daemon.
    let there =
        LinkUnspec::new_with_name(INSIDE).mtu(MTU).setns_by_fd(namespace.as_raw_fd()).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(name.clone())
        .mtu(MTU)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(there)))
        .build();
    handle.link().add(pair).execute().await.map_err(doing("making a pair of interfaces"))?;
    let here = index(handle, &name).await?;
    let up = LinkUnspec::new_with_index(here).up().build();
    handle.link().set(up).execute().await.map_err(doing("setting this end up"))?;
    let gateway = network.gateway();
    let address = handle.address().add(here, IpAddr::V4(gateway), 32).execute().await;
    address.map_err(doing("giving this end its address"))?;
    let way = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network.first_local(), Network::LOCAL_PREFIX)
        .output_interface(here)
        .pref_source(gateway)
        .scope(RouteScope::Link)
        .build();
    handle.route().add(way).execute().await.map_err(doing("making the route"))?;
    Ok(way_of(ipv6::lead_there(network, here, handle).await))
}

/// What there is, once it was tried to have both. Everything works without IPv6.
fn way_of(has_ipv6: Result<(), rtnetlink::Error>) -> Way {
    match has_ipv6 {
        Ok(()) => Way::Both,
        Err(error) => {
            tracing::info!(%error, "services have no IPv6 addresses here: this host has no IPv6");
            Way::Ipv4
        }
    }
}

/// The other end, in the namespace: every local address is its own.
async fn set_up(network: Network, way: Way) -> Result<Way, NamespaceError> {
    let (connection, handle, _) = new_connection().map_err(NamespaceError::Make)?;
    let connection = tokio::spawn(connection);
    let outcome = own_all(network, way, &handle).await;
    connection.abort();
    outcome
}

async fn own_all(network: Network, way: Way, handle: &Handle) -> Result<Way, NamespaceError> {
    let there = index(handle, INSIDE).await?;
    for link in [LOOPBACK, there] {
        let up = LinkUnspec::new_with_index(link).up().build();
        handle.link().set(up).execute().await.map_err(doing("setting the other end up"))?;
    }
    let local = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network.first_local(), Network::LOCAL_PREFIX)
        .output_interface(LOOPBACK)
        .table_id(LOCAL_TABLE)
        .scope(RouteScope::Host)
        .kind(RouteType::Local)
        .build();
    handle.route().add(local).execute().await.map_err(doing("taking the addresses"))?;
    // There is a way back to this machine alone: whatever another one sends here, should this one
    // forward it, is not answered.
    let back = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network.gateway(), 32)
        .output_interface(there)
        .scope(RouteScope::Link)
        .build();
    handle.route().add(back).execute().await.map_err(doing("making the way back"))?;
    Ok(match way {
        Way::Both => way_of(ipv6::own_all(network, there, handle).await),
        Way::Ipv4 => Way::Ipv4,
    })
}

async fn index(handle: &Handle, name: &str) -> Result<u32, NamespaceError> {
    use futures_util::TryStreamExt as _;
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    let link = found.try_next().await.map_err(doing("looking for an interface"))?;
    let link = link.ok_or(NamespaceError::Connect {
        doing: "looking for an interface",
        source: rtnetlink::Error::RequestFailed,
    })?;
    Ok(link.header.index)
}
