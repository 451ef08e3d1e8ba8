//! The IPv6 addresses of services in the namespace, beside those of IPv4 and by the same
//! interfaces.
//!
//! The kernel answers for a range of its own as it does for IPv4, but neither tells a neighbour
//! that it does nor binds to such an address unasked. So one address of the range is the
//! interface's, and the way to the others leads through it; and sockets are bound as if theirs were
//! not there yet. Tested in `tests/traffic.rs`.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener};
use std::time::Duration;

use mill_core::net::Network;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::{Error, Handle, RouteMessageBuilder};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{LOCAL_TABLE, LOOPBACK, Namespace};

/// Bits of an address of one host.
const WHOLE: u8 = 128;
/// Bits that the IPv6 addresses share which are good on one node only.
const LOCAL_PREFIX: u8 = Network::BEFORE_IPV4 + Network::LOCAL_PREFIX;

/// Connections that wait to be accepted; as many as for IPv4 (`std::net::TcpListener`).
const CALLERS_WAITING: i32 = 128;

/// A connection on this machine takes no longer, unless packets are dropped: the kernel takes up to a
/// second to notice that a new interface is up, and a neighbour that did not hear is asked again each
/// second, three times in all.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

/// The address of the other end: the first of the range, which no service has.
fn other_end(network: Network) -> Ipv6Addr {
    network.ipv6(network.first_local())
}

/// Gives this end its address, and makes the way through it.
pub(super) async fn lead_there(network: Network, here: u32, handle: &Handle) -> Result<(), Error> {
    let (gateway, next) = (network.ipv6(network.gateway()), other_end(network));
    own(gateway, here, handle).await?;
    let to_next = way(next, WHOLE, here).pref_source(gateway).build();
    handle.route().add(to_next).execute().await?;
    let beyond = way(next, LOCAL_PREFIX, here).gateway(next).pref_source(gateway).build();
    handle.route().add(beyond).execute().await
}

/// The other end, in the namespace.
pub(super) async fn own_all(network: Network, there: u32, handle: &Handle) -> Result<(), Error> {
    own(other_end(network), there, handle).await?;
    let local = way(other_end(network), LOCAL_PREFIX, LOOPBACK);
    let local = local.table_id(LOCAL_TABLE).kind(RouteType::Local).build();
    handle.route().add(local).execute().await?;
    // To this machine alone, as with IPv4.
    let back = way(network.ipv6(network.gateway()), WHOLE, there).build();
    handle.route().add(back).execute().await
}

/// Whether a connection gets there. Hosts that drop what comes over IPv6 are not rare, and callers
/// that take IPv6 first would wait for each connection.
pub(super) async fn leads_there(network: Network, namespace: &Namespace) -> bool {
    let reach = async {
        let there = SocketAddr::new(IpAddr::V6(other_end(network)), 0);
        let listener = namespace.tcp(there).await?;
        TcpStream::connect(listener.local_addr()?).await
    };
    let error = match timeout(REACHED_WITHIN, reach).await {
        Ok(Ok(_)) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "nothing came back".to_owned(),
    };
    tracing::warn!(
        error,
        "services have no IPv6 addresses here: a connection to one fails, perhaps because this \
         host drops packets of IPv6; restart the daemon once it does not"
    );
    false
}

fn way(to: Ipv6Addr, prefix: u8, through: u32) -> RouteMessageBuilder<Ipv6Addr> {
    let builder = RouteMessageBuilder::<Ipv6Addr>::new();
    builder.destination_prefix(to, prefix).output_interface(through)
}

/// Gives an interface an address, at once: nobody else can have it, so it is not asked who does.
async fn own(address: Ipv6Addr, interface: u32, handle: &Handle) -> Result<(), Error> {
    let mut adding = handle.address().add(interface, IpAddr::V6(address), WHOLE);
    let without_asking = AddressAttribute::Flags(AddressFlags::Nodad);
    adding.message_mut().attributes.push(without_asking);
    adding.execute().await
}

/// A listener at an address of the range.
///
/// # Errors
/// What the kernel says.
pub(super) fn listen(address: SocketAddrV6) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_only_v6(true)?;
    socket.set_freebind_v6(true)?;
    socket.bind(&address.into())?;
    socket.listen(CALLERS_WAITING)?;
    Ok(TcpListener::from(socket))
}
